"""What a flag may be: types from text to value, or argparse's error with the reason; actions; the
parser itself.
"""

import argparse
import re
import typing
from collections.abc import Callable, Sequence

from unlearn import known_methods, method_key, method_listing
from utils import UserError

# The schedule lists every epoch's steps: far above any real run, far below what fills the memory.
MOST_EPOCHS = 100_000


class Parser(argparse.ArgumentParser):
    """One line instead of a page of usage when something is wrong."""

    def __init__(self, description: str):
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(description=description, allow_abbrev=False, formatter_class=raw)

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message} (see --help)")


class ListMethods(argparse.Action):
    """Print the table of methods and stop, as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> typing.NoReturn:
        print(method_listing())
        parser.exit()


class ChooseOrList(argparse.Action):
    """Keep a name; for ``list`` print ``table`` and stop, as --help does."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, table: Callable[[], str], **rest: object
    ):
        super().__init__(option_strings, dest, **rest)
        self.table = table

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        name: str,
        *unused: object,
    ) -> None:
        if name == "list":
            print(self.table())
            parser.exit()
        setattr(namespace, self.dest, name)


class OppositeAction(argparse.Action):
    """Two switches of one flag: the first spelling sets it, the second one clears it."""

    def __init__(self, option_strings: Sequence[str], dest: str, **rest: object):
        super().__init__(option_strings, dest, nargs=0, default=False, **rest)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        spelling: str,
    ) -> None:
        setattr(namespace, self.dest, spelling == self.option_strings[0])


def number(text: str) -> float:
    value = float(text)
    if value != value or value in (float("inf"), float("-inf")):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def rate(text: str) -> float:
    if (value := number(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def count(text: str) -> int:
    if not 0 <= (value := int(text)) < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is " + ("negative" if value < 0 else "too large"))
    return value


def positive(text: str) -> int:
    if (value := count(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def epochs(text: str) -> int:
    if (value := count(text)) > MOST_EPOCHS:
        raise argparse.ArgumentTypeError(f"{text} is more than {MOST_EPOCHS}")
    return value


def workers(text: str) -> int:
    if (value := count(text)) > 256:
        raise argparse.ArgumentTypeError(f"{text} is more than 256")
    return value


def threads(text: str) -> int:
    if (value := positive(text)) > 1024:
        raise argparse.ArgumentTypeError(f"{text} is more than 1024")
    return value


def share(text: str) -> float:
    if not 0 < (value := number(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def smoothing(text: str) -> float:
    if not 0 <= (value := number(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0 and below 1")
    return value


def method(text: str) -> str:
    """A name as it was typed: what it asks for besides the method is needed, too."""
    if method_key(text) is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no method; known, in any case, are {', '.join(known_methods())}"
        )
    return text


def run(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", text) or ".." in text:
        raise argparse.ArgumentTypeError(
            f"{text!r}: at most 100 letters, digits, _, - and . are wanted, no dot first, no two"
            " together"
        )
    return text


def names(text: str) -> tuple[str, ...]:
    """One order for each choice of names, and each of them once."""
    found = {name.strip() for name in text.split(",")}
    if "" in found:
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name")
    return tuple(sorted(found))


def milestones(text: str) -> tuple[int, ...]:
    return tuple(count(part) for part in text.split(","))


# argparse says "invalid NAME value".
for _kind in (number, rate, share, smoothing):
    _kind.__name__ = "number"
for _kind in (count, positive, epochs, workers, threads):
    _kind.__name__ = "integer"
milestones.__name__ = "list of epochs"
