"""LoTUS: make the model as unsure of the forget set as the original is of images it never saw."""

import dataclasses
import math
from typing import Literal

import torch.nn.functional as F
from torch import nn

from datasets.loaders import Data, Loader
from masks.masks import Mask
from unlearn.base import ALPHA, Iterative, Range, Step, Steps, option
from unlearn.tools.gumbel import sampled
from unlearn.tools.held_out import Lead
from unlearn.tools.splits import check_part, part_of
from unlearn.tools.teachers import frozen_copy


@dataclasses.dataclass
class Lotus(Iterative):
    """Imitate Gumbel samples of the original's outputs: soft and warm ones on the forget set, hard
    ones on a part of the retain set.

    The target of a forget image is softmax((log p + Gumbel noise) / tau), p the original's softmax,
    that of a retain image one class drawn from p. In each epoch tau = exp(alpha lead), lead the
    model's accuracy on forget as it begins less the original's on half A of the validation images,
    0 for a whole class. No epoch begins at a lead of -0.01 or less; the result says after which the
    run ended. Both sets are shuffled. The authors' code takes half of the test set, and rounds.
    """

    label = "LoTUS"
    touches = "forget + retain + validation"
    cost = "E (n_f + 0.3 n_r), as many forward passes of the original, and E n_f of the model"
    paper = "Spartalis et al., CVPR 2025"
    source = "the authors' code: alpha 8 for ResNet-18 on CIFAR-10, else 2"
    by_dataset = {"cifar10 resnet18": {"alpha": 8.0}}
    splits = ("forget", "retain")
    recipe = {"batch_size": 128}
    learns_from_validation = True

    unlearn_lr: float = option(1e-4, "learning rate of unlearning", Range(1e-5, 1e-2))
    optimizer: Literal["sgd", "adam", "adamw"] = option("adamw", "what the steps descend with")
    alpha: float = option(2.0, ALPHA, Range(0.5, 32))
    retain_part: float = option(0.3, "fraction of the retain images that is used, drawn once")

    def __post_init__(self) -> None:
        check_part(self.retain_part)

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.teacher = frozen_copy(model)
        self.lead = Lead(self.teacher, data)
        self.above, self.looked_after = self.lead.of(model), 0

    def loaders(self, data: Data) -> list[Loader]:
        return [data.forget.joined(part_of(data.retain, self.retain_part))]

    def steps(self, data: Data, epoch: int) -> int:
        return 0 if self.stopped() else len(self.loaders(data)[0])

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        if self.stopped():
            return
        both, tau = self.loaders(data)[0], math.exp(self.alpha * self.above)
        for images, labels, target in sampled(self.teacher, both, tau, data):
            logits = model(images)
            yield Step(F.cross_entropy(logits.float(), target), logits, labels)
        if epoch + 1 < self.unlearn_epochs:
            self.above, self.looked_after = self.lead.of(model), epoch + 1

    def stopped(self) -> bool:
        return self.above <= -0.01

    def state(self) -> dict:
        return {"above": self.above, "stopped_after": self.looked_after}

    def load_state(self, state: dict) -> None:
        self.above, self.looked_after = state["above"], state["stopped_after"]

    def finish(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        return {"stopped_after_epoch": self.looked_after} if self.stopped() else {}
