"""A fading l1 penalty, on fine-tuning and on gradient ascent."""

import dataclasses
import functools

import torch
from torch import Tensor, nn

from datasets.loaders import Data
from masks.masks import Mask
from unlearn.base import ALPHA, Preset, Range, Steps, option
from unlearn.finetune import FineTune
from unlearn.gradient_ascent import GradientAscent
from unlearn.tools.contrast import Contrastive
from unlearn.tools.flat import flatten, frozen_flat, percent
from unlearn.tools.presets import LONG_BUDGET, preset
from utils import UserError

# Around zero the sub-gradient swings a weight by lr alpha / (1 - momentum), 5e-5 by default.
NEAR_ZERO = 1e-4


@dataclasses.dataclass
class L1Penalty:
    """Mixed into an iterative method: adds alpha_e ||theta||_1 to its losses, reports sparsity."""

    alpha: float = option(5e-4, ALPHA, Range(1e-5, 1e-2))
    no_l1_epochs: int = option(0, "last epochs without the l1 penalty")
    prox: bool = option(
        False, "threshold the weights, to exact zeros, instead of adding the penalty's sub-gradient"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha < 0:
            raise UserError(f"--alpha {self.alpha}: an l1 penalty of at least 0 is wanted")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        super().prepare(model, data, mask)
        self.mask = mask

    def penalty(self, epoch: int) -> float:
        """alpha_e of the given epoch."""
        penalised = self.unlearn_epochs - self.no_l1_epochs
        return self.alpha * (1 - epoch / penalised) if epoch < penalised else 0.0

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        weight, parameters = self.penalty(epoch), list(model.parameters())
        for step in super().losses(model, data, epoch):
            if weight and self.prox:
                step = step._replace(project=functools.partial(soft_threshold, parameters, weight))
            elif weight:
                norm = torch.stack([p.abs().sum() for p in parameters]).sum()
                step = step._replace(loss=step.loss + weight * norm)
            yield step

    def finish(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        """Percent of the weights that may change: exact zeros, and all below NEAR_ZERO."""
        size = flatten(model.parameters())[~frozen_flat(model.named_parameters(), self.mask)].abs()
        sparsity = {"sparsity": percent(size == 0), "near_zero": percent(size < NEAR_ZERO)}
        return super().finish(model, data) | sparsity


def soft_threshold(weights: list[Tensor], alpha: float, lr: float) -> None:
    """The proximal step of lr alpha ||w||_1: each weight moves by lr alpha, at most to zero."""
    reach = torch._foreach_clamp_min(weights, -lr * alpha)
    torch._foreach_clamp_max_(reach, lr * alpha)
    torch._foreach_sub_(weights, reach)


@dataclasses.dataclass
class L1Sparse(L1Penalty, Contrastive, FineTune):
    """Fine-tune on the retain set under an l1 penalty on all parameters that fades to zero.

    The loss is CE(retain) + alpha_e ||theta||_1 with alpha_e = alpha (1 - e / (E - E0)), zero in
    the last E0 epochs. ``alpha`` defaults to the paper's code, 5e-4; 1e-4 is used in reruns. The
    reference's command line says 0.2, which is for other methods and destroys the model. An older
    port takes the factor of each epoch on top of those before, which fades far sooner: the
    l1-sparse of the AMUN paper (Avg. Gap 2.26 and 3.14) is that other method.

    The sub-gradient leaves no weight at exactly zero. ``prox`` does: it soft-thresholds by lr
    alpha_e after each update. Momentum then does not multiply the penalty, by 10 at 0.9, so that
    the same alpha presses less; and zeros last only as long as the penalty, so that E0 > 0 gives
    them up.
    """

    label = "l1-sparse"
    paper = "Jia et al., NeurIPS 2023"
    source = "the paper's code, Unlearn-Sparse"
    presets = {
        "scissorhands_cifar10": preset(
            "Scissorhands' scripts: 10, 20 and 50 % of CIFAR-10, 10 % of CIFAR-100 and of SVHN",
            unlearn_lr=0.01,
            unlearn_epochs=10,
            alpha=1e-4,
        ),
        "scissorhands_cifar100_50": preset(
            "Scissorhands' scripts, 50 % of CIFAR-100",
            unlearn_lr=0.01,
            unlearn_epochs=10,
            alpha=2e-4,
        ),
        "matryoshka_cifar10": preset(
            "a rerun of the reference, by validation (Matryoshka), 10 and 50 % of CIFAR-10",
            unlearn_lr=0.01,
            unlearn_epochs=10,
            alpha=1e-4,
        ),
        "long_budget": Preset(
            {**LONG_BUDGET.values, "alpha": 1e-4},
            f"{LONG_BUDGET.source}; so is alpha: summed over the epochs about 5e-4's in ten",
        ),
    }

    unlearn_lr: float = option(0.01, "learning rate of unlearning", Range(1e-3, 0.1))


@dataclasses.dataclass
class L1Ascent(L1Penalty, GradientAscent):
    """Climb the loss on the forget set under l1-sparse's fading penalty.

    The loss is -CE(forget) + alpha_e ||theta||_1. The reference's has one alpha throughout, and
    cannot run: its loop hands over a mask that the method does not take. So nothing is published;
    that alpha fades, and as l1-sparse's, is our choice.
    """

    label = "GA-l1"
    paper = "GA and l1-sparse together"
    source = "GA's rate and epochs, l1-sparse's alpha: our choice"
