"""SCORES: every ``--score`` of generate_mask.py, the order in which weights may change. SalUn's is
saliency, the rest its ablation.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import parallel
from datasets.loaders import Data, Loader
from unlearn.saliency import Mask, check_finite_gradient, saliency_scores
from utils import UserError, exact_fp32, generator

Scores = dict[str, Tensor]
TINY = 1e-15  # what SFRon adds to an importance
# How the score's batches are drawn, in the record of its masks: those of a record without it went
# by the file's order.
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
    return {
        name: torch.rand(p.shape, generator=draw, dtype=torch.float64)
        for name, p in model.named_parameters()
    }


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
            gradient = torch.autograd.grad(
                F.cross_entropy(model(images), labels), list(parameters.values())
            )
            torch._foreach_addcmul_(squares, gradient, gradient)
    parallel.add_up(squares)
    torch._foreach_div_(squares, len(batches))
    check_finite_gradient(squares)
    return dict(zip(parameters, squares, strict=True))


# ``layers`` ranks by saliency after :func:`listed_first` has put the weights of --layers before all
# others.
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


# ------------------------------------------------------------------------------------------- layers


def belongs(name: str, layers: Sequence[str]) -> bool:
    """Whether the parameter ``name`` is one of ``layers`` or inside one: layer1 holds
    layer1.0.bn1.bias, not layer10.weight.
    """
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
    """Integer scores that rank every weight of ``layers`` before all others and keep the order of
    ``scores`` (fp32) in each group.
    """
    # Floats >= 0 have the order of their bits: 31 of them, so that the next one can stand for the
    # group and nothing is rounded.
    return {
        name: score.view(torch.int32).long() + (belongs(name, layers) << 31)
        for name, score in scores.items()
    }


def layers_mask(model: nn.Module, layers: Sequence[str]) -> Mask:
    """The mask under which exactly the weights of ``layers`` may change."""
    return {
        name: torch.full(p.shape, belongs(name, layers)) for name, p in model.named_parameters()
    }
