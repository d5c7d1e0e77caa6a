"""A value that a flag cannot take: what was given, what is allowed, what to type is said."""

import argparse

import pytest

from arg_parser import unlearn_request
from evaluate import SUITES
from flag_types import ALLOWED
from parsers import evaluation_parser, make_parser
from utils import UserError

FREE = (None, str)  # any text will do
# Their messages are tested with what they do.
OWN = {"run", "unlearn", "arch", "class_to_replace", "layers"}


def typed(parser):
    """The flags that take a value of some type, or one of some choices."""
    for action in parser._actions:
        if action.nargs != 0 and action.dest not in OWN:
            kind = getattr(action.type, "__name__", None)
            if action.choices or (action.type not in FREE and kind not in ("Path", "str")):
                yield action


ALL = [
    pytest.param(parser, action, id=f"{where}{action.option_strings[0]}")
    for where, parser in (("", make_parser("")), ("evaluate", evaluation_parser("", SUITES)))
    for action in typed(parser)
    if action.help != argparse.SUPPRESS
]


@pytest.mark.parametrize(("parser", "action"), ALL)
def test_a_wrong_value_is_explained(parser, action):
    flag = action.option_strings[0]
    with pytest.raises(UserError) as error:
        parser.parse_args([f"{flag}=?!"])
    said = str(error.value)
    assert f"argument {flag}: " in said
    assert "?!" in said
    assert "allowed: " in said or "choose from" in said
    assert action.choices or f"such as {flag} " in said


@pytest.mark.parametrize("words", [["--mean=120"], ["--std=1e-30"], ["--std=-1,1,1"]])
def test_statistics_of_other_pixels_are_refused(words):
    with pytest.raises(UserError, match="allowed: "):
        make_parser("").parse_args(words)


def test_what_is_forgotten_is_said_once():
    with pytest.raises(UserError, match="--forget is given twice"):
        unlearn_request(["--unlearn", "FT", "--forget", "random:1", "--forget=class:3"])


def test_there_are_flags_of_each_kind():
    assert len(ALL) > 60


@pytest.mark.parametrize("kind", ALLOWED, ids=lambda kind: kind.__name__)
def test_the_example_is_allowed(kind):
    assert kind(ALLOWED[kind][1]) is not None


def test_a_flag_that_is_nearly_one_is_named():
    with pytest.raises(UserError, match=r"--unlern FT; is --unlearn .*meant"):
        make_parser("").parse_args(["--unlern", "FT"])
    with pytest.raises(UserError, match=r"unrecognized arguments: --nothing 3 \(see"):
        make_parser("").parse_args(["--nothing", "3"])
