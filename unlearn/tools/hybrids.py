"""NatMU's hybrids: forget images blended with retain images through ramps."""

import numpy as np
import torch
from torch import Tensor, nn

from datasets.loaders import Data
from runtime.devices import exact_fp32
from unlearn.tools.teachers import ask
from utils import UserError

MASKS = 4


def ramps(side: int, delta: float) -> Tensor:
    """The forget image's share of each pixel in the four masks, (4, 1, side, side) in [0, 1].

    A triangle wave w over the rows, 0 at both ends and (b - 1) / b next to the middle, b = side //
    2; the same over the columns; (b - 1) / b - w over the rows, over the columns. To each ``delta``
    is added.
    """
    if side < 2:
        raise UserError(f"NatMU blends images of at least 2 pixels a side; these have {side}")
    half = side // 2
    up = torch.arange(half) / half
    wave = torch.cat([up, (half - 1) / half - up, torch.zeros(side - 2 * half)])
    rows = wave[:, None].expand(side, side)
    other = (half - 1) / half - rows
    return (torch.stack([rows, rows.T, other, other.T]) + delta).clamp(0, 1)[:, None]


def partner_count(data: Data) -> int:
    """How many hybrids each forget image has: 4, or one for each other class that retain has.

    Raises:
        UserError: there is none.
    """
    count = min(MASKS, len(np.unique(data.dataset.y_train[data.chosen.retain])) - 1)
    if count < 1:
        raise UserError("natmu blends images of several classes, and the retain set has one alone")
    return count


def next_classes(model: nn.Module, data: Data) -> Tensor:
    """(n_f, :func:`partner_count`) the classes that ``model`` ranks first for the forget images
    beside their own, of those that retain has.
    """
    kept, count = data.retain.labels.bincount(minlength=data.num_classes) > 0, partner_count(data)
    found = []
    for images, labels in data.forget.eval_view():
        with exact_fp32():
            logits = ask(model, images).float().masked_fill(~kept, -torch.inf)
        logits = logits.scatter(1, labels[:, None], -torch.inf)
        found.append(logits.topk(count, dim=1).indices)
    return torch.cat(found)


def partners(classes: Tensor, data: Data) -> np.ndarray:
    """(n,) a retain image of each of ``classes`` (n,), as an index of the data set: each class in a
    seeded order, begun anew only where it is used up.
    """
    draws, retain = data.generator("hybrids"), data.retain
    chosen = torch.empty_like(classes)
    for each in classes.unique().tolist():
        wanted, there = (classes == each).nonzero()[:, 0], (retain.labels == each).nonzero()[:, 0]
        order = there[torch.randperm(len(there), generator=draws, device=there.device)]
        chosen[wanted] = order[torch.arange(len(wanted), device=order.device) % len(order)]
    return retain.indices[chosen].cpu().numpy()


def blend(data: Data, indices: np.ndarray, shares: Tensor) -> Tensor:
    """uint8 (n_f, 3, side, side): each forget image, by ``shares`` (1, side, side), with the image
    of the data set at ``indices`` (n_f,), rounded down.
    """
    forget, mixed = data.forget.eval_view(), []
    other = forget.over(indices, data.dataset.y_train, "hybrids")
    for (images, _), (partner, _) in zip(forget, other, strict=True):
        both = images * shares + partner * (1 - shares)
        mixed.append((both * 255 + 1e-3).to(torch.uint8))
    return torch.cat(mixed)
