"""Exact copies among the images of a data set, found by hashes of their pixels."""

import dataclasses
import hashlib

import numpy as np

from datasets.splits import ForgetSplit
from utils import UserError, warn


def image_hashes(images: np.ndarray) -> np.ndarray:
    """A hash of each image of (n, side, side, 3) uint8, as (n,) uint64: equal for exact copies."""
    return np.frombuffer(b"".join(map(image_digest, images)), np.uint64)


def image_digest(image: np.ndarray) -> bytes:
    """The eight bytes of an image's hash."""
    return hashlib.blake2b(image.data, digest_size=8).digest()


def copies_of(hashes: np.ndarray, chosen: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The indices of ``among`` whose image is an exact copy of one of ``chosen``.

    Args:
        hashes: (n,), one for each image.
        chosen, among: indices into them.
    """
    return among[np.isin(hashes[among], hashes[chosen])]


def copies_line(train: np.ndarray, test: np.ndarray) -> str | None:
    """A line that counts exact copies within and across the halves, by their hashes (n,) and (m,);
    None where there are none.
    """
    first, counts = np.unique(train, return_counts=True)
    within, across = len(train) - len(counts), int(np.isin(test, first).sum())
    repeated = len(test) - len(np.unique(test))
    if not within + across + repeated:
        return None
    return (
        f"exact copies: {within} of {len(train)} training images repeat another one,"
        f" {across} of {len(test)} test images are also in training, {repeated} repeat another test"
        " image"
    )


def settle_copies(hashes: np.ndarray, chosen: ForgetSplit, *, forget_them: bool) -> ForgetSplit:
    """The forget split with the copies of forgotten images that are in retain, too, if
    ``forget_them``; else a warning that counts the forgotten images that keep a copy.

    Args:
        hashes: (n,), one for each training image of the data set.

    Raises:
        UserError: nothing is left to retain.
    """
    copies = copies_of(hashes, chosen.forget, chosen.retain)
    if not len(copies):
        return chosen
    forget = len(chosen.forget)
    if not forget_them:
        kept = len(copies_of(hashes, copies, chosen.forget))
        warn(
            f"{kept} of {forget} forgotten images keep an exact copy among the {len(chosen.retain)}"
            " retained ones, which a model goes on learning; --forget_copies forgets the copies too"
        )
        return chosen
    retain = np.setdiff1d(chosen.retain, copies)
    if not len(retain):
        raise UserError(
            f"--forget_copies: {forget} forgotten images and their {len(copies)} copies leave none"
            " to retain; forget fewer"
        )
    print(f"--forget_copies: {len(copies)} exact copies are forgotten with the {forget} images")
    return dataclasses.replace(chosen, forget=np.append(chosen.forget, copies), retain=retain)
