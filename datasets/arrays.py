"""Images and labels of one's own, in memory, as methods see them."""

from collections.abc import Sequence

import numpy as np
import torch

from datasets import ImageSet
from datasets.loaders import Data
from datasets.sources import as_rgb
from datasets.splits import Split, choose_forget
from utils import UserError

Labelled = tuple[np.ndarray, np.ndarray]


def from_arrays(
    train: Labelled,
    forget: Sequence[int] | np.ndarray,
    *,
    val: Sequence[int] | np.ndarray = (),
    test: Labelled | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **batches: object,
) -> Data:
    """What :func:`engine.run` takes as data; images are not augmented, and the model normalises
    them itself.

    Args:
        train, test: images (n, side, side, 3) uint8 and labels (n,), integers from 0.
        forget: indices into ``train`` of the images to forget; the others are retained.
        val: indices into ``train`` of images that the model was not trained on.
        seed: of the order of batches and of a method's own draws.
        batches: fields of :class:`datasets.loaders.Batches`; ``batch_size`` is 256 by default.

    Raises:
        UserError: images or labels of another kind, or indices out of range, twice, or of all.
    """
    images, labels = _checked("train", *train)
    empty = images[:0], labels[:0]
    test_images, test_labels = empty if test is None else _checked("test", *test)
    if test_images.shape[1:] != images.shape[1:]:
        raise UserError("train and test images are not of one size")
    val, forget = _indices("val", val, len(labels)), _indices("forget", forget, len(labels))
    if both := len(np.intersect1d(forget, val)):
        raise UserError(f"{both} images are in forget and in val")
    split = Split(seed, np.setdiff1d(np.arange(len(labels)), val), val)
    chosen = choose_forget(split, labels, positions=np.searchsorted(split.train, forget))
    classes = tuple(map(str, range(1 + max(labels.max(), test_labels.max(initial=0)))))
    dataset = ImageSet(
        "arrays",
        images,
        labels,
        test_images,
        test_labels,
        classes,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        crop=0,
        flip=False,
    )
    batches = {"batch_size": 256, "augment": False} | batches
    return Data(dataset, split, chosen, device=torch.device(device), seed=seed, **batches)


def _indices(name: str, given: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    indices = np.asarray(given)
    if not indices.size:
        return np.empty(0, np.int64)
    integers = np.issubdtype(indices.dtype, np.integer) and indices.ndim == 1
    if not integers or indices.min() < 0 or indices.max() >= count:
        raise UserError(f"{name}: indices from 0 to {count - 1} into the training images wanted")
    return indices.astype(np.int64)


def _checked(name: str, images: np.ndarray, labels: np.ndarray) -> Labelled:
    images, labels = as_rgb(np.asarray(images), name, None), np.asarray(labels)
    integers = np.issubdtype(labels.dtype, np.integer) and labels.shape == (len(images),)
    if not len(images) or not integers or labels.min() < 0:
        raise UserError(
            f"{name}: {len(images)} images and as many labels from 0 wanted, not labels of"
            f" {labels.dtype} {labels.shape}"
        )
    return images, labels.astype(np.int64)
