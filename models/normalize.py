"""The normalisation layer, first in every model."""

import torch
from torch import nn


class Normalize(nn.Module):
    """(x - mean) / std per channel, for x (n, 3, h, w) in [0, 1]; the buffers are (3,)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("std", torch.ones(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.mean.view(1, 3, 1, 1)) / self.std.view(1, 3, 1, 1)
