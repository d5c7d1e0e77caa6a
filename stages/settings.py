"""Which value each flag of a run has: what was typed, the preset's, the original's, the method's
own, the parser's.
"""

import argparse
import dataclasses
from pathlib import Path

from arg_parser import make_parser, parse_args, recorded_flags, words_of
from recipe import Recipe
from runtime.files import reading
from stages.checkpoints import Original
from stages.records import recorded_recipe
from unlearn import METHODS, presets_of
from unlearn.base import Iterative, Method
from unlearn.retrain import Retrain
from utils import UserError, warn

# The loop's flags that a preset, the original's record or a method may set, beside the method's own
# fields.
LOOP = (
    "batch_size",
    "forget_batch_size",
    "momentum",
    "schedule",
    "decreasing_lr",
    "final_lr",
    "warmup",
    "clip_norm",
    "accumulate",
    "no_aug",
    "tail",
    "select",
)
# What Retrain takes from the original where nothing is typed, by the names of main_train's flags.
INHERITED = (
    "epochs",
    "lr",
    "batch_size",
    "schedule",
    "decreasing_lr",
    "final_lr",
    "warmup",
    "momentum",
    "weight_decay",
    "optimizer",
    "no_aug",
    "accumulate",
    "clip_norm",
    "tail",
    "select",
    "label_smoothing",
    "bn",
)
# Their names as Retrain's fields, where these are others.
FIELD_OF = {flag: field for field, flag in METHODS["retrain"].inherits.items()}


def settle(args: argparse.Namespace, arguments: dict | None) -> dict[str, object]:
    """Give every flag of a run its value in ``args``, by precedence; returns what was taken from
    the original.

    What was typed stands first, a field's ``--unlearn_*`` before ``--epochs`` and ``--lr``; then
    the preset, the original's record (for Retrain), the method's own default, on this data set
    where it has one, the parser's.

    Args:
        arguments: what the original's checkpoint records of its flags; None or empty where there is
            no record.
    """
    kind = METHODS[args.unlearn]
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    renamed = getattr(kind, "inherits", {})
    preset, record = presets_of(kind)[args.preset].values, {}
    own = {**fields, **getattr(kind, "recipe", {}), **kind.by_dataset.get(args.dataset, {})}
    if renamed and arguments:
        record = {
            name: value
            for name, value in original_recipe(arguments).items()
            if name not in args.typed
        }
        record = {
            name: value
            for name, value in record.items()
            if renamed.get(name) not in args.typed and name not in preset
        }
    for name in (*fields, *LOOP):
        if name in args.typed:
            continue
        if renamed.get(name) in args.typed:
            setattr(args, name, getattr(args, renamed[name]))
        elif name in preset:
            setattr(args, name, preset[name])
        elif name in record:
            setattr(args, name, record[name])
        elif name in own:
            setattr(args, name, own[name])
    _fit_schedule(args, arguments, record)
    if args.forget_batch_size is None:
        share = round(args.batch_size * getattr(kind, "forget_share", 1))
        args.forget_batch_size = max(
            share, min(args.batch_size, 2)
        )  # two, as BatchNorm cannot train on one
    if args.select is None:
        args.select = "last"
    return {name: getattr(args, name) for name in record}


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


def _fit_schedule(args: argparse.Namespace, arguments: dict | None, record: dict) -> None:
    """Drop what the schedule in force does not read, unless it was typed, and move inherited
    milestones with the epochs.
    """
    if "decreasing_lr" in args.typed and "schedule" not in args.typed:
        args.schedule = "multistep"
        record.pop("schedule", None)
    if args.schedule in ("cosine", "constant") and "decreasing_lr" not in args.typed:
        args.decreasing_lr = None
        record.pop("decreasing_lr", None)
    if "final_lr" not in args.typed:
        if args.schedule != "cosine":
            record.pop("final_lr", None)
        args.final_lr = min(args.final_lr, args.unlearn_lr) if args.schedule == "cosine" else 0.0
    check_final_lr(args, args.unlearn_lr)
    epochs = (arguments or {}).get("epochs")
    if "decreasing_lr" in record and epochs and args.unlearn_epochs != epochs:
        args.decreasing_lr = tuple(
            milestone * args.unlearn_epochs / epochs for milestone in args.decreasing_lr
        )


def check_final_lr(args: argparse.Namespace, lr: float) -> None:
    """Refuse a --final_lr that the schedule does not read, or that is above the learning rate that
    the cosine falls from.
    """
    if args.final_lr and args.schedule != "cosine":
        raise UserError("--final_lr is where a cosine ends; add --schedule cosine, or drop it")
    if args.final_lr > lr:
        raise UserError(
            f"--final_lr {args.final_lr}: a cosine falls, so at most the learning rate {lr}"
        )


# The milestones of the published recipe, 91 and 136 of 182 epochs, as shares of a run.
MILESTONES = (91 / 182, 136 / 182)


def make_method(args: argparse.Namespace, original: Original | None = None) -> Method:
    """The chosen method, with every flag of the run at its value in force: see
    :func:`settings.settle`.
    """
    kind = METHODS[args.unlearn]
    inherits = getattr(kind, "inherits", {})
    recipe = original.recipe if original and inherits else {}
    with reading(args.model_path or Path(), "--model_path", "its record is not main_train's"):
        taken = settle(args, recipe)
    if inherits:
        say_inherited(args, original, taken)
    say_loop(args, taken)
    method = kind(**{field.name: getattr(args, field.name) for field in dataclasses.fields(kind)})
    own = {field.name for other in METHODS.values() for field in dataclasses.fields(other)}
    # --lr and --epochs are training's; a typed one that this method does not take over is a mistake
    # worth a word.
    read = (
        {field.name for field in dataclasses.fields(kind)}
        | {*inherits.values()}
        | ({"select"} if inherits else set())
    )
    if ignored := sorted((own | {"lr", "epochs", "select"}) & args.typed - read):
        warn(f"{args.unlearn} does not read {', '.join('--' + name for name in ignored)}")
    return method


def recipe_of_original(original: Original | None) -> dict | None:
    """The hyper-parameters and the recipe that Retrain takes over from an original, as its result
    would record them.
    """
    if original is None or not original.recipe:
        return None
    args = parse_args(["--unlearn", "retrain"], "")
    try:
        settle(args, original.recipe)
    except (UserError, ValueError):  # Retrain refuses such a record; other methods do not need it
        return None
    method = Retrain(
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(Retrain)}
    )
    recipe = {
        **dataclasses.asdict(method),
        **recorded_recipe(method, recipe_of_method(args, method, "")),
    }
    return {name: value for name, value in recipe.items() if name != "precision"}


def say_inherited(
    args: argparse.Namespace, original: Original | None, taken: dict[str, object]
) -> None:
    """One line on where Retrain's recipe comes from."""
    if taken:
        print(
            f"retrain as {original.path} was trained: "
            + " ".join(words_of(make_parser(""), taken, "checkpoint"))
        )
        missing = [FIELD_OF.get(name, name) for name in INHERITED if name not in original.recipe]
        missing = {
            name: getattr(args, name)
            for name in missing
            if name not in args.typed and getattr(args, name) is not None
        }
        if missing:
            print(
                "not recorded there, so by default:"
                f" {' '.join(words_of(make_parser(''), missing, 'checkpoint'))}"
            )
        return
    where = (
        f"{original.path} has no record of its recipe"
        if original
        else "no --model_path whose recipe to take over"
    )
    print(
        f"{where}: retrain trains {args.unlearn_epochs} epochs at {args.unlearn_lr}, batch size"
        f" {args.batch_size}"
    )


def say_loop(args: argparse.Namespace, taken: dict[str, object]) -> None:
    """One line on what a preset or the method's own source sets of the loop's flags, which no help
    shows as their default.
    """
    plain = vars(parse_args([], "")) | {"forget_batch_size": args.batch_size}
    free = [
        name
        for name in LOOP
        if name not in args.typed and name not in taken and name not in ("select", "tail")
    ]
    own = {
        name: getattr(args, name) for name in free if getattr(args, name) not in (None, plain[name])
    }
    if own:
        print(f"--preset {args.preset}: " + " ".join(words_of(make_parser(""), own, "preset")))


def recipe_of(
    args: argparse.Namespace, epochs: int, *, from_scratch: bool, precision: str
) -> Recipe:
    """The loop's part of the flags: ``from_scratch`` trains by multistep where no schedule is
    named, and chooses an epoch.
    """
    schedule = args.schedule or ("multistep" if from_scratch or args.decreasing_lr else "constant")
    milestones = args.decreasing_lr or tuple(share * epochs for share in MILESTONES)
    return Recipe(
        args.batch_size,
        args.momentum,
        schedule,
        args.warmup,
        milestones if schedule == "multistep" else (),
        args.final_lr,
        args.clip_norm,
        args.accumulate,
        not args.no_aug,
        args.tail,
        args.select if from_scratch else None,
        precision,
    )


def recipe_of_method(args: argparse.Namespace, method: Method, precision: str) -> Recipe:
    """:func:`recipe_of` for a method's run; of a one-shot method it says what its data are."""
    loops = isinstance(method, Iterative)
    recipe = recipe_of(
        args,
        method.unlearn_epochs if loops else 0,
        from_scratch=not method.needs_original,
        precision=precision,
    )
    if loops and "forget" not in method.splits:
        return recipe
    return dataclasses.replace(recipe, forget_batch_size=args.forget_batch_size)
