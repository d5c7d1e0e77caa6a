"""ReGUn: treat the forget set as the original treats images that it never saw."""

import dataclasses
from typing import Literal

import torch.nn.functional as F
from torch import nn

from datasets.loaders import Data
from masks.masks import Mask
from unlearn.base import Iterative, Range, Step, Steps, joint_loss, option
from unlearn.tools.held_out import Unseen, held_out
from unlearn.tools.teachers import frozen_copy
from utils import UserError


@dataclasses.dataclass
class ReGUn(Iterative):
    """Pull the forget set to the original's mean output on held-out images, beside retain batches.

    The loss is w KL(q || model(forget)) + (1 - w) CE(retain) with w = ``forget_weight`` and q (k,)
    the mean of the original's softmax over a batch of held-out images as large as the forget batch.
    An epoch is one pass over forget, each batch with one of retain. ``held_out`` uniform draws the
    held-out batch from all classes, the authors' default; classes draws one image of the class of
    each forget image. The authors hold out 10 % before training; held out here is half A of the
    validation images, un-augmented, without a class that is forgotten as a whole.
    """

    label = "ReGUn"
    touches = "forget + retain + validation"
    cost = "2 E n_f, and a forward pass of the original over the held-out images"
    paper = "Mirlach et al., 2026 (arXiv 2603.11210)"
    source = "the authors' code; batches of 256: our choice"
    splits = ("forget", "retain")
    learns_from_validation = True

    weight_decay: float = option(0.0, "weight decay")
    unlearn_lr: float = option(0.01, "learning rate of unlearning", Range(1e-3, 0.1))
    forget_weight: float = option(
        0.5, "weight of the forget loss beside the retain loss", Range(0.05, 0.95, log=False)
    )
    held_out: Literal["uniform", "classes"] = option(
        "uniform", "held-out images drawn from all classes or in the forget batch's class shares"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.forget_weight <= 1:
            raise UserError(f"--forget_weight {self.forget_weight}: allowed 0 to 1")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.unseen = Unseen(frozen_copy(model), held_out(data))
        if self.held_out == "classes":
            self.unseen.check_classes(data.forget.labels)

    def steps(self, data: Data, epoch: int) -> int:
        return len(data.forget)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        retain, draws = data.retain.cycled(), data.generator("held-out batches")
        for (images, labels), bounds in zip(data.forget, data.forget.bounds(), strict=True):
            wanted = labels if self.held_out == "classes" else None
            target = self.unseen.mean_softmax(bounds[1] - bounds[0], draws, wanted)
            retain_images, retain_labels = next(retain)
            logits, kept = model(images), model(retain_images)
            apart = F.kl_div(F.log_softmax(logits.float(), 1), target, reduction="none").sum(1)
            pulled = (self.forget_weight * apart.mean(), data.forget)
            weight = 1 - self.forget_weight
            learnt = (weight * F.cross_entropy(kept, retain_labels), data.retain)
            yield Step(joint_loss(pulled, learnt), logits, labels)
