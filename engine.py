"""The one training loop and the one evaluation pass. No other file changes a weight by gradient descent."""

import bisect
import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets.loaders import Data, Loader
from unlearn.base import Iterative, Step, Steps
from unlearn.saliency import SaliencyGate
from utils import RunFailed, Stopwatch, exact_fp32, stream

NEVER = torch.iinfo(torch.int64).max


class EpochStats(NamedTuple):
    """Mean loss and accuracy (percent) over an epoch's steps, and the learning rate of its last one."""

    loss: float
    accuracy: float
    lr: float


class Meter:
    """Sums over an epoch and the first non-finite step, all on the device: reading them is the only wait."""

    def __init__(self, device: torch.device):
        self.loss = torch.zeros((), device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.first_bad = torch.full((), NEVER, dtype=torch.int64, device=device)
        self.samples = self.steps = 0

    def update(self, step: Step) -> None:
        loss, logits, labels = step.loss.detach(), step.logits.detach(), step.labels
        self.loss += loss * len(labels)
        self.correct += (logits.argmax(1) == labels).sum()
        # where() and not a branch: a branch would have to ask the device.
        bad_step = torch.where(torch.isfinite(loss), NEVER, self.steps)
        self.first_bad = torch.minimum(self.first_bad, bad_step)
        self.samples += len(labels)
        self.steps += 1

    def check(self) -> None:
        """Raise :class:`RunFailed` if a loss was not finite. Waits for the device."""
        if int(self.first_bad) != NEVER:
            raise RunFailed(f"the loss was not finite at step {int(self.first_bad)} of the epoch; try a lower learning rate")

    def read(self, lr: float) -> EpochStats:
        self.check()
        count = max(self.samples, 1)
        return EpochStats(float(self.loss) / count, 100 * float(self.correct) / count, lr)


def make_optimizer(
    parameters: Iterable[nn.Parameter], lr: float, momentum: float, weight_decay: float, kind: str = "sgd"
) -> torch.optim.Optimizer:  # fmt: skip
    """``sgd``, ``adam`` or ``adamw`` as one fused kernel over all parameters; ``momentum`` is SGD's."""
    common = {"lr": lr, "weight_decay": weight_decay, "fused": True}
    if kind == "sgd":
        return torch.optim.SGD(parameters, momentum=momentum, **common)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind](parameters, **common)


def learning_rate_factor(schedule: str, epochs: int, warmup: int = 0, milestones: tuple[float, ...] = ()) -> Callable[[float], float]:
    """The factor on the learning rate as a function of the progress in epochs (3.5 = half of the fourth).

    Args:
        schedule: ``constant``; ``multistep``, a tenth at each milestone; ``cosine``, half a period from one to zero.
        warmup: epochs over which the rate first climbs linearly to its base, whichever schedule follows.
        milestones: epochs at which ``multistep`` steps down.
    """

    def factor(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        if schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(epochs - warmup, 1e-9)))
        if schedule == "multistep":
            return 0.1 ** sum(progress >= milestone for milestone in milestones)
        return 1.0

    return factor


def make_scheduler(
    optimizer: torch.optim.Optimizer, factor: Callable[[float], float], steps: Sequence[int]
) -> torch.optim.lr_scheduler.LambdaLR:  # fmt: skip
    """A scheduler to step once per update; ``steps`` says how many updates each epoch takes."""
    ends = list(itertools.accumulate(steps))

    def at(update: int) -> float:
        epoch = min(bisect.bisect_right(ends, update), len(ends) - 1)
        return factor(epoch + (update + 0.5 - ends[epoch] + steps[epoch]) / max(steps[epoch], 1))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, at if any(steps) else lambda update: 1.0)


def train_epoch(
    model: nn.Module, steps: Steps, optimizer: torch.optim.Optimizer, *, device: torch.device, gate: SaliencyGate | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None, precision: str = "fp32", freeze_bn: bool = False,
    clip_norm: float = 0.0, print_freq: int = 50, total: int | None = None, title: str = "",
) -> EpochStats:  # fmt: skip
    """Descend every step that ``steps`` yields. The only place with an update.

    Args:
        gate: restores the frozen weights after every update.
        precision: ``bf16`` runs the forward passes under autocast; weights and updates stay fp32.
        freeze_bn: BatchNorm uses, and keeps, its running statistics.
        clip_norm: largest global norm of the gradient of the weights that may change; 0 does not clip.
        print_freq: steps between two looks at the device for a non-finite loss.

    Raises:
        RunFailed: a loss was not finite.
    """
    model.train()
    if freeze_bn:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    meter, updated, lr = Meter(device), None, optimizer.param_groups[0]["lr"]
    with tqdm(total=total, desc=title, unit="step", disable=None, leave=False) as progress:
        while True:
            try:
                with autocast:
                    step = steps.send(updated)
            except StopIteration:
                return meter.read(lr)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise RunFailed("BatchNorm cannot train on one image that small; take --bn freeze or a larger --input_size") from None
            assert step.loss.requires_grad, "the method yielded a loss without a gradient"
            optimizer.zero_grad(set_to_none=True)
            step.loss.backward()
            if clip_norm:
                if gate is not None:
                    gate.mask_gradients()
                nn.utils.clip_grad_norm_(parameters, clip_norm)
            optimizer.step()
            lr = optimizer.param_groups[0]["lr"]
            if step.project is not None:
                with torch.no_grad():
                    step.project(lr)
            if gate is not None:
                gate.restore()
            if scheduler is not None:
                scheduler.step()
            updated = True
            meter.update(step)
            progress.update()
            if meter.steps % print_freq == 0:
                meter.check()


def fit(
    model: nn.Module, method: Iterative, data: Data, optimizer: torch.optim.Optimizer, *, epochs: int, start_epoch: int = 0,
    clock: Stopwatch, gate: SaliencyGate | None = None, after_epoch: Callable[[int, EpochStats], None], **loop: object,
) -> None:  # fmt: skip
    """Run a method's epochs; ``clock`` sums their time, ``after_epoch`` (logging, saving) is outside of it.

    Raises:
        RunFailed: a loss or a weight was not finite; what ``after_epoch`` saved before is the last good state.
    """
    for epoch in range(start_epoch, epochs):
        data.set_epoch(epoch)
        torch.manual_seed(stream(data.seed, "layers", epoch))  # dropout and the like draw from the global generator
        with clock:
            stats = train_epoch(
                model, method.losses(model, data, epoch), optimizer, device=data.device, gate=gate, total=method.steps(data, epoch),
                title=f"epoch {epoch + 1}/{epochs}", **loop,
            )  # fmt: skip
        check_finite(model)
        after_epoch(epoch, stats)


@torch.no_grad()
def check_finite(model: nn.Module) -> None:
    """Raise :class:`RunFailed` if a weight is not finite. Waits for the device once."""
    norms = torch._foreach_norm([parameter.detach() for parameter in model.parameters()])
    if not bool(torch.isfinite(torch.stack(norms)).all()):
        raise RunFailed("a weight is not finite; try a lower learning rate")


@torch.inference_mode()
def predict(model: nn.Module, batches: Loader) -> tuple[Tensor, Tensor]:
    """Logits (n, k) fp32 and labels (n,) of a split, on the CPU: one pass in eval mode, fp32, un-augmented, in order.

    fp32 whatever the training precision: rounding near a confidence of one is what membership attacks measure.
    """
    model.eval()
    with exact_fp32():
        # forward() is the eager code also where --compile replaced the call: one evaluation for every run.
        logits = [model.forward(images) for images, _ in batches]
    if not logits:
        return torch.empty(0, 0), torch.empty(0, dtype=torch.int64)
    return torch.cat(logits).float().cpu(), batches.labels.cpu()
