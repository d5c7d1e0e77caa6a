"""Fine-tuning with a fading l1 penalty."""

import dataclasses

import torch
from torch import nn

from datasets.loaders import Data
from unlearn.base import Iterative, Step, Steps, cross_entropy_steps, option


@dataclasses.dataclass
class L1Sparse(Iterative):
    """Fine-tune on the retain set under an l1 penalty on all parameters that fades to zero.

    The loss is CE(retain) + alpha_e ||theta||_1 with alpha_e = alpha (1 - e / (E - E0)), zero in the last E0 epochs.
    ``alpha`` defaults to the paper's code, 5e-4; 1e-4 is used in reruns. The reference's command line says 0.2,
    which is for other methods and destroys the model.
    """

    label = "l1-sparse"
    touches = "retain"
    cost = "E n_r"
    paper = "Jia et al., NeurIPS 2023"
    splits = ("retain",)

    alpha: float = option(5e-4, "weight of the penalty, of the step or of the noise; SSD's: ratio from which a weight is chosen")
    no_l1_epochs: int = option(0, "last epochs without the l1 penalty")

    def penalty(self, epoch: int) -> float:
        """alpha_e of the given epoch."""
        penalised = self.unlearn_epochs - self.no_l1_epochs
        return self.alpha * (1 - epoch / penalised) if epoch < penalised else 0.0

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        weight = self.penalty(epoch)
        for step in cross_entropy_steps(model, data.retain):
            loss = step.loss
            if weight:
                loss = loss + weight * torch.stack([p.abs().sum() for p in model.parameters()]).sum()
            yield Step(loss, step.logits, step.labels)
