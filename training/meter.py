"""What the loop measures while it descends: sums on the device, and whether all is finite."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from runtime import distributed
from unlearn.base import Step
from utils import RunFailed

NEVER = torch.iinfo(torch.int64).max
REMEDY = (
    "what was saved before stays; try a lower learning rate, --clip_norm 1, or --precision fp32"
)


class EpochStats(NamedTuple):
    """Mean loss and accuracy (percent) over an epoch's steps, and the learning rates of its last
    and of its first update.
    """

    loss: float
    accuracy: float
    lr: float
    first_lr: float


class Meter:
    """Sums over an epoch and its first non-finite step, on the device: only reading them waits.

    Each rank accumulates locally; ``check``, ``state`` and ``read`` all-reduce, so every rank must
    call them.
    """

    def __init__(self, device: torch.device, first_lr: float = 0.0):
        self.loss = torch.zeros((), device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.first_bad = torch.full((), NEVER, dtype=torch.int64, device=device)
        self.samples = self.steps = 0
        self.first_lr = first_lr

    def update(self, step: Step) -> None:
        loss, logits, labels = step.loss.detach(), step.logits.detach(), step.labels
        self.loss += loss * len(labels)
        self.correct += (logits.argmax(1) == labels).sum()
        # where() and not a branch: a branch would have to ask the device.
        bad_step = torch.where(torch.isfinite(loss), NEVER, self.steps)
        self.first_bad = torch.minimum(self.first_bad, bad_step)
        self.samples += len(labels)
        self.steps += 1

    def check(self, title: str = "") -> None:
        """Raise :class:`RunFailed` if a loss was not finite. Waits for the device."""
        distributed.all_reduce_min(self.first_bad)
        if int(self.first_bad) != NEVER:
            place = f"step {int(self.first_bad) + 1} of {title or 'the epoch'}"
            raise RunFailed(f"the loss was not finite at {place}; {REMEDY}")

    def state(self) -> dict:
        """The sums so far, for a run that goes on inside an epoch."""
        loss, correct, samples = self._totals()
        sums = {"loss": loss, "correct": correct, "samples": samples}
        return sums | {"steps": self.steps, "first_lr": self.first_lr}

    def load_state(self, state: dict) -> None:
        """Continue from what :meth:`state` gave."""
        self.steps = state["steps"]
        self.first_lr = state.get("first_lr", self.first_lr)  # older files have none
        if distributed.rank() == 0:
            self.loss.copy_(state["loss"])
            self.correct.copy_(state["correct"])
            self.samples = state["samples"]

    def _totals(self) -> tuple[Tensor, Tensor, int]:
        """Loss, correct and samples of all ranks."""
        loss, correct = self.loss.clone(), self.correct.clone()
        distributed.all_reduce([loss])
        samples = torch.tensor(self.samples, device=correct.device)
        distributed.all_reduce([correct, samples])
        return loss, correct, int(samples)

    def read(self, lr: float, title: str = "") -> EpochStats:
        """The means over the epoch. Waits for the device."""
        self.check(title)
        loss, correct, samples = self._totals()
        samples = max(samples, 1)
        percent = 100 * float(correct) / samples
        return EpochStats(float(loss) / samples, percent, lr, self.first_lr)


@torch.no_grad()
def check_finite(model: nn.Module, when: str = "") -> None:
    """Raise :class:`RunFailed` if a weight or statistic is not finite. Waits for the device."""
    tensors = [*model.parameters(), *model.buffers()]
    values = [value for value in tensors if value.is_floating_point()]
    if not bool(torch.isfinite(torch.stack(torch._foreach_norm(values))).all()):
        what = f"a weight or BatchNorm statistic was not finite {when}".rstrip()
        raise RunFailed(f"{what}; {REMEDY}")
