"""Adversarial images that a classifier takes for a class of ours: projected gradient descent."""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.devices import exact_fp32


def targeted_l2(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    radius: float,
    step: float,
    steps: int,
    start: Tensor,
) -> Tensor:
    """Images within ``radius`` of ``images`` (b, 3, side, side) in l2 and within [0, 1], from
    ``start`` (the same shape, a direction and a length in [0, radius]) on.

    Each of ``steps`` goes ``step`` down the normalised gradient of the cross-entropy with
    ``targets`` (b,), then back into both sets. The model is taken in the mode it is in.
    """
    found = (images + start).clamp(0, 1)
    for _ in range(steps):
        found = found.detach().requires_grad_()
        with exact_fp32():
            loss = F.cross_entropy(model(found), targets, reduction="sum")
            (slope,) = torch.autograd.grad(loss, [found])
        moved = found.detach() - step * unit(slope)
        away = moved - images
        away = away * (radius / lengths(away).clamp(min=radius))
        found = (images + away).clamp(0, 1)
    return found.detach()


def lengths(directions: Tensor) -> Tensor:
    """The l2 length of each of (b, ...), as (b, 1, 1, 1)."""
    return directions.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def unit(directions: Tensor) -> Tensor:
    """Each of (b, ...) at length 1; zero stays zero."""
    return directions / lengths(directions).clamp(min=1e-12)


def random_start(shape: torch.Size, radius: float, draws: torch.Generator) -> Tensor:
    """Directions drawn evenly, of lengths drawn evenly from 0 to ``radius``."""
    device = draws.device
    directions = torch.randn(shape, generator=draws, device=device)
    share = torch.rand((shape[0], 1, 1, 1), generator=draws, device=device)
    return radius * share * unit(directions)


@contextlib.contextmanager
def running_statistics(model: nn.Module) -> Iterator[None]:
    """Inside the block BatchNorm uses, and keeps, its running statistics."""
    kinds = nn.modules.batchnorm._BatchNorm
    norms = [each for each in model.modules() if isinstance(each, kinds) and each.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
