"""Descend on retain and climb on forget in one step."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Batch, Data, Loader
from unlearn.base import Iterative, Range, Step, Steps, cross_entropy_steps, option
from utils import UserError


@dataclasses.dataclass
class NegGradPlus(Iterative):
    """Descend the loss of a retain batch and climb that of a forget batch in the same step.

    The loss is a CE(retain) - (1 - a) CE(forget) with a = ``retain_share``. An epoch is one pass over retain; the forget
    batches are cycled beside it, each cycle in another order. What has no weight is not read: at 1 this is FT, at 0 it
    is GA, whose epoch is one pass over forget.

    Defaults are the SCRUB authors' baseline's: a = 0.95, SGD at 0.01 for 10 epochs, no weight decay, BatchNorm frozen
    (there a forget batch would otherwise move the statistics too). CE(forget) has no upper bound and its gradient does
    not fade, so ``clip_forget`` stops each sample at log K, the loss of a guess among K classes; that guard is ours.
    """

    label = "NegGrad+"
    touches = "forget + retain"
    cost = "2 E n_r"
    paper = "Kurmanji et al., NeurIPS 2023"
    splits = ("forget", "retain")

    unlearn_lr: float = option(0.01, "learning rate of unlearning", Range(1e-3, 0.1))
    weight_decay: float = option(0.0, "weight decay")
    bn: Literal["train", "freeze"] = option("freeze", "BatchNorm statistics while training")
    retain_share: float = option(0.95, "share of the retain loss in the sum; the forget loss has the rest", Range(0.8, 0.999, log=False))
    clip_forget: bool = option(True, "stop climbing on a forget sample whose loss is a guess's, log of the class count")

    def __post_init__(self) -> None:
        if not 0 <= self.retain_share <= 1:
            raise UserError(f"--retain_share {self.retain_share}: allowed 0 to 1")

    def steps(self, data: Data, epoch: int) -> int:
        return len(data.retain if self.retain_share else data.forget)

    def forget_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy to climb; a sample past the guard adds a constant, which has no gradient."""
        if not self.clip_forget:
            return F.cross_entropy(logits, labels)
        return F.cross_entropy(logits, labels, reduction="none").clamp(max=math.log(logits.shape[1])).mean()

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        if self.retain_share == 1:
            yield from cross_entropy_steps(model, data.retain)
        elif self.retain_share == 0:
            for images, labels in data.forget:
                logits = model(images)
                yield Step(-self.forget_loss(logits, labels), logits, labels)
        else:
            yield from self._paired(model, data)

    def _paired(self, model: nn.Module, data: Data) -> Steps:
        forget = cycled(data.forget)
        for images, labels in data.retain:
            forget_images, forget_labels = next(forget)
            logits = model(images)
            climbed = self.forget_loss(model(forget_images), forget_labels)
            # The loop weights a process's loss by its part of the retain batch; its part of the forget batch may be another.
            climbed = climbed * (data.forget.share / data.retain.share)
            loss = self.retain_share * F.cross_entropy(logits, labels) - (1 - self.retain_share) * climbed
            yield Step(loss, logits, labels)


def cycled(batches: Loader) -> Iterator[Batch]:
    """The batches again and again, each pass in its own seeded order."""
    while True:
        yield from batches
