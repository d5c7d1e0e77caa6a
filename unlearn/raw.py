"""Do nothing: the row that calibrates every metric."""

import dataclasses

from torch import nn

from datasets.loaders import Data
from unlearn.base import OneShot


@dataclasses.dataclass
class Raw(OneShot):
    """Do nothing: the original model, evaluated as if it had forgotten."""

    label = "Original"
    touches = "nothing"
    cost = "0"
    paper = "baseline"

    def edit(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        return {}
