"""Descend on retain and climb on forget in one step."""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Data
from masks.masks import Mask
from unlearn.base import Iterative, Preset, Range, Step, Steps, joint_loss, option
from unlearn.tools.contrast import Contrastive
from unlearn.tools.presets import LONG_BUDGET, preset
from utils import UserError


@dataclasses.dataclass
class NegGradPlus(Contrastive, Iterative):
    """Descend the loss of a retain batch and climb that of a forget batch in the same step.

    The loss is a (CE(retain) + pull / 2 ||theta - theta_o||^2) - (1 - a) CE(forget) with a =
    ``retain_share`` and theta_o the original. An epoch is one pass over retain; the forget batches
    are cycled beside it, each cycle in another order. What has no weight is not read: without a
    pull, at 1 this is FT, at 0 it is GA, whose epoch is one pass over forget.

    CE(forget) has no upper bound and its gradient does not fade, so ``clip_forget`` stops each
    sample at log K, the loss of a guess among K classes; that guard is ours, and no published
    setting has it. In train mode BatchNorm counts the forget batches too.
    """

    label = "NegGrad+"
    touches = "forget + retain"
    cost = "2 E n_r"
    paper = "Kurmanji et al., NeurIPS 2023"
    source = "the SCRUB authors' CIFAR-100 / ResNet-50 notebook, but for its batches and our guard"
    splits = ("forget", "retain")
    recipe = {"momentum": 0.0, "no_aug": True}
    presets = {
        "scrub_resnet": preset(
            "the SCRUB authors' CIFAR-100 / ResNet-50 notebook: the defaults without the guard, in"
            " its batches",
            retain_share=0.9999,
            unlearn_lr=0.01,
            unlearn_epochs=5,
            weight_decay=0.0,
            momentum=0.0,
            bn="train",
            pull=0.0,
            clip_forget=False,
            batch_size=128,
            forget_batch_size=64,
            no_aug=True,
        ),
        "scrub_small": preset(
            "the SCRUB authors' small-scale notebook (a few hundred images); it pulls as strongly"
            " as its original was decayed, 0.1",
            retain_share=0.95,
            unlearn_lr=0.01,
            unlearn_epochs=10,
            weight_decay=0.0,
            momentum=0.0,
            bn="freeze",
            pull=0.1,
            clip_forget=False,
            batch_size=32,
            forget_batch_size=64,
            no_aug=True,
        ),
        "rum": preset(
            "RUM: Zhao et al., NeurIPS 2024, augmented; share: our choice",
            no_aug=False,
            unlearn_lr=0.01,
            unlearn_epochs=5,
            weight_decay=5e-4,
            momentum=0.9,
            clip_forget=False,
            batch_size=256,
            forget_batch_size=256,
        ),
        "long_budget": Preset(
            LONG_BUDGET.values
            | {"weight_decay": 5e-4, "momentum": 0.9, "no_aug": False, "retain_share": 0.99},
            f"{LONG_BUDGET.source}; so are the share (0.9999 is FT at twice the price) and the"
            " rest, which is FT's",
        ),
    }

    unlearn_epochs: int = option(5, "epochs of unlearning")
    unlearn_lr: float = option(0.01, "learning rate of unlearning", Range(1e-3, 0.1))
    weight_decay: float = option(0.0, "weight decay")
    retain_share: float = option(
        0.9999,
        "share of the retain loss in the sum; the forget loss has the rest",
        Range(0.8, 0.99999, rest=True),
    )
    pull: float = option(
        0.0, "weight of half the squared distance to the original's weights, beside the retain loss"
    )
    clip_forget: bool = option(
        True, "stop climbing on a forget sample whose loss is a guess's, log of the class count"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.retain_share <= 1:
            raise UserError(f"--retain_share {self.retain_share}: allowed 0 to 1")
        if self.pull < 0:
            raise UserError(f"--pull {self.pull}: a weight of at least 0 is wanted")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.original = [p.detach().clone() for p in model.parameters()] if self.pull else []

    def steps(self, data: Data, epoch: int) -> int:
        return len(data.retain if self.retain_share else data.forget)

    def forget_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy to climb; a sample past the guard adds a constant."""
        if not self.clip_forget:
            return F.cross_entropy(logits, labels)
        each = F.cross_entropy(logits, labels, reduction="none")
        return each.clamp(max=math.log(logits.shape[1])).mean()

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        weight = self.retain_share * self.pull / 2
        for step in self._steps(model, data):
            if weight:
                pairs = zip(model.parameters(), self.original, strict=True)
                away = [(parameter - start).square().sum() for parameter, start in pairs]
                step = step._replace(loss=step.loss + weight * torch.stack(away).sum())
            yield step

    def _steps(self, model: nn.Module, data: Data) -> Steps:
        if self.retain_share == 1:
            yield from super().losses(model, data, 0)
        elif self.retain_share == 0:
            for images, labels in data.forget:
                logits = model(images)
                yield Step(-self.forget_loss(logits, labels), logits, labels)
        else:
            yield from self._paired(model, data)

    def _paired(self, model: nn.Module, data: Data) -> Steps:
        forget = data.forget.cycled()
        for logits, labels, added in self.retain_passes(model, data):
            forget_images, forget_labels = next(forget)
            learnt = F.cross_entropy(logits, labels) + added
            climbed = self.forget_loss(model(forget_images), forget_labels)
            loss = joint_loss(
                (self.retain_share * learnt, data.retain),
                ((self.retain_share - 1) * climbed, data.forget),
            )
            yield Step(loss, logits, labels)
