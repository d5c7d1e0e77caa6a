"""``torchvision:NAME``: torchvision's other labelled image sets that come in two halves."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.decoding import Listing
from datasets.folders import Files, Tally
from datasets.sources import (
    TRAIN_TEST,
    Arrays,
    Reading,
    torchvision_arrays,
    torchvision_halves,
)
from utils import UserError

SPLITS = ({"split": "train"}, {"split": "test"})
TRAINVAL_TEST = ({"split": "trainval"}, {"split": "test"})
TRAIN_VAL = ({"split": "train"}, {"split": "val"})
PREFIX = "torchvision:"


class Known(NamedTuple):
    """torchvision's arguments for the two halves, whether they are image files (else arrays), and
    whether a mirrored image still shows its class.
    """

    halves: tuple[dict, dict]
    files: bool = True
    flip: bool = True


KNOWN = {
    "MNIST": Known(TRAIN_TEST, files=False, flip=False),
    "KMNIST": Known(TRAIN_TEST, files=False, flip=False),
    "USPS": Known(TRAIN_TEST, files=False, flip=False),
    "STL10": Known(SPLITS, files=False),
    "Country211": Known(SPLITS),
    "DTD": Known(SPLITS),
    "FGVCAircraft": Known(TRAINVAL_TEST),
    "Flowers102": Known(SPLITS),
    "Food101": Known(SPLITS),
    "GTSRB": Known(SPLITS, flip=False),
    "Imagenette": Known(TRAIN_VAL),
    "OxfordIIITPet": Known(TRAINVAL_TEST),
    "RenderedSST2": Known(SPLITS, flip=False),
    "StanfordCars": Known(SPLITS),
}


def reader(name: str) -> Callable[[Path, Reading], Arrays | Listing]:
    """What reads ``torchvision:NAME``: arrays, or a listing of image files."""
    return functools.partial(_listing if KNOWN[name].files else _arrays, name)


def _arrays(name: str, data: Path, reading: Reading) -> Arrays:
    return torchvision_arrays(name, data, _files_of(name), KNOWN[name].halves)


def _files_of(name: str) -> str:
    return f"what torchvision.datasets.{name} reads"


def _listing(name: str, data: Path, reading: Reading) -> Listing:
    halves = torchvision_halves(name, data, _files_of(name), KNOWN[name].halves)
    train, test = (_listed(half, name) for half in halves)
    classes = _classes(halves[0], train)
    side, fit = reading.input_size or 224, reading.fit or "crop"
    what = f"--dataset {PREFIX}{name}"
    return Listing(what, data, classes, train, test, [], Tally(what), side, fit)


def _listed(half: object, name: str) -> Files:
    """Paths and labels, under whichever of its names torchvision keeps them."""
    for images in ("_image_files", "_images"):
        if hasattr(half, images) and hasattr(half, "_labels"):
            paths, labels = getattr(half, images), half._labels
            return Files(list(map(str, paths)), np.asarray(labels, np.int64))
    for pairs in ("_samples", "samples"):
        if hasattr(half, pairs):
            paths, labels = zip(*getattr(half, pairs), strict=True)
            return Files(list(map(str, paths)), np.asarray(labels, np.int64))
    raise UserError(f"{PREFIX}{name}: this version of torchvision keeps its files elsewhere")


def _classes(half: object, train: Files) -> list[str]:
    names = getattr(half, "classes", None)
    if names is None:
        return [str(c) for c in range(int(train.labels.max()) + 1)]
    return [name if isinstance(name, str) else name[0] for name in names]
