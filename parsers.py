"""The parsers of the four steps and of evaluate.py, made of the tables in flags.py and of the
methods' fields.
"""

import argparse
import dataclasses
import typing
from collections.abc import Sequence

import flag_types as types
from flags import (
    UNREAD,
    audit_flags,
    data_flags,
    defaults,
    forget_flags,
    mask_flags,
    model_flags,
    published,
    run_flags,
    training_flags,
    unlearning_flags,
)
from stages.requests import AuditRequest, MaskRequest, Request, TrainRequest, UnlearnRequest
from unlearn import METHODS, flag_of


def make_parser(
    description: str, kind: type[Request] | None = None, method: str | None = None
) -> types.Parser:
    """The parser of the four steps; ``--help`` shows the flags that ``kind`` has a field for, and
    of the methods' own those of ``method``.
    """
    parser = types.Parser(description)
    groups = {
        "data": data_flags(),
        "model": model_flags(),
        "run": run_flags(),
        "training": training_flags(),
        "who is forgotten": forget_flags(),
        "masks (generate_mask.py)": mask_flags(),
        "unlearning": unlearning_flags(),
    }
    for title, flags in groups.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            flag.add_to(group)
        if title == "data":
            augment = "train without, or with, random crops and flips (default: with"
            text = f"{augment}{published('no_aug', 'without')})"
            names = ("--no-aug", "--aug")
            group.add_argument(*names, dest="no_aug", action=types.OppositeAction, help=text)
    _add_method_flags(parser)
    group = parser.add_argument_group("accepted for the reference's scripts, read by nothing")
    for name, default in UNREAD.items():
        switch = {"action": "store_true"} if default is False else {"type": type(default or "")}
        group.add_argument(f"--{name}", default=default, help=argparse.SUPPRESS, **switch)
    for each in (TrainRequest, MaskRequest, UnlearnRequest):
        _take_defaults(parser, each)
    if kind is not None:
        _show_only(parser, kind, method)
    return parser


def evaluation_parser(description: str, suites: Sequence[str]) -> types.Parser:
    """The parser of evaluate.py: what was trained, and on what, its checkpoints say themselves."""
    parser = types.Parser(description)
    for flag in audit_flags(suites):
        flag.add_to(parser)
    _take_defaults(parser, AuditRequest)
    return parser


def _show_only(parser: types.Parser, kind: type[Request], method: str | None) -> None:
    """Hide from ``--help`` the flags that a step does not read; all of them are still accepted."""
    shown = {field.name for field in dataclasses.fields(kind)} | {"help", "config"}
    if kind is UnlearnRequest:
        shown |= {"list_methods"}
        for each in METHODS.values() if method is None else [METHODS[method]]:
            shown |= {field.name for field in dataclasses.fields(each)}
    own = {field.name: field for field in dataclasses.fields(METHODS[method])} if method else {}
    for action in parser._actions:
        if action.dest not in shown:
            action.help = argparse.SUPPRESS
        elif action.dest in own:
            field = own[action.dest]
            action.help = f"{field.metadata['help']} (default: {field.default})"


def _take_defaults(parser: types.Parser, kind: type[Request] | type[AuditRequest]) -> None:
    """Give each flag the default of the request's field of its name."""
    known = {action.dest for action in parser._actions}
    for field in dataclasses.fields(kind):
        if field.name in known and field.default is not dataclasses.MISSING:
            parser.set_defaults(**{field.name: field.default})


def _add_method_flags(parser: types.Parser) -> None:
    """A flag for each field of each method that has none yet. Their defaults stay in
    the methods.
    """
    group = parser.add_argument_group("one method's own (defaults are the method's)")
    known = {action.dest for action in parser._actions}
    for method in METHODS.values():
        hints = typing.get_type_hints(method)
        for field in dataclasses.fields(method):
            if field.name in known:
                continue
            known.add(field.name)
            text = f"{field.metadata['help']} ({defaults(field.name)})"
            options = _argument_type(hints[field.name])
            if "type" in options:
                options["type"] = types.explained(options["type"], flag_of(field.name))
            group.add_argument(flag_of(field.name), dest=field.name, help=text, **options)


def _argument_type(hint: type) -> dict:
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction, "default": None}
    if typing.get_origin(hint) is typing.Literal:
        return {"choices": typing.get_args(hint)}
    return {"type": {int: types.count, float: types.number}[hint]}
