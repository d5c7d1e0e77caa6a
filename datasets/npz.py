"""An npz file of one's own -> uint8 images, integer labels, class names, and what was converted."""

import contextlib
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from datasets.folders import sort_classes
from datasets.image_files import BACKGROUND
from datasets.parts import Parts, images_at_once, parts_of
from datasets.pixel_range import range_of, scale, shown
from runtime.file_checks import check_npz, read_header
from runtime.files import require_file
from utils import UserError

SPLITS = ("x_train", "y_train", "x_test", "y_test")
IMAGES = ("x_train", "x_test")
READ = (*SPLITS, "classes")


def read_npz(data: Path) -> dict[str, object]:
    """The arrays named in :data:`READ`, images as :class:`Parts` of uint8, which are read from the
    file as they are asked for, and labels as integers from 0.

    ``notes`` are lines that say what was converted.

    Raises:
        UserError: an array is missing, or is neither images nor labels; with the remedy.
    """
    if data.is_dir() and len(found := sorted(data.glob("*.npz"))) == 1:
        data = found[0]
    require_file(data, "--dataset npz: --data")
    arrays, names = _load(data)
    if missing := [name for name in SPLITS if name not in arrays]:
        raise UserError(
            f"--data {data} lacks {', '.join(missing)}; an npz data set holds {', '.join(SPLITS)}"
            f" and optionally classes, this one {', '.join(names[:8]) or 'nothing'}"
        )
    notes: list[str] = []
    try:
        images = _images({name: arrays[name] for name in IMAGES}, notes)
        counts = [len(images["x_train"]), len(images["x_test"])]
        labels = _labels(arrays, counts, notes)
    except ValueError as error:
        raise UserError(f"--data {data}: {error}") from None
    return images | labels | {"notes": notes}


def _load(data: Path) -> tuple[dict[str, np.ndarray | Parts], list[str]]:
    """The arrays that are read, and the names of all."""
    with _readable(data):
        check_npz(data, READ)
        with np.load(data, allow_pickle=False) as file:
            names = file.files
            small = {name: file[name] for name in names if name in READ and name not in IMAGES}
        archive = zipfile.ZipFile(data)  # open for as long as the images are wanted
        large = {name: _stored(data, archive, name) for name in IMAGES if name in names}
        return small | large, names


@contextlib.contextmanager
def _readable(data: Path) -> Iterator[None]:
    """Refuse a file that proves damaged, or that holds more than plain arrays."""
    try:
        yield
    except Exception as error:  # numpy, zipfile and zlib raise half a dozen types
        remedy = "; save text as np.array(names, dtype=str)" if "objects" in str(error) else ""
        raise UserError(
            f"--data {data} is not a readable npz of plain arrays: {error}{remedy}"
        ) from None


def _stored(data: Path, archive: zipfile.ZipFile, name: str) -> Parts:
    """The images of a member, compressed or not; its checksum is checked as they are read."""
    member = name if name in archive.namelist() else f"{name}.npy"
    with archive.open(member) as file:
        shape, by_columns, dtype = read_header(file)
    if by_columns or not shape:  # its images do not lie one after another
        with archive.open(member) as file:
            return parts_of(np.lib.format.read_array(file, allow_pickle=False))
    step = images_at_once(shape, dtype)

    def read() -> Iterator[np.ndarray]:
        with _readable(data), archive.open(member) as file:
            read_header(file)
            for start in range(0, shape[0], step):
                count = min(step, shape[0] - start)
                size = count * math.prod(shape[1:]) * dtype.itemsize
                yield np.frombuffer(file.read(size), dtype).reshape(count, *shape[1:])

    return Parts(shape, dtype, read)


def _images(images: dict[str, Parts], notes: list[str]) -> dict[str, Parts]:
    images = {name: _channels_last(name, x, notes) for name, x in images.items()}
    train, test = images.values()
    if train.dtype != test.dtype and np.uint8 in (train.dtype, test.dtype):
        raise ValueError(
            f"x_train is {train.dtype} {train.shape}, x_test {test.dtype} {test.shape}: save both"
            " as uint8"
        )
    if train.dtype != np.uint8:
        images = _scaled(images, notes)
    elif train.size and all(part.max() <= 1 for part in train.read()):  # mostly one part is read
        highest = max(part.max() for part in train.read())
        notes.append(
            f"the largest pixel of x_train is {highest} of 255: nearly black images; multiply"
            " by 255 where 1 means white"
        )
    return {name: _opaque(name, x, notes) for name, x in images.items()}


def _channels_last(name: str, x: Parts, notes: list[str]) -> Parts:
    """Images (n, h, w) or (n, h, w, c), from (n, c, h, w) too."""
    channels = (1, 3, 4)
    if x.ndim == 4 and x.shape[-1] not in channels and x.shape[1] in channels:
        notes.append(f"{name} has its channels first, {x.shape}: moved last")
        n, c, h, w = x.shape
        return x.changed(lambda part: np.moveaxis(part, 1, -1), (n, h, w, c), x.dtype)
    last = x.ndim == 4 and x.shape[-1] in channels
    if (x.ndim == 3 or last) and 0 not in x.shape[1:]:
        return x
    remedy = ""
    if x.ndim == 2 and (side := math.isqrt(x.shape[1])) ** 2 == x.shape[1]:
        remedy = f"; save {name}.reshape(-1, {side}, {side})"
    elif x.ndim == 2 and 3 * (side := math.isqrt(x.shape[1] // 3)) ** 2 == x.shape[1]:
        remedy = (
            f"; if these are colours, save {name}.reshape(-1, {side}, {side}, 3), or"
            f" {name}.reshape(-1, 3, {side}, {side}) where each channel stands alone, as CIFAR's do"
        )
    elif x.ndim == 4 and x.shape[2] in channels:
        remedy = f"; the images are counted last, save {name}.transpose(3, 0, 1, 2)"
    raise ValueError(
        f"{name}: images of shape (n, h, w), (n, h, w, 1), (n, h, w, 3) or (n, h, w, 4) wanted, got"
        f" {x.dtype} {x.shape}{remedy}"
    )


def _scaled(images: dict[str, Parts], notes: list[str]) -> dict[str, Parts]:
    """uint8 images of other numbers, by one range for train and test."""
    extremes = {name: _extremes(name, x) for name, x in images.items()}
    extremes = {name: found for name, found in extremes.items() if found}
    if not extremes:
        return {
            name: _of_bytes(x, lambda part: part.astype(np.uint8)) for name, x in images.items()
        }
    low, high = min(e[0] for e in extremes.values()), max(e[1] for e in extremes.values())
    integers = images["x_train"].dtype.kind != "f"
    _check_alike(extremes, integers)
    ranged = (0, 1) if images["x_train"].dtype == bool else range_of(low, high, integers=integers)
    kinds = sorted({str(x.dtype) for x in images.values()})
    notes.append(
        f"images of {', '.join(kinds)} with values from {low:.6g} to {high:.6g}, scaled so that"
        f" {shown(*ranged)}"
    )
    return {name: _of_bytes(x, lambda part: scale(part, *ranged)) for name, x in images.items()}


def _of_bytes(x: Parts, change: Callable[[np.ndarray], np.ndarray]) -> Parts:
    return x.changed(change, x.shape, np.uint8)


def _extremes(name: str, x: Parts) -> tuple[float, float] | None:
    """The smallest and the largest number of images; None where there are none."""
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{name}: uint8 images wanted, got {x.dtype} {x.shape}")
    bad, low, high = 0, math.inf, -math.inf
    for part in x.read() if x.size else ():
        bad += part.size - int(np.isfinite(part).sum())
        low, high = min(low, float(part.min())), max(high, float(part.max()))
    if bad:
        raise ValueError(
            f"{name} holds {bad} values that are not finite (NaN, infinity); replace them"
        )
    return (low, high) if x.size else None


def _check_alike(extremes: dict[str, tuple[float, float]], integers: bool) -> None:
    """Refuse floats of which one half is from 0 to 1, and the other is not."""
    highest = [high for _, high in extremes.values()]
    if not integers and 0 < min(highest) <= 1 and max(highest) > 10 * min(highest):
        said = ", ".join(f"{name} goes up to {high:.6g}" for name, (_, high) in extremes.items())
        raise ValueError(f"{said}: the halves are scaled differently; save both alike")


def _opaque(name: str, x: Parts, notes: list[str]) -> Parts:
    """Colour images without their fourth channel, transparency laid on white."""
    if x.ndim != 4 or x.shape[-1] != 4:
        return x
    clear = sum(int((part[..., 3] < 255).any(axis=(1, 2)).sum()) for part in x.read())
    notes.append(f"{name} has four channels: {clear} images with transparency, laid on white")
    return x.changed(_on_white, (*x.shape[:3], 3), np.uint8)


def _on_white(images: np.ndarray) -> np.ndarray:
    """uint8 images (n, h, w, 3) of (n, h, w, 4)."""
    ground = np.array(BACKGROUND, np.float32)
    opaque = np.empty((*images.shape[:3], 3), np.uint8)
    for i, page in enumerate(images):
        alpha = page[..., 3:].astype(np.float32) / 255
        opaque[i] = (page[..., :3] * alpha + ground * (1 - alpha)).round()
    return opaque


def _labels(arrays: dict, counts: list[int], notes: list[str]) -> dict[str, object]:
    """Labels of both halves, and ``classes`` where the labels or the file name them."""
    given = {name: _column(name, arrays[name], notes) for name in ("y_train", "y_test")}
    for (name, y), count in zip(given.items(), counts, strict=True):
        if len(y) != count:
            half = name.removeprefix("y_")
            raise ValueError(
                f"{count} {half} images but {len(y)} labels ({name} is"
                f" {arrays[name].dtype} {arrays[name].shape}); both must be equal"
            )
    named = {"classes": _text(arrays["classes"].ravel())} if "classes" in arrays else {}
    texts = [y.dtype.kind in "US" for y in given.values()]
    if all(texts):
        return _from_names({name: _text(y) for name, y in given.items()}, named, notes)
    if any(texts):
        raise ValueError("one of y_train and y_test is text, the other is not; save both alike")
    labels = {name: _integers(name, y, notes) for name, y in given.items()}
    return _from_zero(labels, named, notes)


def _column(name: str, y: np.ndarray, notes: list[str]) -> np.ndarray:
    """Labels (n,), from (n, 1), (1, n) or one-hot (n, k) too."""
    if y.ndim < 2 or 1 in y.shape:
        return y.ravel()
    numbers = y.ndim == 2 and y.dtype.kind in "biuf"
    if numbers and np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all():
        notes.append(f"{name} is one-hot {y.shape}: the place of the 1 is the label")
        return y.argmax(axis=1)
    raise ValueError(
        f"{name} is {y.dtype} {y.shape}, neither labels (n,) nor one-hot (n, k); save"
        f" {name}.argmax(1) where a row holds scores"
    )


def _text(names: np.ndarray) -> list[str]:
    if names.dtype.kind == "S":
        return [name.decode("utf-8", "replace") for name in names.tolist()]
    return [str(name) for name in names]


def _from_names(labels: dict, named: dict, notes: list[str]) -> dict[str, object]:
    order = "in the order of classes" if named else "in alphabetical order, numbers as numbers"
    classes = named.get("classes") or sort_classes(list(set(labels["y_train"])))
    index = {name: i for i, name in enumerate(classes)}
    for name, y in labels.items():
        if strange := sorted(set(y) - index.keys()):
            where = "classes" if named else "y_train"
            raise ValueError(f"{name} holds {strange[0]!r}, which {where} has not")
    notes.append(f"labels are text: {len(classes)} classes {order}")
    numbers = {name: np.array([index[label] for label in y]) for name, y in labels.items()}
    return numbers | {"classes": classes}


def _integers(name: str, y: np.ndarray, notes: list[str]) -> np.ndarray:
    if y.dtype.kind not in "biuf":
        raise ValueError(f"{name} is {y.dtype}, labels are integers or text")
    if y.dtype.kind == "f":
        whole = np.isfinite(y) & (y == np.round(y)) & (np.abs(y) < 2**53)
        if not whole.all():
            raise ValueError(
                f"{name} is {y.dtype}, labels are integers; it holds {y[~whole][0]}, not one of"
                " them"
            )
        notes.append(f"{name} is {y.dtype} with whole numbers: taken as integers")
    return y.astype(np.int64)


def _from_zero(labels: dict, named: dict, notes: list[str]) -> dict[str, object]:
    """Labels 1 to k, none of them missing in train, become 0 to k - 1 under their own names."""
    found = np.unique(labels["y_train"])
    names = named.get("classes") or [str(label) for label in found]
    from_one = len(found) > 0 and found[0] == 1 and found[-1] == len(found) == len(names)
    test = labels["y_test"]
    if not from_one or (len(test) and test.min() < 1):
        return labels | named
    if len(test) and test.max() > found[-1]:
        raise ValueError(f"y_train runs from 1 to {found[-1]}, y_test goes up to {test.max()}")
    notes.append(f"labels run from 1 to {found[-1]}: class 0 is label 1, named {names[0]}")
    return {name: y - 1 for name, y in labels.items()} | {"classes": names}
