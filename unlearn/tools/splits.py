"""Parts of the retain set, and both sets in one shuffle."""

from collections.abc import Iterator

import torch
from torch import Tensor

from datasets.loaders import Loader
from utils import UserError


def check_part(fraction: float) -> None:
    """Refuse a ``--retain_part`` that is no fraction."""
    if not 0 < fraction <= 1:
        raise UserError(f"--retain_part {fraction}: allowed above 0 and up to 1")


def part_of(retain: Loader, fraction: float) -> Loader:
    """The seeded part of the retain set, the same at every epoch, at least one image."""
    return retain.subset(max(1, int(fraction * retain.num_samples)), "fraction")


def mixed(forget: Loader, retain: Loader) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One pass over both joined: images, labels, and which images are of forget (b,) bool."""
    both = forget.joined(retain)
    positions = torch.arange(both.num_samples, device=both.labels.device)
    for images, chosen in both.relabelled(positions):
        yield images, both.labels[chosen], chosen < forget.num_samples
