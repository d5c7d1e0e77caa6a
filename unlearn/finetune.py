"""Fine-tuning on what remains."""

import dataclasses

from torch import nn

from datasets.loaders import Data
from unlearn.base import Iterative, Steps, cross_entropy_steps
from unlearn.tools.presets import EUPMU_10, LONG_BUDGET, MATRYOSHKA_10, MATRYOSHKA_50, preset


@dataclasses.dataclass
class FineTune(Iterative):
    """Keep training on the retain set and hope that the rest fades.

    A model that fits the retain set perfectly has no gradient there: at small rates it hardly
    moves.
    """

    label = "FT"
    touches = "retain"
    cost = "E n_r"
    paper = "Warnecke et al., NDSS 2023; Golatkar et al., CVPR 2020"
    source = "the reference's README; Scissorhands' scripts"
    splits = ("retain",)
    presets = {
        "matryoshka_cifar10_10": preset(MATRYOSHKA_10, unlearn_lr=0.01, unlearn_epochs=10),
        "matryoshka_cifar10_50": preset(MATRYOSHKA_50, unlearn_lr=0.1, unlearn_epochs=10),
        "eupmu_10": preset(EUPMU_10, unlearn_lr=0.02, unlearn_epochs=5),
        "sfron_cifar10": preset(
            "SFRon's comparison: Huang et al., NeurIPS 2024; their cosine falls once an epoch, ours"
            " at every step",
            unlearn_lr=0.01,
            unlearn_epochs=10,
            schedule="cosine",
            batch_size=128,
        ),
        "long_budget": LONG_BUDGET,
    }

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        return cross_entropy_steps(model, data.retain)
