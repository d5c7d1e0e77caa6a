"""Checkpoints as later stages read them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from datasets import AUGMENTATIONS, DATASETS
from datasets.image_files import FITS
from datasets.splits import recorded_fraction
from models import is_arch
from models.user import is_user_arch
from runtime import distributed
from runtime.devices import threads_of
from runtime.files import hash_arrays, load, reading
from stages.records import unrecorded
from stages.requests import AnyRequest, Request
from stages.state_dicts import Misfit, fitted, normalisation_words, weights_in
from unlearn import label_today
from unlearn.retrain import Retrain
from utils import UserError, warn

RESTART = "start anew with --overwrite"
# What a checkpoint says of forget sets: its own, and those of the models before it.
FORGOTTEN = ("forget", "forgotten_before")
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
    # What it was trained with, by main_train's flags; empty where the file does not say.
    recipe: dict
    # Indices (m,) of the images that it was made to forget, ascending.
    forgotten: np.ndarray
    num_classes: int | None  # None where the file does not say


def read_checkpoint(path: Path, what: str, remedy: str = "") -> dict:
    """A file that holds a state dictionary, wrapped or bare, of this project or of another one;
    ``state_dict`` of what is returned has no ``module.`` before its names.

    Raises:
        UserError: the file holds no state dictionary, or a mask; ``what`` names it in the message.
    """
    content = load(path, what)
    found = weights_in(content)
    if not found:
        raise UserError(f"{what} {path} holds no state dictionary{remedy}")
    where, *others = found
    kinds = {str(value.dtype).removeprefix("torch.") for value in found[where].values()}
    if kinds <= {"bool", "int64"}:  # the reference's masks are of int64
        raise UserError(
            f"{what} {path} is a mask ({' and '.join(sorted(kinds))} tensors), a model is wanted"
            f"{remedy}"
        )
    if others:
        print(f"{path} holds weights under {', '.join(found)}: those under {where} are taken")
    weights = {name.removeprefix("module."): value for name, value in found[where].items()}
    if len(weights) < len(found[where]):
        twice = next(name for name in found[where] if f"module.{name}" in found[where])
        raise UserError(f"{what} {path} holds {twice} twice, with module. before it and without")
    if where != "state_dict":
        return {"state_dict": weights}
    if isinstance(content.get("forget"), list):
        with reading(path, what, RESTART):
            content = _with_forget_set(content)
    return {**content, "state_dict": weights}


def _with_forget_set(content: dict) -> dict:
    """A checkpoint of before 2026-11-27 in which the state of --forget_optimizer took the place of
    the forget set, with both: what was trained on and is neither retained nor of earlier requests.
    """
    kept = [content[name].numpy() for name in ("retain", "forgotten_before") if name in content]
    forget = np.setdiff1d(content["split"]["train"].numpy(), np.concatenate(kept))
    return {**content, "forget": torch.from_numpy(forget), "forget_descent": content["forget"]}


def read_original(path: Path) -> Original:
    """The model that later stages start from.

    Raises:
        UserError: no state dictionary, one with a value that is not finite, or an odd record.
    """
    content = read_checkpoint(path, "--model_path")
    weights = content["state_dict"]
    if bad := not_finite(weights):
        raise UserError(
            f"--model_path {path}: {bad} holds values that are not finite; train the model again"
        )
    split, arguments = content.get("split"), content.get("arguments") or {}
    remedy = "its record is not main_train's; train the model again, or save its state_dict alone"
    with reading(path, "--model_path", remedy):
        _check_record(split, arguments)
        recipe = _trained_with(arguments, content)
        forgotten = np.concatenate([content[name] for name in FORGOTTEN if name in content] or [[]])
        count = len(content["classes"]) if "classes" in content else None
    forgotten = np.unique(forgotten).astype(np.int64)
    sha256 = hash_arrays(weights)
    return Original(path, weights, sha256, split, arguments, recipe, forgotten, count)


def _trained_with(arguments: dict, content: dict) -> dict:
    """The flags that trained a checkpoint's model from scratch: main_train's, Retrain's, or those
    of the original that it was unlearned from. What unlearned it is no recipe.
    """
    identity = content.get("identity") or {}
    if identity.get("init"):
        arguments = {**arguments, "init_sha256": identity["init"]}
    if identity.get("method") == Retrain.label:
        return {
            **arguments,
            "epochs": arguments.get("unlearn_epochs"),
            "lr": arguments.get("unlearn_lr"),
        }
    return arguments if "train_seed" in identity else dict(content.get("trained_with") or {})


def not_finite(weights: Mapping) -> str | None:
    """The name of the first tensor with a value that is not finite."""
    for name, value in weights.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        wide = value if value.element_size() > 1 else value.float()  # torch has no such test of fp8
        if not torch.isfinite(wide).all():
            return name
    return None


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
        if not 0 <= recorded_fraction(split) < 1:
            raise ValueError(f"val_fraction is {split['val_fraction']!r}")
    for part, kinds in parts:
        for name, kind in kinds.items():
            if not isinstance(part[name], kind):
                raise TypeError(f"{name} is {part[name]!r}")
    if not isinstance(arguments.get("cache"), str | None):
        raise TypeError(f"cache is {arguments['cache']!r}")
    if not is_arch(arch := arguments.get("arch", "resnet18")):
        raise ValueError(f"arch is {arch!r}")
    registries = {"dataset": DATASETS, "fit": (None, *FITS), "augment": (None, *AUGMENTATIONS)}
    for name, registry in registries.items():
        value = arguments.get(name, next(iter(registry)))
        if value not in registry:
            raise ValueError(f"{name} is {value!r}")


def check_typed_arch(path: Path, arguments: Mapping, typed: bool) -> None:
    """Refuse to run a file because a record names it as the architecture."""
    if not typed and is_user_arch(arch := str(arguments.get("arch", ""))):
        raise UserError(
            f"{path} is of --arch {arch}, which runs that file: type --arch {arch}, or where it is"
            " now"
        )


def adopt(request: AnyRequest, original: Original) -> AnyRequest:
    """The request with, where nothing was typed, what the original model was trained with."""
    of_model = (
        "dataset",
        "data",
        "cache",
        "fit",
        "augment",
        "arch",
        "imagenet_arch",
        "input_size",
        "leave_out",
    )
    of_model += ("mean", "std")  # Retrain's images are normalised as the original's
    check_typed_arch(original.path, original.arguments, "arch" in request.typed)
    inherited = {name: original.arguments[name] for name in of_model if name in original.arguments}
    if DATASETS[inherited.get("dataset", request.dataset)].augment != "crop" and inherited:
        inherited.setdefault("augment", "crop")  # all that there was before the flag
    if missing := [
        name for name in ("dataset", "arch") if name not in {*request.typed, *inherited}
    ]:
        taken = " ".join(f"--{name} {getattr(request, name)}" for name in missing)
        print(f"{original.path} does not say what it is of: taken as {taken}")
    if original.split is not None:
        inherited["split_seed"] = original.split["split_seed"]
        inherited["val_fraction"] = recorded_fraction(original.split)
    changed = {
        name: value
        for name, value in inherited.items()
        if name not in request.typed and getattr(request, name) != value
    }
    # A typed size may be the flag's default and still not the data set's own.
    sized = {"input_size"} & {*changed, *original.arguments.get("typed", ())}
    if changed:
        shown = " ".join(f"--{name} {in_words(value)}" for name, value in changed.items())
        print(f"from {original.path}: {shown}")
    return request.replace(**changed, typed=request.typed | sized)


def in_words(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def load_weights(model: nn.Module, original: Original, request: Request) -> Original:
    """Load what fits (:func:`stages.state_dicts.fitted`); returns the original with these weights.

    A checkpoint of another architecture or class count is refused by its first difference.
    """
    try:
        weights, unnormalised = fitted(original.state_dict, model.state_dict())
    except Misfit as error:
        raise UserError(
            f"--model_path {original.path} does not fit --arch {request.arch}: {error};"
            " give the --arch and --dataset it was trained with"
        ) from None
    if not unnormalised and {"mean", "std"} & request.typed:
        raise UserError(
            f"--mean, --std: {original.path} holds its own normalisation,"
            f" {normalisation_words(weights)}; drop the flags"
        )
    floats = [value.dtype for value in weights.values() if value.is_floating_point()]
    kinds = {str(dtype).removeprefix("torch.") for dtype in floats}
    if other := sorted(kinds - {"float32"}):
        print(f"{original.path} holds {', '.join(other)} weights: converted to float32")
    if unnormalised:
        print(
            f"{original.path} holds no normalisation: its images are normalised by"
            f" {normalisation_words(weights)}; --mean and --std give others"
        )
    model.load_state_dict(weights, strict=True)
    return dataclasses.replace(original, state_dict=weights)


def read_state(path: Path, identity: dict) -> dict:
    """A checkpoint to resume from; one that was made under other flags is refused with the
    difference named.

    ``identity`` may be what the flags alone tell, to refuse before data are read; the whole of it
    is compared later.
    """
    state = read_checkpoint(path, "--resume: checkpoint", f"; {RESTART}")
    kinds = {"epoch": int, "identity": dict, "seconds": float}
    if not all(isinstance(state.get(name), kind) for name, kind in kinds.items()):
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


def say_threads(state: dict, path: Path, device: torch.device) -> None:
    """One line where a run goes on with another number of CPU threads than it began with."""
    now = threads_of(device)
    if now and (began := state.get("threads")) and began != now:
        warn(
            f"--resume: {path} was made with {began} CPU threads, this run has {now}: sums are in"
            f" another order, so that the end is not an undisturbed run's; --threads {began} is"
        )


def adopt_tail(request: AnyRequest, checkpoint: Path) -> AnyRequest:
    """The request of a run that began before there was --tail, which goes on as it began."""
    if not request.resume or "tail" in request.typed or not distributed.on_main(checkpoint.is_file):
        return request
    content = load(checkpoint, "--resume: checkpoint")
    identity = content.get("identity") if isinstance(content, dict) else None
    if not isinstance(identity, dict) or "batch_size" not in identity or "tail" in identity:
        return request
    print(f"{checkpoint} was begun before --tail; it goes on with --tail keep")
    return request.replace(tail="keep")
