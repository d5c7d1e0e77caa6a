"""An image file -> square pixels: modes, transparency, orientation, frames, sides."""

import functools
import io
import os
import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datasets.facts import ImageFacts, image_facts
from datasets.pixel_range import scale
from datasets.resized_crop import held_side, middle

# Pillow names these formats and decodes them by another program, or not at all.
NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
COMMON = ("JPEG", "PNG", "GIF", "BMP", "TIFF")
BACKGROUND = (255, 255, 255)
ORIENTATION = 0x0112  # EXIF
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # TIFF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What is noted of an image, in words for a summary line.
TRANSPARENT = "images with transparency, laid on white"
TURNED = "images turned upright by their EXIF orientation"
NO_EXIF = "images with unreadable EXIF data, taken as they are stored"
SAME_AS_RGB = ("RGB", "L", "P")  # modes of which each pixel is a colour of RGB
CONVERTED = "images of mode {}, converted to RGB as Pillow does"
FRAMES = "files with several frames or pages, of which the first is read"


class Unreadable(ValueError):
    """An image that cannot be read rightly; the message is the reason."""


class Member(NamedTuple):
    """A file of a zip archive: ``name`` below its folder ``prefix``."""

    archive: str
    prefix: str
    name: str


@functools.lru_cache(maxsize=1)
def _archive(path: str, process: int) -> zipfile.ZipFile:
    """An archive, opened by each process for itself: they must not share a place in the file."""
    return zipfile.ZipFile(path)


def _opened(path: str | Path | Member) -> str | Path | BinaryIO:
    if not isinstance(path, Member):
        return path
    return io.BytesIO(_archive(path.archive, os.getpid()).read(path.prefix + path.name))


class Decoded(NamedTuple):
    """An image as uint8 (side, side, 3); or, of more than 8 bits, as float32 (side, side) with the
    smallest and the largest value in the file, NaN where it is padded.

    ``notes`` say what was done to it; ``facts`` are of uint8 pixels. An image with an ``error`` has
    no pixels, nor has one whose pixels were written to a file.
    """

    pixels: np.ndarray | None
    notes: tuple[str, ...] = ()
    extremes: tuple[float, float] | None = None
    integers: bool = False
    error: str | None = None
    facts: ImageFacts | None = None


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats that Pillow decodes by itself, in the order in which they are tried: common ones
    first, and last those that are not known by a file's first bytes, whose whole headers are read.
    """
    Image.init()
    there = [name for name in Image.OPEN if name not in NOT_DECODED]
    order = {name: i for i, name in enumerate(COMMON)}
    known = {name: Image.OPEN[name][1] is not None for name in there}
    return tuple(sorted(there, key=lambda name: (not known[name], order.get(name, len(order)))))


@functools.cache
def extensions() -> frozenset[str]:
    """Endings of file names of :func:`formats`, in lower case with their dot."""
    known, read = Image.registered_extensions(), {*formats(), "MPO"}  # which is read as JPEG
    return frozenset(ending for ending, name in known.items() if name in read)


def decode(path: str | Path | Member, side: int, fit: str) -> Decoded:
    """The image of a file, upright, without transparency, and made square as ``fit`` says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of files that it reads all the same
            with Image.open(_opened(path), formats=formats()) as image:
                return _decode(image, side, fit)
    except Exception as error:  # Pillow's decoders raise a dozen types for damaged files
        return Decoded(None, error=_reason(error, path))


def _reason(error: Exception, path: str | Path | Member) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file, or a link leads nowhere"
    if isinstance(error, UnidentifiedImageError):
        return _what_else(_head(path))
    words = str(error) or type(error).__name__
    return words.splitlines()[0][:120]


def _head(path: str | Path | Member) -> bytes:
    if isinstance(path, Member):
        return _opened(path).read(64)
    with open(path, "rb") as file:
        return file.read(64)


def _what_else(head: bytes) -> str:
    """What a file without an image is, by its first bytes."""
    if not head:
        return "it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS without the image; fetch it with git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page, as a failed download leaves"
    return "Pillow does not know it as an image"


def _decode(image: Image.Image, side: int, fit: str) -> Decoded:
    image.load()
    notes = [FRAMES] if getattr(image, "is_animated", False) else []
    deep = image.mode == "F" or image.mode.startswith("I")
    extremes, integers = None, image.mode != "F"
    turn = _orientation(image, notes)
    if deep:
        image, extremes = _floats(image)
    elif image.has_transparency_data:
        image = _opaque(image, notes)
    else:
        if image.mode not in SAME_AS_RGB:
            notes.append(CONVERTED.format(image.mode))
        image = _rgb(image)
    if turn is not None:
        image = image.transpose(turn)
    if image.width != image.height:
        notes.append(NOT_SQUARE[fit])
    image = FITS[fit](image, side)
    pixels = np.asarray(image)
    facts = None if deep else image_facts(pixels, image)
    return Decoded(pixels, tuple(notes), extremes, integers, facts=facts)


def _orientation(image: Image.Image, notes: list[str]) -> Image.Transpose | None:
    """How to turn the image upright; Pillow turns TIFF files itself."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION))
    except Exception:  # damaged EXIF data raise struct's, Python's and Pillow's errors
        notes.append(NO_EXIF)
        return None
    if turn is not None:
        notes.append(TURNED)
    return turn


def _floats(image: Image.Image) -> tuple[Image.Image, tuple[float, float]]:
    """An image of mode F, and its smallest and largest value."""
    if "transparency" in image.info:
        raise Unreadable(f"mode {image.mode} with a transparent value; save it without one")
    if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        raise Unreadable(f"a TIFF file of mode {image.mode} whose 0 is white; save it with 0 black")
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise Unreadable("it holds values that are not finite (NaN, infinity)")
    return Image.fromarray(values.astype(np.float32)), (float(values.min()), float(values.max()))


def _opaque(image: Image.Image, notes: list[str]) -> Image.Image:
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema()[0] == 255:
        return image.convert("RGB")
    notes.append(TRANSPARENT)
    ground = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    return Image.alpha_composite(ground, image).convert("RGB")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    try:
        return image.convert("RGB")
    except ValueError:
        raise Unreadable(f"mode {image.mode} does not convert to RGB; save it as RGB") from None


def _crop(image: Image.Image, side: int) -> Image.Image:
    if image.size == (side, side):
        return image
    return ImageOps.fit(image, (side, side))


def _pad(image: Image.Image, side: int) -> Image.Image:
    longest = max(image.size)
    size = [max(1, round(side * length / longest)) for length in image.size]
    ground = Image.new(image.mode, (side, side), float("nan") if image.mode == "F" else 0)
    place = (side - size[0]) // 2, (side - size[1]) // 2
    ground.paste(image.resize(size, Image.Resampling.BICUBIC), place)
    return ground


def _squash(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BICUBIC)


FITS = {"crop": _crop, "pad": _pad, "squash": _squash}
NOT_SQUARE = {
    "crop": "images that are not square, cut to their middle (--fit pad or squash keeps all)",
    "pad": "images that are not square, padded with black (--fit pad)",
    "squash": "images that are not square, squashed (--fit squash)",
}


def read_image(
    path: str | Path,
    side: int,
    fit: str = "crop",
    values: tuple[float, float] | None = None,
    augment: str = "crop",
) -> np.ndarray:
    """An image file as a test image of --dataset folder is seen: (side, side, 3) uint8.

    Args:
        fit, augment: as the model was trained. Under resized_crop this is the middle of a larger
            square.
        values: of images of more than 8 bits, what becomes 0 and 255: the range that was printed
            when the data set was read.

    Raises:
        OSError: the file cannot be read as an image, or ``values`` is missing.
    """
    held = held_side(side) if augment == "resized_crop" else side
    image = decode(path, held, fit)
    if image.error:
        raise OSError(f"{path} is not a readable image: {image.error}")
    seen = middle(held, side)
    if image.extremes is None:
        return image.pixels[seen, seen]
    if values is None:
        raise OSError(f"{path} has more than 8 bits; give values, the range of its data set")
    return scale(image.pixels[seen, seen], *values)[..., None].repeat(3, axis=-1)
