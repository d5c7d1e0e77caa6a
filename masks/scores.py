"""Scores by which weights enter a mask."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Data, Loader
from runtime import distributed
from runtime.devices import exact_fp32
from utils import RunFailed, generator


def mean_gradient(model: nn.Module, batches: Loader) -> dict[str, Tensor]:
    """Each parameter's gradient of the mean cross-entropy of all samples, in fp32 eval mode.

    It does not depend on how the samples fall into batches.
    """
    model.eval()
    model.zero_grad(set_to_none=True)
    with exact_fp32():
        for images, labels in batches.shared():
            F.cross_entropy(model(images), labels, reduction="sum").backward()
    # A process without a batch has no gradient yet.
    sums = {}
    for name, p in model.named_parameters():
        sums[name] = torch.zeros_like(p) if p.grad is None else p.grad
    distributed.all_reduce(list(sums.values()))
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
    """|mean forget gradient| of every named parameter (Fan et al., ICLR 2024, eq. 4)."""
    return {name: gradient.abs() for name, gradient in mean_gradient(model, forget).items()}


Scores = dict[str, Tensor]
TINY = 1e-15  # what SFRon adds to an importance
# In the record of a mask: how the batches of ``ratio`` are drawn. Older records lack it.
RATIO_ORDER = "shuffled"


def saliency(model: nn.Module, data: Data) -> Scores:
    """|mean gradient of the forget set|: SalUn's."""
    return saliency_scores(model, data.forget.eval_view())


def random(model: nn.Module, data: Data) -> Scores:
    """Uniform draws: what a mask of this density does without knowing anything.

    Drawn on the CPU, so that a seed means the same mask on every device, and in fp64, where ties do
    not happen.
    """
    draw = generator("cpu", data.seed, "random mask")
    options = {"generator": draw, "dtype": torch.float64}
    return {name: torch.rand(p.shape, **options) for name, p in model.named_parameters()}


def magnitude(model: nn.Module, data: Data) -> Scores:
    """|weight|: what pruning would keep."""
    return {name: p.detach().abs() for name, p in model.named_parameters()}


def retain_gradient(model: nn.Module, data: Data) -> Scores:
    """|mean gradient of the retain set|: the weights that matter to what stays."""
    return saliency_scores(model, data.retain.eval_view())


def ratio(model: nn.Module, data: Data) -> Scores:
    """(I_f + 1e-15) / (I_r + 1e-15), the importance of a weight to forget over that to retain
    (SFRon: Huang et al., NeurIPS 2024).

    A weight that neither set uses has ratio 1. The batches are shuffled, of one size on both sides:
    in the order of a folder that is sorted by class they would hold one class each, and the mask
    would be another.
    """
    forget, retain = (
        importance(model, split.eval_view().shuffled("importance").evenly(data.retain.batch_size))
        for split in (data.forget, data.retain)
    )
    return {name: (forget[name] + TINY) / (retain[name] + TINY) for name in forget}


def importance(model: nn.Module, batches: Loader) -> Scores:
    """The mean over batches of the squared gradient of a batch's mean cross-entropy, per parameter,
    in fp32 eval mode.

    In batches of one this is the diagonal of the empirical Fisher matrix. In larger ones, as
    published, it depends on their size and on which images meet in one; all count alike, so a small
    last one, whose mean is noisier, is better spread.
    """
    model.eval()
    parameters = dict(model.named_parameters())
    squares = [torch.zeros_like(parameter) for parameter in parameters.values()]
    with exact_fp32():
        for images, labels in batches.shared():
            loss = F.cross_entropy(model(images), labels)
            gradient = torch.autograd.grad(loss, list(parameters.values()))
            torch._foreach_addcmul_(squares, gradient, gradient)
    distributed.all_reduce(squares)
    torch._foreach_div_(squares, len(batches))
    check_finite_gradient(squares)
    return dict(zip(parameters, squares, strict=True))


# ``layers`` ranks by saliency; :func:`listed_first` then puts the weights of --layers first.
SCORES: dict[str, Callable[[nn.Module, Data], Scores]] = {
    "saliency": saliency,
    "random": random,
    "magnitude": magnitude,
    "retain_gradient": retain_gradient,
    "ratio": ratio,
    "layers": saliency,
}
# Those whose masks depend on what part of the retain set --retain_fraction leaves.
READ_RETAIN = ("retain_gradient", "ratio")
