"""SCRUB: leave the teacher on forget, follow it on retain; SCRUB+R also rewinds."""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Data, Loader
from unlearn.base import Iterative, Range, Step, Steps, option
from unlearn.saliency import Mask
from unlearn.teachers import ask, divergence, frozen_copy
from utils import UserError, exact_fp32


@dataclasses.dataclass
class Scrub(Iterative):
    """Move away from the original's outputs on the forget set, and stay close to them on the retain set.

    With D = T^2 KL(original || model) at temperature T, the mean over a batch: each of the first ``msteps`` epochs climbs
    D in one pass over forget; every epoch then descends gamma CE + alpha D in one pass over retain. The later epochs
    repair. At msteps 0, alpha 0, gamma 1 this is FT.

    gamma 0.99, alpha 0.001, T 4, msteps 2 and SGD are the authors' large-scale setting; 5 epochs at 0.005 a rerun's
    (the RUM paper's). D is unbounded: where the first epochs destroy the model, lower the rate or ``msteps``. With
    frozen BatchNorm the model starts exactly at the original, where D is flat: the first climb then does nothing.
    """

    label = "SCRUB"
    touches = "forget + retain"
    cost = "msteps n_f + E n_r, and as many forward passes of the original"
    paper = "Kurmanji et al., NeurIPS 2023"
    splits = ("forget", "retain")

    unlearn_epochs: int = option(5, "epochs of unlearning")
    unlearn_lr: float = option(5e-3, "learning rate of unlearning", Range(5e-4, 5e-2))
    gamma: float = option(0.99, "weight of the retain set's cross-entropy")
    alpha: float = option(0.001, "weight of the penalty or of the step", Range(1e-4, 1))
    temperature: float = option(4.0, "divides the logits that are compared with a teacher's")
    msteps: int = option(2, "first epochs that also climb on the forget set")

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise UserError(f"--temperature {self.temperature}: it must be above 0")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.teacher = frozen_copy(model)

    def steps(self, data: Data, epoch: int) -> int:
        return len(data.retain) + (len(data.forget) if epoch < self.msteps else 0)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        for images, labels in data.forget if epoch < self.msteps else ():
            logits = model(images)
            yield Step(-self._distance(images, logits), logits, labels)
        for images, labels in data.retain:
            logits = model(images)
            loss = self.gamma * F.cross_entropy(logits, labels)
            if self.alpha:
                loss = loss + self.alpha * self._distance(images, logits)
            yield Step(loss, logits, labels)

    def _distance(self, images: Tensor, logits: Tensor) -> Tensor:
        return self.temperature**2 * divergence(ask(self.teacher, images), logits, self.temperature).mean()


@dataclasses.dataclass
class ScrubRewind(Scrub):
    """SCRUB, then back to the epoch whose forget error is closest to the finished model's on images it never saw.

    Those are the validation images of the classes that the forget set holds: of the forgotten class, or of all. Both errors are
    of un-augmented images; of equally close epochs the last one, which has repaired longest, is taken. A high forget error gives
    a member away as a low one does. The weights after each epoch wait on the CPU and in the checkpoint.
    """

    label = "SCRUB+R"
    touches = "forget + retain + validation"

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        super().prepare(model, data, mask)
        self.held_out = validation_of_forgotten(data)
        self.snapshots: list[dict[str, Tensor]] = []

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        yield from super().losses(model, data, epoch)
        self.snapshots.append({name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()})

    def state(self) -> dict:
        return {"snapshots": self.snapshots}

    def load_state(self, state: dict) -> None:
        self.snapshots = state["snapshots"]

    def finish(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        if not self.snapshots:
            return {}
        target, errors = error(model, self.held_out), []
        for snapshot in self.snapshots:
            model.load_state_dict(snapshot)
            errors.append(error(model, data.evaluation["forget"]))
        chosen = min(reversed(range(len(errors))), key=lambda epoch: abs(errors[epoch] - target))
        model.load_state_dict(self.snapshots[chosen])
        return {"chosen_epoch": chosen + 1, "forget_error": errors[chosen], "held_out_error": target}


def validation_of_forgotten(data: Data) -> Loader:
    """The validation images of the classes that are in the forget set, un-augmented, a forgotten class included."""
    labels, val = data.dataset.y_train, data.split.val
    chosen = val[np.isin(labels[val], labels[data.chosen.forget])]
    if not len(chosen):
        raise UserError("no validation image is of a class in the forget set, so that no epoch can be chosen; use scrub")
    images = data.evaluation["val"].images
    return Loader(images, chosen, labels, data.forget.batch_size, name="held out")


@torch.no_grad()
def error(model: nn.Module, batches: Loader) -> float:
    """The share of wrong predictions in percent, in fp32 and eval mode."""
    model.eval()
    with exact_fp32():  # forward() is the eager code also where --compile replaced the call
        wrong = sum((model.forward(images).argmax(1) != labels).sum() for images, labels in batches)
    return 100 * float(wrong) / batches.num_samples
