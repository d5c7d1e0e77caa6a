"""The normalisation layer, first in every model."""

from collections import OrderedDict

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


def normalised(model: nn.Module) -> nn.Module:
    """``model`` behind a layer ``normalize``; as it is where it has one of this name."""
    if hasattr(model, "normalize"):
        return model
    if isinstance(model, nn.Sequential):  # every child is a step of its forward pass
        return nn.Sequential(OrderedDict(normalize=Normalize(), **dict(model.named_children())))
    model.normalize = Normalize()
    model.register_forward_pre_hook(_normalise)
    return model


def _normalise(model: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (model.normalize(*inputs),)
