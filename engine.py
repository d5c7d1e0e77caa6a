"""The one training loop and the one evaluation pass. No other file changes a weight by gradient
descent.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets.loaders import Data, Loader
from evaluation.accuracy import accuracy
from masks.gate import SaliencyGate
from masks.masks import Mask
from recipe import Recipe, make_optimizer, make_scheduler
from runtime import distributed
from runtime.clock import Stopwatch
from runtime.devices import device_rng, exact_fp32, set_device_rng
from unlearn.base import Iterative, Method, Step, Steps
from utils import RunFailed, UserError, stream, warn

NEVER = torch.iinfo(torch.int64).max
BATCH_NORM = nn.modules.batchnorm._BatchNorm
# Fewer images than these give BatchNorm statistics that are worth a warning.
FEW_IMAGES = 8
REMEDY = (
    "what was saved before stays; try a lower learning rate, --clip_norm 1, or --precision fp32"
)


class UnfitState(Exception):
    """A state to resume from that lacks an entry or does not fit the model; the
    message says what.
    """


class EpochStats(NamedTuple):
    """Mean loss and accuracy (percent) over an epoch's steps, and the learning rate of its last
    one.
    """

    loss: float
    accuracy: float
    lr: float


class Meter:
    """Sums over an epoch and the first non-finite step, all on the device: reading them is the only
    wait.

    Of several processes each sums its part; what is read is of all of them, which all have to ask
    for.
    """

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

    def check(self, title: str = "") -> None:
        """Raise :class:`RunFailed` if a loss was not finite. Waits for the device."""
        distributed.all_reduce_min(self.first_bad)
        if int(self.first_bad) != NEVER:
            raise RunFailed(
                f"the loss was not finite at step {int(self.first_bad) + 1} of"
                f" {title or 'the epoch'}; {REMEDY}"
            )

    def state(self) -> dict:
        """The sums so far, for a run that goes on inside an epoch."""
        loss, correct, samples = self._totals()
        return {"loss": loss, "correct": correct, "samples": samples, "steps": self.steps}

    def load_state(self, state: dict) -> None:
        """Continue from what :meth:`state` gave."""
        self.steps = state["steps"]
        if distributed.rank() == 0:
            self.loss.copy_(state["loss"])
            self.correct.copy_(state["correct"])
            self.samples = state["samples"]

    def _totals(self) -> tuple[Tensor, Tensor, int]:
        """Loss, correct and samples of all processes."""
        loss, correct = self.loss.clone(), self.correct.clone()
        distributed.all_reduce([loss])
        samples = torch.tensor(self.samples, device=correct.device)
        distributed.all_reduce([correct, samples])
        return loss, correct, int(samples)

    def read(self, lr: float, title: str = "") -> EpochStats:
        self.check(title)
        loss, correct, samples = self._totals()
        return EpochStats(float(loss) / max(samples, 1), 100 * float(correct) / max(samples, 1), lr)


def compile_model(model: nn.Module, device: torch.device, accumulate: int = 1) -> bool:
    """Compile ``model`` in place for training; returns whether :func:`train_epoch` has to mark its
    steps.

    On CUDA each batch size is compiled for itself: a loader has two at most, whatever its ``tail``,
    and torch keeps eight. There the launches of a forward pass are one CUDA graph and those of a
    backward pass another, and steps have to be marked. Three parts of a step stay outside of the
    graphs:

    * Crops and flips. A graph of their own would end where the model's begins, and its memory with
      it: the images would be gone.
    * Teachers. They are copies that a method makes before the model is compiled.
    * Loss, meter and update. They read the graphs' memory on the same stream before the next replay
      overwrites it, and keep nothing of it, so that nothing has to be cloned.

    No graphs where ``accumulate`` is above 1, since a gradient is the graph's memory, which the
    next replay overwrites before the update; nor in a run of several processes, whose BatchNorm
    talks to the others.
    """
    if device.type != "cuda":
        model.compile()
        return False
    graphs = accumulate == 1 and distributed.world_size() == 1
    model.compile(mode="reduce-overhead" if graphs else "default", dynamic=False)
    return graphs


def train_epoch(
    model: nn.Module,
    steps: Steps,
    optimizer: torch.optim.Optimizer,
    *,
    device: torch.device,
    gate: SaliencyGate | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    precision: str = "fp32",
    freeze_bn: bool = False,
    clip_norm: float = 0.0,
    print_freq: int = 50,
    total: int | None = None,
    title: str = "",
    begun: dict | None = None,
    save_every: int = 0,
    keep: Callable[[dict], None] | None = None,
    accumulate: int = 1,
    one_image: bool = False,
    mark_steps: bool = False,
) -> EpochStats:
    """Descend every step that ``steps`` yields. The only place with an update.

    A ``yield`` gives back whether its step ended in an update; with ``accumulate`` not every one
    does. In a run of several processes the gradients of an update are summed over them, each step's
    loss weighted by its number of labels.

    Args:
        gate: restores the frozen weights after every update.
        precision: ``bf16`` runs the forward passes under autocast; weights and updates stay fp32.
        freeze_bn: BatchNorm uses, and keeps, its running statistics.
        clip_norm: largest global norm of the gradient of the weights that may change; 0 does not
            clip.
        print_freq: steps between two looks at the device for a non-finite loss or weight. The step
            of the first such loss is known; a weight's is the next loss's, or, where no loss shows
            it, one since the look before.
        begun: the meter's state where ``steps`` goes on inside an epoch.
        save_every: steps between two calls of ``keep`` with the meter's state, after a look and an
            update; 0 for none. Not after the last step.
        accumulate: steps that one update is made of: the mean of their losses, each weighted by its
            number of labels. The last ones of an epoch may be fewer.
        one_image: a batch may have one image; see :func:`one_image_by_running_statistics`.
        mark_steps: tell CUDA graphs where a step begins, as a step of several forward passes needs:
            what the step before left in their memory may then be overwritten. What
            :func:`compile_model` returned.

    Raises:
        RunFailed: a loss or a weight was not finite.
    """
    model.train()
    if freeze_bn:
        for module in model.modules():
            if isinstance(module, BATCH_NORM):
                module.eval()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    autocast = (
        torch.autocast(device.type, torch.bfloat16)
        if precision == "bf16"
        else contextlib.nullcontext()
    )
    meter, updated, waiting, unsaved = Meter(device), None, 0, 0
    by_labels = accumulate > 1 or distributed.world_size() > 1

    def update(step: Step) -> None:
        if by_labels:
            average_gradients(model, parameters, waiting)
        if clip_norm:
            if gate is not None:
                gate.mask_gradients()
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        optimizer.zero_grad(
            set_to_none=True
        )  # before the next forward pass, which can then use the memory
        if step.project is not None:
            with torch.no_grad():
                step.project(optimizer.param_groups[0]["lr"])
        if gate is not None:
            gate.restore()

    lr = optimizer.param_groups[0]["lr"]
    optimizer.zero_grad(set_to_none=True)
    if begun is not None:
        meter.load_state(begun)
    single = one_image_by_running_statistics(model) if one_image else contextlib.nullcontext()
    with (
        single,
        tqdm(
            total=total, initial=meter.steps, desc=title, unit="step", disable=None, leave=False
        ) as progress,
    ):
        while True:
            if mark_steps:
                torch.compiler.cudagraph_mark_step_begin()
            try:
                with autocast:
                    step = steps.send(updated)
            except StopIteration:
                if waiting:  # the epoch was not known to end here
                    update(step)
                return meter.read(lr, title)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise RunFailed(
                    "BatchNorm cannot train on one image that small; take --bn freeze or a larger"
                    " --input_size"
                ) from None
            assert step.loss.requires_grad, "the method yielded a loss without a gradient"
            (step.loss * len(step.labels) if by_labels else step.loss).backward()
            waiting += len(step.labels)
            meter.update(step)
            progress.update()
            unsaved += 1
            updated = meter.steps % accumulate == 0 or meter.steps == total
            if updated:
                lr = optimizer.param_groups[0]["lr"]
                update(step)
                waiting = 0
                if scheduler is not None:
                    scheduler.step()
            saving = updated and bool(save_every) and unsaved >= save_every and meter.steps != total
            if saving or meter.steps % print_freq == 0:
                meter.check(title)
            if updated and (saving or meter.steps % print_freq == 0):
                check_finite(model, f"after step {meter.steps} of {title or 'the epoch'}")
            if saving:
                keep(meter.state())
                unsaved = 0


@torch.no_grad()
def average_gradients(model: nn.Module, parameters: list[nn.Parameter], labels: int) -> None:
    """Divide gradients that sum over ``labels`` samples by their number: those of all processes,
    summed by one all-reduce.

    BatchNorm statistics become the processes' mean, weighted by samples, so that after an update
    all have one model. A mean is then that of the whole batch; a variance lacks what lies between
    the processes' means. SyncBatchNorm has them right already.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if distributed.world_size() == 1:
        torch._foreach_div_(gradients, labels)
        return
    number = torch.full(
        (), float(labels), dtype=gradients[0].dtype, device=gradients[0].device
    )  # no copy from the host, which would wait
    local = (
        module
        for module in model.modules()
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d) and module.training
    )
    statistics = [
        value
        for module in local
        for value in (module.running_mean, module.running_var)
        if value is not None
    ]
    if statistics:
        torch._foreach_mul_(statistics, number)
    sums = [*gradients, *statistics]
    distributed.all_reduce([*sums, number])
    torch._foreach_div_(sums, number)


def fit(
    model: nn.Module,
    method: Iterative,
    data: Data,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    start_epoch: int = 0,
    clock: Stopwatch,
    gate: SaliencyGate | None = None,
    after_epoch: Callable[[int, EpochStats], None],
    begun: dict | None = None,
    keep: Callable[[int, dict], None] | None = None,
    **loop: object,
) -> None:
    """Run a method's epochs; ``clock`` sums their time, ``after_epoch`` and ``keep`` (logging,
    saving) are outside of it.

    The optimizer keeps its state from epoch to epoch, but for those that the method
    :meth:`~unlearn.base.Iterative.resets`.

    Args:
        begun: the meter's state where ``start_epoch`` was left inside; the generators are then the
            caller's to restore, and the method is one that passes once over its loaders.
        keep: is given the epoch and the meter's state every ``save_every`` steps.

    Raises:
        RunFailed: a loss or a weight was not finite; what was saved before is the last good state.
    """
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    distributed.broadcast([*trained, *model.buffers()])
    for epoch in range(start_epoch, epochs):
        data.set_epoch(epoch, first_batch=begun["steps"] if begun else 0)
        if not begun:
            # Dropout and the like draw from the global generator, each process for its own images.
            others = [distributed.rank()] if distributed.rank() else []
            torch.manual_seed(stream(data.seed, "layers", epoch, *others))
            if method.resets(epoch):
                optimizer.state.clear()
        title = f"epoch {epoch + 1}/{epochs}"

        def keep_now(meter: dict, epoch: int = epoch) -> None:
            with clock.paused():
                keep(epoch, meter)

        with clock:
            stats = train_epoch(
                model,
                method.losses(model, data, epoch),
                optimizer,
                device=data.device,
                gate=gate,
                total=method.steps(data, epoch),
                title=title,
                begun=begun,
                keep=keep_now,
                **loop,
            )
        check_finite(model, f"after {title}")
        begun = None
        after_epoch(epoch, stats)


class Trainer:
    """An iterative method's optimizer, scheduler and epochs on a model, and the state of them that
    --resume continues.
    """

    def __init__(
        self,
        model: nn.Module,
        method: Iterative,
        data: Data,
        recipe: Recipe,
        clock: Stopwatch,
        gate: SaliencyGate | None = None,
    ):
        self.model, self.method, self.data, self.recipe, self.clock, self.gate = (
            model,
            method,
            data,
            recipe,
            clock,
            gate,
        )
        self.epochs = method.unlearn_epochs
        parameters = [*model.parameters(), *method.extra_parameters()]
        self.optimizer = make_optimizer(
            parameters, method.unlearn_lr, recipe.momentum, method.weight_decay, method.optimizer
        )
        updates = [
            -(-method.steps(data, epoch) // recipe.accumulate) for epoch in range(self.epochs)
        ]
        factor = recipe.rate_factor(self.epochs, method.unlearn_lr)
        self.scheduler = make_scheduler(
            self.optimizer,
            lambda progress: factor(progress) * method.rate_factor(int(progress)),
            updates,
        )
        self.start_epoch, self.begun = 0, None

    def fit(
        self,
        after_epoch: Callable[[int, EpochStats], None],
        *,
        until: int | None = None,
        compile: bool = False,
        **loop: object,
    ) -> None:
        """The epochs from where the run stands up to ``until``, or all; for ``loop`` see
        :func:`fit` and :func:`train_epoch`.
        """
        recipe = self.recipe
        mark_steps = compile and compile_model(self.model, self.data.device, recipe.accumulate)
        fit(
            self.model,
            self.method,
            self.data,
            self.optimizer,
            epochs=self.epochs if until is None else until,
            start_epoch=self.start_epoch,
            clock=self.clock,
            gate=self.gate,
            after_epoch=after_epoch,
            begun=self.begun,
            scheduler=self.scheduler,
            precision=recipe.precision,
            freeze_bn=self.method.bn == "freeze",
            clip_norm=recipe.clip_norm,
            accumulate=recipe.accumulate,
            mark_steps=mark_steps,
            **loop,
        )

    def state(self, epoch: int, meter: dict | None = None) -> dict:
        """What a checkpoint needs for the next step to be the one that would have come.

        ``meter`` is :meth:`Meter.state` where ``epoch`` has begun; None where it has not.
        """
        return {
            "epoch": epoch,
            "epochs": self.epochs,
            "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "seconds": self.clock.seconds,
            "stopped": self.clock.stopped,
            "rng": distributed.all_gather(torch.get_rng_state()),
            "device_rng": distributed.all_gather(device_rng(self.clock.device)),
            "method": self.method.state(),
            "meter": meter,
        }

    def restore(self, state: dict) -> None:
        """Continue from what :meth:`state` gave; raises what odd contents raise."""
        self.model.load_state_dict(state["state_dict"], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, kept in self.optimizer.state.items():
            if any(
                value.dim() and value.shape != parameter.shape
                for value in kept.values()
                if isinstance(value, Tensor)
            ):
                raise ValueError("the optimizer's state does not fit the weights")
        self.scheduler.load_state_dict(state["scheduler"])
        self.method.load_state(state["method"])
        torch.set_rng_state(distributed.take_own(state["rng"]))
        set_device_rng(self.clock.device, distributed.take_own(state.get("device_rng")))
        self.clock.seconds, self.clock.stopped = state["seconds"], state.get("stopped", 0.0)
        self.start_epoch, self.begun = state["epoch"], state.get("meter")
        if not 0 <= self.start_epoch <= self.epochs or (self.begun and self.begun["steps"] < 1):
            raise ValueError(f"epoch {self.start_epoch} of {self.epochs}")


class Selection:
    """The epoch with the best un-augmented validation accuracy so far, its weights on the CPU:
    ``select`` "best".

    Of equal epochs the first one stays.
    """

    def __init__(self, model: nn.Module, val: Loader):
        self.model, self.val = model, val
        self.best: dict = {"accuracy": -1.0, "epoch": 0, "state_dict": {}}

    def look(self, epoch: int) -> None:
        """Keep the model that ``epoch`` ended with if it is the best."""
        logits, labels = predict(self.model, self.val)
        found = accuracy(logits.numpy(), labels.numpy())
        if found > self.best["accuracy"]:
            weights = {
                name: value.detach().to("cpu", copy=True)
                for name, value in self.model.state_dict().items()
            }
            self.best = {"accuracy": found, "epoch": epoch, "state_dict": weights}

    def finish(self) -> dict[str, float]:
        """Give the model the best epoch's weights; returns which epoch that was, for the result."""
        if not self.best["epoch"]:
            return {}
        self.model.load_state_dict(self.best["state_dict"])
        return {"selected_epoch": self.best["epoch"], "selected_VA": self.best["accuracy"]}


# after_epoch(epoch, statistics, state): ``state()`` is what a checkpoint needs to go on after this
# epoch.
AfterEpoch = Callable[[int, EpochStats, Callable[[], dict]], None]


def run(
    model: nn.Module,
    method: Method,
    data: Data,
    recipe: Recipe,
    mask: Mask | None = None,
    *,
    clock: Stopwatch | None = None,
    state: dict | None = None,
    before_epochs: Callable[[], None] = lambda: None,
    after_epoch: AfterEpoch = lambda *unused: None,
    **loop: object,
) -> tuple[dict, dict]:
    """Run a method from start to end: the one place that knows the order of a run.

    The method prepares, the mask's frozen weights are put back, then epochs and a last edit, or one
    edit; the frozen weights are put back once more. ``clock`` counts all of it but for
    ``after_epoch``.

    Args:
        mask: {parameter name: bool, True = may change}; frozen weights keep their values bit for
            bit.
        state: what :meth:`Trainer.state` gave, to go on from.
        before_epochs: called once the method has prepared itself, which may refuse its flags.
        loop: ``until``, ``compile``, ``print_freq``, ``one_image``: see :meth:`Trainer.fit`.

    Returns:
        What the method reports of itself, and the state of its loop after the last epoch ({} for a
        one-shot method).

    Raises:
        RunFailed: a loss or a weight was not finite.
        UnfitState: ``state`` is not one of this run.
    """
    clock = clock or Stopwatch(data.device)
    gate = SaliencyGate(model, mask) if mask else None
    with clock:
        method.prepare(model, data, mask)
        if gate:
            # Retrain has drawn all weights anew; what is frozen goes back to the original
            gate.restore()
    before_epochs()
    chosen, final = {}, {}
    if isinstance(method, Iterative):
        chosen, final = _run_epochs(
            Trainer(model, method, data, recipe, clock, gate), state, after_epoch, loop
        )
    with clock:
        extra = (
            method.finish(model, data)
            if isinstance(method, Iterative)
            else method.edit(model, data)
        )
        if gate:
            gate.restore()
        # An edit is made by each process for itself, and a near tie may fall two ways.
        distributed.broadcast([*model.parameters(), *model.buffers()])
    check_finite(model)
    return chosen | extra, final


def _run_epochs(
    trainer: Trainer, state: dict | None, after_epoch: AfterEpoch, loop: dict[str, object]
) -> tuple[dict, dict]:
    """All epochs, and the best one's weights where the recipe asks for them; what is to be
    reported, and the loop's last state.
    """
    selection = (
        Selection(trainer.model, trainer.data.evaluation["val"])
        if trainer.recipe.select == "best"
        else None
    )
    if state is not None:
        try:
            trainer.restore(state)
            if selection and trainer.start_epoch:
                selection.best = dict(state["selected"])
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UnfitState(f"{type(error).__name__}: {error}".splitlines()[0]) from error

    def after(epoch: int, stats: EpochStats) -> None:
        if selection:
            selection.look(epoch + 1)
        selected = {"selected": selection.best} if selection else {}
        after_epoch(epoch, stats, lambda: trainer.state(epoch + 1) | selected)

    trainer.fit(after, **loop)
    final = trainer.state(trainer.epochs)
    return selection.finish() if selection else {}, final


def check_batch_norm(model: nn.Module, method: Iterative, data: Data) -> bool:
    """Whether BatchNorm in training will meet a batch of one image, which
    :func:`one_image_by_running_statistics` is for; says so.

    Raises:
        UserError: every batch of a loader has one image, or one is too small for the processes of
            the run.
    """
    loaders = method.loaders(data)
    for loader in loaders:
        loader.check_parts()
    if method.bn == "freeze" or not any(
        isinstance(module, BATCH_NORM) for module in model.modules()
    ):
        return False
    parts = (
        distributed.world_size() if data.device.type == "cpu" else 1
    )  # elsewhere it normalises over all processes
    smallest = {}
    for loader in loaders:
        sizes = [(end - start) // parts for start, end in loader.bounds()]
        if max(sizes, default=2) == 1 and (loader.num_samples > parts or not method.needs_original):
            each = f" in each of {parts} processes" if parts > 1 else ""
            own = loader.name == "forget" and loader.batch_size != data.retain.batch_size
            flag = "--forget_batch_size" if own else "--batch_size"
            remedy = (
                f"{flag} {loader.batch_size} is too small"
                if loader.batch_size < 2 * parts
                else f"{loader.num_samples} {loader.name} images are too few"
            )
            raise UserError(
                f"BatchNorm cannot train on one image{each}: {remedy}; --bn freeze keeps its"
                " statistics"
            )
        smallest[loader.name] = min(sizes, default=FEW_IMAGES)
    for name, size in smallest.items():
        if size == 1:
            print(
                f"BatchNorm uses its running statistics on batches of one {name} image", flush=True
            )
        elif size < FEW_IMAGES:
            warn(
                f"BatchNorm in training takes its statistics from batches of {size} {name} images;"
                " --bn freeze keeps the model's"
            )
    return 1 in smallest.values()


@contextlib.contextmanager
def one_image_by_running_statistics(model: nn.Module) -> Iterator[None]:
    """Inside the block BatchNorm in training normalises a batch of one image by its running
    statistics, and leaves them as they are.

    One image has no statistics of a batch: its own cancel what tells it from others.
    """
    switched = set()

    def before(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        if norm.training and len(inputs[0]) == 1:
            switched.add(norm)
            norm.eval()

    def after(norm: nn.Module, *unused: object) -> None:
        if norm in switched:
            switched.remove(norm)
            norm.train()

    norms = [module for module in model.modules() if isinstance(module, BATCH_NORM)]
    hooks = [norm.register_forward_pre_hook(before) for norm in norms] + [
        norm.register_forward_hook(after) for norm in norms
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def check_finite(model: nn.Module, when: str = "") -> None:
    """Raise :class:`RunFailed` if a weight or a BatchNorm statistic is not finite. Waits for the
    device once.
    """
    values = [
        value for value in (*model.parameters(), *model.buffers()) if value.is_floating_point()
    ]
    if not bool(torch.isfinite(torch.stack(torch._foreach_norm(values))).all()):
        raise RunFailed(
            f"a weight or BatchNorm statistic was not finite {when}".rstrip() + f"; {REMEDY}"
        )


@torch.inference_mode()
def predict(model: nn.Module, batches: Loader) -> tuple[Tensor, Tensor]:
    """Logits (n, k) fp32 and labels (n,) of a split, on the CPU: one pass in eval mode, fp32,
    un-augmented, in order.

    fp32 whatever the training precision: rounding near a confidence of one is what membership
    attacks measure.
    """
    model.eval()
    with exact_fp32():
        # forward() is the eager code also where --compile replaced the call: one evaluation for
        # every run.
        logits = [model.forward(images).float() for images, _ in batches.shared()]
    if not batches.num_samples:
        return torch.empty(0, 0), torch.empty(0, dtype=torch.int64)
    whole = torch.cat(logits) if distributed.world_size() == 1 else _of_all(logits, batches)
    return whole.cpu(), batches.labels.cpu()


def _of_all(logits: list[Tensor], batches: Loader) -> Tensor:
    """All batches' logits from those of this process's batches: each writes its rows into zeros,
    which are then summed.
    """
    classes = distributed.all_reduce_max(logits[0].shape[1] if logits else 0)
    whole = torch.zeros(batches.num_samples, classes, device=batches.labels.device)
    for (start, end), part in zip(batches.bounds()[batches.shared().own], logits, strict=True):
        whole[start:end] = part
    distributed.all_reduce([whole])
    return whole
