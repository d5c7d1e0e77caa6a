"""Images that are read some at a time, so that no second copy of all of them is in memory."""

import math
from collections.abc import Callable, Iterator

import numpy as np

PART = 2**22  # bytes that are read together


class Parts:
    """An array of images of which a part at a time is in memory.

    Args:
        shape, dtype: of the whole.
        read: yields all of it in order, as arrays of some images each; anew at each call.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype | type,
        read: Callable[[], Iterator[np.ndarray]],
    ):
        self.shape, self.dtype, self.read = shape, np.dtype(dtype), read
        self.ndim, self.size = len(shape), math.prod(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def changed(
        self,
        change: Callable[[np.ndarray], np.ndarray],
        shape: tuple[int, ...],
        dtype: np.dtype | type,
    ) -> "Parts":
        """With ``change`` applied to each part as it is read, which makes ``shape``, ``dtype``."""
        return Parts(shape, dtype, lambda: map(change, self.read()))


def parts_of(images: np.ndarray) -> Parts:
    """An array that is in memory, part by part; its parts are views."""
    step = images_at_once(images.shape, images.dtype)
    return Parts(
        images.shape,
        images.dtype,
        lambda: (images[start : start + step] for start in range(0, len(images), step)),
    )


def images_at_once(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """How many images of an array a part holds: at least one."""
    return max(1, PART // max(1, math.prod(shape[1:]) * dtype.itemsize))


def pack(images: np.ndarray) -> np.ndarray:
    """The same images (n, h, w, c), contiguous; those that lie one after another with their axes in
    another order are changed where they are, without a second copy of all.
    """
    order = np.argsort(images.strides)[::-1]
    lying = images.transpose(order)
    if order[0] != 0 or not (lying.flags.c_contiguous and lying.flags.writeable):
        return np.ascontiguousarray(images)
    packed, start = lying.reshape(images.shape), 0
    for part in parts_of(images).read():
        packed[start : start + len(part)] = part.copy()
        start += len(part)
    return packed
