"""A folder of images: HALF/CLASS/.../IMAGE -> arrays, class names, and what is to be said of it."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.image_files import Member, extensions
from utils import UserError

HIDDEN = "hidden files and folders (a dot first, or __MACOSX), skipped"
OTHER = "files that are no image which Pillow reads, left out"
BESIDE = "files beside the class folders, left out"
SPECIAL = "pipes, sockets and devices, left out"
CIRCLE = "links in a circle, skipped"


class Tally:
    """How often each thing was noted, and of which file first. ``what`` is what messages about
    these files begin with.
    """

    def __init__(self, what: str = "--dataset folder"):
        self.what = what
        self.counts: dict[str, int] = {}
        self.firsts: dict[str, str] = {}

    def add(self, what: str, name: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        self.firsts.setdefault(what, name)

    def line(self, what: str) -> str:
        return f"{what}: {self.counts[what]}, the first {self.firsts[what]}"

    def lines(self) -> list[str]:
        return [self.line(what) for what in self.counts]


class Files(NamedTuple):
    """Paths of images, or members of an archive, and their labels."""

    paths: list[str | Member]
    labels: np.ndarray


def sort_classes(names: Sequence[str]) -> list[str]:
    """Names in alphabetical order, or as numbers where all of them are whole numbers."""
    if all(re.fullmatch(r"[0-9]+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def find_classes(half: Path, root: Path, tally: Tally) -> dict[str, list[str]]:
    """The images of each class folder of ``half``, in the order of torchvision's ImageFolder.

    Raises:
        UserError: a folder cannot be listed, or there is no class folder.
    """
    folders, beside = [], []
    for entry in entries_of(half, tally.what):
        if _hidden(entry, root, tally):
            continue
        (folders if entry.is_dir() else beside).append(entry)
    images = sum(is_image(entry.name) for entry in beside)
    if not folders:
        raise UserError(
            f"{tally.what}: {half} holds no class folders, but {images} images; put them into"
            f" {half}/CLASS"
        )
    for entry in beside:
        tally.add(BESIDE, os.path.relpath(entry.path, root))
    return {entry.name: _images(entry.path, root, tally) for entry in folders}


def entries_of(folder: str | Path, what: str) -> list[os.DirEntry]:
    """What is in a folder, by name; a :class:`UserError` where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{what}: {folder} cannot be listed: {error.strerror}") from None


def _hidden(entry: os.DirEntry, root: Path, tally: Tally) -> bool:
    hidden = entry.name.startswith(".") or entry.name == "__MACOSX"
    if hidden:
        tally.add(HIDDEN, os.path.relpath(entry.path, root))
    return hidden


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in extensions()


def _images(folder: str, root: Path, tally: Tally) -> list[str]:
    found = []
    above = tuple(map(os.path.realpath, (root, os.path.dirname(folder), folder)))
    for entry in _walk(folder, root, tally, above):
        if not entry.is_file() and not entry.is_symlink():  # reading a pipe waits for ever
            tally.add(SPECIAL, os.path.relpath(entry.path, root))
        elif is_image(entry.name):
            found.append(os.path.split(entry.path))
        else:
            tally.add(OTHER, os.path.relpath(entry.path, root))
    return [os.path.join(*parts) for parts in sorted(found)]


def _walk(folder: str, root: Path, tally: Tally, above: tuple[str, ...]) -> Iterator[os.DirEntry]:
    """All files under a folder; links are followed, but not to a folder that is ``above``."""
    for entry in entries_of(folder, tally.what):
        if _hidden(entry, root, tally):
            continue
        if not entry.is_dir():
            yield entry
            continue
        real = os.path.realpath(entry.path)
        if real in above:
            tally.add(CIRCLE, os.path.relpath(entry.path, root))
        else:
            yield from _walk(entry.path, root, tally, (*above, real))


Found = dict[str, list]  # the images of each class folder


def find_halves(
    train: Path, test: Path, root: Path, tally: Tally
) -> tuple[list[str], list[Files], list[str]]:
    """:func:`match_halves` of the class folders of two folders."""
    found = find_classes(train, root, tally), find_classes(test, root, tally)
    return match_halves(*found, (train, test), tally.what)


def match_halves(
    found: Found, held_out: Found, where: tuple[Path, Path], what: str
) -> tuple[list[str], list[Files], list[str]]:
    """The class names in the order of their labels, the files of both halves, and lines on a test
    half that lacks classes.

    Args:
        where: the folders of train and test, for messages.

    Raises:
        UserError: a class folder of train is empty, or test has a class that train lacks.
    """
    train, test = where
    held_out = {name: paths for name, paths in held_out.items() if paths}
    if empty := [name for name in sort_classes(list(found)) if not found[name]]:
        raise UserError(
            f"{what}: no image in {_names(empty)} of {train}; add images that Pillow reads, or"
            " remove the folder"
        )
    classes = sort_classes(list(found))
    absent = [name for name in classes if name not in held_out]
    if strange := sort_classes(list(held_out.keys() - found.keys())):
        lacks = f" (and lacks {_names(absent)})" if absent else ""
        raise UserError(
            f"{what}: {test.name} has {_names(strange)}, which train has not{lacks}; the class"
            " folders of both must have the same names"
        )
    if not held_out:
        raise UserError(f"{what}: no image in the class folders of {test}")
    lines = []
    if absent:
        lines.append(
            f"{test.name} lacks {_names(absent)}; it tests {len(held_out)} of {len(classes)}"
        )
    if classes != sorted(classes):
        lines.append(f"class folders sort as numbers: {classes[0]} to {classes[-1]}")
    halves = [_files(half, classes) for half in (found, held_out)]
    return classes, halves, lines


def _names(names: list[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} class{'es' if len(names) > 1 else ''}: {listed}"


def _files(found: Found, classes: list[str]) -> Files:
    paths, labels = [], []
    for label, name in enumerate(classes):
        paths += found.get(name, [])
        labels += [label] * len(found.get(name, []))
    return Files(paths, np.array(labels, np.int64))
