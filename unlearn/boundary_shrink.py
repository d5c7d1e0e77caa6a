"""Boundary shrink: give the forget class's region to its neighbours."""

import dataclasses

import torch
from torch import Tensor, nn

from datasets.loaders import Data, Loader
from masks.masks import Mask
from runtime.devices import exact_fp32
from unlearn.base import Iterative, Range, Steps, cross_entropy_steps, option
from utils import UserError


@dataclasses.dataclass
class BoundaryShrink(Iterative):
    """Teach each forget image the class that lies nearest across the decision boundary of the
    original model.

    One gradient-sign step of ``eps`` takes an image x to x' = clip(x + eps sign(grad_x CE(h(x),
    y)), 0, 1), rounded to pixel values; h is the original model in eval mode. x is then trained on
    y', the class that h ranks first at x' among those other than y: where the step does not cross
    the boundary, h's first class is y itself, and the reference would teach it. The labels come
    from the images as they are, so they are made once, and training shows the images as they are.
    Default ``eps``: the paper's, in pixels from 0 to 1. Default rate: the middle of 1e-6 to 1e-4,
    where reruns search; at the lower end they saw no effect. Batches of forget images alone also
    move BatchNorm's statistics: ``--bn freeze``.
    """

    label = "BS"
    scenarios = ("class",)
    touches = "forget"
    cost = "(E + 1) n_f"
    paper = "Chen et al., CVPR 2023"
    source = "eps and 10 epochs: the reference's code; rate: our choice"
    splits = ("forget",)

    unlearn_lr: float = option(1e-5, "learning rate of unlearning", Range(1e-6, 1e-3))
    eps: float = option(0.1, "how far each pixel in [0, 1] is moved to find the nearest class")

    def __post_init__(self) -> None:
        if self.eps < 0:
            raise UserError(f"--eps {self.eps}: a distance of at least 0 is wanted")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.nearest = nearest_classes(model, data.forget.eval_view(), self.eps)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        return cross_entropy_steps(model, data.forget.unaugmented().relabelled(self.nearest))


def nearest_classes(model: nn.Module, images: Loader, eps: float) -> Tensor:
    """(n,) the class other than the label that ``model`` ranks first after a step of ``eps``."""
    model.eval()
    found = []
    with exact_fp32():
        for batch, labels in images:
            moved = step_away(model, batch, labels, eps)
            with torch.no_grad():
                found.append(model(moved).scatter(1, labels[:, None], -torch.inf).argmax(1))
    return torch.cat(found)


def step_away(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """A step of the fast gradient sign method (Goodfellow et al., ICLR 2015) to uint8 pixels."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(images), labels), images)
    return (images.detach() + eps * gradient.sign()).clamp(0, 1).mul(255).round().div(255)
