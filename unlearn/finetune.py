"""Fine-tuning on what remains."""

import dataclasses

from torch import nn

from datasets.loaders import Data
from unlearn.base import Iterative, Steps, cross_entropy_steps


@dataclasses.dataclass
class FineTune(Iterative):
    """Keep training on the retain set and hope that the rest fades.

    A model that fits the retain set perfectly has no gradient there: at small rates it hardly moves.
    """

    label = "FT"
    touches = "retain"
    cost = "E n_r"
    paper = "Warnecke et al., NDSS 2023; Golatkar et al., CVPR 2020"
    splits = ("retain",)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        return cross_entropy_steps(model, data.retain)
