"""Which value each flag of an unlearning run has: what was typed, the preset's, the original's, the
method's own, the parser's.
"""

import argparse
import dataclasses
from collections.abc import Sequence

from arg_parser import recorded_flags
from unlearn import METHODS, presets_of
from utils import UserError

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


def unrecorded(identity: dict) -> dict:
    """What a run did whose record is older than the flags that say so."""
    select = "best" if "train_seed" in identity else "last"
    return {
        "tail": "keep",
        "final_lr": 0.0,
        "label_smoothing": 0.0,
        "optimizer": "sgd",
        "select": select,
        "forget_batch_size": identity.get("batch_size"),
        "pull": 0.0,
    }


def completed(recipes: Sequence[dict]) -> list[dict]:
    """``recipes`` with what older versions did not record: the value that all others have, else
    what a run did then.

    So an entry that is absent does not by itself set two recipes apart, and likeness stays
    transitive.
    """
    found = []
    for recipe in recipes:
        absent = {name: then for name, then in unrecorded(recipe).items() if name not in recipe}
        known = {name: [other[name] for other in recipes if name in other] for name in absent}
        agreed = {
            name: values[0] if values.count(values[0]) == len(values) else absent[name]
            for name, values in known.items()
            if values
        }
        found.append({**recipe, **agreed})
    return found


def differences(recipe: dict, original: dict) -> str:
    """In words, where a Retrain's ``recipe`` is another than the original's, both as results record
    them; empty where it is not.

    What one of them does not record is not compared; milestones move with the epochs and are
    compared where those are equal.
    """
    apart = [name for name in original if name in recipe and recipe[name] != original[name]]
    if "unlearn_epochs" in apart and "milestones" in apart:
        apart.remove("milestones")
    return ", ".join(f"{name} {recipe[name]} (original {original[name]})" for name in apart)
