"""The chosen forget set of a run, whole, with a few of its images and what models say of them."""

from collections.abc import Mapping

import numpy as np

from stages.task import Task

# Of the images that are kept for a report: at most so many, of at most so many pixels a side. In
# all at most 64 * 64 * 64 * 3 bytes, 768 KiB; of 32 pixels 192 KiB.
MOST_SHOWN, LARGEST_SIDE = 64, 64


def forgotten_arrays(
    task: Task, said: Mapping[str, tuple[np.ndarray, np.ndarray] | None]
) -> dict[str, np.ndarray]:
    """What METHODforget.npz holds of n forget images, ascending by index.

    ``indices`` (n,) are places among the data set's training images, ``positions`` (n,) those
    among the images that were trained on, ``labels`` (n,) their classes, ``classes`` the names of
    all k, ``files`` (n,) file names where the data set has them. ``shown`` (m,) are the places in
    these of m evenly spaced images, and ``images`` (m, side, side, 3) uint8 their pixels.

    Args:
        said: logits (n, k) and labels of a model on the forget images by when it is asked; where
            they are not None the answers go into ``said_WHEN`` (n,).
    """
    dataset, indices = task.dataset, np.sort(task.chosen.forget)
    shown = evenly(len(indices), MOST_SHOWN)
    arrays = {
        "indices": indices,
        "positions": np.searchsorted(task.split.train, indices),
        "labels": dataset.y_train[indices],
        "classes": np.array(dataset.classes, dtype=str),
        "shown": shown,
        "images": thumbnails(dataset.x_train[indices[shown]], LARGEST_SIDE),
    }
    if dataset.files:
        arrays["files"] = np.array([dataset.files[index] for index in indices], dtype=str)
    for when, output in said.items():
        if output is not None:
            arrays[f"said_{when}"] = output[0].argmax(1)
    return arrays


def evenly(count: int, most: int) -> np.ndarray:
    """At most ``most`` evenly spaced places of ``count``, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def thumbnails(images: np.ndarray, side: int) -> np.ndarray:
    """Square images (m, s, s, 3) uint8, those larger than ``side`` reduced to it."""
    if images.shape[1] <= side:
        return images
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(image).resize((side, side))) for image in images])
