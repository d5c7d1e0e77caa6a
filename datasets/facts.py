"""What is known of a data set's pixels: statistics, hashes, images of a single colour."""

import hashlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from datasets.copies import image_digest
from runtime.files import array_header

BLOCK = 2**20  # pixel values that are looked at together


def statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels in [0, 1], from counts of each value."""
    counts = np.zeros((3, 256), np.int64)
    for block in np.array_split(images, max(1, images.size // BLOCK)):
        counts += channel_counts(Image.fromarray(block.reshape(-1, *block.shape[2:])))
    return _statistics(counts)


def channel_counts(image: Image.Image) -> np.ndarray:
    """How often each channel of an RGB image has each value: (3, 256) int32."""
    return np.array(image.histogram(), np.int32).reshape(3, 256)


def _statistics(counts: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 1e-12))
    return tuple(mean.round(4).tolist()), tuple(np.maximum(std, 1e-3).round(4).tolist())


def single_coloured(images: np.ndarray) -> int:
    """How many images (n, side, side, 3) have pixels that are all alike."""
    return sum(_is_flat(image) for image in images)


def _is_flat(image: np.ndarray) -> bool:
    first = image[0, 0]
    return bool((image[0] == first).all() and (image == first).all())


def flat_notes(counts: dict[str, int], sizes: dict[str, int]) -> list[str]:
    """A line where images are of a single colour, as they are where reading has gone wrong.

    Args:
        counts, sizes: images of a single colour, and all images, of train and test.
    """
    if not sum(counts.values()):
        return []
    said = " and ".join(f"{count} of {sizes[half]}" for half, count in counts.items())
    return [f"images of a single colour: {said} (train, test); look at them"]


class ImageFacts(NamedTuple):
    """Of one image: the bytes of its hash, whether it is of a single colour, and
    :func:`channel_counts`.
    """

    digest: bytes
    flat: bool
    counts: np.ndarray


def image_facts(pixels: np.ndarray, image: Image.Image) -> ImageFacts:
    """Facts of (side, side, 3) uint8, contiguous, which are those of ``image``."""
    return ImageFacts(image_digest(pixels), _is_flat(pixels), channel_counts(image))


class HalfFacts:
    """What a cache keeps of one half, gathered image by image, in order.

    Args:
        half: train or test.
        images: (n, side, side, 3) uint8; image i is filled before the i-th :meth:`add`.
        labels: (n,) int64.
    """

    def __init__(self, half: str, images: np.ndarray, labels: np.ndarray):
        self.half, self.images, self.labels = half, np.asarray(images), labels
        self.sha256 = hashlib.sha256(array_header(f"x_{half}", images))
        self.digests, self.flat = [], 0
        self.counts = np.zeros((3, 256), np.int64)

    def add(self, facts: ImageFacts) -> None:
        """Take the next image."""
        self.sha256.update(self.images[len(self.digests)].data)
        self.digests.append(facts.digest)
        self.flat += facts.flat
        self.counts += facts.counts

    def found(self) -> dict[str, object]:
        """Facts of all images: ``hashes`` (n,) uint64, ``sha256`` of images and labels as
        :func:`runtime.files.hash_arrays` takes it, how many are ``flat``, and of train
        ``statistics``.
        """
        digest = self.sha256.copy()
        digest.update(array_header(f"y_{self.half}", self.labels))
        digest.update(self.labels.data)
        hashes = np.frombuffer(b"".join(self.digests), np.uint64)
        facts = {"hashes": hashes, "sha256": digest.hexdigest(), "flat": self.flat}
        return facts | ({"statistics": _statistics(self.counts)} if self.half == "train" else {})


def half_facts(half: str, images: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    """:meth:`HalfFacts.found` of images that are all there."""
    facts = HalfFacts(half, images, labels)
    for image in images:
        facts.add(image_facts(image, Image.fromarray(image)))
    return facts.found()
