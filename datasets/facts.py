"""What is known of a data set's pixels: statistics, hashes, images of a single colour."""

import numpy as np

from datasets.copies import image_hashes
from runtime.files import hash_arrays

BLOCK = 2**20  # pixel values that are looked at together


def statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
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


def half_facts(half: str, images: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    """What a cache keeps of one half, so that no later command reads all pixels for it: ``hashes``
    (n,) uint64 of its images, ``sha256``, how many are ``flat``, and of train ``statistics``.
    """
    facts = {
        "hashes": image_hashes(images),
        "sha256": hash_arrays({f"x_{half}": images, f"y_{half}": labels}),
        "flat": single_coloured(images),
    }
    return facts | ({"statistics": statistics(images)} if half == "train" else {})
