"""What is asked to be forgotten, in words, and the training images that the words choose."""

import dataclasses
import difflib
import re
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from pathlib import PurePosixPath

import numpy as np

from datasets import ImageSet
from datasets.lists import Listed, read_list
from datasets.splits import ForgetSplit, Split, check_places, choose_forget
from utils import UserError, warn

KINDS = ("random", "class", "classes", "positions", "indices", "files")
FORMS = (
    "random:4500, random:10%, class:3, class:cat, classes:3,5, class:cat:50%, positions:@FILE,"
    " indices:@FILE or files:@FILE"
)
# Of at most 18 digits: no sensible number has more.
AMOUNT = re.compile(r"[0-9]{1,18}|[0-9]{1,18}(\.[0-9]{1,18})? ?%|\.[0-9]{1,18} ?%")
NUMBER = re.compile(r"[0-9]{1,18}")
ALL = "-1"  # of --class_to_replace
MOST = 160  # letters of what was typed that a message repeats
SHOWN = 20  # class names that a message lists


@dataclasses.dataclass(frozen=True)
class ForgetSpec:
    """A request in words.

    ``asked`` is what the user typed, to begin messages with; ``kind`` is one of :data:`KINDS`;
    ``what`` holds classes or a list; ``amount`` is a number or a percentage of images, None for
    all of the classes. ``is_index`` takes a class given as an integer for its index.
    """

    asked: str
    kind: str
    what: str = ""
    amount: str | None = None
    is_index: bool = False

    @property
    def is_list(self) -> bool:
        return self.kind in ("positions", "indices", "files")

    def listed(self) -> Listed:
        """The entries of a list, read from its file where it has one."""
        return read_list(self.what, self.asked, names=self.kind == "files")


def spec_of(text: str) -> ForgetSpec:
    """The request of ``--forget TEXT``, as far as the words alone tell.

    Raises:
        UserError: no such kind, or nothing, or no amount, behind it.
    """
    asked = f"--forget {text[:MOST]}"
    kind, colon, what = text.partition(":")
    if kind not in KINDS or not colon or not what.strip():
        hint = f" (did you mean random:{text}?)" if is_amount(text) else ""
        raise UserError(f"{asked}: what is forgotten is wanted{hint}, as one of {FORMS}")
    if kind != "random":
        return ForgetSpec(asked, kind, what)
    _check_amount(what, asked)
    return ForgetSpec(asked, kind, amount=what)


def is_drawn(text: str) -> bool:
    """Whether a seed has a part in what ``--forget TEXT`` chooses."""
    kind, _, what = text.partition(":")
    amount = what.rpartition(":")[2].strip()
    return kind == "random" or (kind in ("class", "classes") and ":" in what and is_amount(amount))


def is_amount(text: str) -> bool:
    """Whether a text is a number or a percentage of images."""
    return bool(AMOUNT.fullmatch(text.strip()))


def spec_of_reference(
    count: int | str | None, class_: int | str, positions: str | None
) -> ForgetSpec | None:
    """The request of the reference's three flags; None where none of them asks for anything."""
    if positions is not None:
        return ForgetSpec(f"--indexes_to_replace {positions[:MOST]}", "positions", positions)
    asked = [] if count is None else [f"--num_indexes_to_replace {count}"]
    amount = None if count is None else str(count)
    if amount is not None:
        _check_amount(amount, asked[0])
    if str(class_) == ALL:
        return ForgetSpec(asked[0], "random", amount=amount) if asked else None
    words = " ".join([f"--class_to_replace {class_}", *asked])
    return ForgetSpec(words, "classes", str(class_), amount, is_index=True)


def _check_amount(text: str, asked: str) -> None:
    if not is_amount(text):
        raise UserError(f"{asked}: a number of images, such as 4500, or a share, such as 10%")
    if text.strip().endswith("%") and not 0 < _percent(text) <= 100:
        raise UserError(f"{asked}: a share is above 0 and at most 100%")


def _percent(text: str) -> Decimal:
    return Decimal(text.strip().removesuffix("%").strip())


def amount_of(text: str, available: int, asked: str) -> int:
    """The number of images of ``4500`` or, rounded down, of ``10%`` of ``available``."""
    if not text.strip().endswith("%"):
        return int(text)
    count = int(_percent(text) * available / 100)
    if not count:
        raise UserError(f"{asked}: {text} of {available} images is less than one; ask for more")
    return count


# ------------------------------------------------------------------------------------------ classes


def class_index(text: str, names: Sequence[str], spec: ForgetSpec) -> int:
    """The index of the class that ``3``, ``#3`` (index), ``=3`` (name) or ``cat`` stands for.

    Raises:
        UserError: no such class, or an integer that is one class's index and another one's name.
    """
    asked, text = spec.asked, text.strip()
    if text.startswith("#"):
        if not NUMBER.fullmatch(text[1:]) or int(text[1:]) >= len(names):
            raise _unknown(text, names, asked)
        return int(text[1:])
    if text.startswith("=") and text[1:] in names:
        return names.index(text[1:])
    if not NUMBER.fullmatch(text.removeprefix("-")):
        if text not in names:
            raise _unknown(text, names, asked)
        return names.index(text)
    index = int(text)
    if spec.is_index:
        if not 0 <= index < len(names):
            raise _unknown(text, names, asked)
        return index
    return _integer_class(index, text, names, spec)


def _integer_class(index: int, text: str, names: Sequence[str], spec: ForgetSpec) -> int:
    asked, kind = spec.asked, spec.kind
    inside = 0 <= index < len(names)
    named = names.index(text) if text in names else None
    if named in (None, index) and inside and not _is_other_number(names[index], index):
        return index
    ways = []
    if inside:
        ways.append(f"{kind}:#{index} for the class of index {index}, named {names[index]!r}")
    if named is not None:
        ways.append(f"{kind}:={text} for the class named {text!r}, of index {named}")
    if not ways:
        raise _unknown(text, names, asked)
    raise UserError(f"{asked}: classes here have numbers as names; type {', or '.join(ways)}")


def _is_other_number(name: str, index: int) -> bool:
    """Whether the name of the class of an index is a number, and not this one."""
    return bool(re.fullmatch(r"[0-9]+", name)) and (name.lstrip("0") or "0") != str(index)


def _unknown(text: str, names: Sequence[str], asked: str) -> UserError:
    close = difflib.get_close_matches(text.lower(), [name.lower() for name in names], 1, 0.7)
    meant = next((name for name in names if [name.lower()] == close), None)
    shown = ", ".join(
        str(i) if name == str(i) else f"{i} {name}" for i, name in enumerate(names[:SHOWN])
    )
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    hint = f" (did you mean {meant}?)" if meant else ""
    last = len(names) - 1
    return UserError(
        f"{asked}: no class {text[:60]}{hint}; classes run from 0 to {last}: {shown}{more}"
    )


def classes_of(spec: ForgetSpec, names: Sequence[str]) -> tuple[tuple[int, ...], str | None]:
    """The indices of the classes of a request, ascending, and how many images of them."""
    what, amount = spec.what, spec.amount
    if what not in names and not spec.is_index:
        head, colon, tail = what.rpartition(":")
        if colon and head.strip():
            what, amount = head, tail
            _check_amount(amount, spec.asked)
    parts = [what] if spec.kind == "class" or what in names else what.split(",")
    if spec.kind == "class" and "," in what and what not in names:
        raise UserError(f"{spec.asked}: several classes are classes:{what}")
    found = [class_index(part, names, spec) for part in parts]
    if twice := [index for index in found if found.count(index) > 1]:
        raise UserError(f"{spec.asked}: class {twice[0]} ({names[twice[0]]}) is given twice")
    return tuple(sorted(found)), amount


# ------------------------------------------------------------------------------------------- choice


def choose(
    spec: ForgetSpec, split: Split, dataset: ImageSet, forget_seed: int, skip_val: bool = False
) -> tuple[ForgetSplit, list[str]]:
    """The forget set of a request, and what there is to say of how it was read, a line each.

    Args:
        skip_val: leave out the validation images among listed indices or files.

    Raises:
        UserError: an impossible request; see :func:`choose_forget` and :func:`read_list`.
    """
    labels, asked = dataset.y_train, spec.asked
    if not spec.is_list:
        classes, amount = ((), spec.amount)
        candidates = split.train
        if spec.kind != "random":
            classes, amount = classes_of(spec, dataset.classes)
            candidates = candidates[np.isin(labels[candidates], classes)]
        count = None if amount is None else amount_of(amount, len(candidates), asked)
        options = {"count": count, "classes": classes, "forget_seed": forget_seed}
        chosen = choose_forget(split, labels, **options, asked=asked)
        if spec.is_index:
            _warn_of_names(classes, dataset.classes)
        return chosen, []
    listed = spec.listed()
    lines = [f"{asked}: read from {listed.note}"] if listed.note else []
    if asked.startswith("--indexes_to_replace"):
        lines.append(
            f"--indexes_to_replace counts the {len(split.train)} training images, validation left"
            " out; for places in the whole data set type --forget indices:LIST"
        )
    positions, said = _positions(spec, listed.values, split, dataset, skip_val)
    return choose_forget(split, labels, positions=positions, asked=asked), lines + said


def _warn_of_names(classes: Sequence[int], names: Sequence[str]) -> None:
    """Say which class an index stands for where the class's name is another number."""
    for c in classes:
        if _is_other_number(names[c], c):
            warn(
                f"--class_to_replace takes {c} for an index: the class named {names[c]!r};"
                " --forget class:=NAME takes a name"
            )


def _positions(
    spec: ForgetSpec, values: np.ndarray, split: Split, dataset: ImageSet, skip_val: bool
) -> tuple[np.ndarray, list[str]]:
    """Listed images as positions among the training images, and a line on those left out."""
    if spec.kind == "positions":
        positions = unmasked(values, len(split.train), spec.asked, "training images")
        what = "positions in the training split; --forget indices: takes places in the data set"
        check_places(positions, len(split.train), spec.asked, what)
        return positions, []
    if spec.kind == "files":
        indices = _file_indices(values, dataset, spec.asked)
    else:
        images = "images of the data set's training half"
        indices = unmasked(values, len(dataset.y_train), spec.asked, images)
        check_places(indices, len(dataset.y_train), spec.asked, "places in the training half")
    is_val = np.isin(indices, split.val)
    lines = []
    if is_val.any():
        held_out = f"{is_val.sum()} of {len(indices)} are validation images, which no model trains"
        first = _named_image(indices[is_val][0], dataset)
        if not skip_val:
            raise UserError(
                f"{spec.asked}: {held_out} on (the first is {first}); --skip_val leaves them out"
            )
        lines = [f"--skip_val: {held_out} on, left out (the first is {first})"]
        indices = indices[~is_val]
    strange = ~np.isin(indices, split.train)
    if strange.any():
        raise UserError(
            f"{spec.asked}: {strange.sum()} of {len(indices)} are left out by --leave_out (the"
            f" first is {_named_image(indices[strange][0], dataset)}); take them off the list"
        )
    if not len(indices):
        raise UserError(f"{spec.asked}: without validation images nothing is left to forget")
    return np.searchsorted(split.train, indices), lines


def unmasked(values: np.ndarray, available: int, asked: str, what: str) -> np.ndarray:
    """The places of a list, or those where a boolean mask is true."""
    if values.dtype != bool:
        return values
    if len(values) != available:
        raise UserError(
            f"{asked}: a boolean mask of {len(values)} entries; there are {available} {what}, and a"
            " mask has an entry for each"
        )
    if not values.any():
        raise UserError(f"{asked}: the boolean mask is false everywhere; nothing is chosen")
    return np.flatnonzero(values)


def _named_image(index: int, dataset: ImageSet) -> str:
    return f"{index}, {dataset.files[index]}" if dataset.files else str(index)


def _file_indices(names: np.ndarray, dataset: ImageSet, asked: str) -> np.ndarray:
    """The indices of the training images of file names: as they are below --data, or with folders
    before, or the last parts of them where these are one image's alone.
    """
    if not dataset.files:
        raise UserError(
            f"{asked}: {dataset.name} is read from arrays, which have no file names; type"
            " --forget indices:@FILE"
        )
    by_name = defaultdict(list)
    for index, file in enumerate(dataset.files):
        by_name[PurePosixPath(file).name].append(index)
    found = np.array([_file_index(name, by_name, dataset, asked) for name in names.tolist()])
    unique, first = np.unique(found, return_index=True)
    if len(unique) < len(found):
        again = np.setdiff1d(np.arange(len(found)), first)[0]
        raise UserError(f"{asked}: {names[again]} is given twice")
    return found


def _file_index(name: str, by_name: dict, dataset: ImageSet, asked: str) -> int:
    path = "/" + name.replace("\\", "/").removeprefix("./").lstrip("/")
    matches = [
        index
        for index in by_name[path.rpartition("/")[2]]
        if path.endswith(f"/{dataset.files[index]}") or f"/{dataset.files[index]}".endswith(path)
    ]
    if not matches:
        raise UserError(
            f"{asked}: {name} is no training image below --data; their names are such as"
            f" {dataset.files[0]}"
        )
    if len(matches) > 1:
        raise UserError(
            f"{asked}: {name} is the name of {len(matches)} images, such as"
            f" {dataset.files[matches[0]]} and {dataset.files[matches[1]]}; add the folder"
        )
    return matches[0]
