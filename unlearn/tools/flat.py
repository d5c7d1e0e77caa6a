"""Many weights as one vector, for what ranks or counts them across layers."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from masks.masks import Mask


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Their values one after the other, (n,), in memory of its own."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def split_like(flat: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The inverse of :func:`flatten`: views of ``flat`` in the shapes of ``tensors``."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def frozen_flat(named: Iterable[tuple[str, Tensor]], mask: Mask | None) -> Tensor:
    """(n,) bool, which of the weights ``mask`` freezes: none where it is None."""
    if mask is None:
        return flatten(torch.zeros_like(weight, dtype=torch.bool) for _, weight in named)
    return flatten(~mask[name].to(weight.device) for name, weight in named)


def percent(found: Tensor) -> float:
    """Percent of True in a bool tensor; 0 in an empty one. Waits for the device."""
    return 100 * int(found.sum()) / max(found.numel(), 1)
