"""What a flag may be: types from text to value, or argparse's error with the reason; actions; the
parser itself.
"""

import argparse
import difflib
import re
import typing
from collections.abc import Callable, Sequence

import runtime  # noqa: F401 (before torch)
from models import MODELS, is_arch
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
        unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        known = self._option_string_actions
        close = difflib.get_close_matches(unknown[1], known, cutoff=0.75) if unknown else []
        if close:
            message += f"; is {' or '.join(close)} meant?"
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


def drop_path(text: str) -> float | str:
    """A rate of stochastic depth, or ``own``."""
    if text == "own":
        return text
    if not 0 <= (value := number(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is neither in [0, 1) nor own")
    return value


def count(text: str) -> int:
    if not 0 <= (value := int(text)) < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is " + ("negative" if value < 0 else "too large"))
    return value


def positive(text: str) -> int:
    if (value := count(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def images(text: str) -> int | str:
    """A number of images, or a share of them such as ``10%``."""
    return text if text.endswith("%") else positive(text)


def classes(text: str) -> int | str:
    """The index of a class, or names and indices as they are typed."""
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text


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


def arch(text: str) -> str:
    if not is_arch(text):
        known = ", ".join(MODELS)
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of {known}, nor torchvision:NAME, timm:NAME or FILE.py:FACTORY"
        )
    return text


def three(text: str) -> tuple[float, ...]:
    """Three numbers, or one for all three channels."""
    values = tuple(map(number, text.split(",")))
    if len(values) not in (1, 3):
        raise argparse.ArgumentTypeError(f"{text}: {len(values)} numbers; give 1 or 3: .49,.48,.45")
    if max(map(abs, values)) > 10:
        raise argparse.ArgumentTypeError(
            f"{text} is of pixels from 0 to 255, here they are in [0, 1]"
        )
    return values * 3 if len(values) == 1 else values


def deviations(text: str) -> tuple[float, ...]:
    if min(values := three(text)) < 1e-3:
        raise argparse.ArgumentTypeError(f"{text}: a deviation is at least 0.001")
    return values


def share(text: str) -> float:
    if not 0 < (value := number(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def fraction(text: str) -> float:
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


LARGE = 2**31 - 1
# What a flag of each type allows, and an example.
ALLOWED = {
    int: ("a whole number", "2"),
    float: ("a number", "0.5"),
    number: ("a number", "0.5"),
    rate: ("a number of at least 0", "0.01"),
    share: ("a number above 0 and at most 1", "0.3"),
    fraction: ("a number of at least 0 and below 1", "0.1"),
    drop_path: ("a number of at least 0 and below 1, or own", "0.1"),
    three: ("one number, or three", "0.49,0.48,0.45"),
    deviations: ("one number from 0.001 on, or three", "0.25,0.24,0.26"),
    count: (f"a whole number from 0 to {LARGE}", "3"),
    positive: (f"a whole number from 1 to {LARGE}", "64"),
    images: (f"a whole number from 1 to {LARGE}, or a share", "10%"),
    epochs: (f"a whole number from 0 to {MOST_EPOCHS}", "10"),
    workers: ("a whole number from 0 to 256", "4"),
    threads: ("a whole number from 1 to 1024", "1"),
    milestones: ("whole numbers between commas", "91,136"),
    names: ("names between commas", "conv1,layer4,fc"),
}


def explained(kind: Callable, flag: str) -> Callable:
    """``kind`` with an error that says what was given, what ``flag`` allows, and what to type."""
    if kind not in ALLOWED:
        return kind
    allowed, example = ALLOWED[kind]

    def convert(text: str) -> object:
        try:
            return kind(text)
        except argparse.ArgumentTypeError as error:
            reason = str(error)
        except (ValueError, OverflowError):
            reason = f"{text[:60]!r} cannot be read"
        raise argparse.ArgumentTypeError(f"{reason}; allowed: {allowed}, such as {flag} {example}")

    return convert
