"""Pixels of more than 8 bits, or of floats -> uint8, by one range for the whole data set."""

import numpy as np

BITS = (8, 10, 12, 14, 16)


def range_of(low: float, high: float, *, integers: bool) -> tuple[float, float]:
    """The range that becomes 0 to 255, of pixels that run from ``low`` to ``high``.

    Integers of at most 16 bits: 0 to 2^b - 1, b the smallest of :data:`BITS` that holds them.
    Floats from 0 to at most 1: 0 to 1; from 0 to between 128 and 255: 0 to 255. All others: their
    own smallest to their own largest value.
    """
    if integers and low >= 0 and high < 2**16:
        return 0, next(2**bits - 1 for bits in BITS if high < 2**bits)
    if not integers and low >= 0 and high <= 1:
        return 0, 1
    if not integers and low >= 0 and 128 <= high <= 255:
        return 0, 255
    return low, high


def scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 of ``values``: ``low`` becomes 0, ``high`` 255, NaN 0; rounded, and clipped."""
    scaled = np.empty(values.shape, np.uint8)
    step = max(1, 2**20 // max(1, values[:1].size))
    factor = 255 / (high - low) if high > low else 0
    for start in range(0, len(values), step):
        block = (values[start : start + step].astype(np.float64) - low) * factor
        scaled[start : start + step] = np.nan_to_num(block).round().clip(0, 255)
    return scaled


def shown(low: float, high: float) -> str:
    """The range in words."""
    return f"{low:.6g} to {high:.6g} become 0 to 255"
