"""Gradients that a method takes itself, beside the one that the loop descends."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from masks.masks import Mask
from runtime import distributed

# 1 + cos of two opposed gradients: their weights stay below 1,000 / |g|.
FLOOR = 1e-6


def gradient(loss: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Of a scalar loss, zero for a weight that it does not depend on; leaves ``grad`` alone."""
    with torch.autocast(loss.device.type, enabled=False):
        found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    return list(found)


class GradientMean:
    """The mean gradient of losses over the images of one update: of all its steps and ranks."""

    def __init__(self, weights: Sequence[Tensor]):
        self.weights, self.sums, self.labels = list(weights), [], 0

    def add(self, loss: Tensor, labels: Tensor) -> None:
        """A loss that is the mean over this rank's ``labels`` (b,)."""
        scaled = gradient(loss * len(labels), self.weights)
        self.sums = torch._foreach_add(self.sums, scaled) if self.sums else scaled
        self.labels += len(labels)

    def take(self) -> list[Tensor]:
        """The mean since the last call; every rank must call it."""
        sums, first = self.sums, self.sums[0]
        number = torch.full((), float(self.labels), dtype=first.dtype, device=first.device)
        distributed.all_reduce([*sums, number])
        torch._foreach_div_(sums, number)
        self.sums, self.labels = [], 0
        return sums


def frozen_parts(model: nn.Module, mask: Mask | None) -> list[Tensor] | None:
    """For each parameter where ``mask`` freezes it, bool; None without a mask."""
    if mask is None:
        return None
    return [~mask[name].to(parameter.device) for name, parameter in model.named_parameters()]


def zero_frozen(gradients: Sequence[Tensor], frozen: Sequence[Tensor] | None) -> None:
    """Zero in place what :func:`frozen_parts` names."""
    if frozen is not None:
        for each, part in zip(gradients, frozen, strict=True):
            each.masked_fill_(part, 0)


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The inner product of two lists of tensors, a scalar, in fp64 where the device has it."""
    wide = torch.float32 if a[0].device.type == "mps" else torch.float64
    products = [(x.to(wide) * y.to(wide)).sum() for x, y in zip(a, b, strict=True)]
    return torch.stack(products).sum()


def bargain(first: Tensor, second: Tensor, product: Tensor) -> Tensor:
    """The Nash bargaining weights (2,) of two gradients from their squared norms and their inner
    product; ones where a gradient is zero.
    """
    norms = torch.stack([first, second]).sqrt()
    cosine = product / norms.prod()
    weights = 1 / (norms * (1 + cosine).clamp(min=FLOOR).sqrt())
    return torch.where(norms.prod() > 0, weights, 1.0)


def bargain_into(
    parameters: Sequence[nn.Parameter], other: list[Tensor], frozen: Sequence[Tensor] | None
) -> None:
    """Replace the parameters' ``grad`` (None counts as zero) by its sum with ``other`` under the
    weights of :func:`bargain`, without what is ``frozen``; ``other`` is changed too.
    """
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    own = [parameter.grad for parameter in parameters]
    zero_frozen(own, frozen)
    zero_frozen(other, frozen)
    products = inner(own, own), inner(other, other), inner(own, other)
    weights = bargain(*products).to(own[0].dtype)
    torch._foreach_mul_(own, weights[0])
    torch._foreach_add_(own, torch._foreach_mul(other, weights[1]))
