"""Reading each data set: functions ``(data, reading) -> arrays``."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.image_files import FITS
from datasets.npz import IMAGES, SPLITS, read_npz
from datasets.parts import Parts, pack, parts_of
from runtime.file_checks import available_memory
from utils import UserError

# Images and labels by the names in SPLITS; maybe classes, files and notes.
Arrays = dict[str, object]
TRAIN_TEST = ({"train": True}, {"train": False})  # torchvision's arguments for the two halves
# CIFAR-100's super-classes and the classes in each, as https://www.cs.toronto.edu/~kriz/cifar.html
# lists them, by the names in the data set's files.
SUPER_CLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}


class Reading(NamedTuple):
    """How image files are decoded: the side of their squares (None: the data set's own), what makes
    them square (a key of :data:`datasets.image_files.FITS`; None: crop), by how many processes, and
    where they are kept (see :func:`datasets.cache.read_images`).
    """

    input_size: int | None = None
    workers: int = 0
    fit: str | None = None
    cache: str | None = None


def _arrays(*halves: tuple[np.ndarray, np.ndarray]) -> Arrays:
    """The images and labels of both halves by the names in :data:`SPLITS`."""
    return dict(zip(SPLITS, itertools.chain(*halves), strict=True))


def torchvision_halves(name: str, data: Path, files: str, halves: tuple[dict, dict]) -> list:
    """Both halves of a torchvision data set, downloaded if missing; else asks for ``files``."""
    from torchvision import datasets as tv

    kind = getattr(tv, name)

    def read(options: dict) -> object:
        try:
            return kind(str(data), download=False, **options)
        except RuntimeError:
            return kind(str(data), download=True, **options)

    try:
        return [read(options) for options in halves]
    except Exception as error:  # no network, a proxy's error page, a damaged archive
        raise UserError(
            f"{name} is not under --data {data} and could not be downloaded"
            f" ({type(error).__name__}); put {files} there"
        ) from None


def torchvision_arrays(name: str, data: Path, files: str, halves: tuple[dict, dict]) -> Arrays:
    """The arrays of :func:`torchvision_halves`.

    ``classes`` are the names that its files or torchvision give, if any.
    """
    train, test = torchvision_halves(name, data, files, halves)
    labels = [half.targets if hasattr(half, "targets") else half.labels for half in (train, test)]
    pairs = [
        (pack(_channels_last(np.asarray(half.data))), np.asarray(y))
        for half, y in zip((train, test), labels, strict=True)
    ]
    named = {"classes": list(train.classes)} if hasattr(train, "classes") else {}
    return _arrays(*pairs) | named


def _channels_last(images: np.ndarray) -> np.ndarray:
    """SVHN and STL10 have their channels first."""
    if images.ndim == 4 and images.shape[1] == 3:
        return images.transpose(0, 2, 3, 1)
    return images


def cifar10(data: Path, reading: Reading) -> Arrays:
    """50,000 + 10,000 colour images, 32x32 (Krizhevsky 2009)."""
    files = "the folder cifar-10-batches-py or cifar-10-python.tar.gz"
    return torchvision_arrays("CIFAR10", data, files, TRAIN_TEST)


def cifar100(data: Path, reading: Reading) -> Arrays:
    """50,000 + 10,000 colour images, 32x32, fine labels (Krizhevsky 2009)."""
    files = "the folder cifar-100-python or cifar-100-python.tar.gz"
    return torchvision_arrays("CIFAR100", data, files, TRAIN_TEST)


def cifar20(data: Path, reading: Reading) -> Arrays:
    """CIFAR-100 under the labels of its 20 super-classes (Krizhevsky 2009)."""
    arrays = cifar100(data, reading)
    names = sorted(SUPER_CLASSES)
    of_fine = {fine: i for i, name in enumerate(names) for fine in SUPER_CLASSES[name].split()}
    table = np.array([of_fine[fine] for fine in arrays["classes"]])
    labels = {name: table[arrays[name]] for name in ("y_train", "y_test")}
    return arrays | labels | {"classes": names}


def svhn(data: Path, reading: Reading) -> Arrays:
    """73,257 + 26,032 colour images, 32x32 (Netzer et al. 2011)."""
    halves = ({"split": "train"}, {"split": "test"})
    return torchvision_arrays("SVHN", data, "train_32x32.mat and test_32x32.mat", halves)


def fashion_mnist(data: Path, reading: Reading) -> Arrays:
    """60,000 + 10,000 grey images, 28x28 (Xiao et al. 2017)."""
    files = "FashionMNIST/raw with the four *-ubyte files"
    return torchvision_arrays("FashionMNIST", data, files, TRAIN_TEST)


def fashion_mini(data: Path, reading: Reading) -> Arrays:
    """The embedded 5,000 + 1,000 images of Fashion-MNIST, made by make_fashion_mini.py."""
    return read_npz(Path(__file__).with_name("fashion_mini.npz"))


def digits(data: Path, reading: Reading) -> Arrays:
    """scikit-learn's 1,797 grey 8x8 digits; every fifth is a test image (359), in file order."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    test = np.arange(len(labels)) % 5 == 4
    return _arrays((images[~test], labels[~test]), (images[test], labels[test]))


def npz(data: Path, reading: Reading) -> Arrays:
    """A user's arrays; see :func:`datasets.npz.read_npz`."""
    return read_npz(data)


def rgb_halves(arrays: Arrays, name: str, side: int | None, fit: str | None) -> Arrays:
    """``x_train`` and ``x_test``, taken out of ``arrays``, by :func:`as_rgb`, with memory for both
    checked before either is made.
    """
    whats = {half: f"{name} {half}" for half in IMAGES}
    for half, what in whats.items():
        _check_images(arrays[half], what, side)
    _check_memory([arrays[half] for half in IMAGES], name, side)
    return {half: as_rgb(arrays.pop(half), what, side, fit) for half, what in whats.items()}


def _check_memory(arrays: Sequence[np.ndarray | Parts], what: str, input_size: int | None) -> None:
    """Refuse images for which new memory is needed, and more than is free."""
    new = [images for images in arrays if not _is_rgb(images, input_size)]
    needed = sum(len(images) * (input_size or images.shape[1]) ** 2 * 3 for images in new)
    free = available_memory()
    if needed > free:
        resized = f" resized by --input_size {input_size}" if input_size else ""
        raise UserError(
            f"{what}: {sum(map(len, new))} images{resized} need {needed / 2**30:.2f} GiB,"
            f" {free / 2**30:.2f} of memory are free; give a smaller --input_size"
        )


def _is_rgb(images: np.ndarray | Parts, input_size: int | None) -> bool:
    """Whether images are in memory as they are wanted."""
    side = input_size or images.shape[1]
    in_memory = isinstance(images, np.ndarray) and images.flags.c_contiguous
    return in_memory and images.shape[1:] == (side, side, 3)


def _check_images(images: np.ndarray | Parts, what: str, input_size: int | None) -> None:
    """Refuse another dtype or shape, or images that are not square without ``input_size``."""
    shape = (*images.shape, 1) if images.ndim == 3 else images.shape
    fits = len(shape) == 4 and shape[-1] in (1, 3) and 0 not in shape[1:3]
    if images.dtype != np.uint8 or not fits:
        raise UserError(
            f"{what}: uint8 images of shape (n, h, w), (n, h, w, 1) or (n, h, w, 3) wanted, got"
            f" {images.dtype} {shape}"
        )
    if images.shape[1] != images.shape[2] and not input_size:
        raise UserError(
            f"{what}: images are {images.shape[1]}x{images.shape[2]}; add --input_size N to make"
            " them square"
        )


def as_rgb(
    images: np.ndarray | Parts, what: str, input_size: int | None, fit: str | None = None
) -> np.ndarray:
    """Grey or colour images as (n, side, side, 3) uint8, resized to ``input_size`` if it is given.

    Images that are not square are squashed, or made square as ``fit`` says. Those that are right
    already are returned, not copied.

    Raises:
        UserError: another dtype or shape, images that are not square without ``input_size``, or
            more than fit into memory.
    """
    _check_images(images, what, input_size)
    if _is_rgb(images, input_size):
        return images
    _check_memory([images], what, input_size)
    side = input_size or images.shape[1]
    rgb, start = np.empty((len(images), side, side, 3), np.uint8), 0
    parts = images if isinstance(images, Parts) else parts_of(images)
    for part in parts.read():
        if part.ndim == 3:
            part = part[..., None]
        if part.shape[1:3] != (side, side):
            part = _resized(part, side, None if part.shape[1] == part.shape[2] else fit)
        if part.shape[-1] == 1:
            part = part.repeat(3, axis=-1)
        rgb[start : start + len(part)] = part
        start += len(part)
    return rgb


def _resized(images: np.ndarray, side: int, fit: str | None) -> np.ndarray:
    """uint8 (n, h, w, c) as (n, side, side, c); of one channel only that one is resized."""
    from PIL import Image

    resized = np.empty((len(images), side, side, images.shape[-1]), np.uint8)
    pages = images[..., 0] if images.shape[-1] == 1 else images
    for i, page in enumerate(pages):
        image = Image.fromarray(page)
        if fit is None:
            small = image.resize((side, side), Image.Resampling.BILINEAR)
        else:
            small = FITS[fit](image, side)
        resized[i] = np.asarray(small).reshape(resized[i].shape)
    return resized
