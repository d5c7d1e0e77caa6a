"""Checkpoints as later stages read them."""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from datasets import DATASETS
from models import MODELS
from runtime import distributed
from runtime.files import hash_arrays, load, reading
from stages.records import unrecorded
from unlearn import label_today
from unlearn.retrain import Retrain
from utils import UserError

RESTART = "start anew with --overwrite"
OTHER_FLAGS = "use the same flags, another --save_dir, or --overwrite"


@dataclasses.dataclass(frozen=True)
class Original:
    """A checkpoint that later stages start from; ``split`` is None where the file has no record of
    its data.
    """

    path: Path
    state_dict: dict[str, Tensor]
    sha256: str
    split: dict | None
    arguments: dict
    recipe: (
        dict  # what it was trained with, by main_train's flags; empty where the file does not say
    )


def read_original(path: Path) -> Original:
    """Read a checkpoint, wrapped or bare, of this project or of the reference.

    Raises:
        UserError: the file holds no state dictionary, or one with a value that is not finite.
    """
    content = load(path, "--model_path")
    if not isinstance(content, dict):
        raise UserError(f"--model_path {path} holds no state dictionary")
    weights = content.get("state_dict", content)
    if not isinstance(weights, Mapping) or not weights or not all(map(_is_weight, weights.items())):
        raise UserError(f"--model_path {path} holds no state dictionary")
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    if bad := not_finite(weights):
        raise UserError(
            f"--model_path {path}: {bad} holds values that are not finite; train the model again"
        )
    wrapped = content if "state_dict" in content else {}
    split, arguments = wrapped.get("split"), wrapped.get("arguments") or {}
    with reading(
        path,
        "--model_path",
        "its record is not main_train's; train the model again, or save its state_dict alone",
    ):
        _check_record(split, arguments)
        recipe = _trained_with(arguments, wrapped.get("identity") or {})
    return Original(path, weights, hash_arrays(weights), split, arguments, recipe)


def _trained_with(arguments: dict, identity: dict) -> dict:
    """The flags that trained a checkpoint's model from scratch: main_train's, or Retrain's. What
    unlearned it is no recipe.
    """
    if identity.get("method") == Retrain.label:
        return {
            **arguments,
            "epochs": arguments.get("unlearn_epochs"),
            "lr": arguments.get("unlearn_lr"),
        }
    return arguments if "train_seed" in identity else {}


def not_finite(weights: Mapping) -> str | None:
    """The name of the first tensor with a value that is not finite."""
    tensors = (
        (name, value)
        for name, value in weights.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    )
    return next(
        (
            name
            for name, value in tensors
            if not torch.isfinite(value if value.element_size() > 1 else value.float()).all()
        ),
        None,
    )


def _check_record(split: object, arguments: object) -> None:
    """Raise for what later stages could not use in a checkpoint's record of its data and its
    flags.
    """
    of_flags = {
        "dataset": str,
        "data": str,
        "arch": str,
        "imagenet_arch": bool,
        "input_size": int,
        "typed": list,
    }
    of_split = {"dataset": str, "data_sha256": str, "split_seed": int, "train": Tensor}
    parts = [(arguments, {name: kind for name, kind in of_flags.items() if name in arguments})]
    if split is not None:
        parts.append((split, of_split))
    for part, kinds in parts:
        for name, kind in kinds.items():
            if not isinstance(part[name], kind):
                raise TypeError(f"{name} is {part[name]!r}")
    for name, registry in (("dataset", DATASETS), ("arch", MODELS)):
        if arguments.get(name, next(iter(registry))) not in registry:
            raise ValueError(f"{name} is {arguments[name]!r}")


def _is_weight(item: tuple) -> bool:
    name, value = item
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_complex()
    )


def adopt(args: argparse.Namespace, original: Original) -> None:
    """Take over, where nothing was typed, what the original model was trained with."""
    of_model = ("dataset", "data", "arch", "imagenet_arch", "input_size", "leave_out")
    inherited = {name: original.arguments[name] for name in of_model if name in original.arguments}
    if original.split is not None:
        inherited["split_seed"] = original.split["split_seed"]
    changed = {
        name: value
        for name, value in inherited.items()
        if name not in args.typed and getattr(args, name) != value
    }
    vars(args).update(changed)
    # A typed size may be the flag's default and still not the data set's own.
    args.typed |= {"input_size"} & {*changed, *original.arguments.get("typed", ())}
    if changed:
        print(
            f"from {original.path}: "
            + " ".join(f"--{name} {value}" for name, value in changed.items())
        )


def load_weights(model: nn.Module, original: Original, arch: str) -> None:
    """Load strictly; a checkpoint of another architecture or class count is refused by its first
    difference.
    """
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in original.state_dict.items()}
    if wanted != found:
        name = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise UserError(
            f"--model_path {original.path} does not fit --arch {arch}: {name} is"
            f" {found.get(name, 'missing')} in the file and {wanted.get(name, 'missing')} in the"
            " model; give the --arch and --dataset it was trained with"
        )
    model.load_state_dict(original.state_dict, strict=True)


def read_state(path: Path, identity: dict) -> dict:
    """A checkpoint to resume from; one that was made under other flags is refused with the
    difference named.

    ``identity`` may be what the flags alone tell, to refuse before data are read; the whole of it
    is compared later.
    """
    state = load(path, "--resume: checkpoint")
    kinds = {"state_dict": dict, "epoch": int, "identity": dict, "seconds": float}
    if not isinstance(state, dict) or not all(
        isinstance(state.get(name), kind) for name, kind in kinds.items()
    ):
        raise UserError(f"--resume: {path} is no checkpoint of this script; {RESTART}")
    if bad := not_finite(state["state_dict"]):
        raise UserError(f"--resume: {path}: {bad} holds values that are not finite; {RESTART}")
    recorded_identity = {**unrecorded(state["identity"]), **state["identity"]}
    if isinstance(label := recorded_identity.get("method"), str):
        recorded_identity["method"] = label_today(
            (state.get("arguments") or {}).get("unlearn"), label, masked=False
        )
    for name, value in identity.items():
        theirs = recorded_identity.get(name)
        if theirs != value:
            raise UserError(
                f"--resume: {path} was made with {name} {theirs}, this command says {value};"
                f" {OTHER_FLAGS}"
            )
    return state


def adopt_tail(args: argparse.Namespace, checkpoint: Path) -> None:
    """A run that began before there was --tail goes on as it began."""
    if not args.resume or "tail" in args.typed or not distributed.on_main(checkpoint.is_file):
        return
    content = load(checkpoint, "--resume: checkpoint")
    identity = content.get("identity") if isinstance(content, dict) else None
    if isinstance(identity, dict) and "batch_size" in identity and "tail" not in identity:
        args.tail = "keep"
        print(f"{checkpoint} was begun before --tail; it goes on with --tail keep")


def plain_arguments(args: argparse.Namespace) -> dict:
    """The namespace as plain values, for a checkpoint."""
    plain = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()
    }
    return plain | {"typed": sorted(args.typed)}
