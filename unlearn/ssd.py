"""Selective synaptic dampening: shrink the weights that matter far more to the forget set."""

import dataclasses
import functools
from typing import Literal

import torch
from torch import Tensor, nn

from datasets.loaders import Data, Loader
from unlearn.base import ALPHA, OneShot, Range, option
from unlearn.tools.per_sample import Vector, mean_batch_gradient_sizes, own_label
from utils import UserError


def squared_norm(logits: Tensor, labels: Tensor) -> list[Tensor]:
    """The squared length of the logits, which needs no label."""
    return [logits.square().sum()]


@dataclasses.dataclass
class SelectiveSynapticDampening(OneShot):
    """Shrink the weights that matter more to the forget set than ``alpha`` times what they matter
    to all images.

    Where I_f > alpha I_D, theta <- theta min(dampening I_D / I_f, 1), with I the mean over batches
    of the squared gradient of the batch's mean cross-entropy, in eval mode, without augmentation:
    I_f over forget, I_D over forget + retain. Defaults are the paper's for ResNet-18 (alpha 10,
    lambda 1) and its code's (batches of 64, class by class).

    The batches decide what alpha means. In order ``class`` I_D goes through the retain images class
    by class and then through the forget images, I_f through the forget images alone, each cut into
    even batches one after the other: nearly all hold one class, whose mean gradient is large, and
    I_f is at most about (n / n_f) I_D. With ten equal classes alpha 10 then selects next to
    nothing; the authors had twenty and more. In order ``shuffled`` the batches of I_D hold all
    classes, whose gradients cancel: I_D is small, and the same alpha selects many times as many
    weights. ``importance_batch`` 1 gives the exact Fisher diagonals in either order at about twice
    the cost; then I_f <= (n / n_f) I_D for every weight. Random forget sets look like all images,
    and mostly nothing is selected.
    """

    label = "SSD"
    scenarios = ("class",)
    touches = "forget + retain"
    cost = "2 n_f + n_r"
    paper = "Foster et al., AAAI 2024"
    source = "the authors' code for a whole class and ResNet-18"
    losses, size = staticmethod(own_label), staticmethod(torch.square)

    alpha: float = option(10.0, ALPHA, Range(1, 100))
    dampening: float = option(
        1.0,
        "lambda, how much of a chosen weight stays: times the ratio of its importances, at"
        " most all",
    )
    importance_batch: int = option(
        64, "images whose mean gradient is squared as one; 1 is the exact Fisher diagonal"
    )
    importance_order: Literal["class", "shuffled"] = option(
        "class", "batches of one class, as the authors', or of all"
    )

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.dampening < 0 or self.importance_batch < 1:
            raise UserError(
                f"--alpha {self.alpha} --dampening {self.dampening} --importance_batch"
                f" {self.importance_batch}: the first two must be at least 0, the batch at least 1"
            )

    def edit(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        of_forget = self.importance(model, data.forget)
        of_all = self.importance(model, data.retain, data.forget)
        selected = dampen(model, of_forget, of_all, self.alpha, self.dampening)
        share = selected / sum(parameter.numel() for parameter in model.parameters())
        print(f"{self.label}: {selected} weights dampened, {100 * share:.3g} % of all")
        report = {"selected": selected, "selected_share": share}
        if not selected:
            other = ""
            if self.importance_order == "class" and self.importance_batch > 1:
                other = ", or take --importance_order shuffled"
            report["warning"] = (
                f"no weight matters to the forget set {self.alpha:g} times as much as to all"
                f" images: lower --alpha{other}"
            )
        return report

    def importance(self, model: nn.Module, *splits: Loader) -> Vector:
        """The mean size of the gradient over the batches of ``splits`` taken together."""
        return mean_batch_gradient_sizes(model, self.batches(*splits), self.losses, self.size)

    def batches(self, *splits: Loader) -> Loader:
        """The images one split after the other, class by class; or all in one seeded shuffle."""
        views = [split.eval_view() for split in splits]
        if self.importance_order == "class":
            joined = functools.reduce(Loader.joined, [view.by_class() for view in views])
        else:
            joined = functools.reduce(Loader.joined, views).shuffled("importance")
        return joined.evenly(self.importance_batch)


@dataclasses.dataclass
class LabelFreeDampening(SelectiveSynapticDampening):
    """SSD without labels: importance is the size of the gradient of the logits' squared length.

    I is the mean over batches of |gradient of mean ||f(x)||^2|, an absolute value in the place of
    SSD's square; the rest and the defaults are SSD's. In order ``class`` labels sort the images;
    ``shuffled`` reads none.
    """

    label = "LFSSD"
    paper = "Foster et al., ICLR 2024 Tiny Papers"
    source = "SSD's values: our choice"
    losses, size = staticmethod(squared_norm), staticmethod(torch.abs)


@torch.no_grad()
def dampen(
    model: nn.Module, of_forget: Vector, of_all: Vector, alpha: float, dampening: float
) -> int:
    """Shrink the weights with ``of_forget > alpha of_all``; returns how many there are."""
    selected = []
    for name, parameter in model.named_parameters():
        # Never where both are 0, nor (inf * 0 is NaN) for an infinite alpha.
        chosen = of_forget[name] > alpha * of_all[name]
        factor = (dampening * of_all[name] / of_forget[name]).clamp(max=1)
        parameter.copy_(torch.where(chosen, parameter * factor, parameter))
        selected.append(chosen.sum())
    return int(torch.stack(selected).sum())
