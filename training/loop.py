"""The one training loop. No other file changes a weight by gradient descent."""

import contextlib
import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from masks.gate import SaliencyGate
from runtime import distributed
from training import batch_norm
from training.batch_norm import batch_norms, one_image_by_running_statistics
from training.meter import EpochStats, Meter, check_finite
from unlearn.base import Step, Steps
from utils import RunFailed


@dataclasses.dataclass
class Waiting:
    """A phase's steps since its last update: how many, of how many labels, and the last one."""

    steps: int = 0
    labels: int = 0
    last: Step | None = None
    # While another phase has the parameters' ``grad``.
    gradients: list[Tensor | None] = dataclasses.field(default_factory=list)


class Updater:
    """Turns the losses of steps into updates of the weights.

    An update is made of ``accumulate`` steps of one phase, or of fewer where the phase's part of an
    epoch ends: of the mean of their losses, each weighted by its number of labels, over all ranks.
    Its order: mean gradient, ``edit_gradients``, clip, optimizer, ``project``, gate, scheduler.

    Args:
        forget: the optimizer and scheduler that serve the forget phase; else all phases share one.
        gate: keeps the frozen weights in every update of gated steps.
        clip_norm: largest global norm of the gradient of the weights that may change; 0 does not
            clip.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        *,
        forget: tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler] | None = None,
        gate: SaliencyGate | None = None,
        clip_norm: float = 0.0,
        accumulate: int = 1,
    ):
        self.model, self.gate, self.clip_norm, self.accumulate = model, gate, clip_norm, accumulate
        own = optimizer, scheduler
        self.descents = {"forget": forget or own, "retain": own}
        self.parameters = in_model_order(model, optimizer)
        self.by_labels = accumulate > 1 or distributed.world_size() > 1
        self.phase = "retain"  # whose gradients the parameters hold
        self.begin()

    def begin(self, left: dict[str, int] | None = None) -> None:
        """Begin an epoch with so many steps ``left`` of each phase, where that is known."""
        self.left = left or {}
        self.waiting = {phase: Waiting() for phase in self.descents}
        self.lr = learning_rate(self.descents["retain"][0])
        for optimizer, _ in self.descents.values():
            optimizer.zero_grad(set_to_none=True)

    def backward(self, step: Step) -> None:
        """Add the gradients of ``step`` to those that wait for the update of its phase."""
        assert step.loss.requires_grad, "the method yielded a loss without a gradient"
        self._hold(step.phase)
        waiting = self.waiting[step.phase]
        if waiting.last is not None:
            same = (waiting.last.clip, waiting.last.gated) == (step.clip, step.gated)
            assert same, "steps that differ in clip or gated make no update together"
        (step.loss * len(step.labels) if self.by_labels else step.loss).backward()
        waiting.steps += 1
        waiting.labels += len(step.labels)
        waiting.last = step

    def update_if_due(self, phase: str) -> bool:
        """Make the update that the last step, one of ``phase``, completes; whether it did."""
        self.left[phase] = self.left.get(phase, 0) - 1
        due = self.waiting[phase].steps == self.accumulate or self.left[phase] == 0
        if due:
            self._descend(phase)
        return due

    def flush(self) -> None:
        """Make the updates that still wait where an epoch ends."""
        for phase, waiting in self.waiting.items():
            if waiting.steps:
                self._descend(phase)

    def is_waiting(self) -> bool:
        """Whether a step's gradients wait for an update."""
        return any(waiting.steps for waiting in self.waiting.values())

    def _hold(self, phase: str) -> None:
        """Let the parameters' ``grad`` be what ``phase`` has gathered."""
        if phase == self.phase:
            return
        others, own = self.waiting[self.phase], self.waiting[phase]
        if others.steps:
            others.gradients = [parameter.grad for parameter in self.parameters]
        for number, parameter in enumerate(self.parameters):
            parameter.grad = own.gradients[number] if own.steps else None
        self.phase = phase

    def _descend(self, phase: str) -> None:
        """The one update."""
        self._hold(phase)
        optimizer, scheduler = self.descents[phase]
        waiting, self.waiting[phase] = self.waiting[phase], Waiting()
        step, lr = waiting.last, learning_rate(optimizer)
        if optimizer is self.descents["retain"][0]:
            self.lr = lr
        if self.by_labels:
            average_gradients(self.model, self.parameters, waiting.labels)
        if step.edit_gradients is not None:
            with torch.no_grad():
                step.edit_gradients(self.parameters)
        if self.clip_norm and step.clip:
            if self.gate is not None and step.gated:
                self.gate.mask_gradients()
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        optimizer.step()
        # Before the next forward pass, which can then use the memory.
        optimizer.zero_grad(set_to_none=True)
        if step.project is not None:
            with torch.no_grad():
                step.project(lr)
        if self.gate is not None and step.gated:
            self.gate.restore()
        elif self.gate is not None:
            self.gate.keep_current()
        if scheduler is not None:
            scheduler.step()


def in_model_order(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """What the optimizer descends: the model's parameters in their order there, whatever groups
    they are in, then those beside the model.
    """
    places = {id(parameter): place for place, parameter in enumerate(model.parameters())}
    descended = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return sorted(descended, key=lambda parameter: places.get(id(parameter), len(places)))


def learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate of the optimizer's next update."""
    return optimizer.param_groups[0]["lr"]


@torch.no_grad()
def average_gradients(model: nn.Module, parameters: list[nn.Parameter], labels: int) -> None:
    """Divide gradients, summed over ``labels`` samples and all ranks, by the number of samples.

    BatchNorm statistics become the ranks' mean, weighted by samples, so that all have one model
    after an update. A mean is then the whole batch's; a variance lacks that of the ranks' means.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if distributed.world_size() == 1:
        torch._foreach_div_(gradients, labels)
        return
    # full() copies nothing from the host, which would wait.
    number = torch.full((), float(labels), dtype=gradients[0].dtype, device=gradients[0].device)
    statistics = batch_norm.unsynchronized_statistics(model)
    if statistics:
        torch._foreach_mul_(statistics, number)
    sums = [*gradients, *statistics]
    distributed.all_reduce([*sums, number])
    torch._foreach_div_(sums, number)


@dataclasses.dataclass(frozen=True)
class Loop:
    """How an epoch runs, whatever its steps descend.

    Attributes:
        precision: ``bf16`` runs the forward passes under autocast; weights and updates stay fp32.
        freeze_bn: BatchNorm uses, and keeps, its running statistics.
        print_freq: steps between two looks at the device for a non-finite loss or weight. The error
            names the first step of such a loss; of a weight, the step of the look.
        one_image: a batch may have one image; see :func:`one_image_by_running_statistics`.
        mark_steps: what :func:`compile_model` returned: tell CUDA graphs where a step begins, so
            that they may overwrite what the step before left in their memory.
        save_every: steps between two calls of ``keep`` with the meter's state, after a look and an
            update; 0 for none. Not after the last step.
    """

    precision: str = "fp32"
    freeze_bn: bool = False
    print_freq: int = 50
    one_image: bool = False
    mark_steps: bool = False
    save_every: int = 0
    keep: Callable[[dict], None] | None = None


def train_epoch(
    steps: Steps,
    updater: Updater,
    loop: Loop | None = None,
    *,
    total: int | None = None,
    forget_total: int = 0,
    limit: int | None = None,
    title: str = "",
    begun: dict | None = None,
) -> EpochStats:
    """Descend each step of ``steps``.

    Args:
        total: steps of the epoch, where known, and ``forget_total`` those of its forget phase. The
            update of a phase's last step is then made before the method goes on.
        limit: updates after which the epoch ends, whatever else it would yield.
        begun: the meter's state where ``steps`` goes on inside an epoch.

    Raises:
        RunFailed: a loss or a weight was not finite.
    """
    loop, model = loop or Loop(), updater.model
    model.train()
    for norm in batch_norms(model) if loop.freeze_bn else ():
        norm.eval()
    first_lr = learning_rate(updater.descents["retain"][0])
    meter = Meter(updater.parameters[0].device, first_lr)
    if begun is not None:
        meter.load_state(begun)
    left = {"forget": forget_total, "retain": total - forget_total - meter.steps} if total else None
    updater.begin(left)
    made, unsaved = meter.steps // updater.accumulate, 0
    autocast = _autocast(loop.precision, updater.parameters[0].device)
    with _single_images(loop, model), _progress(total, meter.steps, title) as progress:
        while made != limit:
            step = _next_step(steps, autocast, loop)
            if step is None:
                updater.flush()
                break
            updater.backward(step)
            meter.update(step)
            progress.update()
            updated = updater.update_if_due(step.phase)
            made, unsaved = made + updated, unsaved + 1
            used = updated and not updater.is_waiting() and meter.steps != total
            saving = used and 0 < loop.save_every <= unsaved
            if saving or meter.steps % loop.print_freq == 0:
                meter.check(title)
                if updated:
                    check_finite(model, f"after step {meter.steps} of {title or 'the epoch'}")
            if saving:
                loop.keep(meter.state())
                unsaved = 0
    steps.close()
    return meter.read(updater.lr, title)


def _autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def _single_images(loop: Loop, model: nn.Module) -> contextlib.AbstractContextManager:
    return one_image_by_running_statistics(model) if loop.one_image else contextlib.nullcontext()


def _progress(total: int | None, done: int, title: str) -> tqdm:
    return tqdm(total=total, initial=done, desc=title, unit="step", disable=None, leave=False)


def _next_step(
    steps: Steps, autocast: contextlib.AbstractContextManager, loop: Loop
) -> Step | None:
    """The method's next step, its forward passes under ``autocast``; None where the epoch ends."""
    if loop.mark_steps:
        torch.compiler.cudagraph_mark_step_begin()
    try:
        with autocast:
            return next(steps, None)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RunFailed(
            "BatchNorm cannot train on one image that small; take --bn freeze or a larger"
            " --input_size"
        ) from None
