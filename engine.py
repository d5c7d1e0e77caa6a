"""A run: its optimizers, epochs, checkpoints and order. Weights change in training/loop.py."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from datasets.loaders import Data, Loader
from evaluation.accuracy import accuracy
from masks.gate import SaliencyGate
from masks.masks import Mask
from models import cpu_copy, set_drop_path
from recipe import Descent, Recipe, decay_groups
from runtime import distributed
from runtime.clock import Stopwatch
from runtime.devices import device_rng, set_device_rng
from training.batch_norm import BATCH_NORM, check_batch_norm
from training.compile import compile_model
from training.loop import Loop, Updater, train_epoch
from training.meter import EpochStats, check_finite
from training.prediction import predict
from unlearn.base import Iterative, Method
from utils import stream

# What a run needs is imported from here, wherever it is defined.
__all__ = ["BATCH_NORM", "EpochStats", "Loop", "Trainer", "UnfitState", "Updater"]
__all__ += ["check_batch_norm", "compile_model", "predict", "run", "train_epoch"]


# Entries of Trainer.state and of run_epochs' state that only a run with epochs left needs.
OF_UNFINISHED = {"forget_descent", "device_rng", "method", "meter", "selected"}


class UnfitState(Exception):
    """A state to resume from that lacks an entry or does not fit the model."""


def count_updates(method: Iterative, data: Data, accumulate: int) -> list[tuple[int, int]]:
    """(retain, forget) updates of each epoch, for ``unlearn_epochs`` or ``unlearn_steps``."""
    counts, wanted = [], method.unlearn_steps
    while sum(map(sum, counts)) < wanted if wanted else len(counts) < method.unlearn_epochs:
        forget = method.forget_steps(data, len(counts))
        retain = method.steps(data, len(counts)) - forget
        counts.append((-(-retain // accumulate), -(-forget // accumulate)))
        assert not wanted or any(counts[-1]), "an epoch without a step brings no update nearer"
    return counts


class Trainer:
    """An iterative method's optimizers, schedules and epochs, with the state for --resume."""

    def __init__(
        self,
        model: nn.Module,
        method: Iterative,
        data: Data,
        recipe: Recipe,
        clock: Stopwatch,
        gate: SaliencyGate | None = None,
    ):
        self.model, self.method, self.data = model, method, data
        self.recipe, self.clock, self.gate = recipe, clock, gate
        self.start_epoch, self.begun = 0, None
        if recipe.drop_path != "own":
            set_drop_path(model, recipe.drop_path)
        counts = count_updates(method, data, recipe.accumulate)
        total = sum(map(sum, counts))
        self.epochs, self.last_limit, length = len(counts), None, len(counts)
        if missing := total - (method.unlearn_steps or total):  # the run ends inside an epoch
            self.last_limit = sum(counts[-1]) - missing
            length -= missing / sum(counts[-1])
        factor = recipe.rate_factor(length, method.unlearn_lr)
        descent = Descent(
            method.unlearn_lr,
            method.optimizer,
            recipe.momentum,
            method.weight_decay,
            lambda progress: factor(progress) * method.rate_factor(int(progress)),
        )
        parameters = decay_groups(model, method.extra_parameters(), recipe.decay)
        own = method.forget_descent(descent)
        retain = [count[0] if own else sum(count) for count in counts]
        self.optimizer, self.scheduler = descent.start(parameters, retain)
        self.forget = own and own.start(parameters, [count[1] for count in counts])
        self.updater = Updater(
            model,
            self.optimizer,
            self.scheduler,
            forget=self.forget,
            gate=gate,
            clip_norm=recipe.clip_norm,
            accumulate=recipe.accumulate,
        )

    def fit(
        self,
        after_epoch: Callable[[int, EpochStats], None],
        *,
        until: int | None = None,
        compile: bool = False,
        keep: Callable[[int, dict], None] | None = None,
        **options: object,
    ) -> None:
        """The epochs from where the run stands up to ``until``, or all.

        The clock sums their time; ``after_epoch`` and ``keep`` (logging, saving) are outside of it.
        The optimizers keep their state from epoch to epoch, but for those that the method
        :meth:`~unlearn.base.Iterative.resets`.

        Args:
            keep: called with the epoch and the meter's state every ``save_every`` steps, of a
                method that passes once over its loaders in an epoch.
            options: ``print_freq``, ``one_image``, ``save_every``: see :class:`Loop`.

        Raises:
            RunFailed: a loss or a weight was not finite; what was saved before stays good.
        """

        def keep_now(meter: dict) -> None:
            with self.clock.paused():
                keep(epoch, meter)

        recipe, device, freeze_bn = self.recipe, self.data.device, self.method.bn == "freeze"
        marks = compile and compile_model(self.model, device, recipe.accumulate)
        loop = Loop(recipe.precision, freeze_bn, mark_steps=marks, keep=keep_now, **options)
        distributed.broadcast([*self.updater.parameters, *self.model.buffers()])
        for epoch in range(self.start_epoch, self.epochs if until is None else until):
            after_epoch(epoch, self._run_epoch(epoch, loop))

    def _run_epoch(self, epoch: int, loop: Loop) -> EpochStats:
        method, data, begun = self.method, self.data, self.begun
        title = f"epoch {epoch + 1}/{self.epochs}"
        data.set_epoch(epoch, first_batch=begun["steps"] if begun else 0)
        if not begun:
            # Dropout and the like draw from the global generator, each rank for its own images.
            others = [distributed.rank()] if distributed.rank() else []
            torch.manual_seed(stream(data.seed, "layers", epoch, *others))
            if method.resets(epoch):
                for optimizer, _ in self.updater.descents.values():
                    optimizer.state.clear()
        with self.clock:
            stats = train_epoch(
                method.losses(self.model, data, epoch),
                self.updater,
                loop,
                total=method.steps(data, epoch),
                forget_total=method.forget_steps(data, epoch),
                limit=self.last_limit if epoch + 1 == self.epochs else None,
                title=title,
                begun=begun,
            )
        check_finite(self.model, f"after {title}")
        self.begun = None
        return stats

    def state(self, epoch: int, meter: dict | None = None) -> dict:
        """What a resumed run needs; ``meter`` is :meth:`Meter.state` if ``epoch`` has begun."""
        state = {
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
        if self.forget:
            state["forget_descent"] = [part.state_dict() for part in self.forget]
        return state

    def restore(self, state: dict) -> None:
        """Continue from what :meth:`state` gave, or end where :func:`of_finished` left of it what
        the last epoch needs; raises what odd contents raise.
        """
        self.model.load_state_dict(state["state_dict"], strict=True)
        self.clock.seconds, self.clock.stopped = state["seconds"], state.get("stopped", 0.0)
        self.start_epoch, self.begun = state["epoch"], state.get("meter")
        if self.start_epoch == self.epochs and is_finished(state):
            return
        if self.gate:
            self.gate.keep_current()
        load_optimizer(self.optimizer, state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.forget:
            optimizer, scheduler = self.forget
            load_optimizer(optimizer, state["forget_descent"][0])
            scheduler.load_state_dict(state["forget_descent"][1])
        self.method.load_state(state["method"])
        torch.set_rng_state(distributed.take_own(state["rng"]))
        set_device_rng(self.clock.device, distributed.take_own(state.get("device_rng")))
        if not 0 <= self.start_epoch <= self.epochs or (self.begun and self.begun["steps"] < 1):
            raise ValueError(f"epoch {self.start_epoch} of {self.epochs}")


def of_finished(state: dict) -> dict:
    """A checkpoint of a run with no epoch left: the weights, the record, and an optimizer without
    its buffers, from which nothing goes on.
    """
    kept = {name: value for name, value in state.items() if name not in OF_UNFINISHED}
    if "optimizer" in kept:
        kept["optimizer"] = {**kept["optimizer"], "state": {}}
    return kept | {"finished": True}


def is_finished(state: dict) -> bool:
    """Whether a checkpoint is one of :func:`of_finished`."""
    return bool(state.get("finished"))


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Continue from ``state``; ValueError where it is of weights of other shapes."""
    optimizer.load_state_dict(state)
    for parameter, kept in optimizer.state.items():
        for value in kept.values():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                raise ValueError("the optimizer's state does not fit the weights")


class Selection:
    """For ``select`` "best", the first epoch with the best un-augmented validation accuracy."""

    def __init__(self, model: nn.Module, val: Loader):
        self.model, self.val = model, val
        self.best: dict = {"accuracy": -1.0, "epoch": 0, "state_dict": {}}

    def look(self, epoch: int) -> None:
        """Keep the model that ``epoch`` ended with if it is the best."""
        logits, labels = predict(self.model, self.val)
        percent = accuracy(logits.numpy(), labels.numpy())
        if percent > self.best["accuracy"]:
            weights = cpu_copy(self.model)
            self.best = {"accuracy": percent, "epoch": epoch, "state_dict": weights}

    def finish(self) -> dict[str, float]:
        """Give the model the best epoch's weights; returns which epoch that was, for the result."""
        if not self.best["epoch"]:
            return {}
        self.model.load_state_dict(self.best["state_dict"])
        return {"selected_epoch": self.best["epoch"], "selected_VA": self.best["accuracy"]}


# after_epoch(epoch, statistics, state): a checkpoint after this epoch needs ``state()``.
AfterEpoch = Callable[[int, EpochStats, Callable[[], dict]], None]


def run(
    model: nn.Module,
    method: Method,
    data: Data,
    recipe: Recipe,
    mask: Mask | None = None,
    *,
    clock: Stopwatch | None = None,
    before_epochs: Callable[[], None] = lambda: None,
    **epochs: object,
) -> tuple[dict, dict]:
    """Run a method from start to end: the one place that knows the order of a run.

    The method prepares, the mask's frozen weights are put back, then epochs and a last edit, or one
    edit; the frozen weights are put back once more. ``clock`` counts all of it but for
    ``before_epochs`` and ``after_epoch``.

    Args:
        mask: {parameter name: bool, True = may change}; the others keep their values bit for bit.
        before_epochs: called once the method has prepared itself, which may refuse its flags.
        epochs: of an iterative method, ``state``, ``after_epoch``, ``until``, ``compile``,
            ``print_freq`` and ``one_image``: see :func:`run_epochs` and :meth:`Trainer.fit`.

    Returns:
        What the method reports of itself, and :func:`of_finished` of the state of its loop ({} for
        a one-shot method).

    Raises:
        RunFailed: a loss or a weight was not finite.
        UnfitState: ``state`` is not one of this run.
    """
    clock = clock or Stopwatch(data.device)
    gate = SaliencyGate(model, mask) if mask else None
    with clock:
        method.prepare(model, data, mask)
        if gate:
            # Retrain has drawn all weights anew; what is frozen goes back to the original.
            gate.restore()
    before_epochs()
    chosen, final = {}, {}
    if isinstance(method, Iterative):
        trainer = Trainer(model, method, data, recipe, clock, gate)
        chosen, final = run_epochs(trainer, **epochs)
    with clock:
        finish = method.finish if isinstance(method, Iterative) else method.edit
        extra = finish(model, data)
        if gate:
            gate.restore()
        # Each rank makes an edit for itself, and a near tie may fall two ways.
        distributed.broadcast([*model.parameters(), *model.buffers()])
    check_finite(model)
    return chosen | extra, final


def run_epochs(
    trainer: Trainer,
    *,
    state: dict | None = None,
    after_epoch: AfterEpoch = lambda *unused: None,
    **options: object,
) -> tuple[dict, dict]:
    """Run all epochs, from :meth:`Trainer.state` if given, and take the selected one's weights.

    Returns:
        What the selection reports, and :func:`of_finished` of the loop's last state.
    """
    selection = None
    if trainer.recipe.select == "best":
        data, half = trainer.data, trainer.method.learns_from_validation
        val = data.validation_half(1) if half else data.evaluation["val"]
        selection = Selection(trainer.model, val)
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

    trainer.fit(after, **options)
    final = of_finished(trainer.state(trainer.epochs))
    return selection.finish() if selection else {}, final
