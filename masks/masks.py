"""Masks: {parameter name: bool, True = may change}, made of scores, read and compared."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from masks.scores import Scores
from utils import UserError, first_difference

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
Mask = dict[str, Tensor]


def top_masks(scores: Mapping[str, Tensor], ratios: Iterable[float] = RATIOS) -> dict[float, Mask]:
    """The int(P * ratio) highest-scored of all P weights, as {ratio: {name: bool, True = may
    change}}.

    One partition serves all ratios: ties go to the lower position in the concatenation of all
    parameters, so masks of growing ratios nest and the same scores always give the same masks, the
    ones that a stable sort would give.
    """
    flat = torch.cat([score.reshape(-1) for score in scores.values()])
    shapes = [score.shape for score in scores.values()]
    sizes = [score.numel() for score in scores.values()]
    counts = {ratio: int(flat.numel() * ratio) for ratio in ratios}
    lowest = lowest_chosen(flat, counts.values())
    masks = {}
    for ratio, count in counts.items():
        chosen = flat > lowest[count] if count else torch.zeros_like(flat, dtype=torch.bool)
        if missing := count - int(torch.count_nonzero(chosen)):
            chosen[(flat == lowest[count]).nonzero()[:missing, 0]] = True
        parts = zip(scores, chosen.cpu().split(sizes), shapes, strict=True)
        # Memory of its own: with a slice the whole concatenation would be saved.
        masks[ratio] = {name: part.reshape(shape).clone() for name, part, shape in parts}
    return masks


def lowest_chosen(values: Tensor, counts: Iterable[int]) -> dict[int, Tensor]:
    """{count: the smallest of the ``count`` largest ``values`` (n,)} for every count above 0."""
    positions = {count: len(values) - count for count in counts if count}
    if values.device.type == "cpu":
        # At ten places a fifth of the cost of torch's sort, at one a quarter of its kthvalue's.
        ordered = torch.from_numpy(np.partition(values.numpy(), list(positions.values())))
    else:
        ordered = values.sort().values
    # Views, which do not wait for the device.
    return {count: ordered[position] for count, position in positions.items()}


def read_mask(content: object, where: str) -> Mask:
    """What a mask file held, as bool tensors; the reference's 0/1 integers are converted.

    Raises:
        UserError: not a mask.
    """
    if not isinstance(content, dict) or not all(map(_is_named_tensor, content.items())):
        raise UserError(f"mask {where} is no dictionary of tensors")
    mask = {name.removeprefix("module."): value for name, value in content.items()}
    for name, value in mask.items():
        if value.dtype != torch.bool and not bool(((value == 0) | (value == 1)).all()):
            raise UserError(f"mask {where}: {name} holds values other than 0 and 1")
    return {name: value.bool() for name, value in mask.items()}


def _is_named_tensor(item: tuple) -> bool:
    name, value = item
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided


def check_mask(content: object, model: nn.Module, where: str) -> Mask:
    """:func:`read_mask` for exactly the parameters of ``model``.

    Raises:
        UserError: not a mask, or one of another architecture, with the first difference named.
    """
    mask = read_mask(content, where)
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: tuple(value.shape) for name, value in mask.items()}
    if wanted != found:
        name = first_difference(wanted, found)
        raise UserError(
            f"mask {where} does not fit the model: {name} is {found.get(name, 'missing')} in the"
            f" mask and {wanted.get(name, 'missing')} in the model; make it with the same --arch"
            " and --dataset"
        )
    return {name: mask[name] for name in wanted}


class Overlap(NamedTuple):
    """Two masks on some weights: their count, each mask's share, two values of :func:`overlap`."""

    weights: int
    share_a: float
    share_b: float
    jaccard: float
    expected: float


def overlap(a: Iterable[Tensor], b: Iterable[Tensor]) -> Overlap:
    """Compare two masks on the tensors ``a`` and ``b`` (bool, of equal shapes) taken together.

    ``jaccard`` is |a and b| / |a or b|. ``expected`` is what two random masks of these densities
    have on average, p q / (p + q - p q): where a weight may change with probability p under one
    and, independently, q under the other. Both are NaN where no weight may change under either.
    """
    pairs = [
        (x.numel(), *map(int, (x.sum(), y.sum(), (x & y).sum()))) for x, y in zip(a, b, strict=True)
    ]
    weights, in_a, in_b, in_both = map(sum, zip(*pairs, strict=True))
    if not in_a + in_b:
        return Overlap(weights, 0.0, 0.0, math.nan, math.nan)
    p, q = in_a / weights, in_b / weights
    return Overlap(weights, p, q, in_both / (in_a + in_b - in_both), p * q / (p + q - p * q))


def density(mask: Mask) -> float:
    """The share of the weights that may change."""
    total = sum(value.numel() for value in mask.values())
    return sum(int(value.sum()) for value in mask.values()) / total


def belongs(name: str, layers: Sequence[str]) -> bool:
    """Whether parameter ``name`` is in ``layers``: layer1 holds layer1.0.bias, not layer10.bias."""
    return any(f"{name}.".startswith(f"{layer}.") for layer in layers)


def check_layers(layers: Sequence[str], names: Iterable[str]) -> None:
    """Refuse a layer that holds none of the parameters ``names``."""
    names = list(names)
    for layer in layers:
        if not any(belongs(name, [layer]) for name in names):
            top = dict.fromkeys(name.split(".")[0] for name in names)
            raise UserError(
                f"--layers: no weight is in {layer!r}; the model has {', '.join(top)} and what is"
                " inside them (layer.part)"
            )


def listed_first(scores: Scores, layers: Sequence[str]) -> Scores:
    """Integer scores: ``layers`` first, and in each group the order of the fp32 ``scores``."""
    # Floats >= 0 are ordered as their 31 bits are; the next bit is the group's.
    ranked = {}
    for name, score in scores.items():
        ranked[name] = score.view(torch.int32).long() + (belongs(name, layers) << 31)
    return ranked


def layers_mask(model: nn.Module, layers: Sequence[str]) -> Mask:
    """The mask under which exactly the weights of ``layers`` may change."""
    named = model.named_parameters()
    return {name: torch.full(p.shape, belongs(name, layers)) for name, p in named}
