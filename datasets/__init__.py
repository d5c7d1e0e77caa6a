"""DATASETS: every ``--dataset``, read into memory as an :class:`ImageSet`."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from datasets import sources
from datasets.copies import copies_line, image_hashes
from datasets.image_files import FITS
from runtime.files import hash_arrays
from utils import UserError


@dataclasses.dataclass(frozen=True)
class Spec:
    """How a data set is read and augmented.

    ``load(data, reading)`` returns x_train, y_train, x_test, y_test and optionally classes,
    files and notes; see :class:`ImageSet`. ``mean`` and ``std`` are of pixels in [0, 1]; None
    computes them from the training images. ``crop`` is the zero padding of the random crop in
    pixels; None is an eighth of the image's side.
    """

    load: Callable[[Path, sources.Reading], sources.Arrays]
    num_classes: int | None = None
    image_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    crop: int | None = 4
    flip: bool = True


MOST_NAMES = 12  # that a line lists
BLOCK = 2**20  # pixel values that are looked at together
FASHION = {"num_classes": 10, "image_size": 28, "mean": (0.2860,) * 3, "std": (0.3530,) * 3}

DATASETS = {
    "cifar10": Spec(sources.cifar10, 10, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Spec(sources.cifar100, 100, 32, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    # The reference trains SVHN without augmentation and normalises with these values.
    "svhn": Spec(
        sources.svhn, 10, 32, (0.4377, 0.4438, 0.4728), (0.1201, 0.1231, 0.1052), crop=0, flip=False
    ),
    "fashion_mnist": Spec(sources.fashion_mnist, crop=2, **FASHION),
    # Without augmentation a demo's few epochs memorise the 5,000 images.
    "fashion_mini": Spec(sources.fashion_mini, crop=0, flip=False, **FASHION),
    "digits": Spec(sources.digits, 10, 8, (0.3053,) * 3, (0.3760,) * 3, crop=1, flip=False),
    "npz": Spec(sources.npz, crop=None),
    "folder": Spec(sources.folder, crop=None),
}


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A data set in memory: images (n, side, side, 3) uint8, labels (n,) int64; :class:`Spec`.

    ``files`` are the training images' names below --data, for a folder of images; ``notes`` lines
    that say what was skipped, converted or assumed when it was read.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: int
    flip: bool
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_size(self) -> int:
        return self.x_train.shape[1]

    @functools.cached_property
    def train_hashes(self) -> np.ndarray:
        """A hash of each training image, (n,) uint64; equal for exact copies."""
        return image_hashes(self.x_train)

    def class_line(self) -> str | None:
        """The names of the classes by their index, of many the first and the last; None where the
        names are the indices.
        """
        shown = [f"{i} {name}" for i, name in enumerate(self.classes)]
        if self.classes == tuple(map(str, range(self.num_classes))):
            return None
        if len(shown) > MOST_NAMES:
            shown[MOST_NAMES - 1 : -1] = ["..."]
        return f"classes: {', '.join(shown)}"

    def sha256(self) -> str:
        """A hash of the training images and labels, in order: the identity of the indices."""
        return hash_arrays({"x_train": self.x_train, "y_train": self.y_train})

    def lines(self) -> list[str]:
        """What a step prints of it: classes, notes, exact copies."""
        copies = copies_line(self.train_hashes, image_hashes(self.x_test))
        return [line for line in (self.class_line(), *self.notes, copies) if line]

    def test_sha256(self) -> str:
        """A hash of the test images and labels, in order."""
        return hash_arrays({"x_test": self.x_test, "y_test": self.y_test})


def load_dataset(
    name: str,
    data: str | Path,
    *,
    input_size: int | None = None,
    workers: int = 0,
    fit: str | None = None,
) -> ImageSet:
    """Read one data set into memory.

    Args:
        name: a key of :data:`DATASETS`.
        data: the folder (or, for ``npz``, the file) that holds it; downloads go there too.
        input_size: resize to this side; None keeps the set's own (a folder of images has none: 32).
        workers: processes that decode a folder of images.
        fit: what makes images square, a key of :data:`datasets.image_files.FITS`; None crops those
            of a folder, and squashes arrays.

    Raises:
        UserError: files are missing, or labels and images do not fit together.
    """
    spec = DATASETS[name]
    if fit not in (None, *FITS):
        raise UserError(f"fit {fit!r}: allowed {', '.join(FITS)}")
    arrays = spec.load(Path(data), sources.Reading(input_size, workers, fit))
    notes = list(arrays.get("notes", ()))
    images, labels = {}, {}
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        images[f"x_{split}"] = sources.as_rgb(x, f"{name} x_{split}", input_size, fit)
        labels[f"y_{split}"] = np.asarray(y).reshape(-1).astype(np.int64)
    classes = _class_names(arrays, labels)
    _check(name, images, labels, len(classes))
    mean, std = (spec.mean, spec.std) if spec.mean else _statistics(images["x_train"])
    crop = images["x_train"].shape[1] // 8 if spec.crop is None else spec.crop
    if spec.num_classes is None:
        notes += _single_coloured(images)
    notes = tuple(f"{name}: {note}" for note in notes)
    of_set = {"classes": classes, "mean": mean, "std": std, "crop": crop, "flip": spec.flip}
    of_set |= {"files": tuple(arrays.get("files", ())), "notes": notes}
    return ImageSet(name, **images, **labels, **of_set)


def _single_coloured(images: dict[str, np.ndarray]) -> list[str]:
    """A line where all pixels of an image are alike, as they are where reading has gone wrong."""
    counts = {}
    for name, x in images.items():
        counts[name] = sum(_is_flat(image) for image in x)
    if not sum(counts.values()):
        return []
    said = " and ".join(f"{count} of {len(images[name])}" for name, count in counts.items())
    return [f"images of a single colour: {said} (train, test); look at them"]


def _is_flat(image: np.ndarray) -> bool:
    first = image[0, 0]
    return bool((image[0] == first).all() and (image == first).all())


def _class_names(arrays: dict, labels: dict[str, np.ndarray]) -> tuple[str, ...]:
    if "classes" in arrays:
        names = tuple(str(name) for name in np.ravel(arrays["classes"]))
        _check_names(names, labels["y_train"])
        return names
    highest = max((int(y.max()) for y in labels.values() if len(y)), default=-1)
    # A huge label makes no huge list: each class needs a training image, else it is refused.
    highest = min(highest, len(labels["y_train"]))
    return tuple(str(c) for c in range(highest + 1))


def _check_names(names: tuple[str, ...], labels: np.ndarray) -> None:
    """Refuse names that are not one for each class, or that two classes share."""
    found = np.unique(labels)
    if len(found) and (found[0] < 0 or len(names) != found[-1] + 1):
        raise UserError(
            f"classes holds {len(names)} names, the training labels run from {found[0]} to"
            f" {found[-1]}; give one name for each label from 0 on"
        )
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two classes are called {repeated[0]!r}; give each a name of its own")


def _check(name: str, images: dict, labels: dict, num_classes: int) -> None:
    for split in ("train", "test"):
        x, y = images[f"x_{split}"], labels[f"y_{split}"]
        if len(x) != len(y) or not len(x):
            raise UserError(
                f"data set {name}: {len(x)} {split} images but {len(y)} labels; both must be equal"
                " and not zero"
            )
        if y.min() < 0 or y.max() >= num_classes:
            raise UserError(
                f"data set {name}: {split} labels run from {y.min()} to {y.max()}, allowed 0 to"
                f" {num_classes - 1}; number the classes from 0:"
                " numpy.unique(y_train, return_inverse=True)[1]"
            )
    if images["x_train"].shape[1:] != images["x_test"].shape[1:]:
        raise UserError(
            f"data set {name}: training and test images differ in size; add --input_size"
        )
    if num_classes < 2:
        raise UserError(f"data set {name}: {num_classes} class, a classifier needs at least 2")
    missing = np.setdiff1d(np.arange(num_classes), labels["y_train"])
    if len(missing):
        raise UserError(
            f"data set {name}: classes without a training image: {missing.tolist()[:10]} of"
            f" {num_classes}"
        )


def _statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels in [0, 1], from counts of each value."""
    counts = np.zeros((3, 256), np.int64)
    for block in np.array_split(images, max(1, images.size // BLOCK)):
        for c in range(3):
            counts[c] += np.bincount(block[..., c].ravel(), minlength=256)
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 1e-12))
    return tuple(mean.round(4).tolist()), tuple(np.maximum(std, 1e-3).round(4).tolist())
