"""Checkpoints as an audit reads them, and which of them are one kind."""

import dataclasses
import glob
import json
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.splits import ForgetSplit, gone_classes, whole_classes
from evaluation.verdicts import relative_change
from models import build_model
from models.user import is_user_arch
from reporting.groups import grouped, is_whole, pick_reference
from runtime.files import hash_arrays, load_json, reading
from stages.checkpoints import check_typed_arch, read_checkpoint
from stages.file_names import MASK_RECORD, mask_name
from stages.mask_files import recorded_score
from stages.records import completed
from stages.state_dicts import Misfit, fitted, normalisation_words
from unlearn import label_today
from utils import UserError, printable, warn

REMEDY = "evaluate.py reads what main_train.py, main_forget.py and main_random.py write"


# Not part of what makes two runs one configuration: seeds, and the hashes of what differs with
# them.
OF_ONE_RUN = ("seed", "train_seed", "original", "mask", "forget", "retain", "data_sha256", "train")
# Values of settings that older files do not record.
UNSAID = (("retain_fraction", 1), ("decay", "all"), ("init", ""), ("drop_path", "own"))
UNSAID += (("mixup", 0),)


@dataclasses.dataclass(frozen=True, eq=False)
class Saved:
    """A checkpoint: its weights and what it records of its data and its forget set.

    ``before`` are indices of images that earlier requests made it forget, ``forgotten`` is the
    record of what was asked to be forgotten, empty in older files;
    ``mask_made_by`` holds the file (with_0.5.pt) and the score of its mask; None without a mask, or
    where no record says; ``original`` the hash of the weights that it began with, empty where no
    record says. ``foreign``: of another project, with what is recorded of the others.
    """

    path: Path
    role: str
    weights: dict[str, Tensor]
    sha256: str
    arguments: dict
    split: dict
    forget: np.ndarray | None
    retain: np.ndarray | None
    label: str
    key: str
    hyperparameters: dict
    mask: list | None = None
    mask_made_by: dict | None = None
    original: str = ""
    forgotten: dict = dataclasses.field(default_factory=dict)
    foreign: bool = False
    before: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def seed(self) -> int:
        return self.arguments["seed"]


def expand(patterns: Sequence[str], flag: str) -> dict[Path, str | None]:
    """The files of the patterns, each once, in order, with the NAME of NAME=FILE.

    What matches a file as it stands is a path, whatever it contains. A pattern that names no file
    is refused.
    """
    files: dict[Path, str | None] = {}
    for pattern in patterns:
        name, matches = None, sorted(glob.glob(pattern, recursive=True))
        if not matches and "=" in pattern:
            name, _, file = pattern.partition("=")
            matches = [file] if name and Path(file).is_file() else []
        if not matches:
            raise UserError(f"{flag} {pattern}: no such file{_tried(pattern)}")
        files |= dict.fromkeys(map(Path, matches), name)
    return files


def _tried(pattern: str) -> str:
    """Both ways in which A=B was taken."""
    name, equals, file = pattern.partition("=")
    if not equals:
        return ""
    if not name:
        return f", and no name before '=' to take it for NAME={file}"
    if glob.glob(file, recursive=True):
        return f", and as NAME=FILE, {file} is not one file"
    return f", and as NAME=FILE, named {name!r}, there is no file {file!r}"


def read_all(named: Mapping[Path, tuple[str, str | None]], arch: str | None) -> list[Saved]:
    """The checkpoints by path, each with its role and the NAME of a model from elsewhere.

    Args:
        arch: where to find a user's own architecture, FILE.py:FACTORY.

    Raises:
        UserError: a file that cannot be read, or one without a record that has no name, or nothing
            that says who was forgotten beside it.
    """
    contents = {path: read_checkpoint(path, "checkpoint") for path in named}
    elsewhere = {path for path, content in contents.items() if is_foreign(content)}
    own = {path: read_saved(path, named[path][0], arch) for path in named if path not in elsewhere}
    check_fit(own, contents)
    name_unread(own.values(), arch, {path: named[path][1] for path in own})
    for path in elsewhere:
        check_foreign(path, *named[path], own.values())
    return [
        own[path] if path in own else foreign(path, *named[path], contents[path], own.values())
        for path in named
    ]


def name_unread(own: Collection[Saved], arch: str | None, names: Mapping[Path, str | None]) -> None:
    """A line on a typed architecture or name that these models' own records stand before."""
    recorded = sorted({str(each.arguments["arch"]) for each in own})
    if arch is not None and own and arch not in recorded:
        words = f"the models say themselves that they are of {', '.join(recorded)}"
        warn(f"evaluate does not read --arch {arch}: {words}")
    for each in own:
        if name := names[each.path]:
            words = f"it says itself that it is of {each.label}"
            warn(f"evaluate does not read the name of {name}={each.path}: {words}")


def check_fit(own: Mapping[Path, Saved], contents: Mapping[Path, dict]) -> None:
    """Refuse a typed architecture that a checkpoint is not of, where the file tells of what classes
    and images it is; the first difference is named.
    """
    built: dict[tuple, Mapping[str, Tensor]] = {}
    for path, saved in own.items():
        arch, content = saved.arguments["arch"], contents[path]
        if not (is_user_arch(arch) and {"classes", "image_size"} <= content.keys()):
            continue
        with reading(path, "checkpoint", REMEDY):
            images = len(content["classes"]), int(content["image_size"])
        if images not in built:
            model = build_model(arch, images[0], (0.0,) * 3, (1.0,) * 3, image_size=images[1])
            built[images] = model.state_dict()
        try:
            fitted(saved.weights, built[images])
        except Misfit as error:
            raise UserError(
                f"--{saved.role} {path} does not fit --arch {arch}: {error}; give the --arch it was"
                " trained with"
            ) from None


def is_foreign(content: dict) -> bool:
    """Whether a file holds weights alone, or beside them nothing that this project records."""
    return not {"arguments", "identity"} & content.keys()


def check_foreign(path: Path, role: str, name: str | None, own: Iterable[Saved]) -> None:
    """Refuse a model from elsewhere of which too little is known."""
    if role == "models" and name is None:
        raise UserError(
            f"--models {path} does not say what it is, {REMEDY}; a model of another project needs a"
            f" name: --models {shlex.quote(f'NAME={path}')}"
        )
    if role == "retrain":
        raise UserError(
            f"--retrain {path} does not say which images it was trained on; {REMEDY}, which"
            " retrain too"
        )
    if not any(each.forget is not None for each in own):
        raise UserError(
            f"--{role} {path} does not say who was forgotten, and no other model does; add"
            " --retrain, or a result of main_forget.py to --models"
        )


def foreign(path: Path, role: str, name: str | None, content: dict, own: Iterable[Saved]) -> Saved:
    """A model of another project, of the original's architecture, taken to be about the forget set
    that a checkpoint beside it records.
    """
    about = next(each for each in own if each.forget is not None)
    like = next((each for each in own if each.role == "original"), about)
    try:
        weights, unnormalised = fitted(content["state_dict"], like.weights)
    except Misfit as error:
        raise UserError(
            f"--{role} {path} does not fit the architecture of {like.path}: {error}"
        ) from None
    if unnormalised:
        words = normalisation_words(weights)
        print(f"{path} holds no normalisation: its images are normalised as {like.path}'s, {words}")
    trained = torch.from_numpy(np.union1d(about.forget, about.split["train"].numpy()))
    label = printable(name or "Original")
    print(f"{path} has no record: taken to be about the forget set of {about.path}")
    return dataclasses.replace(
        about,
        path=path,
        role=role,
        weights=weights,
        sha256=hash_arrays(weights),
        split=about.split | {"train": trained},
        forget=about.forget if role == "models" else None,
        label=label,
        key=json.dumps([label]),
        hyperparameters={},
        mask=None,
        mask_made_by=None,
        original="",
        foreign=True,
    )


def read_saved(path: Path, role: str, arch: str | None = None) -> Saved:
    """Read a checkpoint of main_train, main_forget or main_random; ``arch`` takes the place of a
    recorded FILE.py:FACTORY.

    Raises:
        UserError: another kind of file, or one without a record of its data.
    """
    content = read_checkpoint(path, "checkpoint")
    with reading(path, "checkpoint", REMEDY):
        arguments, split = dict(content["arguments"]), dict(content["split"])
        identity = dict(content["identity"])
        check_typed_arch(path, arguments, arch is not None)
        if is_user_arch(str(arguments["arch"])):
            arguments["arch"] = arch
        masked = bool(identity.get("mask"))
        label = str(content.get("label", identity.get("method", "Original") + "+mask" * masked))
        label = printable(label)
        if "method" in identity:
            label = label_today(arguments["unlearn"], label, masked)
            identity["method"] = label_today(arguments["unlearn"], identity["method"], masked=False)
        settings = {
            name: value
            for name, value in identity.items()
            if name not in OF_ONE_RUN and (name, value) not in UNSAID
        }
        mask, made_by = None, None
        if file := arguments.get("mask_path"):
            mask = [Path(file).name, arguments["mask_ratio"]]
            made_by = mask_made_by(content, arguments, str(identity.get("mask", "")))
        tensors = isinstance(split["train"], Tensor) and isinstance(split["val"], Tensor)
        if type(arguments["seed"]) is not int or not tensors:
            raise TypeError("its record is not that of a run")
        return Saved(
            path=path,
            role=role,
            weights=content["state_dict"],
            sha256=hash_arrays(content["state_dict"]),
            arguments=arguments,
            split=split,
            forget=content["forget"].numpy() if "forget" in content else None,
            retain=content["retain"].numpy() if "retain" in content else None,
            label=label,
            key=json.dumps([label, settings, mask], sort_keys=True),
            hyperparameters=settings,
            mask=mask,
            mask_made_by=made_by,
            original=str(identity.get("original") or ""),
            forgotten=dict(content.get("forgotten") or {}),
            before=np.asarray(content.get("forgotten_before", []), np.int64),
        )


def mask_made_by(content: dict, arguments: dict, sha256: str) -> dict | None:
    """What made a checkpoint's mask: by its own record; of an older one by that beside the mask, if
    it is of this very mask.
    """
    if content.get("mask"):
        found = {name: content["mask"][name] for name in ("file", "score")}
        return found if None not in found.values() else None
    path, ratio = Path(arguments["mask_path"]), arguments["mask_ratio"]
    file = path if ratio is None else path / mask_name(ratio)
    record_file = file.with_name(MASK_RECORD)
    if not record_file.is_file():
        return None
    record = load_json(record_file, "mask record")
    with reading(
        record_file, "mask record", "make the masks again with generate_mask.py, or move it away"
    ):
        same = record["masks"].get(file.name, {}).get("sha256") == sha256
        return {"file": file.name, "score": recorded_score(record)} if same else None


def with_reference(saved: Sequence[Saved], reference: str | None) -> list[Saved]:
    """``saved`` with one kind of Retrain left in the role ``retrain``, and the others under their
    own names in the role ``unlike``.

    A kind is what was trained by one recipe; one under a mask, or on a part of the retain set, is
    no reference.

    Raises:
        UserError: several kinds and no choice, see :func:`pick_reference`.
    """
    retrain = [i for i, each in enumerate(saved) if each.role == "retrain"]
    settings = completed(
        [
            saved[i].hyperparameters | ({"mask": saved[i].mask} if saved[i].mask else {})
            for i in retrain
        ]
    )
    kinds = grouped([saved[i].label for i in retrain], settings)
    whole = {name: len(runs) for name, runs in kinds.items() if is_whole(settings[runs[0]])}
    chosen = pick_reference("--retrain", whole, reference)
    if others := [name for name in kinds if name != chosen]:
        print(f"gaps are to {chosen or 'no Retrain'}; a row of its own: {', '.join(others)}")
    found = list(saved)
    for name, runs in kinds.items():
        role = "retrain" if name == chosen else "unlike"
        for i in (retrain[run] for run in runs):
            found[i] = dataclasses.replace(saved[i], role=role, key=name, label=name)
    return found


def forgotten(saved: Saved, labels: np.ndarray) -> ForgetSplit:
    """The checkpoint's forget split; a class is dropped where it was asked for and none of it is
    retained.
    """
    record = saved.forgotten or forgotten_by_flags(saved.arguments)
    kind, classes = record["kind"], tuple(map(int, record["classes"]))
    known = all(0 <= c <= labels.max() for c in classes) and bool(classes) == (kind == "class")
    if kind not in ("random", "class", "indexes") or not known:
        raise ValueError(f"it forgot {kind!r} {classes}")
    whole = whole_classes(classes, labels[saved.retain])
    gone = gone_classes(saved.before, np.append(saved.forget, saved.retain), labels)
    return ForgetSplit(kind, saved.forget, saved.retain, classes, whole, saved.before, gone)


def forgotten_by_flags(arguments: dict) -> dict:
    """What the flags of a checkpoint from before it had a record of it asked to be forgotten."""
    if (asked := int(arguments["class_to_replace"])) != -1:
        return {"kind": "class", "classes": [asked]}
    kind = "random" if arguments["indexes_to_replace"] is None else "indexes"
    return {"kind": kind, "classes": []}


# What BatchNorm keeps beside its weights; a pass over images in training mode renews it.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def other_originals(saved: list[Saved]) -> list[str]:
    """What names the models that began with another original than the given one, which is none of
    theirs.
    """
    given = next((each.sha256 for each in saved if each.role == "original"), "")
    others = [
        str(each.path)
        for each in saved
        if each.role == "models" and given and each.original not in ("", given)
    ]
    return (
        [
            f"{len(others)} models were unlearned from another original than --original:"
            f" {', '.join(others)}"
        ]
        if others
        else []
    )


def weights_moved(saved: list[Saved]) -> list[float]:
    """For each model how far its weights are from the original's; 1 where no original is given.

    Also of a file that keeps a model's outputs and no weights, as benchmarks/gpu/table.py's do.
    """
    before = {}
    for each in saved:
        if each.role == "original":
            before = trained_weights(each)
    moved = []
    for each in saved:
        now = {name: value for name, value in trained_weights(each).items() if name in before}
        moved.append(
            relative_change(now, before) if before and now.keys() == before.keys() else 1.0
        )
    return moved


def trained_weights(saved: Saved) -> dict[str, np.ndarray]:
    """The weights of a model by name, without BatchNorm's statistics."""
    weights = saved.weights.items()
    return {name: w.float().numpy() for name, w in weights if not name.endswith(STATISTICS)}
