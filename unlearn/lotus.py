"""LoTUS: make the model as unsure of the forget set as the original is of images it never saw."""

import dataclasses
import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from datasets import DATASETS
from datasets.loaders import Data, Loader
from masks.masks import Mask
from unlearn.base import ALPHA, Iterative, Range, Step, Steps, option
from unlearn.tools.held_out import error, held_out
from unlearn.tools.noise import gumbel
from unlearn.tools.splits import check_part, part_of
from unlearn.tools.teachers import ask, frozen_copy


@dataclasses.dataclass
class Lotus(Iterative):
    """Imitate Gumbel samples of the original's outputs: soft and warm ones on the forget set, hard
    ones on a part of the retain set.

    The loss is -sum_k t_k log p_k, t = softmax((log softmax(original) + Gumbel noise) / tau) for a
    forget image, one class drawn from the original's softmax for a retain image. In each epoch tau
    = exp(alpha (acc_forget - acc_held_out)), accuracies of the model as it begins and of the
    original. An epoch that ends with acc_forget - acc_held_out <= -0.01 is the last; the result
    says which. Both sets are shuffled together. Held out is half A of the validation images, for a
    whole class acc_held_out is 0. The authors' code takes half of the test set, and rounds.
    """

    label = "LoTUS"
    touches = "forget + retain + validation"
    cost = "E (n_f + 0.3 n_r), as many forward passes of the original, and E n_f of the model"
    paper = "Spartalis et al., CVPR 2025"
    source = "the authors' code: alpha 8 for CIFAR-10 and ResNet-18, else 2"
    by_dataset = {name: {"alpha": 2.0} for name in DATASETS if name != "cifar10"}
    splits = ("forget", "retain")
    recipe = {"batch_size": 128}
    learns_from_validation = True
    stopped_after: ClassVar[int] = 0  # the epoch, once there is one

    unlearn_lr: float = option(1e-4, "learning rate of unlearning", Range(1e-5, 1e-2))
    optimizer: Literal["sgd", "adam", "adamw"] = option("adamw", "what the steps descend with")
    alpha: float = option(8.0, ALPHA, Range(0.5, 32))
    retain_part: float = option(0.3, "fraction of the retain images that is used, drawn once")

    def __post_init__(self) -> None:
        check_part(self.retain_part)

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.teacher, self.unseen = frozen_copy(model), 0.0
        if not data.chosen.dropped_classes:
            self.unseen = 1 - error(self.teacher, held_out(data)) / 100
        self.look(model, data)

    def look(self, model: nn.Module, data: Data) -> None:
        """Measure how far the forget accuracy is above the held-out one; reads from the device."""
        wrong = error(frozen_copy(model), data.evaluation["forget"]) / 100
        self.above = 1 - wrong - self.unseen

    def loaders(self, data: Data) -> list[Loader]:
        return [data.forget.joined(part_of(data.retain, self.retain_part))]

    def steps(self, data: Data, epoch: int) -> int:
        return 0 if self.stopped_after else len(self.loaders(data)[0])

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        if self.stopped_after:
            return
        both, tau = self.loaders(data)[0], math.exp(self.alpha * self.above)
        noise = gumbel((both.num_samples, data.num_classes), data)
        classes = torch.eye(data.num_classes, device=data.device)
        for images, chosen in both.relabelled(torch.arange(len(noise), device=data.device)):
            noisy = F.log_softmax(ask(self.teacher, images).float(), 1) + noise[chosen]
            soft, hard = (noisy / tau).softmax(1), classes[noisy.argmax(1)]
            target = torch.where((chosen < data.forget.num_samples)[:, None], soft, hard)
            logits = model(images)
            loss = -(target * F.log_softmax(logits.float(), 1)).sum(1).mean()
            yield Step(loss, logits, both.labels[chosen])
        if epoch + 1 < self.unlearn_epochs:
            self.look(model, data)
            self.stopped_after = epoch + 1 if self.above <= -0.01 else 0

    def state(self) -> dict:
        return {"above": self.above, "stopped_after": self.stopped_after}

    def load_state(self, state: dict) -> None:
        self.above, self.stopped_after = state["above"], state["stopped_after"]

    def finish(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        return {"stopped_after_epoch": self.stopped_after} if self.stopped_after else {}
