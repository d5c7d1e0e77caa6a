"""Listed image files -> uint8 pixels, decoded by several processes, in the order of the list."""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from datasets.facts import HalfFacts, ImageFacts, half_facts
from datasets.folders import Files, Tally
from datasets.image_files import Decoded, Member, decode
from datasets.pixel_range import range_of, scale, shown
from runtime.signals import end_with, hold_signals
from utils import RunFailed, UserError

HALVES = ("train", "test")
BATCH = 32  # images of a message between processes; their pixels are in files
BATCH_OF_PIXELS = 8
AHEAD = 6  # messages of a worker that may wait while this process flushes files


class Listing(NamedTuple):
    """The image files of a data set, not yet decoded.

    ``lines`` and ``tally`` hold what is to be said of the files' names; images become squares of
    ``side`` as ``fit`` says. ``what`` is what messages begin with, ``root`` the folder that file
    names are given below.
    """

    what: str
    root: Path
    classes: list[str]
    train: Files
    test: Files
    lines: list[str]
    tally: Tally
    side: int
    fit: str

    def names(self, half: str) -> list[str]:
        """File names below ``root``, with slashes."""
        files = getattr(self, half).paths
        return [shown_name(path, self.root).replace(os.sep, "/") for path in files]

    def paths(self) -> list[str | Member]:
        """All files, those of train first."""
        return [*self.train.paths, *self.test.paths]

    def count(self) -> int:
        return len(self.train.paths) + len(self.test.paths)

    def pixels(self) -> int:
        """Bytes of all pixels."""
        return self.count() * self.side**2 * 3


def shown_name(path: str | Member, root: Path) -> str:
    if isinstance(path, Member):
        return path.name
    above = os.path.join(root, "")
    return path.removeprefix(above) if path.startswith(above) else os.path.relpath(path, root)


class ImageFile(NamedTuple):
    """A file of equally large images, of which the first is at byte ``offset``."""

    path: str
    offset: int
    images: int


class _Decoding:
    """The decoded images of a listing from ``begin`` on, as a torch data set for workers.

    Args:
        files: of each half. Images of 8 bits are written there by the process that decodes them,
            and no pixels travel between processes; none returns them.
    """

    def __init__(self, listing: Listing, begin: int, files: list[ImageFile]):
        self.paths = listing.paths()[begin:]
        self.side, self.fit = listing.side, listing.fit
        self.begin, self.files, self.handles = begin, files, []

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Decoded:
        image = decode(self.paths[i], self.side, self.fit)
        if not self.files or image.facts is None:
            return image
        self._write(self.begin + i, image.pixels)
        return image._replace(pixels=None)

    def _write(self, number: int, pixels: np.ndarray) -> None:
        if not self.handles:  # each process opens the files for itself
            self.handles = [open(file.path, "r+b") for file in self.files]  # noqa: SIM115
        half, number = place([file.images for file in self.files], number)
        self.handles[half].seek(self.files[half].offset + number * pixels.nbytes)
        self.handles[half].write(pixels.data)
        self.handles[half].flush()


def _end_with(parent: int, _: int) -> None:
    """Let a decoding process end when its command is killed: it may wait for a reader for ever."""
    end_with(parent)


@contextlib.contextmanager
def killed_workers_said() -> Iterator[None]:
    """Turn torch's error of a decoding process that was killed, which may be raised anywhere in the
    block, into a :class:`RunFailed`.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise RunFailed(
            "a process that decodes images was killed, as the system does when memory runs out; run"
            " the command again, with fewer --workers where memory is short"
        ) from None


def place(sizes: Sequence[int], number: int) -> tuple[int, int]:
    """The half of an image, 0 or 1, and its place there, counted through train and test."""
    return (0, number) if number < sizes[0] else (1, number - sizes[0])


class Decoder:
    """Decodes the images of both halves into ``images``, those of more than 8 bits by one range.

    These wait as float32 in ``deep`` until all are read. :meth:`state` is all that another process
    needs to go on.

    Args:
        images: {"train": uint8 (n, side, side, 3), "test": ...} to be filled: in memory, or maps of
            files, which the decoding processes write.
        deep: a file, open for reading and writing.
    """

    def __init__(self, listing: Listing, images: dict[str, np.ndarray], deep: BinaryIO):
        self.listing, self.images, self.deep = listing, images, deep
        self.gathering = self._new_facts()
        self.tally, self.unreadable = Tally(), Tally()
        self.done, self.waiting = 0, []  # waiting: [place, lowest, highest, whether integers]

    def state(self) -> dict:
        """Plain values: how many images are done, and what was noted of them."""
        return {
            "done": self.done,
            "waiting": self.waiting,
            "tally": [self.tally.counts, self.tally.firsts],
            "unreadable": [self.unreadable.counts, self.unreadable.firsts],
        }

    def restore(self, state: dict) -> None:
        """Go on from :meth:`state`; raises what odd contents raise."""
        self.done, self.waiting = int(state["done"]), list(state["waiting"])
        for name in ("tally", "unreadable"):
            tally = getattr(self, name)
            tally.counts, tally.firsts = map(dict, state[name])
        self.deep.truncate(len(self.waiting) * self._deep_bytes())
        if self.done:
            self.gathering = None

    def _new_facts(self) -> list[HalfFacts]:
        return [HalfFacts(half, self.images[half], self._labels(half)) for half in HALVES]

    def _labels(self, half: str) -> np.ndarray:
        return getattr(self.listing, half).labels

    def facts(self) -> dict[str, dict[str, object]]:
        """Of each half what :func:`datasets.facts.half_facts` returns, once :meth:`finish` is done:
        gathered while decoding, or by a pass over all images where some were not done in order.
        """
        if self.gathering:
            return {facts.half: facts.found() for facts in self.gathering}
        return {half: half_facts(half, self.images[half], self._labels(half)) for half in HALVES}

    def run(self, workers: int) -> Iterator[int]:
        """Decode what is left; yields the number of images that are done, after each."""
        paths = self.listing.paths()[self.done :]
        bar = {"total": self.listing.count(), "initial": self.done, "unit": "image"}
        with warnings.catch_warnings(), tqdm(desc="decoding", disable=None, **bar) as progress:
            warnings.simplefilter("ignore")  # torch's, of more workers than cores
            for path, image in zip(paths, self._decoded(workers), strict=True):
                self._take(path, image)
                self.done += 1
                progress.update()
                yield self.done

    def _decoded(self, workers: int) -> Iterator[Decoded]:
        """The images one by one; a batch is a message between processes."""
        from torch.utils.data import DataLoader

        files = [
            ImageFile(str(half.filename), half.offset, len(half))
            for half in self.images.values()
            if isinstance(half, np.memmap)
        ]
        decoding = _Decoding(self.listing, self.done, files)
        batch = BATCH if files else BATCH_OF_PIXELS
        workers = min(workers, -(-len(decoding) // batch))
        ahead = AHEAD if workers else None
        options = {"collate_fn": list, "worker_init_fn": functools.partial(_end_with, os.getpid())}
        loader = DataLoader(decoding, batch, num_workers=workers, prefetch_factor=ahead, **options)
        with hold_signals():  # Python ignores what a signal raises while a process forks
            batches = iter(loader)
        for images in batches:
            yield from images

    def _take(self, path: str | Member, image: Decoded) -> None:
        for note in image.notes:
            self.tally.add(note, self._shown(path))
        if image.error:
            self.unreadable.add(image.error, self._shown(path))
        elif image.facts is not None:
            if image.pixels is not None:
                self._room(self.done)[:] = image.pixels
            self._gather(image.facts)
        else:
            self.deep.seek(len(self.waiting) * self._deep_bytes())
            self.deep.write(image.pixels.tobytes())
            self.waiting.append([self.done, *image.extremes, image.integers])
            self.gathering = None  # its pixels are known when all are read

    def _shown(self, path: str | Member) -> str:
        return shown_name(path, self.listing.root)

    def _room(self, number: int) -> np.ndarray:
        half, number = self._place(number)
        return self.images[HALVES[half]][number]

    def _gather(self, facts: ImageFacts) -> None:
        if self.gathering:
            half, _ = self._place(self.done)
            self.gathering[half].add(facts)

    def _place(self, number: int) -> tuple[int, int]:
        return place([len(half) for half in self.images.values()], number)

    def _deep_bytes(self) -> int:
        return self.listing.side**2 * 4

    def finish(self) -> list[str]:
        """Scale the images of more than 8 bits; lines that say so, and what was done to others.

        Raises:
            UserError: images that could not be read.
        """
        if self.unreadable.counts:
            raise UserError(self._refusal())
        lines = []
        for integers in dict.fromkeys(entry[3] for entry in self.waiting):
            lines.append(self._scale(integers))
        return lines

    def _scale(self, integers: bool) -> str:
        chosen = [(i, e) for i, e in enumerate(self.waiting) if e[3] == integers]
        lowest, highest = min(e[1] for _, e in chosen), max(e[2] for _, e in chosen)
        low, high = range_of(lowest, highest, integers=integers)
        side, names = self.listing.side, [*self.listing.names("train"), *self.listing.names("test")]
        for i, (number, *_) in chosen:
            self.deep.seek(i * self._deep_bytes())
            values = np.frombuffer(self.deep.read(self._deep_bytes()), np.float32)
            self._room(number)[:] = scale(values.reshape(side, side), low, high)[..., None]
        kind = "16 or 32 bits" if integers else "floats"
        return (
            f"images of {kind} with values from {lowest:.6g} to {highest:.6g}, scaled so that"
            f" {shown(low, high)}: {len(chosen)}, the first {names[chosen[0][1][0]]}"
        )

    def _refusal(self) -> str:
        reason, first = next(iter(self.unreadable.firsts.items()))
        count = sum(self.unreadable.counts.values())
        return (
            f"{self.listing.what}: {count} image{'s' if count > 1 else ''} cannot be read, the"
            f" first {self.listing.root / first}: {reason}; repair or remove"
        )
