"""Magnitude pruning of the convolutions, before or while a method runs."""

import dataclasses
import functools
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import L1Unstructured

from datasets.loaders import Data
from masks.masks import Mask
from models.structure import classifier, kernels, parameters_of, share_of
from unlearn.base import Preset, Range, Steps, option
from unlearn.finetune import FineTune
from unlearn.gradient_ascent import GradientAscent
from unlearn.tools.flat import flatten, frozen_flat, percent, split_like
from utils import UserError

# Convolutions that hold a smaller share of the weights are not what the network consists of: the
# patch embedding of a transformer, the depthwise convolutions of a ConvNeXt.
LEAST = 0.1


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that pruning ranks, by name: those of the convolutions or, where these hold under
    :data:`LEAST` of the model, as in a transformer, of all layers before the classifier; says so.

    Raises:
        UserError: there are none.
    """
    convolutions = kernels(model, (nn.Conv2d,))
    if (share := share_of(model, convolutions.values())) >= LEAST:
        return convolutions
    head = parameters_of(model, [classifier(model).name])
    found = {name: weight for name, weight in kernels(model).items() if name not in head}
    if not found:
        raise UserError(
            "pruning: this architecture has no convolution, linear or attention layer before its"
            " classifier; take a method that does not prune"
        )
    print(
        f"the convolutions hold {100 * share:.1f} % of the weights; pruned are those of all"
        f" {len(found)} convolutions, linear and attention layers before the classifier,"
        f" {100 * share_of(model, found.values()):.1f} %, from {next(iter(found))} on",
        flush=True,
    )
    return found


@dataclasses.dataclass
class Pruning:
    """Mixed into an iterative method: zeroes the smallest convolution weights in each epoch, those
    of :func:`prunable`.
    """

    gradual: ClassVar[bool]
    presets: ClassVar[dict[str, Preset]] = {}  # those of fine-tuning and ascent ran without pruning

    rate: float = option(
        0.95,
        "share of the convolution weights that are pruned in the end",
        Range(0.1, 0.99, log=False),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rate < 1:
            raise UserError(f"--rate {self.rate}: a share from 0 to below 1 is wanted")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        super().prepare(model, data, mask)
        named = prunable(model)
        self.weights = list(named.values())
        self.frozen = frozen_flat(named.items(), mask)
        self.free = len(self.frozen) - int(self.frozen.sum())

    def share(self, epoch: int) -> float:
        """Share of the convolution weights that may change which are zero during ``epoch``."""
        if not self.gradual:
            return self.rate
        return 1 - (1 - self.rate) ** ((epoch + 1) / self.unlearn_epochs)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        if not self.steps(data, epoch):  # the run has ended
            return
        # The smallest weights include the zeros of earlier epochs, also in a resumed run.
        keep = self.prune(round(self.share(epoch) * self.free))
        for step in super().losses(model, data, epoch):
            yield step._replace(project=functools.partial(self.zero, keep))

    @torch.no_grad()
    def prune(self, count: int) -> list[Tensor]:
        """Zero the ``count`` smallest weights that may change; returns 0 for these, else 1."""
        values = flatten(self.weights).masked_fill_(self.frozen, torch.inf)
        kept = L1Unstructured(count).compute_mask(values, torch.ones_like(values))
        pairs = zip(self.weights, split_like(kept, self.weights), strict=True)
        keep = [torch.empty_like(weight).copy_(part) for weight, part in pairs]
        self.zero(keep)
        return keep

    def zero(self, keep: list[Tensor], lr: float = 0.0) -> None:
        """Put what was pruned back to zero, however long the step."""
        torch._foreach_mul_(self.weights, keep)

    def finish(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        sparsity = {"sparsity": percent(flatten(self.weights)[~self.frozen] == 0)}
        return super().finish(model, data) | sparsity


@dataclasses.dataclass
class PrunedAscent(Pruning, GradientAscent):
    """Prune the smallest convolution weights, then climb the loss on the forget set with what is
    left.

    ``rate`` of the convolution weights that may change, those of least magnitude over all layers,
    are zero from before the first step on; default 0.95, the reference's and the paper's. The
    reference prunes after the ascent, which can undo it, at the rate and over the epochs of
    training.
    """

    label = "GA-prune"
    paper = "Jia et al., NeurIPS 2023"
    source = "rate: the paper's 95 %; learning rate and epochs: GA's; the order: our choice"
    gradual = False


@dataclasses.dataclass
class GradualAscent(Pruning, GradientAscent):
    """Climb the loss on the forget set while the smallest convolution weights are pruned, some
    before each epoch.

    The kept share during epoch e = 0, ..., E - 1 is (1 - rate)^((e + 1) / E): each epoch takes the
    same part of what is left, as iterative magnitude pruning does (Frankle & Carbin, ICLR 2019),
    and ``rate`` holds for the run as a whole. The reference takes ``rate`` of what is left after
    every epoch: 0.25 % remain after two.
    """

    label = "GA-prune-bi"
    paper = "Jia et al., NeurIPS 2023"
    source = "rate: the paper's 95 %; learning rate and epochs: GA's; the schedule: our choice"
    gradual = True


@dataclasses.dataclass
class GradualFineTune(Pruning, FineTune):
    """Fine-tune on the retain set while the smallest convolution weights are pruned, some before
    each epoch.

    The schedule is GA_prune_bi's, so that each loss of weights has an epoch to be made good. The
    reference prunes before every second epoch, the larger part that reaches ``rate`` in half as
    many steps, and cannot run: its loop hands over a mask that the method does not take.
    """

    label = "FT-prune-bi"
    breaks = ("rate",)
    paper = "Jia et al., NeurIPS 2023"
    source = "rate: the paper's 95 %; learning rate and epochs: FT's; the schedule: our choice"
    gradual = True
