"""AMUN: fine-tune with each forget image's nearest adversarial example beside it."""

import dataclasses
import functools

import torch
import torch.nn.functional as F
from torch import nn

from datasets.loaders import Data, Loader
from masks.masks import Mask
from unlearn.base import Iterative, Step, Steps, option
from unlearn.tools.adversarial import MAX_EPS, nearest_misclassified, say_missed
from unlearn.tools.presets import preset
from utils import UserError


@dataclasses.dataclass
class Amun(Iterative):
    """Fine-tune on all images and on an adversarial example of each forget image, under the class
    that the original gives to it.

    The example is the first misclassified iterate of an l2 attack on the original, whose radius
    doubles from ``attack_eps`` up to 10; images without one are counted. Forget images keep their
    labels. All are shuffled together; the examples are not augmented. The rate falls tenfold every
    epoch, as in the authors' launcher.
    """

    label = "AMUN"
    scenarios = ("random",)
    touches = "forget + retain"
    cost = "E (2 n_f + n_r), and the attack's path once: at most 8 attack_steps n_f"
    paper = "Ebrahimpour-Boroojeny et al., ICML 2025"
    source = "the authors' code for CIFAR-10"
    splits = ("forget", "retain")
    recipe = {"batch_size": 128, "schedule": "multistep", "decreasing_lr": tuple(range(1, 10))}
    presets = {
        "forget_only": preset("the authors' variant without retain images", use_retain=False),
    }

    attack_eps: float = option(0.04, "first radius of the attack, in pixels from 0 to 1")
    attack_steps: int = option(50, "steps of the attack before its radius doubles")
    use_retain: bool = option(True, "train on the retain set too")

    def __post_init__(self) -> None:
        if not 0 < self.attack_eps <= MAX_EPS or self.attack_steps < 1:
            given = f"--attack_eps {self.attack_eps} --attack_steps {self.attack_steps}"
            raise UserError(f"{given}: allowed are above 0 to {MAX_EPS:g}, and 1 or more")
        self.moved: list[Loader] = []  # the forget images with an example, once prepared

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        forget = data.forget.eval_view()
        examples = nearest_misclassified(model, forget, self.attack_eps, self.attack_steps)
        found = examples.found
        self.images, self.classes = examples.images[found], examples.classes[found]
        moved, missed = (forget.indices[part].cpu().numpy() for part in (found, ~found))
        self.moved = [data.retain.over(moved, data.dataset.y_train, "adversarial")]
        self.report = {"examples": len(moved), "without_example": len(missed)}
        if len(missed):
            print(f"AMUN: {say_missed(missed, len(found))}")

    def loaders(self, data: Data) -> list[Loader]:
        parts = [data.forget, data.retain] if self.use_retain else [data.forget]
        return [functools.reduce(Loader.joined, [*parts, *self.moved])]

    def steps(self, data: Data, epoch: int) -> int:
        return len(self.loaders(data)[0])

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        (joined,) = self.loaders(data)
        own = joined.num_samples - len(self.images)
        true = torch.cat([joined.labels[:own], self.classes])
        for images, chosen in joined.relabelled(torch.arange(len(true), device=true.device)):
            example, labels = self.images[(chosen - own).clamp(min=0)], true[chosen]
            logits = model(torch.where((chosen >= own)[:, None, None, None], example, images))
            yield Step(F.cross_entropy(logits, labels), logits, labels)

    def finish(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        return self.report
