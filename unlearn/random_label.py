"""Random labels; under a saliency mask this is SalUn."""

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Data, Loader
from unlearn.base import Iterative, Range, Step, Steps, option
from utils import generator


@dataclasses.dataclass
class RandomLabel(Iterative):
    """Fit the forget set to random labels and the retain set to its own.

    ``sequential`` is the order of the published code since April 2024: a pass over forget, then a pass over retain.
    ``mixed`` shuffles both into one epoch, the older algorithm and another one: it keeps the wrong labels in the model.
    """

    label = "RL"
    masked_label = "SalUn"
    touches = "forget + retain"
    cost = "E (n_f + n_r)"
    paper = "Golatkar et al., CVPR 2020; SalUn: Fan et al., ICLR 2024"
    splits = ("forget", "retain")

    unlearn_lr: float = option(0.01, "learning rate of unlearning", Range(5e-4, 5e-2))
    order: Literal["sequential", "mixed"] = option("sequential", "forget then retain, or both shuffled together")
    relabel: Literal["per_epoch", "once"] = option("per_epoch", "draw random labels anew each epoch, or once")
    exclude_true: bool = option(True, "never draw the true label")
    retain_weight: float = option(1.0, "weight of the retain loss; 0 leaves the retain set out")

    def random_labels(self, data: Data) -> Tensor:
        """(num_forget,) labels, uniform over the other classes (over all of them without ``exclude_true``)."""
        true, classes = data.forget.labels, data.num_classes
        epoch = data.epoch if self.relabel == "per_epoch" else "once"
        draw = torch.randint(
            0, classes - self.exclude_true, true.shape, device=true.device,
            generator=generator(true.device, data.seed, "random labels", epoch),
        )  # fmt: skip
        return draw + (draw >= true) if self.exclude_true else draw

    def steps(self, data: Data, epoch: int) -> int:
        if not self.retain_weight:
            return len(data.forget)
        return len(data.forget.joined(data.retain)) if self.order == "mixed" else super().steps(data, epoch)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        forget = data.forget.relabelled(self.random_labels(data))
        if self.order == "mixed" and self.retain_weight:
            yield from self._mixed(model, forget, data)
            return
        for weight, batches in ((1.0, forget), (self.retain_weight, data.retain)):
            for images, labels in batches if weight else ():
                logits = model(images)
                yield Step(weight * F.cross_entropy(logits, labels), logits, labels)

    def _mixed(self, model: nn.Module, forget: Loader, data: Data) -> Steps:
        # A sample's weight rides on the sign of its label (-1 - label marks retain), so that one shuffle serves both.
        marked = data.retain.relabelled(-1 - data.retain.labels)
        for images, labels in forget.joined(marked):
            is_retain = labels < 0
            labels = torch.where(is_retain, -1 - labels, labels)
            logits = model(images)
            each = F.cross_entropy(logits, labels, reduction="none")
            yield Step(torch.where(is_retain, self.retain_weight * each, each).mean(), logits, labels)
