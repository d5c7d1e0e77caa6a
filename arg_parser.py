"""Every flag, in groups. All scripts share one parser; a method's own flags are its dataclass
fields.
"""

import argparse
import dataclasses
import importlib.util
import json
import re
import tomllib
import typing
from collections.abc import Sequence
from pathlib import Path

import runtime  # noqa: F401 (before torch)
from datasets import DATASETS
from masks.scores import SCORES
from models import MODELS
from runtime.files import load_json, require_file
from unlearn import (
    METHODS,
    flag_of,
    known_methods,
    method_key,
    method_table,
    needs_mask,
    preset_table,
    presets_of,
)
from utils import UserError, warn

# Flags of the reference that nothing here reads: accepted, and named in one warning line when
# typed.
UNREAD = (
    "data_dir",
    "num_workers",
    "train_y_file",
    "val_y_file",
    "prune",
    "pruning_times",
    "prune_type",
    "random_prune",
    "rewind_epoch",
    "rewind_pth",
)
# The schedule lists every epoch's steps: far above any real run, far below what fills the memory.
MOST_EPOCHS = 100_000
MEMBERS = "members of the membership attack: drawn class by class, or the reference's first ones"
THREADS = (
    "CPU threads; 1 where other work keeps the cores busy (default: OMP_NUM_THREADS, else torch's:"
    " one for each core)"
)


class ListMethods(argparse.Action):
    """Print the table of methods and stop, as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> typing.NoReturn:
        print(method_table())
        parser.exit()


class ChoosePreset(argparse.Action):
    """Keep the name of a preset; for ``list`` print all of them and stop, as --help does."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        name: str,
        *unused: object,
    ) -> None:
        if name == "list":
            print(preset_table())
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


SWITCHES = (argparse._StoreTrueAction, argparse.BooleanOptionalAction, OppositeAction)


class Parser(argparse.ArgumentParser):
    """One line instead of a page of usage when something is wrong."""

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message} (see --help)")


def parse_args(argv: list[str], description: str) -> argparse.Namespace:
    """Parse a script's flags.

    The namespace also has ``typed``: the names of the flags that came from the command line or the
    configuration file, for the defaults that depend on the method, the data set or the original
    model; and ``wants_mask``: whether --unlearn is a name that a method has under a mask only.
    """
    return parse_with(make_parser(description), argv)


def parse_with(parser: Parser, argv: list[str]) -> argparse.Namespace:
    """:func:`parse_args` with a parser that serves many commands: making one costs forty times what
    parsing with it does.
    """
    unset = object()
    blank = {action.dest: unset for action in parser._actions if action.dest != "help"}
    given = parser.parse_args(argv, argparse.Namespace(**blank))
    if given.config is not unset:
        argv = [*_config_flags(parser, Path(given.config)), *argv]
        given = parser.parse_args(argv, argparse.Namespace(**blank))
    args = parser.parse_args(argv)
    args.typed = frozenset(name for name, value in vars(given).items() if value is not unset)
    args.wants_mask, args.unlearn = needs_mask(args.unlearn), method_key(args.unlearn)
    _check(args)
    if unread := sorted(args.typed & set(UNREAD)):
        warn(f"accepted but read by nothing: {', '.join('--' + name for name in unread)}")
    return args


def evaluation_parser(description: str, suites: Sequence[str]) -> Parser:
    """The parser of evaluate.py: what was trained, and on what, its checkpoints say themselves."""
    parser = Parser(
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--models",
        nargs="+",
        required=True,
        metavar="PATTERN",
        help="checkpoints of unlearned models",
    )
    add(
        "--retrain",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="Retrain's checkpoints; two or more give noise floors",
    )
    add(
        "--reference",
        metavar="NAME",
        help=(
            "the kind of Retrain that gaps are to, where --retrain names several: its row's name or"
            " a part"
        ),
    )
    add("--original", type=Path, help="the original model: the row that forgot nothing")
    add("--suite", default="basic", choices=suites, help="default: %(default)s")
    add("--save_dir", type=Path, help="where audit.json goes (default: the first model's folder)")
    add(
        "--mia_members",
        default="balanced",
        choices=("balanced", "first"),
        help=f"{MEMBERS} (default: %(default)s)",
    )
    add("--data", help="folder or file of the data set (default: as recorded)")
    add("--batch_size", type=_positive, default=256, help="default: %(default)s")
    add(
        "--relearn_steps",
        type=_positive,
        default=16,
        help="updates of the relearn curves (default: %(default)s)",
    )
    add("--relearn_lr", type=_rate, default=0.01, help="default: %(default)s")
    add(
        "--relearn_seeds",
        type=_positive,
        default=3,
        help="orders that a relearn curve is averaged over (default: %(default)s)",
    )
    add(
        "--shadows",
        type=_positive,
        default=16,
        help=(
            "--suite full: shadow models of U-LiRA's pool, trained as --original was (default:"
            " %(default)s)"
        ),
    )
    add(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda", "mps"),
        help="default: %(default)s",
    )
    add("--gpu", type=_count, default=0, help="which CUDA device (default: %(default)s)")
    add("--threads", type=_threads, help=THREADS)
    return parser


def make_parser(description: str) -> Parser:
    """The parser of all scripts; defaults are the reference's unless the help says how they are
    derived.
    """
    parser = Parser(
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _data_flags(parser.add_argument_group("data"))
    _model_flags(parser.add_argument_group("model"))
    _run_flags(parser.add_argument_group("run"))
    _training_flags(parser.add_argument_group("training"))
    _forget_flags(parser.add_argument_group("who is forgotten"))
    _mask_flags(parser.add_argument_group("masks (generate_mask.py)"))
    _unlearning_flags(parser.add_argument_group("unlearning"))
    _method_flags(parser)
    _unread_flags(
        parser.add_argument_group("accepted for the reference's scripts, read by nothing")
    )
    return parser


def _data_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--data",
        default="../data",
        help="folder of the data set, or the file of --dataset npz (default: %(default)s)",
    )
    add(
        "--dataset",
        default="cifar10",
        choices=DATASETS,
        help="default: the original model's, else %(default)s",
    )
    add(
        "--input_size",
        type=_positive,
        default=32,
        help="resize images to this side (default: the data set's own; 32 for a folder)",
    )
    add(
        "--num_classes",
        type=_positive,
        help="only checked: the class count comes from the data set",
    )
    augment = (
        "train without, or with, random crops and flips (default:"
        f" with{_published('no_aug', 'without')})"
    )
    add("--no-aug", "--aug", dest="no_aug", action=OppositeAction, help=augment)
    add(
        "--workers",
        type=_workers,
        default=4,
        help="processes that decode a folder of images (default: %(default)s)",
    )


def _model_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--arch",
        default="resnet18",
        choices=MODELS,
        help="default: the original model's, else %(default)s",
    )
    add(
        "--imagenet_arch",
        action="store_true",
        help="ImageNet stem (7x7 convolution, pool) for resnet18, resnet34, resnet50",
    )
    add("--model_path", type=Path, help="checkpoint of the original model")


def _run_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--save_dir", type=Path, help="where results go (default: runs/DATASET_ARCH, printed)")
    name = (
        "main_forget, main_random: keeps several runs of a method apart in one folder; files begin"
        " with NAME and a dot"
    )
    add("--run", type=_run, metavar="NAME", help=name)
    add("--config", type=Path, help="TOML or JSON file of flags; those on the command line win")
    add("--overwrite", action="store_true", help="replace results that exist")
    add(
        "--resume",
        action="store_true",
        help="go on from the last finished epoch; begin where there is nothing yet",
    )
    add(
        "--save_every_steps",
        type=_count,
        default=0,
        help="main_train: also save inside an epoch (default: 0, only after it)",
    )
    add(
        "--checkpoint",
        type=Path,
        help="main_train: the file that --resume reads (default: in --save_dir)",
    )
    add("--dry_run", action="store_true", help="check everything, print the plan, do nothing")
    add(
        "--seed", type=int, default=2, help="everything random in unlearning (default: %(default)s)"
    )
    add(
        "--train_seed",
        type=int,
        default=1,
        help="initialisation and order of main_train (default: %(default)s)",
    )
    add(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda", "mps"),
        help="default: %(default)s",
    )
    add("--gpu", type=_count, default=0, help="which CUDA device (default: %(default)s)")
    add("--threads", type=_threads, help=THREADS)
    precision = "of training; auto: bf16 where it has hardware units; fp32 is never TF32"
    add("--precision", default="auto", choices=("auto", "fp32", "bf16"), help=precision)
    graphs = (
        "compile the model for training; on CUDA with CUDA graphs, unless with --accumulate or"
        " torchrun"
    )
    add("--compile", action="store_true", help=graphs)
    add(
        "--tensorboard",
        action="store_true",
        help="write each epoch's curve for TensorBoard too (pip install tensorboard)",
    )
    add(
        "--print_freq",
        type=_positive,
        default=50,
        help="steps between checks for a non-finite loss (default: %(default)s)",
    )


def _training_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--batch_size",
        type=_positive,
        default=256,
        help=f"default: %(default)s{_published('batch_size')}",
    )
    tail = (
        "the last batch of an epoch: spread over all batches, kept as it is, or left out (default:"
        " %(default)s)"
    )
    add("--tail", default="spread", choices=("spread", "keep", "drop"), help=tail)
    select = (
        "the epoch that is kept, by validation accuracy (default: best; retrain: what its original"
        " was selected by, else last)"
    )
    add("--select", choices=("best", "last"), help=select)
    add(
        "--lr",
        type=_rate,
        default=0.1,
        help="of main_train, and of retrain without --unlearn_lr (default: %(default)s)",
    )
    add(
        "--epochs",
        type=_epochs,
        default=182,
        help="of main_train, and of retrain without --unlearn_epochs (default: %(default)s)",
    )
    add(
        "--optimizer",
        default="sgd",
        choices=("sgd", "adam", "adamw"),
        help=f"main_train: %(default)s; {_defaults('optimizer')}",
    )
    add(
        "--momentum",
        type=_rate,
        default=0.9,
        help=f"SGD's (default: %(default)s{_published('momentum')})",
    )
    add(
        "--label_smoothing",
        type=_smoothing,
        default=0.0,
        help="of main_train and retrain, 0 to 1 (default: %(default)s)",
    )
    add(
        "--weight_decay",
        type=_rate,
        default=5e-4,
        help=f"main_train: %(default)s; {_defaults('weight_decay')}",
    )
    add(
        "--schedule",
        choices=("multistep", "cosine", "constant"),
        help="default: multistep for training and retrain, else constant",
    )
    add(
        "--decreasing_lr",
        type=_milestones,
        help="epochs at which multistep takes a tenth (default: at 91/182 and 136/182 of the run)",
    )
    add(
        "--final_lr",
        type=_rate,
        default=0.0,
        help="learning rate at which the cosine ends (default: %(default)s)",
    )
    add("--warmup", type=_count, default=0, help="epochs of linear warm-up (default: %(default)s)")
    add(
        "--bn",
        default="train",
        choices=("train", "freeze"),
        help=f"BatchNorm statistics; main_train: %(default)s; {_defaults('bn')}",
    )
    add(
        "--accumulate",
        type=_positive,
        default=1,
        help="batches that one update is made of, for small memories (default: %(default)s)",
    )
    add(
        "--clip_norm",
        type=_rate,
        default=0.0,
        help="largest gradient norm; 0 does not clip (default: %(default)s)",
    )


def _forget_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--num_indexes_to_replace",
        type=_positive,
        help="how many images are forgotten (default: a whole class)",
    )
    add(
        "--class_to_replace",
        type=int,
        default=-1,
        help="forget images of this class only (default: -1, of all)",
    )
    add(
        "--indexes_to_replace",
        help="positions in the training split: 1,5,9 or @FILE (.npy, .txt, .json)",
    )
    left_out = (
        "positions in the training split that no model of this study sees, neither to train nor to"
        " forget: 1,5,9 or @FILE"
    )
    add(
        "--leave_out",
        help=f"{left_out}; other positions count what is left (default: the original model's)",
    )
    add(
        "--split_seed",
        type=int,
        default=1,
        help="which images are validation (default: the original model's, else %(default)s)",
    )
    add("--forget_seed", type=int, help="which images are forgotten (default: --seed)")
    part = (
        "share of each class's retain images that masks and methods see; evaluation keeps all"
        " (default: %(default)s)"
    )
    add("--retain_fraction", type=_share, default=1.0, help=part)


def _mask_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--score",
        default="saliency",
        choices=SCORES,
        help="which weights may change first (default: %(default)s, which is SalUn's)",
    )
    add(
        "--layers",
        type=_names,
        help="--score layers: the ones that go first, such as conv1,layer4,fc",
    )
    add(
        "--per_tensor",
        action="store_true",
        help="print what may change for each tensor (default: for each block)",
    )
    add(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="print how far two mask files agree, and stop",
    )


def _unlearning_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    name = (
        "the method, by its name or its label in any case: RL, salun, l1-sparse; --list_methods has"
        " all (default: %(default)s)"
    )
    add("--unlearn", default="retrain", type=_method, metavar="METHOD", help=name)
    add(
        "--list_methods",
        action=ListMethods,
        nargs=0,
        default=argparse.SUPPRESS,
        help="print the table of methods and stop",
    )
    preset = (
        "values of one source for the method's flags, below what is typed; list prints them"
        " (default: paper, the method's own defaults)"
    )
    add("--preset", action=ChoosePreset, default="paper", metavar="NAME", help=preset)
    add(
        "--forget_batch_size",
        type=_positive,
        help="batches of the forget set (default: --batch_size, a quarter of it for SCRUB)",
    )
    add("--unlearn_lr", type=_rate, default=0.01, help=_defaults("unlearn_lr"))
    add("--unlearn_epochs", type=_epochs, default=10, help=_defaults("unlearn_epochs"))
    add(
        "--rate",
        type=_rate,
        default=0.95,
        help=f"share of the convolution weights that are pruned in the end ({_defaults('rate')})",
    )
    add(
        "--mask_path",
        type=Path,
        help="saliency mask: a file, or with --mask_ratio the folder of with_*.pt",
    )
    add(
        "--mask_ratio",
        type=float,
        help="share of the weights that may change; picks the file in --mask_path",
    )
    add(
        "--mia_members",
        default="balanced",
        choices=("balanced", "first"),
        help=f"{MEMBERS} (default: %(default)s)",
    )


def _method_flags(parser: argparse.ArgumentParser) -> None:
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
            text = f"{field.metadata['help']} ({_defaults(field.name)})"
            group.add_argument(
                flag_of(field.name), dest=field.name, help=text, **_argument_type(hints[field.name])
            )


def _argument_type(hint: type) -> dict:
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction, "default": None}
    if typing.get_origin(hint) is typing.Literal:
        return {"choices": typing.get_args(hint)}
    return {"type": {int: _count, float: _number}[hint]}


def _unread_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--data_dir", default="./tiny-imagenet-200", help=argparse.SUPPRESS)
    add("--num_workers", type=int, default=4, help=argparse.SUPPRESS)
    add("--train_y_file", default="./labels/train_ys.pth", help=argparse.SUPPRESS)
    add("--val_y_file", default="./labels/val_ys.pth", help=argparse.SUPPRESS)
    add("--prune", default="omp", help=argparse.SUPPRESS)
    add("--pruning_times", type=int, default=1, help=argparse.SUPPRESS)
    add("--prune_type", default="rewind_lt", help=argparse.SUPPRESS)
    add("--random_prune", action="store_true", help=argparse.SUPPRESS)
    add("--rewind_epoch", type=int, default=0, help=argparse.SUPPRESS)
    add("--rewind_pth", help=argparse.SUPPRESS)


def _defaults(field: str) -> str:
    """The default of a field in every method that has it, such as ``GA: 5, RL: 10``."""
    values: dict[object, list[str]] = {}
    for name, method in METHODS.items():
        for known in dataclasses.fields(method):
            if known.name == field:
                inherited = getattr(method, "inherits", {}).get(field)
                values.setdefault(f"--{inherited}" if inherited else known.default, []).append(name)
                for dataset, own in method.by_dataset.items():
                    if field in own:
                        values.setdefault(own[field], []).append(f"{name} on {dataset}")
    return "; ".join(f"{', '.join(names)}: {value}" for value, names in values.items())


def _published(flag: str, said: str | None = None) -> str:
    """The default of one of the loop's flags in every method that changes it, such as ``; scrub,
    scrub_r: 128``, or ``said`` for it.
    """
    values: dict[object, list[str]] = {}
    for name, method in METHODS.items():
        recipe = getattr(method, "recipe", {})
        if flag in recipe:
            values.setdefault(said or recipe[flag], []).append(name)
    return "".join(f"; {', '.join(names)}: {value}" for value, names in values.items())


# ------------------------------------------------------------------------------------------- values


def _number(text: str) -> float:
    value = float(text)
    if value != value or value in (float("inf"), float("-inf")):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def _rate(text: str) -> float:
    if (value := _number(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def _count(text: str) -> int:
    if not 0 <= (value := int(text)) < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is " + ("negative" if value < 0 else "too large"))
    return value


def _positive(text: str) -> int:
    if (value := _count(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _epochs(text: str) -> int:
    if (value := _count(text)) > MOST_EPOCHS:
        raise argparse.ArgumentTypeError(f"{text} is more than {MOST_EPOCHS}")
    return value


def _workers(text: str) -> int:
    if (value := _count(text)) > 256:
        raise argparse.ArgumentTypeError(f"{text} is more than 256")
    return value


def _threads(text: str) -> int:
    if (value := _positive(text)) > 1024:
        raise argparse.ArgumentTypeError(f"{text} is more than 1024")
    return value


def _share(text: str) -> float:
    if not 0 < (value := _number(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def _smoothing(text: str) -> float:
    if not 0 <= (value := _number(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0 and below 1")
    return value


def _method(text: str) -> str:
    """A name as it was typed: what it asks for besides the method is needed, too."""
    if method_key(text) is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no method; known, in any case, are {', '.join(known_methods())}"
        )
    return text


def _run(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}", text) or ".." in text:
        raise argparse.ArgumentTypeError(
            f"{text!r}: at most 100 letters, digits, _, - and . are wanted, no dot first, no two"
            " together"
        )
    return text


def _names(text: str) -> tuple[str, ...]:
    """One order for each choice of names, and each of them once."""
    names = {name.strip() for name in text.split(",")}
    if "" in names:
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name")
    return tuple(sorted(names))


def _milestones(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


for _type, _name in (
    (_number, "number"),
    (_rate, "number"),
    (_share, "number"),
    (_smoothing, "number"),
    (_count, "integer"),
    (_positive, "integer"),
    (_epochs, "integer"),
    (_workers, "integer"),
    (_threads, "integer"),
    (_milestones, "list of epochs"),
):
    _type.__name__ = _name  # argparse says "invalid NAME value"


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


def flags_of(arguments: dict, without: set[str]) -> list[str]:
    """The words that a checkpoint's run was started with, by its record of the flags that were
    typed, but for some.
    """
    return words_of(
        make_parser(""),
        {name: arguments[name] for name in sorted({*arguments["typed"]} - without)},
        "checkpoint",
    )


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
            raise UserError(f"{origin}: {name} is no flag")
        if isinstance(value, bool):
            words += _switch(action, value, origin, name)
            continue
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        if isinstance(action, ChoosePreset) and text == "list":  # prints and ends the program
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


def check_mask_wanted(args: argparse.Namespace) -> None:
    """Refuse a method's name of runs under a mask where there is none; a step of its own, as masks
    are made without one.
    """
    if args.wants_mask and args.mask_path is None:
        label = METHODS[args.unlearn].masked_label
        raise UserError(
            f"--unlearn {label} is {args.unlearn} under a mask; make one with generate_mask.py and"
            " give it by --mask_path"
        )


def _check(args: argparse.Namespace) -> None:
    """What can be refused from the flags alone."""
    if (
        args.indexes_to_replace is not None
        and {"num_indexes_to_replace", "class_to_replace"} & args.typed
    ):
        raise UserError(
            "--indexes_to_replace names the images; drop --num_indexes_to_replace and"
            " --class_to_replace, or drop it"
        )
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
    if args.preset not in (known := presets_of(METHODS[args.unlearn])):
        raise UserError(
            f"--preset {args.preset}: {args.unlearn} has {', '.join(known)}; --preset list prints"
            " them with their sources"
        )
    if args.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs an extra: pip install tensorboard")
    known = DATASETS[args.dataset]
    if (
        args.num_classes
        and known.num_classes
        and args.num_classes != known.num_classes
        and "dataset" in args.typed
    ):
        raise UserError(
            f"--num_classes {args.num_classes}: {args.dataset} has {known.num_classes}; drop the"
            " flag, it is derived"
        )
