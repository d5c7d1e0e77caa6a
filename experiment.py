"""The stages that the scripts share: from flags to parameters, and from parameters to files.
``args`` ends here.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import parallel
from arg_parser import check_mask_wanted, make_parser, parse_args, words_of
from claims import check_npy
from datasets import DATASETS, ImageSet, load_dataset
from datasets.loaders import Data
from datasets.splits import (
    SCENARIOS,
    ForgetSplit,
    Split,
    check_lineage,
    choose_forget,
    leave_out,
    make_split,
    retain_part,
    split_record,
)
from engine import EpochStats, Trainer, UnfitState, check_batch_norm, predict, run
from evaluation.accuracy import accuracies, accuracy
from evaluation.attacks import entropy_member_rate
from evaluation.gaps import ENTROPY
from evaluation.membership import DrawRule, draw_rule, draws_line, means, same_draws, svc_draws
from evaluation.suites import Splits
from evaluation.verdicts import (
    Standing,
    at_chance,
    changed_nothing,
    judge,
    judge_alone,
    needs_reference,
    relative_change,
    remedies,
    say_at_chance,
    standing,
)
from models import MODELS, blocks, build_model, check_arch, place
from recipe import Recipe
from settings import FIELD_OF, INHERITED, LOOP, check_final_lr, differences, settle, unrecorded
from unlearn import METHODS, label_of, label_today
from unlearn.base import Iterative, Method, cross_entropy_steps, option
from unlearn.retrain import Retrain
from unlearn.saliency import RATIOS, Mask, check_mask, overlap, read_mask, top_masks
from unlearn.scores import RATIO_ORDER, READ_RETAIN, SCORES, check_layers, layers_mask, listed_first
from utils import (
    RunFailed,
    Stopwatch,
    UserError,
    hash_arrays,
    keep_freed_memory,
    load,
    load_json,
    lock,
    pick_device,
    pick_precision,
    provenance,
    reading,
    require_file,
    save,
    save_json,
    save_text,
    stream,
    tune_cuda,
    use_threads,
    warn,
    warn_of_standstill,
    with_threads,
)

# Images of each split that the line after an epoch is computed on; the result uses all of them.
MONITORED = 500
# The milestones of the published recipe, 91 and 136 of 182 epochs, as shares of a run.
MILESTONES = (91 / 182, 136 / 182)
RESTART = "start anew with --overwrite"
MEANING = {
    "UA": "forget error",
    "RA": "retain",
    "TA": "test",
    "VA": "validation",
    "MIA": "forget called non-member",
}
OTHER_FLAGS = "use the same flags, another --save_dir, or --overwrite"
# Flags that a step would ignore although they ask for something: of training, and of unlearning.
OF_LATER_STEPS = (
    "model_path",
    "unlearn",
    "num_indexes_to_replace",
    "class_to_replace",
    "indexes_to_replace",
    "forget_seed",
    "retain_fraction",
    "mask_path",
    "mask_ratio",
    "score",
    "layers",
    "compare",
    "per_tensor",
    "preset",
    "forget_batch_size",
    "run",
)
OF_OTHER_STEPS = ("score", "layers", "compare", "per_tensor", "checkpoint", "save_every_steps")
# What an unlearning run writes, after its stem.
PARTS = ("checkpoint.pth.tar", "eval_result.pth.tar", "result.json", "curve.jsonl")
PARTIAL_RETRAIN = (
    "with --retain_fraction, retrain is no longer what the other methods are measured against"
)


# ------------------------------------------------------------------------------ flags to parameters


@dataclasses.dataclass(frozen=True)
class Original:
    """A checkpoint that later stages start from; ``split`` is None where the file has no record of
    its data.
    """

    path: Path
    state_dict: dict[str, Tensor]
    sha256: str
    split: dict | None
    arguments: dict
    recipe: (
        dict  # what it was trained with, by main_train's flags; empty where the file does not say
    )


def read_original(path: Path) -> Original:
    """Read a checkpoint, wrapped or bare, of this project or of the reference.

    Raises:
        UserError: the file holds no state dictionary, or one with a value that is not finite.
    """
    content = load(path, "--model_path")
    if not isinstance(content, dict):
        raise UserError(f"--model_path {path} holds no state dictionary")
    weights = content.get("state_dict", content)
    if not isinstance(weights, Mapping) or not weights or not all(map(_is_weight, weights.items())):
        raise UserError(f"--model_path {path} holds no state dictionary")
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    if bad := not_finite(weights):
        raise UserError(
            f"--model_path {path}: {bad} holds values that are not finite; train the model again"
        )
    wrapped = content if "state_dict" in content else {}
    split, arguments = wrapped.get("split"), wrapped.get("arguments") or {}
    with reading(
        path,
        "--model_path",
        "its record is not main_train's; train the model again, or save its state_dict alone",
    ):
        _check_record(split, arguments)
        recipe = _trained_with(arguments, wrapped.get("identity") or {})
    return Original(path, weights, hash_arrays(weights), split, arguments, recipe)


def _trained_with(arguments: dict, identity: dict) -> dict:
    """The flags that trained a checkpoint's model from scratch: main_train's, or Retrain's. What
    unlearned it is no recipe.
    """
    if identity.get("method") == Retrain.label:
        return {
            **arguments,
            "epochs": arguments.get("unlearn_epochs"),
            "lr": arguments.get("unlearn_lr"),
        }
    return arguments if "train_seed" in identity else {}


def not_finite(weights: Mapping) -> str | None:
    """The name of the first tensor with a value that is not finite."""
    tensors = (
        (name, value)
        for name, value in weights.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    )
    return next(
        (
            name
            for name, value in tensors
            if not torch.isfinite(value if value.element_size() > 1 else value.float()).all()
        ),
        None,
    )


def _check_record(split: object, arguments: object) -> None:
    """Raise for what later stages could not use in a checkpoint's record of its data and its
    flags.
    """
    of_flags = {
        "dataset": str,
        "data": str,
        "arch": str,
        "imagenet_arch": bool,
        "input_size": int,
        "typed": list,
    }
    of_split = {"dataset": str, "data_sha256": str, "split_seed": int, "train": Tensor}
    parts = [(arguments, {name: kind for name, kind in of_flags.items() if name in arguments})]
    if split is not None:
        parts.append((split, of_split))
    for part, kinds in parts:
        for name, kind in kinds.items():
            if not isinstance(part[name], kind):
                raise TypeError(f"{name} is {part[name]!r}")
    for name, registry in (("dataset", DATASETS), ("arch", MODELS)):
        if arguments.get(name, next(iter(registry))) not in registry:
            raise ValueError(f"{name} is {arguments[name]!r}")


def _is_weight(item: tuple) -> bool:
    name, value = item
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_complex()
    )


def adopt(args: argparse.Namespace, original: Original) -> None:
    """Take over, where nothing was typed, what the original model was trained with."""
    of_model = ("dataset", "data", "arch", "imagenet_arch", "input_size", "leave_out")
    inherited = {name: original.arguments[name] for name in of_model if name in original.arguments}
    if original.split is not None:
        inherited["split_seed"] = original.split["split_seed"]
    changed = {
        name: value
        for name, value in inherited.items()
        if name not in args.typed and getattr(args, name) != value
    }
    vars(args).update(changed)
    # A typed size may be the flag's default and still not the data set's own.
    args.typed |= {"input_size"} & {*changed, *original.arguments.get("typed", ())}
    if changed:
        print(
            f"from {original.path}: "
            + " ".join(f"--{name} {value}" for name, value in changed.items())
        )


def load_weights(model: nn.Module, original: Original, arch: str) -> None:
    """Load strictly; a checkpoint of another architecture or class count is refused by its first
    difference.
    """
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in original.state_dict.items()}
    if wanted != found:
        name = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise UserError(
            f"--model_path {original.path} does not fit --arch {arch}: {name} is"
            f" {found.get(name, 'missing')} in the file and {wanted.get(name, 'missing')} in the"
            " model; give the --arch and --dataset it was trained with"
        )
    model.load_state_dict(original.state_dict, strict=True)


def make_method(args: argparse.Namespace, original: Original | None = None) -> Method:
    """The chosen method, with every flag of the run at its value in force: see
    :func:`settings.settle`.
    """
    kind = METHODS[args.unlearn]
    inherits = getattr(kind, "inherits", {})
    recipe = original.recipe if original and inherits else {}
    with reading(args.model_path or Path(), "--model_path", "its record is not main_train's"):
        taken = settle(args, recipe)
    if inherits:
        say_inherited(args, original, taken)
    say_loop(args, taken)
    method = kind(**{field.name: getattr(args, field.name) for field in dataclasses.fields(kind)})
    own = {field.name for other in METHODS.values() for field in dataclasses.fields(other)}
    # --lr and --epochs are training's; a typed one that this method does not take over is a mistake
    # worth a word.
    read = (
        {field.name for field in dataclasses.fields(kind)}
        | {*inherits.values()}
        | ({"select"} if inherits else set())
    )
    if ignored := sorted((own | {"lr", "epochs", "select"}) & args.typed - read):
        warn(f"{args.unlearn} does not read {', '.join('--' + name for name in ignored)}")
    return method


def recipe_of_original(original: Original | None) -> dict | None:
    """The hyper-parameters and the recipe that Retrain takes over from an original, as its result
    would record them.
    """
    if original is None or not original.recipe:
        return None
    args = parse_args(["--unlearn", "retrain"], "")
    try:
        settle(args, original.recipe)
    except (UserError, ValueError):  # Retrain refuses such a record; other methods do not need it
        return None
    method = Retrain(
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(Retrain)}
    )
    recipe = {
        **dataclasses.asdict(method),
        **recorded_recipe(method, recipe_of_method(args, method, "")),
    }
    return {name: value for name, value in recipe.items() if name != "precision"}


def say_inherited(
    args: argparse.Namespace, original: Original | None, taken: dict[str, object]
) -> None:
    """One line on where Retrain's recipe comes from."""
    if taken:
        print(
            f"retrain as {original.path} was trained: "
            + " ".join(words_of(make_parser(""), taken, "checkpoint"))
        )
        missing = [FIELD_OF.get(name, name) for name in INHERITED if name not in original.recipe]
        missing = {
            name: getattr(args, name)
            for name in missing
            if name not in args.typed and getattr(args, name) is not None
        }
        if missing:
            print(
                "not recorded there, so by default:"
                f" {' '.join(words_of(make_parser(''), missing, 'checkpoint'))}"
            )
        return
    where = (
        f"{original.path} has no record of its recipe"
        if original
        else "no --model_path whose recipe to take over"
    )
    print(
        f"{where}: retrain trains {args.unlearn_epochs} epochs at {args.unlearn_lr}, batch size"
        f" {args.batch_size}"
    )


def say_loop(args: argparse.Namespace, taken: dict[str, object]) -> None:
    """One line on what a preset or the method's own source sets of the loop's flags, which no help
    shows as their default.
    """
    plain = vars(parse_args([], "")) | {"forget_batch_size": args.batch_size}
    free = [
        name
        for name in LOOP
        if name not in args.typed and name not in taken and name not in ("select", "tail")
    ]
    own = {
        name: getattr(args, name) for name in free if getattr(args, name) not in (None, plain[name])
    }
    if own:
        print(f"--preset {args.preset}: " + " ".join(words_of(make_parser(""), own, "preset")))


def name_unread(args: argparse.Namespace, script: str, flags: tuple[str, ...]) -> None:
    """One warning for what was typed and belongs to another step."""
    if unread := sorted(args.typed & set(flags)):
        warn(f"{script} does not read {', '.join('--' + name for name in unread)}")


def load_data(args: argparse.Namespace) -> ImageSet:
    """The data set of the flags, with what they claim about it checked."""
    spec = DATASETS[args.dataset]
    size = args.input_size if "input_size" in args.typed else None
    check_arch(args.arch, size or spec.image_size, args.imagenet_arch)
    dataset = parallel.in_turns(
        lambda: load_dataset(args.dataset, args.data, input_size=size, workers=args.workers)
    )
    if args.num_classes and args.num_classes != dataset.num_classes:
        raise UserError(
            f"--num_classes {args.num_classes}: {args.dataset} has {dataset.num_classes}; drop the"
            " flag, it is derived"
        )
    return dataset


def read_positions(text: str, flag: str = "--indexes_to_replace") -> np.ndarray:
    """The integers of ``1,5,9`` or of ``@FILE`` with .npy, .json (a list) or .txt (separated by
    commas or white space).
    """
    try:
        if not text.startswith("@"):
            values = [int(part) for part in text.split(",")]
        else:
            path = Path(text[1:])
            require_file(path, flag)
            if path.suffix == ".npy":
                check_npy(path)
                values = np.load(path, allow_pickle=False)
            elif path.suffix == ".json":
                values = json.loads(path.read_text())
            else:
                values = [int(part) for part in path.read_text().replace(",", " ").split()]
        positions = np.asarray(values)
    except (OSError, ValueError, EOFError, RecursionError, OverflowError) as error:
        raise UserError(f"{flag} {text[:60]}: {error}") from None
    if positions.ndim != 1 or not len(positions) or not np.issubdtype(positions.dtype, np.integer):
        raise UserError(f"{flag} {text[:60]}: a non-empty list of integers is wanted")
    return positions.astype(np.int64)


def split_of(args: argparse.Namespace, labels: np.ndarray) -> Split:
    """The split of --split_seed, without the training images of --leave_out."""
    split = make_split(labels, args.split_seed)
    return (
        split
        if args.leave_out is None
        else leave_out(split, read_positions(args.leave_out, "--leave_out"))
    )


def choose(args: argparse.Namespace, split: Split, labels: np.ndarray) -> ForgetSplit:
    """The forget set of the flags."""
    positions = None if args.indexes_to_replace is None else read_positions(args.indexes_to_replace)
    if positions is None and args.num_indexes_to_replace is None and args.class_to_replace == -1:
        raise UserError(
            "nothing to forget: give --num_indexes_to_replace N, --class_to_replace C or"
            " --indexes_to_replace 1,5,9"
        )
    return choose_forget(
        split,
        labels,
        count=args.num_indexes_to_replace,
        class_to_forget=args.class_to_replace,
        positions=positions,
        forget_seed=forget_seed(args),
    )


def forget_seed(args: argparse.Namespace) -> int:
    return args.seed if args.forget_seed is None else args.forget_seed


def retain_seed(args: argparse.Namespace, chosen: ForgetSplit) -> int:
    """The seed of --retain_fraction: one that --seed does not change on a given forget set, so that
    several seeds see the same part.
    """
    if args.forget_seed is None and (chosen.kind == "indexes" or chosen.dropped_class is not None):
        return args.split_seed  # a list or a whole class is the same forget set under every --seed
    return forget_seed(args)


def check_request(args: argparse.Namespace) -> None:
    """Refuse, before data or models, what the flags alone show to be impossible."""
    for flag in ("indexes_to_replace", "leave_out"):
        if getattr(args, flag) is not None:
            read_positions(getattr(args, flag), f"--{flag}")
    classes = DATASETS[args.dataset].num_classes
    if args.class_to_replace < -1 or (classes and args.class_to_replace >= classes):
        raise UserError(
            f"--class_to_replace {args.class_to_replace}: allowed -1 (all)"
            + (f" to {classes - 1}" if classes else " and up")
        )


def folder_of(args: argparse.Namespace) -> Path:
    """--save_dir, or a default that is printed."""
    if args.save_dir is None:
        args.save_dir = Path("runs") / f"{args.dataset}_{args.arch}"
        print(f"--save_dir {args.save_dir}")
    return args.save_dir


def stem_of(args: argparse.Namespace, run: str | None) -> str:
    """What the names of an unlearning run's files begin with."""
    return f"{run}.{args.unlearn}" if run else args.unlearn


def free_run(args: argparse.Namespace, folder: Path) -> str:
    """A --run of this method that ``folder`` has no file of."""
    for number in itertools.count(1):
        run = f"s{args.seed}" + (f"_{number}" if number > 1 else "")
        if not any(os.path.lexists(folder / f"{stem_of(args, run)}{part}") for part in PARTS):
            return run


def free_folder(folder: Path) -> Path:
    """A folder that does not exist, beside ``folder``, or inside it where nothing may be written
    beside it.
    """
    beside = folder.name not in ("", "..") and os.access(folder.parent, os.W_OK | os.X_OK)
    first = folder if beside else folder / "run"
    for number in itertools.count(2):
        if not os.path.lexists(found := first.with_name(f"{first.name}_{number}")):
            return found


def ways_to_keep_both(args: argparse.Namespace, runs: bool) -> str:
    """The flags that leave what is in --save_dir alone; ``runs``: --run is read."""
    elsewhere = f"--save_dir {shlex.quote(str(free_folder(args.save_dir)))}"
    if (
        not runs or parallel.count() > 1
    ):  # torchrun takes --run for a flag of its own where no -- stands before the script
        return f"{elsewhere} keeps both"
    return f"--run {free_run(args, args.save_dir)} keeps both, or {elsewhere}"


def refuse_overwriting(args: argparse.Namespace, files: list[Path], *, runs: bool = False) -> None:
    """A result that exists is only replaced when asked to; a folder that cannot be written is
    refused before any work.
    """
    parallel.by_first(lambda: _refuse_overwriting(args, files, runs))


def _refuse_overwriting(args: argparse.Namespace, files: list[Path], runs: bool) -> None:
    parent = next(path for path in files[0].absolute().parents if os.path.exists(path))
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"--save_dir {args.save_dir} cannot be written")
    there = begun(files)
    if there and not (args.overwrite or args.resume):
        resume = "--resume goes on from it, " if is_resumable(there) else ""
        raise UserError(
            f"{there[0]} exists; {resume}--overwrite replaces it, {ways_to_keep_both(args, runs)}"
        )


def begun(files: list[Path]) -> list[Path]:
    """Those of a run's files that are there, checkpoint first. A curve alone says nothing: it is
    written before the first checkpoint.
    """
    return [
        file for file in files if not file.name.endswith("curve.jsonl") and os.path.exists(file)
    ]


def is_resumable(there: list[Path]) -> bool:
    """Whether --resume goes on from the first of a run's files that are there: a checkpoint, or
    masks.

    Or training's best model, if it is alone: it holds the same, and after the first epoch it is
    written before the checkpoint.
    """
    names = [file.name for file in there]
    return names[0].endswith(("checkpoint.pth.tar", ".pt", "mask_result.json")) or names == [
        "0model_SA_best.pth.tar"
    ]


def settle_resume(args: argparse.Namespace, files: list[Path], *, runs: bool = False) -> Path:
    """What --resume goes on from. Where nothing is begun it begins: ``args.resume`` is False from
    here on.
    """
    if not args.resume:
        return files[0]
    parallel.start(
        pick_device(args.device, args.gpu)
    )  # the processes take the first one's word for what is there
    source = parallel.by_first(lambda: _what_to_resume(args, files, runs))
    args.resume = source is not None
    return source or files[0]


def _what_to_resume(args: argparse.Namespace, files: list[Path], runs: bool) -> Path | None:
    if args.checkpoint is not None:
        require_file(args.checkpoint, "--checkpoint")
        return args.checkpoint
    there = begun(files)
    if not there:
        print(f"--resume: nothing in {args.save_dir} yet; beginning")
        return None
    if not is_resumable(there):
        keep = ways_to_keep_both(args, runs)
        raise UserError(
            f"--resume: {there[0]} exists, but no {files[0].name} to go on from; --overwrite starts"
            f" anew, {keep}"
        )
    return there[0]


def recipe_of(
    args: argparse.Namespace, epochs: int, *, from_scratch: bool, precision: str
) -> Recipe:
    """The loop's part of the flags: ``from_scratch`` trains by multistep where no schedule is
    named, and chooses an epoch.
    """
    schedule = args.schedule or ("multistep" if from_scratch or args.decreasing_lr else "constant")
    milestones = args.decreasing_lr or tuple(share * epochs for share in MILESTONES)
    return Recipe(
        args.batch_size,
        args.momentum,
        schedule,
        args.warmup,
        milestones if schedule == "multistep" else (),
        args.final_lr,
        args.clip_norm,
        args.accumulate,
        not args.no_aug,
        args.tail,
        args.select if from_scratch else None,
        precision,
    )


def recipe_of_method(args: argparse.Namespace, method: Method, precision: str) -> Recipe:
    """:func:`recipe_of` for a method's run; of a one-shot method it says what its data are."""
    loops = isinstance(method, Iterative)
    recipe = recipe_of(
        args,
        method.unlearn_epochs if loops else 0,
        from_scratch=not method.needs_original,
        precision=precision,
    )
    if loops and "forget" not in method.splits:
        return recipe
    return dataclasses.replace(recipe, forget_batch_size=args.forget_batch_size)


def recorded_recipe(method: Method, recipe: Recipe) -> dict[str, object]:
    """What a file says of a recipe: nothing where there is no loop."""
    return recipe.record() if isinstance(method, Iterative) else {}


def set_up(args: argparse.Namespace) -> tuple[torch.device, str]:
    """The device and the training precision; in a run of several processes they meet here."""
    device = pick_device(args.device, args.gpu)
    use_threads(args.threads, device)
    parallel.start(device)
    tune_cuda(device)
    if device.type == "cpu":
        keep_freed_memory()
    return device, pick_precision(args.precision, device)


def new_model(args: argparse.Namespace, dataset: ImageSet, device: torch.device) -> nn.Module:
    model = build_model(
        args.arch,
        dataset.num_classes,
        dataset.mean,
        dataset.std,
        image_size=dataset.image_size,
        imagenet_stem=args.imagenet_arch,
    )
    return place(model, device)


# ----------------------------------------------------------------------------------------- training


def read_state(path: Path, identity: dict) -> dict:
    """A checkpoint to resume from; one that was made under other flags is refused with the
    difference named.

    ``identity`` may be what the flags alone tell, to refuse before data are read; the whole of it
    is compared later.
    """
    state = load(path, "--resume: checkpoint")
    kinds = {"state_dict": dict, "epoch": int, "identity": dict, "seconds": float}
    if not isinstance(state, dict) or not all(
        isinstance(state.get(name), kind) for name, kind in kinds.items()
    ):
        raise UserError(f"--resume: {path} is no checkpoint of this script; {RESTART}")
    if bad := not_finite(state["state_dict"]):
        raise UserError(f"--resume: {path}: {bad} holds values that are not finite; {RESTART}")
    recorded_identity = {**unrecorded(state["identity"]), **state["identity"]}
    if isinstance(label := recorded_identity.get("method"), str):
        recorded_identity["method"] = label_today(
            (state.get("arguments") or {}).get("unlearn"), label, masked=False
        )
    for name, value in identity.items():
        theirs = recorded_identity.get(name)
        if theirs != value:
            raise UserError(
                f"--resume: {path} was made with {name} {theirs}, this command says {value};"
                f" {OTHER_FLAGS}"
            )
    return state


def adopt_tail(args: argparse.Namespace, checkpoint: Path) -> None:
    """A run that began before there was --tail goes on as it began."""
    if not args.resume or "tail" in args.typed or not parallel.by_first(checkpoint.is_file):
        return
    content = load(checkpoint, "--resume: checkpoint")
    identity = content.get("identity") if isinstance(content, dict) else None
    if isinstance(identity, dict) and "batch_size" in identity and "tail" not in identity:
        args.tail = "keep"
        print(f"{checkpoint} was begun before --tail; it goes on with --tail keep")


def recorded(
    path: Path, hash_name: str, sha256: str, metrics: tuple[str, ...], test_sha256: str
) -> dict | None:
    """The result that a finished run wrote about the weights of this hash; None where it did not
    come to that, or it is damaged.

    None also where it was tested on other images than those of ``test_sha256``.
    """
    try:
        result = load_json(path, "result")
        numbers = {name: result["metrics"][name] for name in metrics}
        read = isinstance(result["label"], str) and type(result["RTE"]["total"]) in (int, float)
        read = read and all(type(value) in (int, float, type(None)) for value in numbers.values())
        read = read and result["data"].get("test_sha256", test_sha256) == test_sha256
        return result if read and result["provenance"][hash_name] == sha256 else None
    except (UserError, AttributeError, LookupError, TypeError):
        return None


@dataclasses.dataclass
class Train(Iterative):
    """Training on the whole training split, as a method of the shared loop."""

    splits = ("train",)
    needs_original = False

    label_smoothing: float = option(
        0.0, "share of the target that is spread over all classes, 0 to 1"
    )

    def losses(self, model: nn.Module, data: Data, epoch: int):  # noqa: ANN201 (Steps)
        return cross_entropy_steps(model, data.train, self.label_smoothing)


def train(args: argparse.Namespace) -> None:
    """Step 1: train the original model; the best epoch by un-augmented validation accuracy is kept
    beside the last.
    """
    name_unread(args, "main_train", OF_LATER_STEPS)
    if not args.epochs:
        raise UserError("--epochs 0 trains nothing; give at least 1")
    check_final_lr(args, args.lr)
    device, precision = set_up(args)
    folder = folder_of(args)
    files = {
        name: folder / name
        for name in (
            "0checkpoint.pth.tar",
            "0model_SA_best.pth.tar",
            "train_result.json",
            "0curve.jsonl",
        )
    }
    resumed = settle_resume(args, list(files.values()))
    refuse_overwriting(args, list(files.values()))
    best_so_far = resumed.with_name("0model_SA_best.pth.tar")
    adopt_tail(args, resumed)
    args.select = args.select or "best"
    hyperparameters = {
        name: getattr(args, name)
        for name in ("epochs", "lr", "optimizer", "weight_decay", "label_smoothing", "bn")
    }
    recipe = recipe_of(args, args.epochs, from_scratch=True, precision=precision)
    identity = {
        "arch": args.arch,
        "imagenet_arch": args.imagenet_arch,
        "dataset": args.dataset,
        "split_seed": args.split_seed,
        "train_seed": args.train_seed,
        **hyperparameters,
        **recipe.record(),
    }
    if args.resume:
        read_state(resumed, identity)
    dataset = load_data(args)
    split = split_of(args, dataset.y_train)
    seed = stream(args.train_seed, "train")
    data = Data(dataset, split, None, device=device, seed=seed, **recipe.batches())
    record = split_record(dataset.name, dataset.sha256(), split, split.train)
    method = Train(
        args.epochs, args.lr, args.optimizer, args.weight_decay, args.bn, args.label_smoothing
    )
    identity |= {"data_sha256": record["data_sha256"], "train": hash_arrays({"train": split.train})}
    torch.manual_seed(stream(seed, "init"))
    model = new_model(args, dataset, device)
    trainer = Trainer(model, method, data, recipe, Stopwatch(device))
    sizes = f"{len(split.train)} images, {len(split.val)} validation"
    print(f"train {args.arch} on {dataset.name}: {sizes}, {precision} on {with_threads(device)}")
    one_image = check_batch_norm(model, method, data)
    if recipe.select == "best" and not len(split.val):
        print("no validation images: --select last")
        recipe = dataclasses.replace(recipe, select="last")
    if args.dry_run:
        return
    with lock(folder, "0", files.values()):
        refuse_overwriting(args, list(files.values()))  # another run may have finished since
        best = -1.0
        if args.resume:
            state = read_state(resumed, identity)
            with reading(resumed, "--resume: checkpoint", RESTART):
                trainer.restore(state)
                best = float(state["best_sa"])
            if trainer.start_epoch:
                kept = read_state(best_so_far, identity)
                if best_so_far != files["0model_SA_best.pth.tar"]:
                    save(kept, files["0model_SA_best.pth.tar"])
            if resumed == files["0model_SA_best.pth.tar"]:
                save(
                    state, files["0checkpoint.pth.tar"]
                )  # also where no epoch is left that would write it
            if trainer.start_epoch == args.epochs:
                best_sha256 = hash_arrays(kept["state_dict"])
                result = (
                    files["train_result.json"],
                    "original_sha256",
                    best_sha256,
                    ("train", "VA", "TA"),
                )
                if done := recorded(*result, dataset.test_sha256()):
                    print(f"finished already; {files['train_result.json']} says")
                    print(result_line("original", done["metrics"], done["RTE"]["total"]))
                    return
        else:  # a result must never stand beside the checkpoint of another run
            files["train_result.json"].unlink(missing_ok=True)
        curve = Curve(files["0curve.jsonl"], trainer.start_epoch, args.tensorboard)
        arguments = plain_arguments(args) | {"select": recipe.select}
        common = {
            "identity": identity,
            "split": record,
            "arguments": arguments,
            "select": recipe.select,
        }

        def keep(epoch: int, meter: dict) -> None:
            state = {**trainer.state(epoch, meter), "best_sa": best, **common}
            save(state, files["0checkpoint.pth.tar"])

        def after_epoch(epoch: int, stats: EpochStats) -> None:
            nonlocal best
            val = accuracy(*to_numpy(predict(model, data.evaluation["val"])))
            print(
                epoch_line(
                    epoch,
                    args.epochs,
                    stats,
                    f"train {stats.accuracy:.2f}  val {val:.2f}  ",
                    trainer.clock,
                ),
                flush=True,
            )
            curve.add(epoch, stats, {"val": val}, trainer.clock.seconds)
            is_best, best = recipe.select == "last" or val > best, max(val, best)
            state = {**trainer.state(epoch + 1), "best_sa": best, **common}
            # The best model first: a kill between the two writes repeats this epoch and writes both
            # again.
            if is_best:
                save(state, files["0model_SA_best.pth.tar"])
            save(state, files["0checkpoint.pth.tar"])

        trainer.fit(
            after_epoch,
            compile=args.compile,
            print_freq=args.print_freq,
            keep=keep,
            save_every=args.save_every_steps,
            one_image=one_image,
        )
        metrics = train_report(
            args,
            model,
            data,
            record,
            hyperparameters,
            recipe.record(),
            precision,
            trainer.clock,
            files,
        )
    rule = (
        "the epoch with the best validation accuracy"
        if recipe.select == "best"
        else "the last epoch"
    )
    print(f"{files['0model_SA_best.pth.tar']} is {rule}")
    print(result_line("original", metrics, trainer.clock.seconds))


def train_report(
    args: argparse.Namespace,
    model: nn.Module,
    data: Data,
    record: dict,
    hyperparameters: dict,
    recipe: dict,
    precision: str,
    clock: Stopwatch,
    files: dict[str, Path],
) -> dict[str, float]:
    """Evaluate the best epoch's model and write train_result.json; returns its accuracies in
    percent.
    """
    kept = read_original(files["0model_SA_best.pth.tar"])
    model.load_state_dict(kept.state_dict)
    outputs = {name: to_numpy(predict(model, loader)) for name, loader in data.evaluation.items()}
    percent, trained = (
        {name: accuracy(*output) for name, output in outputs.items()},
        standing(*outputs["train"]),
    )
    metrics = {"train": percent["train"], "VA": percent["val"], "TA": percent["test"]}
    warnings = (
        [say_at_chance("the original", trained, "a training accuracy of")]
        if at_chance(trained)
        else []
    )
    for message in warnings:
        warn(message)
    warn_of_standstill(clock.stopped)
    result = {
        "schema": 1,
        "script": "main_train",
        "method": "original",
        "label": "Original",
        "metrics": metrics,
        "RTE": {"total": clock.seconds, "stopped": clock.stopped},
        "hyperparameters": hyperparameters,
        "recipe": recipe,
        "warnings": warnings,
        "data": {
            "dataset": record["dataset"],
            "arch": args.arch,
            "split_seed": args.split_seed,
            "data_sha256": record["data_sha256"],
            "test_sha256": data.dataset.test_sha256(),
            "train_sha256": hash_arrays({"train": record["train"]}),
            "sizes": {name: loader.num_samples for name, loader in data.evaluation.items()},
        },
        "provenance": {
            **provenance(data.device, precision, {"train_seed": args.train_seed}),
            "original_sha256": kept.sha256,
        },
    }
    save_json(result, files["train_result.json"])
    return metrics


def plain_arguments(args: argparse.Namespace) -> dict:
    """The namespace as plain values, for a checkpoint."""
    plain = {
        name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()
    }
    return plain | {"typed": sorted(args.typed)}


def to_numpy(output: tuple[Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    return output[0].numpy(), output[1].numpy()


def epoch_line(epoch: int, epochs: int, stats: EpochStats, seen: str, clock: Stopwatch) -> str:
    """What is printed after an epoch; ``seen`` is what it was evaluated to."""
    return (
        f"epoch {epoch + 1}/{epochs}  loss {stats.loss:.4f}  {seen}lr {stats.lr:.4g} "
        f" {clock.seconds:.1f} s"
    )


def number(value: float | None) -> float:
    """A metric of a file, where null stands for one that is none."""
    return np.nan if value is None else value


def result_line(method: str, metrics: dict[str, float], seconds: float) -> str:
    """The last line of standard output, for grep."""
    shown = " ".join(f"{name}={number(value):.2f}" for name, value in metrics.items())
    return f"RESULT method={method} {shown} RTE={seconds:.1f}"


# ---------------------------------------------------------------------- what mask and unlearn share


@dataclasses.dataclass
class Task:
    """A forget request on loaded data, with the model it is about."""

    device: torch.device
    recipe: Recipe
    original: Original | None
    dataset: ImageSet
    data_sha256: str
    split: Split
    chosen: ForgetSplit
    data: Data
    model: nn.Module

    def retain_indices(self) -> np.ndarray:
        """The retain images that methods see: all but for --retain_fraction."""
        return self.data.retain.indices.cpu().numpy()

    def retain_sha256(self) -> str:
        return hash_arrays({"retain": self.retain_indices()})

    def attack(self, args: argparse.Namespace) -> tuple[DrawRule, dict]:
        """Who teaches the membership attack, and the record of it."""
        rule = draw_rule(
            args.mia_members, self.split.split_seed, self.data_sha256, self.chosen.sha256()
        )
        indices = {
            name: self.data.evaluation[name].indices.cpu().numpy() for name in ("retain", "test")
        }
        return rule, rule.record(
            self.dataset.y_train[indices["retain"]], self.dataset.y_test[indices["test"]]
        )

    def data_record(self, args: argparse.Namespace) -> dict:
        """The ``data`` entry of a result."""
        chosen = self.chosen
        forget = {
            "kind": chosen.kind,
            "count": len(chosen.forget),
            "sha256": chosen.sha256(),
            "forget_seed": forget_seed(args),
        }
        if chosen.kind == "class":
            forget["class"] = args.class_to_replace
        kept = {
            "fraction": args.retain_fraction,
            "count": self.data.retain.num_samples,
            "sha256": self.retain_sha256(),
        }
        return {
            "dataset": self.dataset.name,
            "arch": args.arch,
            "split_seed": self.split.split_seed,
            "data_sha256": self.data_sha256,
            "test_sha256": self.dataset.test_sha256(),
            "forget": forget,
            "retain": kept,
            "sizes": {name: loader.num_samples for name, loader in self.data.evaluation.items()},
        }


def open_task(
    args: argparse.Namespace, original: Original | None, method: Method | None = None
) -> Task:
    """Load data and model for a forget request, read as ``method`` wants it, and assert that they
    belong together.
    """
    device, precision = set_up(args)
    recipe = recipe_of_method(args, method or Method(), precision)
    dataset = load_data(args)
    split = split_of(args, dataset.y_train)
    chosen = choose(args, split, dataset.y_train)
    data_sha256 = dataset.sha256()
    if original is not None:
        record = original.split
        if record is None:
            print(
                f"{original.path} has no record of its training images; taken as trained on"
                " --split_seed 1"
            )
            assumed = make_split(dataset.y_train, 1)
            record = split_record(dataset.name, data_sha256, assumed, assumed.train)
        check_lineage(record, data_sha256, split, chosen)
    part = retain_part(chosen, dataset.y_train, args.retain_fraction, retain_seed(args, chosen))
    data = Data(
        dataset,
        split,
        chosen,
        device=device,
        seed=stream(args.seed, "unlearn"),
        retain=part,
        **recipe.batches(),
    )
    model = new_model(args, dataset, device)
    if original is not None:
        load_weights(model, original, args.arch)
    sizes = ", ".join(f"{name} {loader.num_samples}" for name, loader in data.evaluation.items())
    print(
        f"{dataset.name}: {sizes} images; split seed {split.split_seed}, forget {chosen.kind}"
        f" {chosen.sha256()[:12]}"
    )
    if args.retain_fraction < 1:
        print(
            f"--retain_fraction {args.retain_fraction}: methods see {len(part)} of the retain"
            " images"
        )
    print(f"{args.arch}, {precision} on {with_threads(device)}")
    return Task(device, recipe, original, dataset, data_sha256, split, chosen, data, model)


def make_masks(args: argparse.Namespace) -> None:
    """Step 2: ten nested masks by --score, with_0.1.pt to with_1.0.pt; with --layers an eleventh of
    exactly those layers.
    """
    name_unread(args, "generate_mask", ("run",))
    if args.compare is not None:
        return compare_masks(*map(Path, args.compare))
    if args.model_path is None:
        raise UserError(
            "--model_path is missing: the masks of which model? give main_train's checkpoint"
        )
    original = read_original(args.model_path)
    adopt(args, original)
    check_request(args)
    if args.layers is not None:
        check_layers(args.layers, parameter_names(args))
    folder = folder_of(args)
    files = [folder / f"with_{name}.pt" for name in (*RATIOS, "layers")]
    record_file = folder / "mask_result.json"
    settle_resume(args, [*files, record_file])
    refuse_overwriting(args, [*files, record_file])
    task = open_task(args, original)
    if args.dry_run:
        return
    with lock(folder, "mask", [*files, record_file]):
        refuse_overwriting(args, [*files, record_file])  # another run may have finished since
        if args.resume and (
            done := parallel.by_first(lambda: finished_masks(args, task, record_file))
        ):
            print(f"finished already; {record_file} says")
            print(
                f"RESULT method={args.score} masks={len(done['masks'])}"
                f" RTE={done['RTE']['total']:.1f}"
            )
            return
        clock = Stopwatch(task.device)
        with clock:
            scores = SCORES[args.score](task.model, task.data)
            masks = top_masks(scores if args.layers is None else listed_first(scores, args.layers))
        print_shares(masks, mask_rows(task.model, args.per_tensor))
        named = {f"with_{ratio}.pt": mask for ratio, mask in masks.items()}
        if args.layers is not None:
            named["with_layers.pt"] = layers_mask(task.model, args.layers)
        for file in files:
            if file.name in named:
                save(named[file.name], file)
            else:
                file.unlink(missing_ok=True)  # --overwrite leaves nothing of other masks
        save_json(mask_record(args, task, named, clock), record_file)
    warn_of_standstill(clock.stopped)
    print(
        f"{len(named)} masks in {folder}; use them with main_random.py --mask_path"
        f" {folder / 'with_0.5.pt'}"
    )
    print(f"RESULT method={args.score} masks={len(named)} RTE={clock.seconds:.1f}")


def parameter_names(args: argparse.Namespace) -> list[str]:
    """The names of the architecture's weights, which no data is needed for."""
    with torch.device("meta"):
        model = build_model(args.arch, 2, (0.0,) * 3, (1.0,) * 3, imagenet_stem=args.imagenet_arch)
    return [name for name, _ in model.named_parameters()]


def mask_record(
    args: argparse.Namespace, task: Task, masks: dict[str, Mask], clock: Stopwatch
) -> dict:
    """mask_result.json: by what score the masks of these files were made, for which original model
    and which data.
    """
    data = task.data_record(args)
    if args.score not in READ_RETAIN:
        del data["retain"]  # the masks are the same whatever part of the retain set there is
    return {
        "schema": 1,
        "script": "generate_mask",
        "method": args.score,
        "label": "mask",
        "score": args.score,
        "layers": args.layers,
        "batch_size": args.batch_size,
        "batch_order": RATIO_ORDER if args.score == "ratio" else None,
        "metrics": {},
        "RTE": {"total": clock.seconds, "mask": clock.seconds, "stopped": clock.stopped},
        "data": data,
        "masks": {
            name: {"density": density(mask), "sha256": hash_arrays(mask)}
            for name, mask in masks.items()
        },
        "provenance": {
            **provenance(task.device, "fp32", {"seed": args.seed}),
            "original_sha256": task.original.sha256,
        },
    }


def finished_masks(args: argparse.Namespace, task: Task, record_file: Path) -> dict | None:
    """The record of --resume's folder where all of its masks are there; None where they are still
    to be made.

    Raises:
        UserError: the record is damaged, or of masks that this command does not make; the first
            difference is named.
    """
    if not record_file.is_file():
        return None
    record = load_json(record_file, "--resume: mask record")
    with reading(record_file, "--resume: mask record", RESTART):
        theirs, ours = (
            mask_identity(made)
            for made in (record, mask_record(args, task, {}, Stopwatch(task.device)))
        )
        for name, value in ours.items():
            if theirs[name] != value:
                raise UserError(
                    f"--resume: {record_file} was made with {name} {theirs[name]}, this command"
                    f" says {value}; {OTHER_FLAGS}"
                )
        found = {name: record_file.with_name(name) for name in record["masks"]}
        whole = all(
            path.is_file()
            and hash_arrays(read_mask(load(path, "--resume: mask"), str(path)))
            == record["masks"][name]["sha256"]
            for name, path in found.items()
        )
        record["RTE"]["total"] = float(record["RTE"]["total"])
        return (
            record if whole and {f"with_{ratio}.pt" for ratio in RATIOS} <= found.keys() else None
        )


def mask_identity(record: dict) -> dict:
    """What of a mask's record decides about the masks."""
    data, made = record["data"], record["provenance"]
    identity = {
        "score": record["score"],
        "layers": list(record["layers"] or []),
        "original": made["original_sha256"],
        "arch": data["arch"],
    }
    identity |= {
        "data_sha256": data["data_sha256"],
        "forget": data["forget"]["sha256"],
        "retain": data.get("retain", {}).get("sha256"),
    }
    seed = {"seed": made["seed"]}
    drawn = {
        "random": seed,
        "ratio": {**seed, **{name: record.get(name) for name in ("batch_order", "batch_size")}},
    }
    return identity | drawn.get(record["score"], {})


def density(mask: Mask) -> float:
    """The share of the weights that may change."""
    return sum(int(value.sum()) for value in mask.values()) / sum(
        value.numel() for value in mask.values()
    )


def mask_rows(model: nn.Module, per_tensor: bool) -> dict[str, list[str]]:
    """The rows of the table of shares: parameters by block, those outside of every block by
    themselves, or each by itself.
    """
    names = [name for name, _ in model.named_parameters()]
    if per_tensor:
        return {name: [name] for name in names}
    rows = {
        " + ".join(group): [
            name for name in names if any(name.startswith(f"{part}.") for part in group)
        ]
        for group in blocks(model)
    }
    inside = {name for group in rows.values() for name in group}
    return {name: [name] for name in names if name not in inside} | rows


def print_shares(masks: dict[float, Mask], rows: dict[str, list[str]]) -> None:
    """What share of the weights may change, in percent, per row and mask."""
    width = max(map(len, [*rows, "% that may change"]))
    print(
        f"{'% that may change':{width}} {'weights':>9}  "
        + " ".join(f"{ratio:>5}" for ratio in masks)
    )
    for title, names in rows.items():
        weights = sum(masks[RATIOS[0]][name].numel() for name in names)
        shares = " ".join(
            f"{100 * density({name: mask[name] for name in names}):5.1f}" for mask in masks.values()
        )
        print(f"{title:{width}} {weights:>9}  {shares}")


def compare_masks(*files: Path) -> None:
    """How far two mask files agree, layer by layer and in total, beside what two random masks of
    their densities would.
    """
    a, b = (read_mask(load(file, "--compare"), str(file)) for file in files)
    shapes = [{name: tuple(value.shape) for name, value in mask.items()} for mask in (a, b)]
    if shapes[0] != shapes[1]:
        name = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))[0][0]
        theirs = " and ".join(
            f"{shape.get(name, 'missing')} in {file}"
            for shape, file in zip(shapes, files, strict=True)
        )
        raise UserError(
            f"--compare: the masks do not fit each other: {name} is {theirs}; give two masks of one"
            " architecture"
        )
    if not sum(value.numel() for value in a.values()):
        raise UserError(f"--compare {files[0]}: a mask without weights")
    rows = {name: overlap([a[name]], [b[name]]) for name in a}
    total = rows["in total"] = overlap(a.values(), (b[name] for name in a))
    width = max(map(len, rows))
    print(
        f"A {files[0]}\nB {files[1]}\n{'':{width}} {'weights':>9} {'% in A':>7} {'% in B':>7}"
        f" {'Jaccard':>8} {'if random':>10}"
    )
    for name, row in rows.items():
        print(
            f"{name:{width}} {row.weights:>9} {100 * row.share_a:7.1f} {100 * row.share_b:7.1f}"
            f" {row.jaccard:8.3f} {row.expected:10.3f}"
        )
    print("Jaccard: weights in both masks over weights in either; nan where both are empty")
    print(f"RESULT method=compare jaccard={total.jaccard:.4f} expected={total.expected:.4f}")


# --------------------------------------------------------------------------------------- unlearning


@dataclasses.dataclass(frozen=True)
class LoadedMask:
    """A mask, where it came from, how dense it is, what it cost to make (0 where no record says)
    and by what it was scored.

    ``score`` is a key of SCORES, with the layers of a layer mask; None where no record says.
    """

    mask: Mask
    path: Path
    sha256: str
    density: float
    seconds: float
    score: str | None

    def identity(self) -> dict:
        """What a checkpoint says of its mask, so that it can be made again for other models without
        its file.
        """
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "density": self.density,
            "score": self.score,
        }

    def record(self) -> dict:
        """What a result says of its mask; densities in [0, 1], also by layer."""
        layers = {name: density({name: value}) for name, value in self.mask.items()}
        return {
            "path": str(self.path),
            "density": self.density,
            "score": self.score,
            "layers": layers,
        }


def mask_file(args: argparse.Namespace) -> Path | None:
    """The file that --mask_path and --mask_ratio name."""
    path = args.mask_path
    if path is None:
        return None
    if path.is_dir():
        available = sorted(file.stem.removeprefix("with_") for file in path.glob("with_[0-9]*.pt"))
        if args.mask_ratio is None:
            raise UserError(
                f"--mask_path {path} is a folder; add --mask_ratio (it holds"
                f" {', '.join(available) or 'no masks'})"
            )
        path = path / f"with_{args.mask_ratio}.pt"
        if not path.is_file():
            raise UserError(
                f"--mask_ratio {args.mask_ratio}: no {path}; its folder holds"
                f" {', '.join(available) or 'no masks'}"
            )
    elif args.mask_ratio is not None and path.is_file():
        raise UserError(
            f"--mask_path {path} is a file already; drop --mask_ratio or give the folder"
        )
    require_file(path, "--mask_path")
    return path


def own_mask(content: object, path: Path, task: Task) -> LoadedMask:
    """Check what a mask file held; its record, if there is one, must name this original model and
    this forget set.
    """
    mask = check_mask(content, task.model, str(path))
    sha256, seconds, score = hash_arrays(mask), 0.0, None
    record_file = path.with_name("mask_result.json")
    record = load_json(record_file, "mask record") if record_file.is_file() else {}
    with reading(
        record_file, "mask record", "make the masks again with generate_mask.py, or move it away"
    ):
        named = record["masks"].get(path.name, {}).get("sha256") if record_file.is_file() else None
        belongs = named == sha256
        if belongs:
            data = record["data"]
            theirs = {
                "original model": str(record["provenance"]["original_sha256"]),
                "forget set": str(data["forget"]["sha256"]),
            }
            if "retain" in data:
                theirs["part of the retain set"] = str(data["retain"]["sha256"])
            seconds, score = float(record["RTE"]["mask"]), recorded_score(record)
    if not belongs and named is not None:
        raise UserError(
            f"mask {path} is not the one that {record_file} describes; make the masks again with"
            " generate_mask.py --overwrite"
        )
    if belongs:
        ours = {
            "original model": task.original.sha256,
            "forget set": task.chosen.sha256(),
            "part of the retain set": task.retain_sha256(),
        }
        for what, made_for in theirs.items():
            if made_for != ours[what]:
                raise UserError(
                    f"mask {path} belongs to {what} {made_for[:12]}, this run has"
                    f" {ours[what][:12]}; make its masks with generate_mask.py"
                )
    else:
        warn(
            f"mask {path} has no record of its model and forget set; it is used as it is, and its"
            " cost counts as 0"
        )
    return LoadedMask(mask, path, sha256, density(mask), seconds, score)


def recorded_score(record: dict) -> str:
    """The score in a mask's record, with the layers of a layer mask: what sets its runs apart from
    SalUn's.
    """
    score = record.get("score", "saliency")  # records without one were all made by saliency
    if score not in SCORES:
        raise ValueError(f"score is {score!r}")
    return f"{score}:{','.join(record['layers'])}" if score == "layers" else score


def unlearn(args: argparse.Namespace, script: str) -> None:
    """Step 3: unlearn, evaluate, write the checkpoint, the reference's dictionary and
    result.json.
    """
    name_unread(args, script, OF_OTHER_STEPS)
    check_mask_wanted(args)
    if args.model_path is None and (
        METHODS[args.unlearn].needs_original or args.mask_path is not None
    ):
        why = (
            "a mask keeps the original's weights"
            if args.mask_path is not None
            else f"{args.unlearn} starts from it"
        )
        raise UserError(f"--model_path is missing: {why}; give main_train's checkpoint")
    mask_path = mask_file(args)
    mask_content = None if mask_path is None else load(mask_path, "--mask_path")
    original = None if args.model_path is None else read_original(args.model_path)
    if original is not None:
        adopt(args, original)
    method = make_method(args, original)
    original_recipe = recipe_of_original(original)
    check_request(args)
    folder, stem = folder_of(args), stem_of(args, args.run)
    files = {part: folder / f"{stem}{part}" for part in PARTS}
    settle_resume(args, list(files.values()), runs=True)
    refuse_overwriting(args, list(files.values()), runs=True)
    adopt_tail(args, files["checkpoint.pth.tar"])
    if args.resume and not args.dry_run:
        read_state(files["checkpoint.pth.tar"], identity_of_flags(args, method, original))
    if args.unlearn == "retrain" and args.retain_fraction < 1:
        warn(PARTIAL_RETRAIN)
    task = open_task(args, original, method)
    mask = None if mask_path is None else own_mask(mask_content, mask_path, task)
    if script == "main_random" and mask is None:
        print(f"no --mask_path: {args.unlearn} runs unmasked")
    label = label_of(type(method), (mask.score or "saliency") if mask else None)
    print(
        f"{label}: {method}"
        + (f", mask {mask.path} keeps {100 * mask.density:.1f} % trainable" if mask else "")
    )
    if isinstance(method, Iterative) and task.recipe.forget_batch_size not in (
        None,
        args.batch_size,
    ):
        print(
            f"batches of {args.forget_batch_size} forget images and of {args.batch_size} retain"
            " images"
        )
    one_image = isinstance(method, Iterative) and check_batch_norm(task.model, method, task.data)
    if task.recipe.select == "best" and not task.data.evaluation["val"].num_samples:
        print("no validation images: --select last")
        task = dataclasses.replace(task, recipe=dataclasses.replace(task.recipe, select="last"))
    if args.dry_run:
        return
    recipe = recorded_recipe(method, task.recipe)
    if args.retain_fraction < 1:
        recipe["retain_fraction"] = args.retain_fraction  # a row of its own in the report
    with lock(folder, stem, files.values()):
        refuse_overwriting(
            args, list(files.values()), runs=True
        )  # another run may have finished since
        clock, extra = run_method(args, method, label, task, mask, files, one_image=one_image)
        if args.resume and parallel.by_first(files["eval_result.pth.tar"].is_file):
            weights, tested_on = hash_arrays(task.model.state_dict()), task.dataset.test_sha256()
            done = recorded(
                files["result.json"], "unlearned_sha256", weights, tuple(MEANING), tested_on
            )
            if done and same_draws(done, task.attack(args)[1]):
                print(f"finished already; {files['result.json']} says")
                print_result(done | {"label": label}, files["result.json"])
                return
        report(
            args, script, method, label, task, mask, recipe, original_recipe, clock, extra, files
        )


def identity_of_flags(args: argparse.Namespace, method: Method, original: Original | None) -> dict:
    """What of a run's identity is known before data are read."""
    recipe = recipe_of_method(
        args, method, pick_precision(args.precision, pick_device(args.device, args.gpu))
    )
    return {
        "method": method.label,
        **dataclasses.asdict(method),
        **recorded_recipe(method, recipe),
        "seed": args.seed,
        "original": original.sha256 if original else "",
        "arch": args.arch,
        "imagenet_arch": args.imagenet_arch,
        "split_seed": args.split_seed,
        "retain_fraction": args.retain_fraction,
    }


def run_method(
    args: argparse.Namespace,
    method: Method,
    label: str,
    task: Task,
    mask: LoadedMask | None,
    files: dict[str, Path],
    *,
    one_image: bool,
) -> tuple[Stopwatch, dict]:
    """Run a method to its end, saving as it goes; returns its time and what it reports
    of itself.
    """
    model, data, checkpoint = task.model, task.data, files["checkpoint.pth.tar"]
    identity = identity_of_flags(args, method, task.original) | {
        "forget": task.chosen.sha256(),
        "data_sha256": task.data_sha256,
        "mask": mask.sha256 if mask else "",
        "retain": task.retain_sha256(),
    }
    trained_on = (
        task.retain_indices() if not method.needs_original and not mask else task.split.train
    )
    common = {
        "label": label,
        "identity": identity,
        "arguments": plain_arguments(args),
        "split": split_record(task.dataset.name, task.data_sha256, task.split, trained_on),
        "forget": torch.from_numpy(task.chosen.forget),
        "retain": torch.from_numpy(task.chosen.retain),
        "mask": mask and mask.identity(),
    }
    state = read_state(checkpoint, identity) if args.resume else None
    if state is not None and "extra" in state:
        with reading(checkpoint, "--resume: checkpoint", RESTART):
            model.load_state_dict(state["state_dict"])
            return Stopwatch(task.device, state["seconds"], state.get("stopped", 0.0)), dict(
                state["extra"]
            )

    def remove_earlier() -> None:
        """A result must never stand beside the checkpoint of another run."""
        for part in () if args.resume else ("eval_result.pth.tar", "result.json", "curve.jsonl"):
            files[part].unlink(missing_ok=True)

    clock, monitor = (
        Stopwatch(task.device),
        Monitor(model, data) if isinstance(method, Iterative) else None,
    )
    curve = (
        Curve(files["curve.jsonl"], state["epoch"] if state else 0, args.tensorboard)
        if monitor
        else None
    )

    def after_epoch(epoch: int, stats: EpochStats, run_state: Callable[[], dict]) -> None:
        seen = monitor.accuracies()
        shown = (
            "".join(f"{name} {value:.1f}  " for name, value in seen.items())
            + f"(up to {MONITORED} each)  "
        )
        print(epoch_line(epoch, method.unlearn_epochs, stats, shown, clock), flush=True)
        curve.add(epoch, stats, seen, clock.seconds)
        save({**common, **run_state()}, checkpoint)

    try:
        extra, run_state = run(
            model,
            method,
            data,
            task.recipe,
            mask and mask.mask,
            clock=clock,
            state=state,
            before_epochs=remove_earlier,
            after_epoch=after_epoch,
            compile=args.compile,
            print_freq=args.print_freq,
            one_image=one_image,
        )
    except UnfitState as error:
        raise UserError(
            f"--resume: checkpoint {checkpoint} is damaged ({str(error)[:100]}); {RESTART}"
        ) from None
    done = {
        "state_dict": model.state_dict(),
        "method": {},
        "seconds": clock.seconds,
        "stopped": clock.stopped,
        "extra": extra,
    }
    save({**common, "epoch": 0, "seconds": 0.0, **run_state, **done}, checkpoint)
    return clock, extra


class Monitor:
    """Accuracy on a fixed sample of forget, retain and val after each epoch, so that a collapse is
    seen when it happens.
    """

    def __init__(self, model: nn.Module, data: Data):
        self.model = model
        self.samples = {
            name: data.evaluation[name].subset(MONITORED, "monitor")
            for name in ("forget", "retain", "val")
        }

    def accuracies(self) -> dict[str, float]:
        """In percent; NaN for an empty split."""
        return {
            name: accuracy(*to_numpy(predict(self.model, loader)))
            for name, loader in self.samples.items()
        }


class Curve:
    """A run's training curve: one line of JSON per epoch beside its checkpoint, and with
    --tensorboard an event file.
    """

    def __init__(self, file: Path, start_epoch: int, tensorboard: bool):
        kept = file.read_text().splitlines()[:start_epoch] if start_epoch and file.is_file() else []
        self.file, self.lines = file, kept
        self.writer = None
        if tensorboard and parallel.rank() == 0:
            from torch.utils.tensorboard import SummaryWriter  # an extra

            self.writer = SummaryWriter(file.with_suffix(""))

    def add(self, epoch: int, stats: EpochStats, seen: dict[str, float], seconds: float) -> None:
        """The epoch's loss, accuracies in percent, learning rate and seconds so far."""
        found = {"loss": stats.loss, "accuracy": stats.accuracy, "lr": stats.lr, "seconds": seconds}
        found |= {
            name: value for name, value in seen.items() if math.isfinite(value)
        }  # an empty split has no accuracy
        self.lines.append(json.dumps({"epoch": epoch + 1, **found}))
        # Whole, like every file: a kill between two lines leaves the shorter curve.
        save_text("\n".join(self.lines) + "\n", self.file)
        if self.writer is not None:
            for name, value in found.items():
                self.writer.add_scalar(name, value, epoch + 1)
            self.writer.flush()


def report(
    args: argparse.Namespace,
    script: str,
    method: Method,
    label: str,
    task: Task,
    mask: LoadedMask | None,
    recipe: dict,
    original_recipe: dict | None,
    clock: Stopwatch,
    extra: dict,
    files: dict[str, Path],
) -> None:
    """Evaluate the finished model, write its results, print them by name."""
    outputs = {
        name: to_numpy(predict(task.model, loader)) for name, loader in task.data.evaluation.items()
    }
    if not all(np.isfinite(logits).all() for logits, _ in outputs.values()):
        raise RunFailed("destroyed: the model's logits are not finite; try a lower learning rate")
    metrics = accuracies(outputs)
    rule, drawn = task.attack(args)
    parts = (outputs["retain"], outputs["test"], {"forget": outputs["forget"]})
    draws = parallel.by_first(lambda: svc_draws(*parts, rule))
    attack = means(draws)["forget"]
    print(draws_line(drawn))
    metrics["MIA"] = 100 * attack["confidence"]
    metrics[ENTROPY] = 100 * parallel.by_first(
        lambda: entropy_member_rate(*(outputs[name][0] for name in ("retain", "test", "forget")))
    )
    warnings = alarms(args, task, mask, extra)
    verdicts, standings = judge_run(args, method, task, mask, outputs)
    warnings += verdicts
    used = {**dataclasses.asdict(method), **recipe}
    if (
        args.unlearn == "retrain"
        and original_recipe
        and (apart := differences(used, original_recipe))
    ):
        warnings.append(f"trained unlike the original: {apart}")
    for message in warnings:
        warn(message)
    warn_of_standstill(clock.stopped)
    mask_seconds = mask.seconds if mask else 0.0
    result = {
        "schema": 1,
        "script": script,
        "method": args.unlearn,
        "label": label,
        "metrics": {**metrics, "SVC_MIA": {name: 100 * value for name, value in attack.items()}},
        "RTE": {
            "total": mask_seconds + clock.seconds,
            "mask": mask_seconds,
            "unlearn": clock.seconds,
            "stopped": clock.stopped,
        },
        "hyperparameters": dataclasses.asdict(method),
        "recipe": recipe,
        "original_recipe": original_recipe,
        "preset": args.preset,
        "mask": mask.record() if mask else None,
        "attack": {
            **drawn,
            "MIA": [100 * share for share in draws["forget"]["confidence"].tolist()],
        },
        "details": extra,
        "warnings": warnings,
        "data": task.data_record(args),
        **standings,
        "provenance": {
            **provenance(
                task.device,
                task.recipe.precision,
                {"seed": args.seed, "forget_seed": forget_seed(args)},
            ),
            "original_sha256": task.original.sha256 if task.original else "",
            "mask_sha256": mask.sha256 if mask else "",
            "unlearned_sha256": hash_arrays(task.model.state_dict()),
        },
    }
    percent = {name: accuracy(*output) for name, output in outputs.items()}
    save({"accuracy": percent, "SVC_MIA_forget_efficacy": attack}, files["eval_result.pth.tar"])
    save_json(result, files["result.json"])
    print_result(result, files["result.json"])


def print_result(result: dict, file: Path) -> None:
    """A result's metrics by name; null in a file is a number that is none."""
    metrics = result["metrics"]
    print(
        "  ".join(
            f"{name} {number(metrics[name]):.2f} ({words})" for name, words in MEANING.items()
        )
    )
    if ENTROPY in metrics:  # not in older files
        print(
            f"{ENTROPY} {number(metrics[ENTROPY]):.2f} (forget called member by the entropy attack)"
        )
    print(f"compare with Retrain, not with 100: python report.py {file.parent}")
    print(
        result_line(
            result["label"],
            {name: metrics[name] for name in ("UA", "RA", "TA", "MIA")},
            result["RTE"]["total"],
        )
    )


def alarms(args: argparse.Namespace, task: Task, mask: LoadedMask | None, extra: dict) -> list[str]:
    """What a reader must know before trusting the numbers, one line each, besides the verdicts on
    them.
    """
    found = [extra["warning"]] if "warning" in extra else []
    if args.unlearn == "retrain" and args.retain_fraction < 1:
        found.append(PARTIAL_RETRAIN)
    meant = METHODS[args.unlearn].scenarios
    if task.chosen.scenario not in meant:
        found.append(
            f"{args.unlearn} was designed to forget {' or '.join(map(SCENARIOS.get, meant))}, not"
            f" {SCENARIOS[task.chosen.scenario]}"
        )
    if mask and not mask.density:
        found.append("the mask freezes every weight")
    return found


def judge_run(
    args: argparse.Namespace, method: Method, task: Task, mask: LoadedMask | None, outputs: Splits
) -> tuple[list[str], dict]:
    """The verdicts on a finished model beside its original, and what a report needs to judge it
    again beside Retrain.

    Retrain, which others are judged by, has no reference, and the original is none to itself.
    """
    own = standing(*outputs["retain"])
    if args.unlearn == "raw":
        return [say_at_chance("the original", own)] if at_chance(own) else [], {
            "standing": own._asdict()
        }
    if task.original is None or not (method.needs_original or mask):
        return judge_alone(own, method.label), {"standing": own._asdict()}
    before, (weaker, stronger) = OriginalOutputs(args, task), remedies(dataclasses.asdict(method))
    # The retain set, the largest, is asked for where a verdict may hang on it: forget was trained
    # on like it.
    guesses = at_chance(
        Standing(accuracy(*before["forget"]), own.chance, None, len(before["forget"][1]))
    )
    start = standing(*before["retain"]) if guesses or needs_reference(own) else None
    if start and at_chance(start):
        found = [say_at_chance("the original", start)]
    else:
        moved = weights_moved(task)
        found = judge(own, start, advice=weaker) + changed_nothing(
            outputs, before, weights_moved=moved, advice=stronger
        )
    return found, {"standing": own._asdict(), "original_standing": start and start._asdict()}


class OriginalOutputs(Mapping):
    """Logits and labels of the original by evaluation split, each computed when it is first asked
    for.
    """

    def __init__(self, args: argparse.Namespace, task: Task):
        self.loaders, self.found = task.data.evaluation, {}
        self.model = new_model(args, task.dataset, task.device)
        load_weights(self.model, task.original, args.arch)

    def __getitem__(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if name not in self.found:
            self.found[name] = to_numpy(predict(self.model, self.loaders[name]))
        return self.found[name]

    def __contains__(self, name: object) -> bool:
        return name in self.loaders

    def __iter__(self) -> Iterator[str]:
        return iter(self.loaders)

    def __len__(self) -> int:
        return len(self.loaders)


def weights_moved(task: Task) -> float:
    """How far the model's weights are from the original's; BatchNorm's statistics are
    no weights.
    """
    now = {
        name: value.detach().cpu().float().numpy() for name, value in task.model.named_parameters()
    }
    return relative_change(
        now, {name: task.original.state_dict[name].float().numpy() for name in now}
    )
