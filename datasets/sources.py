"""Reading each data set: functions ``(data, input_size, workers) -> arrays``."""

import itertools
from pathlib import Path

import numpy as np

from runtime.file_checks import check_npz, memory
from runtime.files import require_file
from utils import UserError

Arrays = dict[str, np.ndarray]
SPLITS = ("x_train", "y_train", "x_test", "y_test")
READ = (*SPLITS, "classes")
TRAIN_TEST = ({"train": True}, {"train": False})  # torchvision's arguments for the two halves


def _arrays(*halves: tuple[np.ndarray, np.ndarray]) -> Arrays:
    """The images and labels of both halves by the names in :data:`SPLITS`."""
    return dict(zip(SPLITS, itertools.chain(*halves), strict=True))


def _torchvision(name: str, data: Path, files: str, halves: tuple[dict, dict]) -> Arrays:
    """Both halves of a torchvision data set, downloaded if missing; else asks for ``files``."""
    from torchvision import datasets as tv

    def read(options: dict) -> tuple[np.ndarray, np.ndarray, list[str] | None]:
        kind = getattr(tv, name)
        try:
            half = kind(str(data), download=False, **options)
        except RuntimeError:
            half = kind(str(data), download=True, **options)
        labels = half.targets if hasattr(half, "targets") else half.labels
        return np.asarray(half.data), np.asarray(labels), getattr(half, "classes", None)

    try:
        (*train, classes), (*test, _) = map(read, halves)
        return _arrays(train, test) | ({"classes": classes} if classes else {})
    except Exception as error:  # no network, a proxy's error page, a damaged archive
        raise UserError(
            f"{name} is not under --data {data} and could not be downloaded"
            f" ({type(error).__name__}); put {files} there"
        ) from None


def cifar10(data: Path, input_size: int | None, workers: int) -> Arrays:
    """50,000 + 10,000 colour images, 32x32 (Krizhevsky 2009)."""
    files = "the folder cifar-10-batches-py or cifar-10-python.tar.gz"
    return _torchvision("CIFAR10", data, files, TRAIN_TEST)


def cifar100(data: Path, input_size: int | None, workers: int) -> Arrays:
    """50,000 + 10,000 colour images, 32x32, fine labels (Krizhevsky 2009)."""
    files = "the folder cifar-100-python or cifar-100-python.tar.gz"
    return _torchvision("CIFAR100", data, files, TRAIN_TEST)


def svhn(data: Path, input_size: int | None, workers: int) -> Arrays:
    """73,257 + 26,032 colour images, 32x32 (Netzer et al. 2011)."""
    halves = ({"split": "train"}, {"split": "test"})
    arrays = _torchvision("SVHN", data, "train_32x32.mat and test_32x32.mat", halves)
    for name in ("x_train", "x_test"):
        arrays[name] = arrays[name].transpose(0, 2, 3, 1)
    return arrays


def fashion_mnist(data: Path, input_size: int | None, workers: int) -> Arrays:
    """60,000 + 10,000 grey images, 28x28 (Xiao et al. 2017)."""
    files = "FashionMNIST/raw with the four *-ubyte files"
    return _torchvision("FashionMNIST", data, files, TRAIN_TEST)


def fashion_mini(data: Path, input_size: int | None, workers: int) -> Arrays:
    """The embedded 5,000 + 1,000 images of Fashion-MNIST, made by make_fashion_mini.py."""
    return npz(Path(__file__).with_name("fashion_mini.npz"), input_size, workers)


def digits(data: Path, input_size: int | None, workers: int) -> Arrays:
    """scikit-learn's 1,797 grey 8x8 digits; every fifth is a test image (359), in file order."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    test = np.arange(len(labels)) % 5 == 4
    return _arrays((images[~test], labels[~test]), (images[test], labels[test]))


def npz(data: Path, input_size: int | None, workers: int) -> Arrays:
    """A user's x_* (n, h, w) or (n, h, w, 1 or 3) uint8, y_* (n,) integers, maybe classes (k,)."""
    if data.is_dir() and len(found := sorted(data.glob("*.npz"))) == 1:
        data = found[0]
    require_file(data, "--dataset npz: --data")
    try:
        check_npz(data, READ)
        with np.load(data, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in READ}
    except Exception as error:  # numpy, zipfile and zlib raise half a dozen types
        raise UserError(f"--data {data} is not a readable npz of plain arrays: {error}") from None
    if missing := [name for name in SPLITS if name not in arrays]:
        raise UserError(
            f"--data {data} lacks {', '.join(missing)}; an npz data set holds {', '.join(SPLITS)}"
            " and optionally classes"
        )
    for name in ("y_train", "y_test"):
        if not np.issubdtype(arrays[name].dtype, np.integer):
            raise UserError(f"--data {data}: {name} is {arrays[name].dtype}, labels are integers")
    return arrays


def folder(data: Path, input_size: int | None, workers: int) -> Arrays:
    """A user's own images in any format that Pillow reads: DATA/train/CLASS/* and DATA/test/CLASS/*
    (or DATA/val/CLASS/*), resized to ``input_size`` or 32.
    """
    test = next((data / name for name in ("test", "val") if (data / name).is_dir()), None)
    if not (data / "train").is_dir() or test is None:
        raise UserError(
            f"--dataset folder: {data} needs train/CLASS/IMAGE and test/CLASS/IMAGE (or val/)"
        )
    from torchvision.datasets import ImageFolder

    side = input_size or 32
    try:
        train, held_out = (
            ImageFolder(str(half), _Resize(side), loader=_open) for half in (data / "train", test)
        )
    except FileNotFoundError as error:
        raise UserError(f"--dataset folder: {str(error).splitlines()[0]}") from None
    if train.classes != held_out.classes:
        raise UserError(
            f"--dataset folder: train has classes {train.classes}, {test.name} has"
            f" {held_out.classes}"
        )
    _check_resized(len(train) + len(held_out), side, "--dataset folder")
    arrays = _arrays(_decode(train, workers), _decode(held_out, workers))
    files = [Path(path).relative_to(data).as_posix() for path, _ in train.samples]
    return arrays | {"classes": train.classes, "files": files}


def _open(path: str):
    """A decoded Pillow image; whatever Pillow raises for a damaged one is an OSError."""
    from torchvision.datasets.folder import default_loader

    try:
        return default_loader(path)
    except Exception:
        raise OSError(f"{path} is not a readable image; repair or remove it") from None


class _Resize:
    """Shorter side to ``side``, centre crop, uint8 array (side, side, 3); picklable for workers."""

    def __init__(self, side: int):
        self.side = side

    def __call__(self, image) -> np.ndarray:  # noqa: ANN001
        from PIL import ImageOps

        return np.asarray(ImageOps.fit(image.convert("RGB"), (self.side, self.side)))


def read_image(path: str | Path, side: int) -> np.ndarray:
    """An image file as --dataset folder reads it: (side, side, 3) uint8.

    Raises:
        OSError: the file cannot be read as an image.
    """
    return _Resize(side)(_open(str(path)))


def _decode(images, workers: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: ANN001
    from torch.utils.data import DataLoader

    batches = DataLoader(images, batch_size=256, num_workers=workers, collate_fn=_collate)
    try:
        pixels, labels = zip(*batches, strict=True)
    except OSError as error:  # a worker puts its traceback in front of the message
        raise UserError(
            f"--dataset folder: {str(error).splitlines()[-1].removeprefix('OSError: ')}"
        ) from None
    return np.concatenate(pixels), np.concatenate(labels)


def _collate(batch: list) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = zip(*batch, strict=True)
    return np.stack(pixels), np.asarray(labels)


def _check_resized(count: int, side: int, what: str) -> None:
    """Refuse images that would not fit into memory."""
    if count * side**2 * 3 > memory():
        raise UserError(
            f"{what}: {count} images resized by --input_size {side} do not fit into this machine's"
            " memory"
        )


def as_rgb(images: np.ndarray, what: str, input_size: int | None) -> np.ndarray:
    """Grey or colour images as (n, side, side, 3) uint8, resized to ``input_size`` if it is given.

    Raises:
        UserError: another dtype or shape, or images that are not square without ``input_size``.
    """
    if images.ndim == 3:
        images = images[..., None]
    fits = images.ndim == 4 and images.shape[-1] in (1, 3) and 0 not in images.shape[1:3]
    if images.dtype != np.uint8 or not fits:
        raise UserError(
            f"{what}: uint8 images of shape (n, h, w), (n, h, w, 1) or (n, h, w, 3) wanted, got"
            f" {images.dtype} {images.shape}"
        )
    if images.shape[1] != images.shape[2] and not input_size:
        raise UserError(
            f"{what}: images are {images.shape[1]}x{images.shape[2]}; add --input_size N to make"
            " them square"
        )
    _check_resized(len(images), input_size or 0, what)
    if input_size and len(images) and images.shape[1:3] != (input_size, input_size):
        from PIL import Image

        size = input_size, input_size
        pages = images[..., 0] if images.shape[-1] == 1 else images  # grey: one channel to resize
        resized = []
        for page in pages:
            small = Image.fromarray(page).resize(size, Image.Resampling.BILINEAR)
            resized.append(np.asarray(small))
        images = np.stack(resized).reshape(-1, *size, images.shape[-1])
    if images.shape[-1] == 1:
        images = images.repeat(3, axis=-1)
    return np.ascontiguousarray(images)
