"""From the forget set's gradient to scores, from scores to nested masks, from a mask to the gate
that keeps it.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import parallel
from datasets.loaders import Loader
from utils import RunFailed, UserError, exact_fp32

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
Mask = dict[str, Tensor]


def mean_gradient(model: nn.Module, batches: Loader) -> dict[str, Tensor]:
    """The gradient of the mean cross-entropy over all samples of ``batches``, per parameter, in
    fp32 eval mode.

    Each batch counts by its size, so the result does not depend on how the samples fall into
    batches.
    """
    model.eval()
    model.zero_grad(set_to_none=True)
    with exact_fp32():
        for images, labels in batches.shared():
            F.cross_entropy(model(images), labels, reduction="sum").backward()
    # A process without a batch has no gradient yet.
    sums = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in model.named_parameters()
    }
    parallel.add_up(list(sums.values()))
    gradient = {name: value / batches.num_samples for name, value in sums.items()}
    model.zero_grad(set_to_none=True)
    check_finite_gradient(list(gradient.values()))
    return gradient


def check_finite_gradient(values: list[Tensor]) -> None:
    """Raise :class:`RunFailed` if one of ``values`` is not finite. Waits for the device once."""
    if not torch.isfinite(torch.stack(torch._foreach_norm(values))).all():
        raise RunFailed(
            "the gradient is not finite; the model's weights are damaged or it was trained to"
            " overflow"
        )


def saliency_scores(model: nn.Module, forget: Loader) -> dict[str, Tensor]:
    """|mean gradient of the forget loss| of every named parameter (Fan et al., ICLR
    2024, eq. 4).
    """
    return {name: gradient.abs() for name, gradient in mean_gradient(model, forget).items()}


def top_masks(scores: Mapping[str, Tensor], ratios: Iterable[float] = RATIOS) -> dict[float, Mask]:
    """The int(P * ratio) highest-scored of all P weights, as {ratio: {name: bool, True = may
    change}}.

    One partition serves all ratios: ties go to the lower position in the concatenation of all
    parameters, so masks of growing ratios nest and the same scores always give the same masks, the
    ones that a stable sort would give.
    """
    flat = torch.cat([score.reshape(-1) for score in scores.values()])
    shapes, sizes = (
        [score.shape for score in scores.values()],
        [score.numel() for score in scores.values()],
    )
    counts = {ratio: int(flat.numel() * ratio) for ratio in ratios}
    lowest = lowest_chosen(flat, counts.values())
    masks = {}
    for ratio, count in counts.items():
        chosen = flat > lowest[count] if count else torch.zeros_like(flat, dtype=torch.bool)
        if missing := count - int(torch.count_nonzero(chosen)):
            chosen[(flat == lowest[count]).nonzero()[:missing, 0]] = True
        parts = zip(scores, chosen.cpu().split(sizes), shapes, strict=True)
        # Each tensor gets its own memory: saving a slice would save the whole concatenation with
        # it.
        masks[ratio] = {name: part.reshape(shape).clone() for name, part, shape in parts}
    return masks


def lowest_chosen(values: Tensor, counts: Iterable[int]) -> dict[int, Tensor]:
    """{count: the smallest of the ``count`` largest ``values`` (n,)} for every count above 0."""
    positions = {count: len(values) - count for count in counts if count}
    # On the CPU a partition at ten places costs a fifth of torch's sort, and one at one place a
    # quarter of its kthvalue.
    on_cpu = values.device.type == "cpu"
    ordered = (
        torch.from_numpy(np.partition(values.numpy(), list(positions.values())))
        if on_cpu
        else values.sort().values
    )
    return {
        count: ordered[position] for count, position in positions.items()
    }  # views: no word from the device


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
        name = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise UserError(
            f"mask {where} does not fit the model: {name} is {found.get(name, 'missing')} in the"
            f" mask and {wanted.get(name, 'missing')} in the model; make it with the same --arch"
            " and --dataset"
        )
    return {name: mask[name] for name in wanted}


class Overlap(NamedTuple):
    """How much two masks agree on some weights: their count, each mask's share of them, and two
    values of :func:`overlap`.
    """

    weights: int
    share_a: float
    share_b: float
    jaccard: float
    expected: float


def overlap(a: Iterable[Tensor], b: Iterable[Tensor]) -> Overlap:
    """Compare two masks on the tensors ``a`` and ``b`` (bool, of equal shapes) taken together.

    ``jaccard`` is |a and b| / |a or b|. ``expected`` is what two random masks of these densities
    have on average: where each weight is let go with probability p by one and, independently, q by
    the other, one in their union is in both with probability p q / (p + q - p q). Both are NaN
    where neither mask lets a weight go.
    """
    pairs = [
        (x.numel(), *map(int, (x.sum(), y.sum(), (x & y).sum()))) for x, y in zip(a, b, strict=True)
    ]
    weights, in_a, in_b, in_both = map(sum, zip(*pairs, strict=True))
    if not in_a + in_b:
        return Overlap(weights, 0.0, 0.0, math.nan, math.nan)
    p, q = in_a / weights, in_b / weights
    return Overlap(weights, p, q, in_both / (in_a + in_b - in_both), p * q / (p + q - p * q))


class SaliencyGate:
    """Keeps every frozen weight at its original value, bit for bit, whatever the optimizer did.

    The parameters are moved into one flat buffer that they view, so that :meth:`restore` is one
    ``where`` over contiguous memory and needs neither a loop over tensors nor a word from the
    device. Elementwise optimizers treat the weights that may change exactly as without a gate, so
    an all-True mask changes nothing. BatchNorm statistics are buffers, not weights: see ``--bn``.
    """

    def __init__(self, model: nn.Module, mask: Mask):
        """Take the weights that ``model`` holds now as the original ones; ``mask`` comes from
        :func:`check_mask`.
        """
        named = dict(model.named_parameters())
        sizes = [parameter.numel() for parameter in named.values()]
        first = next(iter(named.values()))
        self.flat = torch.empty(sum(sizes), dtype=first.dtype, device=first.device)
        self.mask = torch.empty_like(self.flat, dtype=torch.bool)
        self.original = torch.empty_like(self.flat)
        self.frozen_grads = []
        offset = 0
        for (name, parameter), size in zip(named.items(), sizes, strict=True):
            # Strides are kept: a channels_last weight stays channels_last inside the buffer.
            def view(buffer: Tensor, like: Tensor = parameter, offset: int = offset) -> Tensor:
                return buffer.as_strided(like.shape, like.stride(), offset)

            view(self.mask).copy_(mask[name])
            view(self.original).copy_(parameter.detach())
            view(self.flat).copy_(parameter.detach())
            parameter.data = view(self.flat)
            self.frozen_grads.append((parameter, ~view(self.mask)))
            offset += size

    @torch.no_grad()
    def restore(self) -> None:
        """Put the frozen weights back; call after every update."""
        torch.where(self.mask, self.flat, self.original, out=self.flat)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zero the frozen weights' gradients: needed before a clip by global norm, which would
        otherwise mix them in.
        """
        for parameter, frozen in self.frozen_grads:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(frozen, 0)
