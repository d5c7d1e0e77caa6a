"""DATASETS: every ``--dataset``, read as an :class:`ImageSet`."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from datasets import from_torchvision, layouts, sources
from datasets.cache import read_images
from datasets.copies import copies_line, image_hashes
from datasets.decoding import HALVES, Listing
from datasets.facts import flat_notes, single_coloured, statistics
from datasets.image_files import FITS
from datasets.resized_crop import held_side
from runtime.files import hash_arrays
from utils import UserError


@dataclasses.dataclass(frozen=True)
class Spec:
    """How a data set is read and augmented.

    ``load(data, reading)`` returns x_train, y_train, x_test, y_test and optionally classes,
    files and notes; see :class:`ImageSet`. Of image files it returns a
    :class:`datasets.decoding.Listing`. ``mean`` and ``std`` are of pixels in [0, 1]; None
    computes them from the training images. ``crop`` is the zero padding of the random crop in
    pixels; None is an eighth of the image's side. ``files`` says that the images are files, which
    may be held larger than the model sees them, and ``augment`` how they are augmented unless
    asked otherwise, one of :data:`AUGMENTATIONS`. ``data_dir`` says that the reference's flag of
    this name takes the place of --data where that is not typed.
    """

    load: Callable[[Path, sources.Reading], sources.Arrays | Listing]
    num_classes: int | None = None
    image_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    crop: int | None = 4
    flip: bool = True
    files: bool = False
    augment: str = "crop"
    data_dir: bool = False


MOST_NAMES = 12  # that a line lists
AUGMENTATIONS = ("crop", "resized_crop")  # windows of the padded image; resized parts
FASHION = {"num_classes": 10, "image_size": 28, "mean": (0.2860,) * 3, "std": (0.3530,) * 3}

DATASETS = {
    "cifar10": Spec(sources.cifar10, 10, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Spec(sources.cifar100, 100, 32, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "cifar20": Spec(sources.cifar20, 20, 32, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    # The reference trains SVHN without augmentation and normalises with these values.
    "svhn": Spec(
        sources.svhn, 10, 32, (0.4377, 0.4438, 0.4728), (0.1201, 0.1231, 0.1052), crop=0, flip=False
    ),
    "fashion_mnist": Spec(sources.fashion_mnist, crop=2, **FASHION),
    # Without augmentation a demo's few epochs memorise the 5,000 images.
    "fashion_mini": Spec(sources.fashion_mini, crop=0, flip=False, **FASHION),
    "digits": Spec(sources.digits, 10, 8, (0.3053,) * 3, (0.3760,) * 3, crop=1, flip=False),
    "npz": Spec(sources.npz, crop=None),
    "folder": Spec(layouts.folder, image_size=32, crop=None, files=True),
    "tiny_imagenet": Spec(
        layouts.tiny_imagenet, image_size=64, crop=None, files=True, data_dir=True
    ),
    # torchvision's statistics of ImageNet, which its weights are normalised by.
    "imagenet": Spec(
        layouts.imagenet,
        image_size=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        crop=None,
        files=True,
        augment="resized_crop",
    ),
} | {
    from_torchvision.PREFIX + name: Spec(
        from_torchvision.reader(name),
        image_size=224 if known.files else None,
        crop=None,
        flip=known.flip,
        files=known.files,
    )
    for name, known in from_torchvision.KNOWN.items()
}


ALIASES = {"tinyimagenet": "tiny_imagenet"}  # the reference's name, in any case


def dataset_key(name: str) -> str:
    """The key of :data:`DATASETS` that ``name`` means, in any case; an unknown name as it is."""
    known = {key.lower(): key for key in DATASETS} | ALIASES
    return known.get(name.lower(), name)


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A data set: images (n, side, side, 3) uint8, in memory or memory-mapped, labels (n,) int64;
    :class:`Spec`.

    ``files`` are the training images' names below --data, for a folder of images; ``notes`` lines
    that say what was skipped, converted or assumed when it was read. Where ``side`` is given the
    model sees images of that side: resized crops in training, else the middle.
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
    side: int | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def image_size(self) -> int:
        """The side of the images that the model sees."""
        return self.side or self.x_train.shape[1]

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

    @functools.cached_property
    def test_hashes(self) -> np.ndarray:
        """:attr:`train_hashes` of the test images."""
        return image_hashes(self.x_test)

    @functools.cached_property
    def _sha256(self) -> str:
        return hash_arrays({"x_train": self.x_train, "y_train": self.y_train})

    @functools.cached_property
    def _test_sha256(self) -> str:
        return hash_arrays({"x_test": self.x_test, "y_test": self.y_test})

    def sha256(self) -> str:
        """A hash of the training images and labels, in order: the identity of the indices."""
        return self._sha256

    def test_sha256(self) -> str:
        """A hash of the test images and labels, in order."""
        return self._test_sha256

    def lines(self) -> list[str]:
        """What a step prints of it: classes, notes, exact copies."""
        copies = copies_line(self.train_hashes, self.test_hashes)
        return [line for line in (self.class_line(), *self.notes, copies) if line]

    def take_facts(self, facts: dict[str, dict]) -> None:
        """Take hashes that are known, by half as :func:`datasets.facts.half_facts` has them, so
        that they are not computed. They are of these arrays: a copy with others has none.
        """
        train, test = facts["train"], facts["test"]
        vars(self).update(train_hashes=train["hashes"], test_hashes=test["hashes"])
        vars(self).update(_sha256=train["sha256"], _test_sha256=test["sha256"])


def load_dataset(
    name: str,
    data: str | Path,
    *,
    input_size: int | None = None,
    workers: int = 0,
    fit: str | None = None,
    cache: str | None = None,
    augment: str | None = None,
) -> ImageSet:
    """Read one data set: arrays into memory, image files as memory maps of the cache.

    Args:
        name: a key of :data:`DATASETS`.
        data: the folder (or, for ``npz``, the file) that holds it; downloads go there too.
        input_size: the side that the model sees; None keeps the set's own (of a folder 32).
        workers: processes that decode image files.
        fit: what makes images square, a key of :data:`datasets.image_files.FITS`; None crops those
            of a folder, and squashes arrays.
        cache: where decoded image files are kept; see :func:`datasets.cache.read_images`.
        augment: one of :data:`AUGMENTATIONS`; None is the data set's own.

    Raises:
        UserError: files are missing, or labels and images do not fit together.
    """
    spec = DATASETS[name := dataset_key(name)]
    if fit not in (None, *FITS):
        raise UserError(f"fit {fit!r}: allowed {', '.join(FITS)}")
    side, held = _sides(name, augment, input_size)
    arrays = spec.load(Path(data), sources.Reading(held, workers, fit, cache))
    if isinstance(arrays, Listing):
        arrays = _listed(name, arrays, cache, workers)
        images = {x: arrays[x] for x in ("x_train", "x_test")}
    else:
        images = sources.rgb_halves(arrays, name, held, fit)
    labels = {y: np.asarray(arrays[y]).reshape(-1).astype(np.int64) for y in ("y_train", "y_test")}
    classes, facts = _class_names(arrays, labels), arrays.get("facts", {})
    _check(name, images, labels, len(classes))
    mean, std = (spec.mean, spec.std) if spec.mean else _statistics(images["x_train"], facts)
    crop = images["x_train"].shape[1] // 8 if spec.crop is None else spec.crop
    notes = list(arrays.get("notes", ()))
    if side is not None:
        crop = 0
        notes.append(
            f"resized crops: images are held at {held} pixels; training sees parts of them resized"
            f" to {side}, test and validation their middle of {side}"
        )
    if spec.num_classes is None:
        notes += _single_coloured(images, facts)
    notes = tuple(f"{name}: {note}" for note in notes)
    of_set = {"classes": classes, "mean": mean, "std": std, "crop": crop, "flip": spec.flip}
    of_set |= {"files": tuple(arrays.get("files", ())), "notes": notes, "side": side}
    image_set = ImageSet(name, **images, **labels, **of_set)
    if facts:
        image_set.take_facts(facts)
    return image_set


def check_augment(name: str, augment: str | None) -> None:
    """Refuse an unknown way to augment, and resized crops of a data set of arrays."""
    if augment not in (None, *AUGMENTATIONS):
        raise UserError(f"augment {augment!r}: allowed {', '.join(AUGMENTATIONS)}")
    if augment == "resized_crop" and not DATASETS[name].files:
        files = [key for key, spec in DATASETS.items() if spec.files]
        raise UserError(
            f"--augment resized_crop is of image files, {name} is arrays; allowed with"
            f" {', '.join(files[:3])} and other sets of files, or drop it"
        )


def _sides(name: str, augment: str | None, input_size: int | None) -> tuple[int | None, int | None]:
    """:attr:`ImageSet.side`, and the side that images are resized to; None keeps their own."""
    check_augment(name, augment)
    spec = DATASETS[name]
    if (augment or spec.augment) != "resized_crop":
        return None, input_size
    side = input_size or spec.image_size
    return side, held_side(side)


def _listed(name: str, listing: Listing, cache: str | None, workers: int) -> dict[str, object]:
    """The arrays of image files, decoded where the cache lacks them."""
    labels = {f"y_{half}": getattr(listing, half).labels for half in HALVES}
    _check_labels(name, labels, len(listing.classes))  # before hours of decoding
    read = read_images(name, listing, cache, workers)
    return read | labels | {"classes": listing.classes, "files": listing.names("train")}


def _statistics(images: np.ndarray, facts: dict) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not facts:
        return statistics(images)
    mean, std = facts["train"]["statistics"]
    return tuple(mean), tuple(std)


def _single_coloured(images: dict[str, np.ndarray], facts: dict) -> list[str]:
    sizes = {half: len(images[f"x_{half}"]) for half in HALVES}
    if facts:
        return flat_notes({half: facts[half]["flat"] for half in HALVES}, sizes)
    return flat_notes({half: single_coloured(images[f"x_{half}"]) for half in HALVES}, sizes)


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
    _check_labels(name, labels, num_classes)
    if images["x_train"].shape[1:] != images["x_test"].shape[1:]:
        raise UserError(
            f"data set {name}: training and test images differ in size; add --input_size"
        )


def _check_labels(name: str, labels: dict[str, np.ndarray], num_classes: int) -> None:
    for split in HALVES:
        y = labels[f"y_{split}"]
        if len(y) and (y.min() < 0 or y.max() >= num_classes):
            raise UserError(
                f"data set {name}: {split} labels run from {y.min()} to {y.max()}, allowed 0 to"
                f" {num_classes - 1}; number the classes from 0:"
                " numpy.unique(y_train, return_inverse=True)[1]"
            )
    if num_classes < 2:
        raise UserError(f"data set {name}: {num_classes} class, a classifier needs at least 2")
    missing = np.setdiff1d(np.arange(num_classes), labels["y_train"])
    if len(missing):
        raise UserError(
            f"data set {name}: classes without a training image: {missing.tolist()[:10]} of"
            f" {num_classes}"
        )
