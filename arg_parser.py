"""Words of a command line to the request of a stage; argparse's namespace ends here."""

import argparse
import dataclasses
import difflib
import importlib.util
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import runtime  # noqa: F401 (before torch)
from datasets import DATASETS, check_augment, dataset_key
from flag_types import ChooseOrList, OppositeAction, Parser
from flags import UNREAD, data_flags
from parsers import evaluation_parser, make_parser
from runtime.files import load_json, require_file
from stages.requests import AuditRequest, MaskRequest, Request, TrainRequest, UnlearnRequest
from training.presets import PRESETS
from unlearn import METHODS, method_key, needs_mask, presets_of
from unlearn.base import Preset
from utils import UserError, warn

Kind = TypeVar("Kind", bound=Request)
SWITCHES = (argparse._StoreTrueAction, argparse.BooleanOptionalAction, OppositeAction)


def train_request(argv: list[str], description: str = "") -> TrainRequest:
    """What main_train.py is asked for."""
    return parse_with(make_parser(description, TrainRequest), argv, TrainRequest)


def mask_request(argv: list[str], description: str = "") -> MaskRequest:
    """What generate_mask.py is asked for."""
    return parse_with(make_parser(description, MaskRequest), argv, MaskRequest)


def unlearn_request(
    argv: list[str], description: str = "", script: str = "main_forget"
) -> UnlearnRequest:
    """What main_forget.py or main_random.py is asked for."""
    parser = make_parser(description, UnlearnRequest, _method_of_help(argv))
    return parse_with(parser, argv, UnlearnRequest, script=script)


def _method_of_help(argv: list[str]) -> str | None:
    """The method whose flags ``--unlearn NAME --help`` asks for."""
    words = [word.partition("=") for word in argv]
    for i, (flag, equals, value) in enumerate(words):
        if flag == "--unlearn" and "--help" in argv:
            return method_key(value if equals else " ".join(argv[i + 1 : i + 2]))
    return None


def audit_request(argv: list[str], description: str, suites: Sequence[str]) -> AuditRequest:
    """What evaluate.py is asked for."""
    args = evaluation_parser(description, suites).parse_args(argv)
    several = {"models": tuple(args.models), "retrain": tuple(args.retrain)}
    return AuditRequest(**{**vars(args), **several})


def prepare_request(argv: list[str], description: str) -> Request:
    """What datasets/prepare.py is asked for: a data set, and how it is read."""
    parser = Parser(description)
    names = ", ".join(DATASETS)
    parser.add_argument("dataset", type=dataset_key, choices=DATASETS, metavar="NAME", help=names)
    read = ("data", "input_size", "fit", "augment", "workers", "cache")
    for flag in data_flags():
        if flag.name in read:
            flag.add_to(parser)
    parser.set_defaults(workers=Request.workers)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value}
    known = DATASETS[given["dataset"]]
    place = {"data": UNREAD["data_dir"] if known.data_dir else Request.data}
    return Request(**place | given, typed=frozenset(given))


def parse_with(parser: Parser, argv: list[str], kind: type[Kind], **given: object) -> Kind:
    """The request of these words. A parser can serve many commands: making one costs forty times
    what parsing with it does.

    ``typed`` of the request holds the names of the flags that came from the command line or the
    configuration file, also of those that ``kind`` has no field for.
    """
    if sum(word == "--forget" or word.startswith("--forget=") for word in argv) > 1:
        raise UserError("--forget is given twice; put all of it into one, or run twice")
    unset = object()
    blank = {action.dest: unset for action in parser._actions if action.dest != "help"}
    seen = parser.parse_args(argv, argparse.Namespace(**blank))
    if seen.config is not unset:
        argv = [*_config_flags(parser, Path(seen.config)), *argv]
        seen = parser.parse_args(argv, argparse.Namespace(**blank))
    args = parser.parse_args(argv)
    typed = frozenset(name for name, value in vars(seen).items() if value is not unset)
    typed = _read_for_ours(args, typed)
    masked, args.unlearn = needs_mask(args.unlearn), method_key(args.unlearn)
    _check(args, typed, PRESETS if kind is TrainRequest else presets_of(METHODS[args.unlearn]))
    if unread := sorted(typed & UNREAD.keys()):
        warn(f"accepted but read by nothing: {', '.join('--' + name for name in unread)}")
    values = vars(args)
    names = {field.name for field in dataclasses.fields(kind)}
    if kind is UnlearnRequest:
        own = {field.name for method in METHODS.values() for field in dataclasses.fields(method)}
        given["wants_mask"] = masked
        given["hyperparameters"] = {name: values[name] for name in typed & own - names}
    return kind(**{name: values[name] for name in names & values.keys()}, **given, typed=typed)


def _read_for_ours(args: argparse.Namespace, typed: frozenset[str]) -> frozenset[str]:
    """Let two flags of the reference stand for ours where these are not typed: --num_workers for
    --workers and, on the data set that the reference keeps there, --data_dir for --data.

    Returns what counts as typed then.
    """
    pairs = {"num_workers": "workers"} if "num_workers" in typed else {}
    if DATASETS[args.dataset].data_dir and {"dataset", "data_dir"} & typed:
        pairs["data_dir"] = "data"
    for theirs, ours in pairs.items():
        if ours not in typed:
            setattr(args, ours, getattr(args, theirs))
            typed = typed | {ours} if theirs in typed else typed
    return typed - pairs.keys()


def _config_flags(parser: argparse.ArgumentParser, path: Path) -> list[str]:
    """The flags of a configuration file, as words of a command line, so that the same checks
    apply.
    """
    if path.suffix == ".json":
        values = load_json(path, "--config")
    else:
        require_file(path, "--config")
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"--config {path} is not readable TOML: {error}") from None
    return words_of(parser, values, f"--config {path}")


def recorded_flags(values: dict[str, object]) -> dict[str, object]:
    """What the parser makes of a checkpoint's record of some flags: the same checks as for typed
    ones.
    """
    parser = make_parser("")
    given = vars(parser.parse_args(words_of(parser, values, "checkpoint")))
    return {name: given[name] for name in values}


def words_of(parser: argparse.ArgumentParser, values: dict[str, object], origin: str) -> list[str]:
    """The words of a command line that give flags these values: one ``--name=value`` each, so that
    no value is read as another flag.
    """
    flags = {action.dest: action for action in parser._actions}
    words = []
    for name, value in values.items():
        action = flags.get(name)
        if action is None or name in ("config", "help") or isinstance(value, dict | None):
            close = difflib.get_close_matches(name, flags, n=1, cutoff=0.75)
            hint = f"; is {close[0]} meant?" if close and close[0] != name else ""
            raise UserError(f"{origin}: {name} is no flag{hint}")
        if isinstance(value, bool):
            words += _switch(action, value, origin, name)
            continue
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        if isinstance(action, ChooseOrList) and text == "list":  # prints and ends the program
            raise UserError(f"{origin}: {name} list sets nothing")
        if "\0" in text:
            raise UserError(f"{origin}: {name} holds a zero byte")
        words.append(f"{action.option_strings[0]}={text}")
    return words


def _switch(action: argparse.Action, value: bool, origin: str, name: str) -> list[str]:
    if action.nargs != 0:
        raise UserError(f"{origin}: {name} takes a value, not {json.dumps(value)}")
    if not isinstance(action, SWITCHES):  # one that prints and ends the program
        raise UserError(f"{origin}: {name} sets nothing")
    if value:
        return [action.option_strings[0]]
    return (
        [action.option_strings[1]]
        if isinstance(action, argparse.BooleanOptionalAction | OppositeAction)
        else []
    )


def _check(args: argparse.Namespace, typed: frozenset[str], presets: dict[str, Preset]) -> None:
    """What can be refused from the flags alone; ``presets`` are those there are."""
    if args.mask_ratio is not None and args.mask_path is None:
        raise UserError("--mask_ratio picks a file in --mask_path FOLDER, which is not given")
    if args.layers is not None and args.score != "layers":
        raise UserError(
            f"--layers {','.join(args.layers)} is of --score layers, this is --score {args.score};"
            " drop one of them"
        )
    if args.score == "layers" and args.layers is None:
        raise UserError(
            "--score layers: which ones? add --layers, such as --layers conv1,layer4,fc"
        )
    if args.overwrite and args.resume:
        raise UserError("--overwrite starts anew and --resume goes on; give one of them")
    if args.checkpoint is not None and not args.resume:
        raise UserError(
            f"--checkpoint {args.checkpoint} is what --resume reads; add --resume, or drop it"
        )
    if args.decreasing_lr and args.schedule in ("cosine", "constant"):
        raise UserError(
            f"--decreasing_lr is of --schedule multistep; {args.schedule} does not read it, drop"
            " one of them"
        )
    if args.preset not in presets:
        owner = "main_train" if presets is PRESETS else args.unlearn
        raise UserError(
            f"--preset {args.preset}: {owner} has {', '.join(presets)}; --preset list prints them"
            " with their sources"
        )
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs an extra: pip install tensorboard")
    if "dataset" in typed:
        check_augment(args.dataset, args.augment)
    known = DATASETS[args.dataset]
    if (
        args.num_classes
        and known.num_classes
        and args.num_classes != known.num_classes
        and "dataset" in typed
    ):
        raise UserError(
            f"--num_classes {args.num_classes}: {args.dataset} has {known.num_classes}; drop the"
            " flag, it is derived"
        )
