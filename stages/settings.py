"""Which value each flag of a run has: what was typed, the preset's, the original's, the method's
own, the request's default.
"""

import dataclasses
from collections.abc import Set
from pathlib import Path

from arg_parser import recorded_flags
from recipe import Recipe
from runtime.files import reading
from stages.checkpoints import Original
from stages.records import recorded_recipe
from stages.requests import OF_METHODS, LoopRequest, TrainRequest, UnlearnRequest, as_words
from training.presets import PRESETS
from unlearn import METHODS, presets_of
from unlearn.base import Iterative, Method
from unlearn.tools.two_phase import TwoPhase
from utils import UserError, warn

# The loop's flags that a preset, the original's record or a method may set, beside the method's own
# fields.
LOOP = (
    *("batch_size", "forget_batch_size", "momentum", "schedule", "decreasing_lr", "final_lr"),
    *("warmup", "clip_norm", "accumulate", "no_aug", "tail", "select", "decay", "init"),
    "drop_path",
)
# What Retrain takes from the original where nothing is typed, by the names of main_train's flags.
INHERITED = (
    *("epochs", "lr", "batch_size", "schedule", "decreasing_lr", "final_lr", "warmup", "momentum"),
    *("weight_decay", "optimizer", "no_aug", "accumulate", "clip_norm", "tail", "select"),
    *("label_smoothing", "mixup", "drop_path", "bn", "decay", "init"),
)
# Their names as Retrain's fields, where these are others.
FIELD_OF = {flag: field for field, flag in METHODS["retrain"].inherits.items()}
# Flags of main_train that only some methods, or none, read.
OF_TRAINING = {"lr", "epochs", "select", "init", "train_seed"}
# Flags of the loop that a method without a loop has no use for.
OF_STEPS = {
    *("schedule", "decreasing_lr", "final_lr", "warmup", "momentum", "clip_norm", "accumulate"),
    "decay",
}
# The milestones of the published recipe, 91 and 136 of 182 epochs, as shares of a run.
MILESTONES = (91 / 182, 136 / 182)


def settle(
    request: UnlearnRequest, arguments: dict | None
) -> tuple[UnlearnRequest, dict[str, object]]:
    """The request with every value of the method and of the loop in force, and what of them was
    taken from the original.

    What was typed stands first, a field's ``--unlearn_*`` before ``--epochs`` and ``--lr``; then
    the preset, the original's record (for Retrain), the method's own default, on this data set
    where it has one, the request's.

    Args:
        arguments: what the original's checkpoint records of its flags; None or empty where there
            is no record.
    """
    kind, typed = METHODS[request.unlearn], request.typed
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    preset, _, as_original = presets_of(kind)[request.preset]
    own = {**fields, **getattr(kind, "recipe", {})}
    for setting in (request.dataset, f"{request.dataset} {request.arch}"):
        own |= kind.by_dataset.get(setting, {})
    check_phases(request.unlearn, typed)
    check_training_flags(request.unlearn, typed)
    renamed = getattr(kind, "inherits", {})
    record = {}
    if (renamed or as_original) and arguments:
        record = {
            name: value
            for name, value in original_recipe(arguments).items()
            if name not in preset and not typed & {name, renamed.get(name)}
            if renamed or name in as_original
        }
    values = {}
    for name in (*fields, *LOOP):
        if name in typed:
            continue
        if renamed.get(name) in typed:
            values[name] = getattr(request, renamed[name])
        elif source := next((each for each in (preset, record, own) if name in each), None):
            values[name] = source[name]
    if "unlearn_epochs" in typed and "unlearn_steps" in fields:
        if "unlearn_steps" in typed:
            raise UserError(
                "--unlearn_steps and --unlearn_epochs both say how long; drop one of them"
            )
        values["unlearn_steps"] = 0
    settled, taken = _fit_schedule(request.settled(values), arguments, record)
    if settled.forget_batch_size is None:
        share = round(settled.batch_size * getattr(kind, "forget_share", 1))
        # Two, as BatchNorm cannot train on one.
        settled = settled.replace(forget_batch_size=max(share, min(settled.batch_size, 2)))
    if settled.select is None:
        settled = settled.replace(select="last")
    final = settled.values()
    return settled, {name: final[name] for name in taken}


def settle_training(request: TrainRequest) -> TrainRequest:
    """The request with its preset's values of the flags that were not typed; says which.

    Where --epochs is typed, the preset's warm-up is the same share of the run. The preset's end of
    the cosine is no higher than the learning rate, and goes with the cosine.
    """
    preset = PRESETS[request.preset].values
    values = {name: value for name, value in preset.items() if name not in request.typed}
    if "warmup" in values and "epochs" not in values:
        values["warmup"] = round(preset["warmup"] * request.epochs / preset["epochs"])
    settled = request.replace(**values)
    if "final_lr" in values:
        is_cosine = settled.schedule == "cosine"
        values["final_lr"] = min(values["final_lr"], settled.lr) if is_cosine else 0.0
        settled = settled.replace(final_lr=values["final_lr"])
    if values:
        print(f"--preset {request.preset}: {' '.join(as_words(values))}")
    warn_of_schedule(settled, settled.epochs, settled.lr)
    return settled


def warn_of_schedule(request: LoopRequest, epochs: int, lr: float) -> None:
    """A line on typed milestones that a run of so many epochs does not reach, or that are not in
    order, and one on a warm-up that leaves no epoch at the learning rate.
    """
    typed = request.decreasing_lr if "decreasing_lr" in request.typed else None
    milestones, said = sorted(typed or ()), []
    if late := [milestone for milestone in milestones if milestone >= epochs]:
        shares = " and ".join(f"{share * epochs:.3g}" for share in MILESTONES)
        words = f"the run of {epochs} epochs does not reach {', '.join(map(str, late))}"
        said.append(f"{words}; by default multistep falls at {shares}")
    if milestones != list(typed or ()):
        said.append(f"read in ascending order, {','.join(map(str, milestones))}")
    if said:
        warn(f"--decreasing_lr {','.join(map(str, typed))}: {'; '.join(said)}")
    if request.warmup >= epochs:
        warn(
            f"--warmup {request.warmup}: none of the {epochs} epochs is left at the learning rate"
            f" {lr}, which the run only climbs to"
        )


def check_phases(name: str, typed: frozenset[str]) -> None:
    """Refuse a flag of the forget phase for a method that has no such phase."""
    for flag in ("forget_optimizer", "forget_lr"):
        if flag in typed and not issubclass(METHODS[name], TwoPhase):
            others = [key for key, method in METHODS.items() if issubclass(method, TwoPhase)]
            raise UserError(
                f"--{flag}: {name} has one phase; allowed with {', '.join(others)}, or drop it"
            )


def check_training_flags(name: str, typed: frozenset[str]) -> None:
    """Refuse mixup and stochastic depth for a method that trains without them."""
    kind = METHODS[name]
    if "mixup" in typed and "mixup" not in {field.name for field in dataclasses.fields(kind)}:
        raise UserError(
            f"--mixup: {name} does not mix images; main_train.py and retrain do, drop it"
        )
    if "drop_path" in typed and not issubclass(kind, Iterative):
        raise UserError(
            f"--drop_path: {name} edits the weights once and trains nothing; drop the flag"
        )


def original_recipe(arguments: dict) -> dict[str, object]:
    """What a checkpoint of main_train records of its recipe, by the names of Retrain's flags.

    Raises:
        ValueError: a value that the flag does not take.
    """
    values = {name: arguments[name] for name in INHERITED if arguments.get(name) is not None}
    try:
        recipe = recorded_flags(values)
    except UserError as error:  # nobody typed it: the file is to blame
        raise ValueError(f"its recipe: {error}") from None
    if "schedule" not in recipe and "lr" in recipe:
        recipe["schedule"] = "multistep"  # what main_train takes where nothing is typed
    return {FIELD_OF.get(name, name): value for name, value in recipe.items()}


def _fit_schedule(
    request: UnlearnRequest, arguments: dict | None, record: dict
) -> tuple[UnlearnRequest, dict]:
    """Drop what the schedule in force does not read, unless it was typed, and move inherited
    milestones with the epochs; returns the request and what of ``record`` is still in force.
    """
    typed, record = request.typed, dict(record)
    schedule, milestones, final_lr = request.schedule, request.decreasing_lr, request.final_lr
    if "decreasing_lr" in typed and "schedule" not in typed:
        schedule = "multistep"
        record.pop("schedule", None)
    if schedule in ("cosine", "constant") and "decreasing_lr" not in typed:
        milestones = None
        record.pop("decreasing_lr", None)
    if "final_lr" not in typed:
        if schedule != "cosine":
            record.pop("final_lr", None)
        final_lr = min(final_lr, request.unlearn_lr) if schedule == "cosine" else 0.0
    epochs = (arguments or {}).get("epochs")
    if "decreasing_lr" in record and epochs and request.unlearn_epochs != epochs:
        milestones = tuple(each * request.unlearn_epochs / epochs for each in milestones)
    request = request.replace(schedule=schedule, decreasing_lr=milestones, final_lr=final_lr)
    check_final_lr(request, request.unlearn_lr)
    return request, record


def check_final_lr(request: LoopRequest, lr: float) -> None:
    """Refuse a --final_lr that the schedule does not read, or that is above the learning rate that
    the cosine falls from.
    """
    if request.final_lr and request.schedule != "cosine":
        raise UserError("--final_lr is where a cosine ends; add --schedule cosine, or drop it")
    if request.final_lr > lr:
        raise UserError(
            f"--final_lr {request.final_lr}: a cosine falls, so at most the learning rate {lr}"
        )


def settle_and_say(
    request: UnlearnRequest, original: Original | None = None
) -> tuple[UnlearnRequest, Method]:
    """:func:`settle`, with a line on each value that was not typed and is in no ``--help``."""
    kind = METHODS[request.unlearn]
    inherits = getattr(kind, "inherits", {})
    as_original = presets_of(kind)[request.preset].as_original
    recipe = original.recipe if original and (inherits or as_original) else {}
    path = request.model_path or Path()
    with reading(path, "--model_path", "its record is not main_train's"):
        settled, taken = settle(request, recipe)
    if inherits:
        _say_inherited(settled, original, taken)
    elif wanted := {name for name in as_original if name not in request.typed}:
        _say_as_original(settled, path, wanted, taken)
    _say_loop(settled, taken)
    if ignored := sorted(_unread(kind, request.typed)):
        warn(f"{request.unlearn} does not read {', '.join('--' + name for name in ignored)}")
    method = settled.method()
    if getattr(method, "contrast", 0) and settled.no_aug and "no_aug" in request.typed:
        raise UserError(
            f"--no-aug: {request.unlearn} with --contrast {method.contrast} compares two augmented"
            " views of an image, which would be equal; drop --no-aug"
        )
    by_steps = getattr(method, "unlearn_steps", 0)
    if isinstance(method, Iterative) and method.unlearn_epochs and not by_steps:
        warn_of_schedule(settled, method.unlearn_epochs, method.unlearn_lr)
    return settled, method


def _unread(kind: type[Method], typed: Set[str]) -> Set[str]:
    """The typed flags of methods, of the loop and of training that a method does not read."""
    inherits = getattr(kind, "inherits", {})
    fields = {field.name for field in dataclasses.fields(kind)}
    beaten = {flag for field, flag in inherits.items() if flag != field and field in typed}
    read = fields | ({*inherits.values(), "select", "init"} - beaten if inherits else set())
    unread = (OF_METHODS | OF_TRAINING) & typed - read
    if not issubclass(kind, Iterative):
        unread |= OF_STEPS & typed - read
    if "forget" not in kind.touches:
        unread |= typed & {"forget_batch_size"}
    return unread


def recipe_of_original(original: Original | None) -> dict | None:
    """The hyper-parameters and the recipe that Retrain takes over from an original, as its result
    would record them.
    """
    if original is None or not original.recipe:
        return None
    try:
        request, _ = settle(UnlearnRequest.of(unlearn="retrain"), original.recipe)
    except (UserError, ValueError):  # Retrain refuses such a record; other methods do not need it
        return None
    method = request.method()
    recipe = recipe_of_method(request, method, "")
    recipe = dataclasses.replace(recipe, init=original.recipe.get("init_sha256", ""))
    recipe = recorded_recipe(method, recipe)
    recipe = {**dataclasses.asdict(method), **recipe}
    return {name: value for name, value in recipe.items() if name != "precision"}


def _say_inherited(request: UnlearnRequest, original: Original | None, taken: dict) -> None:
    """One line on where Retrain's recipe comes from."""
    values = request.values()
    if not taken:
        where = (
            f"{original.path} has no record of its recipe"
            if original
            else "no --model_path whose recipe to take over"
        )
        print(
            f"{where}: retrain trains {request.unlearn_epochs} epochs at"
            f" {request.unlearn_lr}, batch size {request.batch_size}"
        )
        return
    print(f"retrain as {original.path} was trained: {' '.join(as_words(taken))}")
    missing = {}
    for flag in INHERITED:
        name = FIELD_OF.get(flag, flag)
        if flag not in original.recipe and name not in request.typed and values[name] is not None:
            missing[name] = values[name]
    if missing:
        print(f"not recorded there, so by default: {' '.join(as_words(missing))}")


def _say_as_original(request: UnlearnRequest, path: Path, wanted: set[str], taken: dict) -> None:
    """One line on what a preset takes from the original's record, or would take."""
    if taken:
        print(f"--preset {request.preset}: as {path} was trained, {' '.join(as_words(taken))}")
        return
    values = {name: request.values()[name] for name in wanted}
    warn(
        f"--preset {request.preset} trains as the original was, of which there is no record:"
        f" {' '.join(as_words(values))}, the method's own"
    )


def _say_loop(request: UnlearnRequest, taken: dict) -> None:
    """One line on what a preset or the method's own source sets of the loop's flags, which no help
    shows as their default.
    """
    values = request.values()
    plain = UnlearnRequest().values() | {"forget_batch_size": request.batch_size}
    own = {}
    for name in LOOP:
        said = name in request.typed or name in taken or name in ("select", "tail")
        if not said and values[name] not in (None, plain[name]):
            own[name] = values[name]
    if own:
        print(f"--preset {request.preset}: {' '.join(as_words(own))}")


def recipe_of(request: LoopRequest, epochs: int, *, from_scratch: bool, precision: str) -> Recipe:
    """The loop's part of a request: ``from_scratch`` trains by multistep where no schedule is
    named, and chooses an epoch.
    """
    schedule = request.schedule
    if schedule is None:
        schedule = "multistep" if from_scratch or request.decreasing_lr else "constant"
    milestones = request.decreasing_lr or tuple(share * epochs for share in MILESTONES)
    return Recipe(
        batch_size=request.batch_size,
        momentum=request.momentum,
        schedule=schedule,
        warmup=request.warmup,
        milestones=milestones if schedule == "multistep" else (),
        final_lr=request.final_lr,
        clip_norm=request.clip_norm,
        accumulate=request.accumulate,
        augment=not request.no_aug,
        tail=request.tail,
        select=request.select if from_scratch else None,
        precision=precision,
        decay=request.decay,
        drop_path=request.drop_path,
    )


def recipe_of_method(request: UnlearnRequest, method: Method, precision: str) -> Recipe:
    """:func:`recipe_of` for a method's run; of a one-shot method it says what its data are."""
    loops, scratch = isinstance(method, Iterative), not method.needs_original
    epochs = method.unlearn_epochs if loops else 0
    recipe = recipe_of(request, epochs, from_scratch=scratch, precision=precision)
    if loops and "forget" not in method.splits:
        return recipe
    return dataclasses.replace(recipe, forget_batch_size=request.forget_batch_size)
