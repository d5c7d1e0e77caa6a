"""L2UL: climb on the forget set, held by adversarial images of the original."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from datasets.loaders import Data
from masks.masks import Mask
from unlearn.base import Iterative, Range, Step, Steps, option
from unlearn.tools.attack import random_start, running_statistics, targeted_l2
from unlearn.tools.teachers import frozen_copy
from utils import UserError


@dataclasses.dataclass
class L2UL(Iterative):
    """Climb the loss on the forget set while the original's adversarial images keep the classes
    that they were made to look like.

    The loss is -CE(model(x), y) + adversarial_weight CE(model(x'), y') with x' an image close to x
    that the original takes for a class y' other than y, drawn at random: ``attack_steps`` steps of
    ``attack_step`` in l2 from a random start, within ``attack_radius``, in pixels from 0 to 1. They
    stand for the retain set, which is not read. x' is made once, from the un-augmented image and
    the original, and goes through BatchNorm's running statistics. The paper's second part, an l2
    pull weighted by importance, is left out.
    """

    label = "L2UL"
    touches = "forget"
    cost = "2 E n_f, and 10 n_f for the attack"
    paper = "Cha et al., AAAI 2024"
    source = "attack and weight: DELETE's port; rate and epochs: our choice"
    splits = ("forget",)

    unlearn_epochs: int = option(5, "epochs of unlearning")
    unlearn_lr: float = option(1e-4, "learning rate of unlearning", Range(1e-6, 1e-2))
    adversarial_weight: float = option(
        0.1, "weight of the adversarial images' loss", Range(0.01, 10)
    )
    attack_radius: float = option(0.4, "largest l2 distance of an adversarial image")
    attack_step: float = option(0.1, "l2 length of a step of the attack")
    attack_steps: int = option(10, "steps of the attack")

    def __post_init__(self) -> None:
        for name in ("attack_radius", "attack_step", "adversarial_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} {getattr(self, name)}: at least 0 is wanted")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        original, labels, images = frozen_copy(model), data.forget.labels, []
        draws = data.generator("adversarial images")
        other = torch.randint(
            data.num_classes - 1, labels.shape, generator=draws, device=labels.device
        )
        self.targets = other + (other >= labels)
        how = {"radius": self.attack_radius, "step": self.attack_step, "steps": self.attack_steps}
        for batch, targets in data.forget.eval_view().relabelled(self.targets):
            start = random_start(batch.shape, self.attack_radius, draws)
            images.append(targeted_l2(original, batch, targets, start=start, **how))
        self.images = torch.cat(images)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        positions = torch.arange(data.forget.num_samples, device=data.device)
        for images, chosen in data.forget.relabelled(positions):
            labels, logits = data.forget.labels[chosen], model(images)
            with running_statistics(model):
                kept = F.cross_entropy(model(self.images[chosen]), self.targets[chosen])
            loss = self.adversarial_weight * kept - F.cross_entropy(logits, labels)
            yield Step(loss, logits, labels)
