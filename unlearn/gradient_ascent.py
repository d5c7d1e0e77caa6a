"""Gradient ascent on the forget set."""

import dataclasses

import torch.nn.functional as F
from torch import nn

from datasets.loaders import Data
from unlearn.base import Iterative, Range, Step, Steps, option
from unlearn.tools.presets import EUPMU_10, MATRYOSHKA_10, MATRYOSHKA_50, preset


@dataclasses.dataclass
class GradientAscent(Iterative):
    """Climb the loss on the forget set.

    The rate is a cliff, from no effect to collapse: watch the retain accuracy that each epoch
    prints. The default is the reference authors' for a class; for random images they advise 5e-4 or
    1e-3. As there, weights decay on the way, and BatchNorm takes its statistics from the forget set
    alone: ``--bn freeze`` keeps the original's.
    """

    label = "GA"
    touches = "forget"
    cost = "E n_f"
    paper = "Graves et al., AAAI 2021; Thudi et al., EuroS&P 2022"
    source = "the reference's authors, for a class of CIFAR-10: Unlearn-Sparse, issue 5"
    splits = ("forget",)
    presets = {
        "salun_random": preset(
            "the reference's authors, for random images: 5e-4 or 1e-3 (issue 8)",
            unlearn_lr=5e-4,
            unlearn_epochs=5,
        ),
        "matryoshka_cifar10_10": preset(MATRYOSHKA_10, unlearn_lr=1e-5, unlearn_epochs=5),
        "matryoshka_cifar10_50": preset(MATRYOSHKA_50, unlearn_lr=1e-4, unlearn_epochs=5),
        "scissorhands_cifar100_50": preset(
            "Scissorhands' scripts, 50 % of CIFAR-100", unlearn_lr=1e-4, unlearn_epochs=10
        ),
        "eupmu_10": preset(EUPMU_10, unlearn_lr=1.5e-3, unlearn_epochs=5),
        "sfron_cifar10": preset(
            "SFRon's comparison: Huang et al., NeurIPS 2024",
            unlearn_lr=1e-4,
            unlearn_epochs=9,
            bn="freeze",
            clip_norm=0.1,
            batch_size=128,
            forget_batch_size=128,
        ),
    }

    unlearn_epochs: int = option(5, "epochs of unlearning")
    unlearn_lr: float = option(1e-4, "learning rate of unlearning", Range(1e-5, 1e-2))

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        for images, labels in data.forget:
            logits = model(images)
            yield Step(-F.cross_entropy(logits, labels), logits, labels)
