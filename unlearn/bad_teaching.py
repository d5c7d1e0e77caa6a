"""Two teachers: a random network for what is forgotten, the original for what is retained."""

import dataclasses
from typing import Literal

import torch
from torch import nn

from datasets.loaders import Data, Loader
from masks.masks import Mask
from models import redraw
from unlearn.base import Iterative, Range, Step, Steps, option
from unlearn.tools.presets import preset
from unlearn.tools.splits import check_part, mixed, part_of
from unlearn.tools.teachers import ask, divergence, frozen_copy
from utils import stream


@dataclasses.dataclass
class BadTeaching(Iterative):
    """Imitate a randomly initialised network on the forget set and the original on a part of the
    retain set.

    Both are shuffled into one epoch; the loss is the batch's mean of KL(its teacher || model) at
    temperature 1. The retain images are one seeded draw of ``retain_part``. Defaults are the
    authors' (Adam at 1e-4, 1 epoch, no weight decay, 30 % of retain, no augmentation). Their loss
    is also divided by the number of classes, which Adam does not notice and SGD does.

    The random network's outputs are not uniform but depend on its draw, and a model that imitates
    them on members only is easy to tell from a retrained one (the Streisand effect). Both teachers
    see the whole batch, which needs no sorting.
    """

    label = "Bad teaching"
    touches = "forget + retain"
    cost = "E (n_f + 0.3 n_r), and twice as many forward passes of teachers"
    paper = "Chundawat et al., AAAI 2023"
    source = "the authors' code"
    presets = {
        "sfron_cifar10": preset(
            "SFRon's port for CIFAR-10: SGD at 0.02, weight decay 5e-4, all of retain, augmented;"
            " its loss is also divided by the ten classes, so that its updates are those of 0.002"
            " and 5e-3 here",
            optimizer="sgd",
            unlearn_lr=2e-3,
            weight_decay=5e-3,
            unlearn_epochs=10,
            schedule="cosine",
            retain_part=1.0,
            batch_size=128,
            no_aug=False,
        )
    }
    splits = ("forget", "retain")
    recipe = {"no_aug": True}

    unlearn_epochs: int = option(1, "epochs of unlearning")
    unlearn_lr: float = option(1e-4, "learning rate of unlearning", Range(1e-5, 3e-3))
    optimizer: Literal["sgd", "adam", "adamw"] = option("adam", "what the steps descend with")
    weight_decay: float = option(0.0, "weight decay")
    retain_part: float = option(0.3, "fraction of the retain images that is used, drawn once")

    def __post_init__(self) -> None:
        check_part(self.retain_part)

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.good, self.bad = frozen_copy(model), frozen_copy(model)
        redraw(self.bad, stream(data.seed, "bad teacher"))

    def loaders(self, data: Data) -> list[Loader]:
        return [data.forget.joined(part_of(data.retain, self.retain_part))]

    def steps(self, data: Data, epoch: int) -> int:
        return len(self.loaders(data)[0])

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        retain = part_of(data.retain, self.retain_part)
        for images, labels, is_forget in mixed(data.forget, retain):
            good, bad = ask(self.good, images), ask(self.bad, images)
            teacher = torch.where(is_forget[:, None], bad, good)
            logits = model(images)
            yield Step(divergence(teacher, logits).mean(), logits, labels)
