"""A folder of images: HALF/CLASS/.../IMAGE -> arrays, class names, and what is to be said of it."""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.image_files import Decoded, decode, extensions
from datasets.pixel_range import range_of, scale, shown
from utils import UserError

HIDDEN = "hidden files and folders (a dot first, or __MACOSX), skipped"
OTHER = "files that are no image which Pillow reads, left out"
BESIDE = "files beside the class folders, left out"
CIRCLE = "links in a circle, skipped"
WHAT = "--dataset folder"


class Tally:
    """How often each thing was noted, and of which file first."""

    def __init__(self):
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
    """Paths of images and their labels."""

    paths: list[str]
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
    for entry in _entries(half):
        if _hidden(entry, root, tally):
            continue
        (folders if entry.is_dir() else beside).append(entry)
    images = sum(_is_image(entry.name) for entry in beside)
    if not folders:
        raise UserError(
            f"{WHAT}: {half} holds no class folders, but {images} images; put them into"
            f" {half}/CLASS"
        )
    for entry in beside:
        tally.add(BESIDE, os.path.relpath(entry.path, root))
    return {entry.name: _images(entry.path, root, tally) for entry in folders}


def _entries(folder: str | Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{WHAT}: {folder} cannot be listed: {error.strerror}") from None


def _hidden(entry: os.DirEntry, root: Path, tally: Tally) -> bool:
    hidden = entry.name.startswith(".") or entry.name == "__MACOSX"
    if hidden:
        tally.add(HIDDEN, os.path.relpath(entry.path, root))
    return hidden


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in extensions()


def _images(folder: str, root: Path, tally: Tally) -> list[str]:
    found = []
    above = tuple(map(os.path.realpath, (root, os.path.dirname(folder), folder)))
    for entry in _walk(folder, root, tally, above):
        if _is_image(entry.name):
            found.append(os.path.split(entry.path))
        else:
            tally.add(OTHER, os.path.relpath(entry.path, root))
    return [os.path.join(*parts) for parts in sorted(found)]


def _walk(folder: str, root: Path, tally: Tally, above: tuple[str, ...]) -> Iterator[os.DirEntry]:
    """All files under a folder; links are followed, but not to a folder that is ``above``."""
    for entry in _entries(folder):
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


def find_halves(
    train: Path, test: Path, root: Path, tally: Tally
) -> tuple[list[str], list[Files], list[str]]:
    """The class names in the order of their labels, the files of both halves, and lines on a test
    half that lacks classes.

    Raises:
        UserError: a class folder of train is empty, or test has a class that train lacks.
    """
    found = find_classes(train, root, tally)
    held_out = {name: paths for name, paths in find_classes(test, root, tally).items() if paths}
    if empty := [name for name in sort_classes(list(found)) if not found[name]]:
        raise UserError(
            f"{WHAT}: no image in {_names(empty)} of {train}; add images that Pillow reads, or"
            " remove the folder"
        )
    classes = sort_classes(list(found))
    absent = [name for name in classes if name not in held_out]
    if strange := sort_classes(list(held_out.keys() - found.keys())):
        lacks = f" (and lacks {_names(absent)})" if absent else ""
        raise UserError(
            f"{WHAT}: {test.name} has {_names(strange)}, which train has not{lacks}; the class"
            " folders of both must have the same names"
        )
    if not held_out:
        raise UserError(f"{WHAT}: no image in the class folders of {test}")
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


def _files(found: dict[str, list[str]], classes: list[str]) -> Files:
    paths, labels = [], []
    for label, name in enumerate(classes):
        paths += found.get(name, [])
        labels += [label] * len(found.get(name, []))
    return Files(paths, np.array(labels, np.int64))


class _Decoding:
    """The decoded images of some paths, as a torch data set; picklable for workers."""

    def __init__(self, paths: list[str], side: int, fit: str):
        self.paths, self.side, self.fit = paths, side, fit

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Decoded:
        return decode(self.paths[i], self.side, self.fit)


class Reader:
    """Decodes the images of both halves into uint8, those of more than 8 bits by one range.

    ``tally`` counts what was done to them.
    """

    def __init__(self, root: Path, side: int, fit: str, workers: int, tally: Tally):
        self.root, self.side, self.fit, self.workers = root, side, fit, workers
        self.tally, self.unreadable = tally, Tally()
        self.deep: dict[bool, list[tuple[np.ndarray, str, tuple, np.ndarray]]] = {}

    def read(self, paths: list[str]) -> np.ndarray:
        """uint8 images (n, side, side, 3); those of more than 8 bits are filled in by
        :meth:`finish`.
        """
        images = np.empty((len(paths), self.side, self.side, 3), np.uint8)
        with warnings.catch_warnings():  # torch's, of more workers than cores
            warnings.simplefilter("ignore")
            for i, image in enumerate(self._decoded(paths)):
                self._take(images[i], os.path.relpath(paths[i], self.root), image)
        return images

    def _decoded(self, paths: list[str]) -> Iterator[Decoded]:
        """The images one by one; a batch is a message between processes."""
        from torch.utils.data import DataLoader

        batches = DataLoader(
            _Decoding(paths, self.side, self.fit),
            batch_size=8,
            num_workers=self.workers,
            collate_fn=list,
        )
        for batch in batches:
            yield from batch

    def _take(self, place: np.ndarray, name: str, image: Decoded) -> None:
        if image.error:
            self.unreadable.add(image.error, name)
            return
        for note in image.notes:
            self.tally.add(note, name)
        if image.extremes is None:
            place[:] = image.pixels
        else:
            found = self.deep.setdefault(image.integers, [])
            found.append((place, name, image.extremes, image.pixels))

    def finish(self) -> list[str]:
        """Scale the images of more than 8 bits; lines that say so.

        Raises:
            UserError: images that could not be read.
        """
        if self.unreadable.counts:
            raise UserError(self._refusal())
        lines = []
        for integers, images in self.deep.items():
            lowest = min(extremes[0] for *_, extremes, _ in images)
            highest = max(extremes[1] for *_, extremes, _ in images)
            low, high = range_of(lowest, highest, integers=integers)
            for place, _, _, values in images:
                place[:] = scale(values, low, high)[..., None]
            kind = "16 or 32 bits" if integers else "floats"
            lines.append(
                f"images of {kind} with values from {lowest:.6g} to {highest:.6g}, scaled so that"
                f" {shown(low, high)}: {len(images)}, the first {images[0][1]}"
            )
        return lines

    def _refusal(self) -> str:
        reason, first = next(iter(self.unreadable.firsts.items()))
        count = sum(self.unreadable.counts.values())
        return (
            f"{WHAT}: {count} image{'s' if count > 1 else ''} cannot be read, the first"
            f" {self.root / first}: {reason}; repair or remove"
        )
