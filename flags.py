"""Every flag, in groups: its name, what it may be, what ``--help`` says of it.

All steps share one parser; a method's own flags are its dataclass fields. Defaults are those of the
requests, which are the reference's unless the help says how they are derived.
"""

import argparse
import dataclasses
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

import flag_types as types
from datasets import AUGMENTATIONS, DATASETS, dataset_key
from datasets.device_images import STORES
from datasets.image_files import FITS
from masks.scores import SCORES
from models import MODELS
from stages.requests import Request
from training.presets import preset_listing
from unlearn import METHODS

# Flags of the reference that have no field here, with its defaults: accepted, and named in one
# warning line when typed. Two of them stand for flags of ours: see arg_parser.py.
UNREAD = {
    "data_dir": "./tiny-imagenet-200",
    "num_workers": 4,
    "train_y_file": "./labels/train_ys.pth",
    "val_y_file": "./labels/val_ys.pth",
    "prune": "omp",
    "pruning_times": 1,
    "prune_type": "rewind_lt",
    "random_prune": False,
    "rewind_epoch": 0,
    "rewind_pth": None,
}
DEVICES, MEMBERS = ("auto", "cpu", "cuda", "mps"), ("balanced", "first")
OF_MEMBERS = "members of the membership attack: drawn class by class, or the reference's first ones"
OF_DATASET = f"{', '.join(DATASETS)} (default: the original model's, else %(default)s)"
OF_CACHE = (
    "where decoded image files are kept; none: nowhere (default: .unlearning_cache in --data)"
)
OF_STORE = "where images are: on the device, or streamed to it (default: auto, by free memory)"
OF_THREADS = (
    "CPU threads; 1 where other work keeps the cores busy (default: OMP_NUM_THREADS, else torch's:"
    " one for each core)"
)


class Flag(typing.NamedTuple):
    """A row of the tables below. ``kind`` is a type, a registry or tuple of choices, or bool for a
    switch; ``more`` holds further arguments of argparse.
    """

    name: str
    kind: Callable | Sequence | dict
    help: str
    more: dict = {}

    def add_to(self, group: argparse._ArgumentGroup) -> None:
        options = dict(self.more)
        if self.kind is bool:
            options["action"] = "store_true"
        elif callable(self.kind):
            options["type"] = types.explained(self.kind, f"--{self.name}")
        else:
            options["choices"] = self.kind
        group.add_argument(f"--{self.name}", help=self.help, **options)


def data_flags() -> tuple[Flag, ...]:
    data = f"folder of the data set, or the file of --dataset npz (default: {Request.data})"
    input_size = "resize images to this side (default: the data set's own; 32 for a folder)"
    fit = "how images become square: cut, padded with black, squashed (default: crop, npz squash)"
    augment = "windows of the padded image, or of image files resized parts, held larger by 256/224"
    own = ", ".join(name for name, spec in DATASETS.items() if spec.augment == "resized_crop")
    workers = f"processes that decode image files (default: {Request.workers})"
    return (
        Flag("data", str, data),
        Flag("dataset", DATASETS, OF_DATASET, {"type": dataset_key, "metavar": "NAME"}),
        Flag("input_size", types.positive, input_size),
        Flag("fit", FITS, fit),
        Flag("augment", AUGMENTATIONS, f"{augment} (default: crop; {own}: resized_crop)"),
        Flag("num_classes", types.positive, "only checked: it comes from the data set"),
        Flag("workers", types.workers, workers),
        Flag("cache", str, OF_CACHE, {"metavar": "DIR"}),
        Flag("store", STORES, OF_STORE),
    )


def model_flags() -> tuple[Flag, ...]:
    arch = (
        "also torchvision:NAME, timm:NAME; FILE.py:FACTORY runs FILE.py, whose FACTORY makes an"
        " nn.Module from the number of classes (default: the original model's, else %(default)s)"
    )
    mean = "channel means that images in [0, 1] are normalised by (default: the data set's)"
    std = "channel deviations, likewise"
    imagenet_arch = "ImageNet stem (7x7 convolution, pool) for resnet18, resnet34, resnet50"
    return (
        Flag("arch", types.arch, arch, {"metavar": f"{{{','.join(MODELS)},FILE.py:FACTORY}}"}),
        Flag("init", Path, "main_train, and retrain after it: weights of a file to begin with"),
        Flag("imagenet_arch", bool, imagenet_arch),
        Flag("mean", types.three, mean),
        Flag("std", types.deviations, std),
        Flag("model_path", Path, "checkpoint of the original model"),
    )


def run_flags() -> tuple[Flag, ...]:
    name = "main_forget, main_random: keeps several runs of a method apart in one folder; files"
    graphs = "compile the model for training; on CUDA with CUDA graphs, unless with --accumulate or"
    begin = "go on from the last finished epoch; begin where there is nothing yet"
    inside = "main_train: also save inside an epoch (default: 0, only after it)"
    board = "write each epoch's curve for TensorBoard too (pip install tensorboard)"
    units = "of training; auto: bf16 where it has hardware units; fp32 is never TF32"
    fixed = "on CUDA: cuDNN's deterministic convolutions, for equal digits run after run"
    print_freq = "steps between checks for a non-finite loss (default: %(default)s)"
    return (
        Flag("save_dir", Path, "where results go (default: runs/DATASET_ARCH, printed)"),
        Flag("run", types.run, f"{name} begin with NAME and a dot", {"metavar": "NAME"}),
        Flag("config", Path, "TOML or JSON file of flags; those on the command line win"),
        Flag("overwrite", bool, "replace results that exist"),
        Flag("resume", bool, begin),
        Flag("save_every_steps", types.count, inside),
        Flag("checkpoint", Path, "main_train: what --resume reads (default: in --save_dir)"),
        Flag("dry_run", bool, "check everything, print the plan, do nothing"),
        Flag("seed", int, "everything random in unlearning (default: %(default)s)"),
        Flag("train_seed", int, "initialisation and order of main_train (default: %(default)s)"),
        Flag("device", DEVICES, "default: %(default)s"),
        Flag("gpu", types.count, "which CUDA device (default: %(default)s)"),
        Flag("threads", types.threads, OF_THREADS),
        Flag("deterministic", bool, fixed),
        Flag("precision", ("auto", "fp32", "bf16"), units),
        Flag("compile", bool, f"{graphs} torchrun"),
        Flag("tensorboard", bool, board),
        Flag("print_freq", types.positive, print_freq),
    )


def training_flags() -> tuple[Flag, ...]:
    tail = "the last batch of an epoch: spread over all batches, kept as it is, or left out"
    select = "the epoch that is kept, by validation accuracy (default: best; retrain: what its"
    tenth = "epochs at which multistep takes a tenth (default: at 91/182 and 136/182 of the run)"
    instead = "of main_train, and of retrain without"
    smallest = "batches that one update is made of, for small memories (default: %(default)s)"
    optimizer = f"main_train: %(default)s; {defaults('optimizer')}"
    label_smoothing = "of main_train and retrain, 0 to 1 (default: %(default)s)"
    mixup = (
        "alpha of mixup, of main_train and retrain: images and their losses are blended by a share"
    )
    drop_path = "the last block's rate of stochastic depth, 0 to 1, or own: the architecture's"
    decay = "whether biases, norms and position embeddings decay too (default: %(default)s)"
    schedule = f"default: multistep for training and retrain, else constant{published('schedule')}"
    final_lr = f"rate at which the cosine ends (default: %(default)s{published('final_lr')})"
    clip_norm = f"0 does not clip (default: %(default)s{published('clip_norm')})"
    bn = f"BatchNorm statistics; main_train: %(default)s; {defaults('bn')}"
    return (
        Flag("batch_size", types.positive, f"default: %(default)s{published('batch_size')}"),
        Flag("tail", ("spread", "keep", "drop"), f"{tail} (default: %(default)s)"),
        Flag("select", ("best", "last"), f"{select} original was selected by, else last)"),
        Flag("lr", types.rate, f"{instead} --unlearn_lr (default: %(default)s)"),
        Flag("epochs", types.epochs, f"{instead} --unlearn_epochs (default: %(default)s)"),
        Flag("optimizer", ("sgd", "adam", "adamw"), optimizer),
        Flag("momentum", types.rate, f"SGD's (default: %(default)s{published('momentum')})"),
        Flag("label_smoothing", types.fraction, label_smoothing),
        Flag(
            "mixup", types.rate, f"{mixup} from Beta(alpha, alpha) (default: %(default)s, without)"
        ),
        Flag("drop_path", types.drop_path, f"{drop_path} (default: %(default)s)"),
        Flag("weight_decay", types.rate, f"main_train: %(default)s; {defaults('weight_decay')}"),
        Flag("decay", ("all", "weights"), decay),
        Flag("schedule", ("multistep", "cosine", "constant"), schedule),
        Flag("decreasing_lr", types.milestones, tenth),
        Flag("final_lr", types.rate, final_lr),
        Flag("warmup", types.count, "epochs of linear warm-up (default: %(default)s)"),
        Flag("bn", ("train", "freeze"), bn),
        Flag("accumulate", types.positive, smallest),
        Flag("clip_norm", types.rate, f"largest gradient norm; {clip_norm}"),
    )


def forget_flags() -> tuple[Flag, ...]:
    left_out = "positions in the training split that no model of this study sees, neither to train"
    others = "nor to forget: 1,5,9 or @FILE; other positions count what is left"
    part = "share of each class's retain images that masks and methods see; evaluation keeps all"
    forget = "what is forgotten: random:4500, random:10%%, class:cat, classes:3,5, class:cat:50%%,"
    lists = "positions:@FILE, indices:@FILE, files:@FILE (.npy, .txt, .json, .csv, or 1,5,9)"
    retain_forgotten = "retain images that --model_path was made to forget by an earlier request"
    skip_val = "leave out validation images that --forget indices: or files: names"
    num_indexes_to_replace = "--forget random:N: 4500 or 10%% (default: a whole class)"
    indexes_to_replace = "--forget positions:LIST, places in the training split: 1,5,9 or @FILE"
    class_to_replace = "--forget classes:LIST: images of these classes only (default: -1, of all)"
    split_seed = "which images are validation (default: the original model's, else %(default)s)"
    val_fraction = (
        "share of each class that is validation (default: the original's, else %(default)s)"
    )
    return (
        Flag("forget", str, f"{forget} {lists}", {"metavar": "SPEC"}),
        Flag("skip_val", bool, skip_val),
        Flag("num_indexes_to_replace", types.images, num_indexes_to_replace),
        Flag("class_to_replace", types.classes, class_to_replace),
        Flag("indexes_to_replace", str, indexes_to_replace),
        Flag("forget_copies", bool, "forget exact copies of the forgotten images, too"),
        Flag("retain_forgotten", bool, retain_forgotten),
        Flag("leave_out", str, f"{left_out} {others} (default: the original model's)"),
        Flag("split_seed", int, split_seed),
        Flag("val_fraction", types.fraction, val_fraction),
        Flag("forget_seed", int, "which images are forgotten (default: --seed)"),
        Flag("retain_fraction", types.share, f"{part} (default: %(default)s)"),
    )


def mask_flags() -> tuple[Flag, ...]:
    first = "which weights may change first (default: %(default)s, which is SalUn's)"
    pair = {"nargs": 2, "metavar": ("A", "B")}
    return (
        Flag("score", SCORES, first),
        Flag("layers", types.names, "of --score layers: the first, such as conv1,layer4,fc"),
        Flag("per_tensor", bool, "print what may change for each tensor (default: for each block)"),
        Flag("compare", str, "print how far two mask files agree, and stop", pair),
    )


def unlearning_flags() -> tuple[Flag, ...]:
    name = "the method, by its name or its label in any case: RL, salun, l1-sparse; --list_methods"
    preset = (
        "values of one source, for the method's flags or main_train's; what is typed stands above;"
    )
    stop = {"action": types.ListMethods, "nargs": 0, "default": argparse.SUPPRESS}
    forget_batch_size = "of the forget set (default: --batch_size, a quarter of it for SCRUB)"
    mask_ratio = "share of the weights that may change; picks the file in --mask_path"
    return (
        Flag(
            "unlearn", types.method, f"{name} has all (default: %(default)s)", {"metavar": "METHOD"}
        ),
        Flag("list_methods", str, "print the table of methods and stop", stop),
        Flag(
            "preset",
            str,
            f"{preset} list prints them (default: paper, the own defaults)",
            {"action": types.ChooseOrList, "table": preset_listing, "metavar": "NAME"},
        ),
        Flag("forget_batch_size", types.positive, forget_batch_size),
        Flag("unlearn_lr", types.rate, defaults("unlearn_lr")),
        Flag("unlearn_epochs", types.epochs, defaults("unlearn_epochs")),
        Flag(
            "rate",
            types.rate,
            f"share of the convolution weights that are pruned in the end ({defaults('rate')})",
            {"default": 0.95},
        ),
        Flag("mask_path", Path, "saliency mask, or with --mask_ratio the folder of with_*.pt"),
        Flag("mask_ratio", float, mask_ratio),
        Flag("mia_members", MEMBERS, f"{OF_MEMBERS} (default: %(default)s)"),
    )


def audit_flags(suites: Sequence[str]) -> tuple[Flag, ...]:
    several, pattern = {"nargs": "+", "metavar": "PATTERN"}, "the kind of Retrain that gaps are to,"
    models = "checkpoints of unlearned models; NAME=FILE: one of another project"
    resume = "keep a finished audit of the same models and flags; begin where there is none"
    own = "FILE.py:FACTORY, where the models are of a user's own architecture; runs the file"
    shadows = "--suite full: shadow models of U-LiRA's pool, trained as --original was"
    relearn_steps = "updates of the relearn curves (default: %(default)s)"
    relearn_seeds = "orders that a relearn curve is averaged over (default: %(default)s)"
    return (
        Flag("models", str, models, {**several, "required": True}),
        Flag("retrain", str, "Retrain's checkpoints; two or more give noise floors", several),
        Flag(
            "reference",
            str,
            f"{pattern} where --retrain names several: its row's name or a part",
            {"metavar": "NAME"},
        ),
        Flag("original", Path, "the original model: the row that forgot nothing"),
        Flag("arch", types.arch, own, {"metavar": "FILE.py:FACTORY"}),
        Flag("suite", suites, "default: %(default)s"),
        Flag("save_dir", Path, "where audit.json goes (default: the first model's folder)"),
        Flag("overwrite", bool, "replace an audit that exists"),
        Flag("resume", bool, resume),
        Flag("mia_members", MEMBERS, f"{OF_MEMBERS} (default: %(default)s)"),
        Flag("data", str, "folder or file of the data set (default: as recorded)"),
        Flag("cache", str, OF_CACHE, {"metavar": "DIR"}),
        Flag("store", STORES, OF_STORE),
        Flag("batch_size", types.positive, "default: %(default)s"),
        Flag("relearn_steps", types.positive, relearn_steps),
        Flag("relearn_lr", types.rate, "default: %(default)s"),
        Flag("relearn_seeds", types.positive, relearn_seeds),
        Flag("shadows", types.positive, f"{shadows} (default: %(default)s)"),
        Flag("device", DEVICES, "default: %(default)s"),
        Flag("gpu", types.count, "which CUDA device (default: %(default)s)"),
        Flag("threads", types.threads, OF_THREADS),
    )


def defaults(field: str) -> str:
    """The default of a field in every method that has it, such as ``GA: 5, RL: 10``."""
    names: dict[object, list[str]] = {}
    for name, method in METHODS.items():
        default = {known.name: known.default for known in dataclasses.fields(method)}
        if field not in default:
            continue
        inherited = getattr(method, "inherits", {}).get(field)
        names.setdefault(f"--{inherited}" if inherited else default[field], []).append(name)
        for dataset, own in method.by_dataset.items():
            if field in own:
                names.setdefault(own[field], []).append(f"{name} on {dataset}")
    return "; ".join(f"{', '.join(methods)}: {value}" for value, methods in names.items())


def published(flag: str, said: str | None = None) -> str:
    """The default of one of the loop's flags in every method that changes it, such as ``; scrub,
    scrub_r: 128``, or ``said`` for it.
    """
    names: dict[object, list[str]] = {}
    for name, method in METHODS.items():
        recipe = getattr(method, "recipe", {})
        if flag in recipe:
            names.setdefault(said or recipe[flag], []).append(name)
    return "".join(f"; {', '.join(methods)}: {value}" for value, methods in names.items())
