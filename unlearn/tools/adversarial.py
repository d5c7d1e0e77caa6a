"""Images moved just over the decision boundary of a model."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Loader
from runtime import distributed
from runtime.devices import exact_fp32
from unlearn.tools.attack import lengths
from utils import UserError

MAX_EPS = 10.0


@dataclasses.dataclass(frozen=True)
class Examples:
    """What :func:`nearest_misclassified` found: ``images`` (n, 3, side, side) in [0, 1], the
    model's ``classes`` (n,) for them, the radius ``eps`` (n,) that each was found in, and
    ``found`` (n,) bool, whether it is misclassified; where not, the others mean nothing.
    """

    images: Tensor
    classes: Tensor
    eps: Tensor
    found: Tensor


def nearest_misclassified(model: nn.Module, images: Loader, eps: float, steps: int) -> Examples:
    """The first misclassified iterate of projected gradient ascent from each image (Madry et al.,
    ICLR 2018, in the l2 norm), with a radius that doubles until there is one.

    An iterate moves by a tenth of the radius along its normalised loss gradient, then back into the
    ball around the image and into [0, 1]. After ``steps`` of them the radius doubles and the path
    goes on from where it is, as long as the radius is at most 10. An image that is misclassified as
    it is, is its own example. fp32, eval mode; several ranks share the batches.
    """
    model.eval()
    view, n, side = images.shared(), images.num_samples, images.images.side
    pixels = torch.zeros(n, 3, side, side, device=images.labels.device)
    rest = pixels.new_zeros(3, n)  # class, radius, found
    with exact_fp32():
        for (first, _), (batch, labels) in zip(images.bounds()[view.own], view, strict=True):
            for rows, moved, classes, radius in _follow(model, batch, labels, eps, steps):
                pixels[first + rows] = moved.to(pixels)
                rest[0, first + rows] = classes.to(pixels)
                rest[1, first + rows] = radius
                rest[2, first + rows] = 1
    distributed.all_reduce([pixels, rest])
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    return Examples(pixels, rest[0].long(), rest[1], rest[2].bool())


def say_missed(missed: Sequence[int], number: int) -> str:
    """In words, which of ``number`` images were not misclassified.

    Raises:
        UserError: none was.
    """
    kept = f"up to the attack's last radius, at most {MAX_EPS:g}"
    if len(missed) == number:
        raise UserError(
            f"the original keeps its answer to all {number} forget images {kept}, so there is no"
            " adversarial example to train on; take another method, such as RL"
        )
    return (
        f"{len(missed)} of {number} forget images keep their answer {kept}: the first is"
        f" {missed[0]}; they are trained on without an adversarial example"
    )


def _follow(
    model: nn.Module, start: Tensor, labels: Tensor, eps: float, steps: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, float]]:
    """Walk from one batch; images that are over the boundary leave it.

    Yields:
        Where in the batch they are, the images, the model's classes for them, and the radius.
    """
    at, rows = start, torch.arange(len(labels), device=labels.device)
    last, radius = steps * (1 + math.floor(math.log2(MAX_EPS / eps))), eps
    for number in range(last + 1):
        at = at.detach().requires_grad_()
        logits = model(at)
        answers = logits.argmax(1)
        over = answers != labels
        yield rows[over], at.detach()[over], answers[over], radius
        if number == last or bool(over.all()):
            return
        radius = eps * 2 ** (number // steps)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), at)
        rows, labels, start = rows[~over], labels[~over], start[~over]
        at = _step(at.detach()[~over], gradient[~over], start, radius)


def _step(at: Tensor, gradient: Tensor, start: Tensor, radius: float) -> Tensor:
    """A tenth of ``radius`` up the gradient, then into the ball around ``start`` and [0, 1]."""
    # Divided by its largest entry first: the square of a tiny gradient is 0 in fp32.
    gradient = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-38)
    moved = at + radius / 10 * gradient / lengths(gradient).clamp(min=1e-10)
    way = moved - start
    within = (radius / lengths(way).clamp(min=1e-10)).clamp(max=1)
    return (start + way * within).clamp(0, 1)
