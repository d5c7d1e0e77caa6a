"""Checks of values from JSON files of unknown origin; they raise TypeError or ValueError."""

import json
import math
from collections.abc import Callable
from typing import Any

LARGEST = 1e100  # above any number that fp32 logits lead to; squares of larger ones overflow


def encodable(content: object) -> None:
    """Refuse lone surrogates, which JSON can hold and no UTF-8 file can."""
    json.dumps(content, ensure_ascii=False).encode()


def number(value: object) -> float | None:
    """A float; None for null and for what is not finite."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise TypeError(f"{value!r:.40} is no number")
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if abs(value) > LARGEST:
        raise ValueError(f"a number in it is larger than {LARGEST:.0e}")
    return float(value)


def finite_numbers(values: object) -> list[float]:
    """The points of a curve: no null among them."""
    numbers = each(values, number)
    if None in numbers:
        raise ValueError("a curve needs finite numbers")
    return numbers


def interval(value: object) -> list[float] | None:
    """[low, high]; None for null, or where an end is null."""
    if value is None:
        return None
    low, high = each(value, number)
    return None if low is None or high is None else [low, high]


def flag(value: object) -> bool | None:
    """True, False or None."""
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is neither true nor false")
    return value


def text(value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def each(values: object, read: Callable[[Any], Any]) -> list:
    """``read`` of each entry of a list."""
    if not isinstance(values, list):
        raise TypeError(f"{values!r:.40} is no list")
    return [read(value) for value in values]


def by_name(entries: dict, read: Callable[[Any], Any]) -> dict:
    """``read`` of each value of an object."""
    return {text(name): read(value) for name, value in entries.items()}
