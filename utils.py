"""Errors, warnings and random seeds: what every room needs."""

import hashlib
import sys

import torch


class UserError(Exception):
    """Something impossible was asked for: one line (what was given, what is allowed, what to do),
    exit code 2.
    """


class RunFailed(Exception):
    """A run went wrong in a way that we recognise, such as a non-finite loss: one line, exit code
    1.
    """


def printable(text: str) -> str:
    """``text`` with a replacement character for what moves a terminal's cursor or turns its
    direction; line breaks stay.
    """
    return "".join(
        character if character.isprintable() or character == "\n" else "\ufffd"
        for character in text
    )


def warn(message: str) -> None:
    """One line on standard error."""
    print(f"warning: {printable(message)}", file=sys.stderr)


def stream(seed: int, *names: object) -> int:
    """The seed in [0, 2^63) of the random stream that belongs to one purpose.

    Every purpose (a split's order, its crops, an initialisation, random labels, ...) at every epoch
    has a stream of its own. No draw can shift another, and a resumed run needs no saved generator
    state: the epoch says it all.
    """
    key = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def generator(device: torch.device | str, seed: int, *names: object) -> torch.Generator:
    """A fresh generator on ``device`` at the start of the stream of ``names``."""
    return torch.Generator(device).manual_seed(stream(seed, *names))
