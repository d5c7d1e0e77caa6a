"""Gradient ascent on the forget set."""

import dataclasses

import torch.nn.functional as F
from torch import nn

from datasets.loaders import Data
from unlearn.base import Iterative, Range, Step, Steps, option


@dataclasses.dataclass
class GradientAscent(Iterative):
    """Climb the loss on the forget set.

    The rate is a cliff, from no effect to collapse: watch the retain accuracy that each epoch prints.
    Default rate: the reference authors' for class-wise forgetting; they advise 5e-4 to 1e-3 for random forgetting.
    """

    label = "GA"
    touches = "forget"
    cost = "E n_f"
    paper = "Graves et al., AAAI 2021; Thudi et al., EuroS&P 2022"
    splits = ("forget",)

    unlearn_epochs: int = option(5, "epochs of unlearning")
    unlearn_lr: float = option(1e-4, "learning rate of unlearning", Range(1e-5, 1e-2))

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        for images, labels in data.forget:
            logits = model(images)
            yield Step(-F.cross_entropy(logits, labels), logits, labels)
