"""Errors, warnings and random seeds."""

import difflib
import hashlib
import sys
from collections.abc import Iterable, Mapping

import torch


class UserError(Exception):
    """An impossible request: exit code 2 and one line, of what was given and what is allowed."""


class RunFailed(Exception):
    """A run failed for a known reason, such as a non-finite loss: exit code 1 and one line."""


def printable(text: str) -> str:
    """``text`` with U+FFFD for each unprintable character except line breaks: control characters
    move a terminal's cursor or turn its writing direction.
    """
    return "".join(
        character if character.isprintable() or character == "\n" else "\ufffd"
        for character in text
    )


def warn(message: str) -> None:
    """One line on standard error."""
    print(f"warning: {printable(message)}", file=sys.stderr)


def stream(seed: int, *names: object) -> int:
    """The seed in [0, 2^63) of the random stream for one purpose.

    Every purpose (a split's order, its crops, an initialisation, random labels, ...) at every epoch
    has its own stream. So no draw shifts another, and a resumed run needs no saved generator state.
    """
    key = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def generator(device: torch.device | str, seed: int, *names: object) -> torch.Generator:
    """A fresh generator on ``device`` at the start of the stream of ``names``."""
    return torch.Generator(device).manual_seed(stream(seed, *names))


def first_difference(a: Mapping[str, tuple], b: Mapping[str, tuple]) -> str:
    """The first name, in their order, whose shape is not the same in both, or is in one only."""
    return min(set(a.items()) ^ set(b.items()))[0]


def closest(name: str, known: Iterable[str]) -> str:
    """``; is ... meant?`` with the names most like ``name``; empty where none is like it."""
    close = difflib.get_close_matches(name, known, cutoff=0.6)
    return f"; is {' or '.join(close)} meant?" if close else ""
