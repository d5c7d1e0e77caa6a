"""A forget request on loaded data, with the model it is about."""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from datasets import DATASETS, ImageSet, load_dataset
from datasets.loaders import Data
from datasets.splits import (
    ForgetSplit,
    Split,
    check_lineage,
    choose_forget,
    leave_out,
    make_split,
    retain_part,
    split_record,
)
from evaluation.membership import DrawRule, draw_rule
from models import build_model, check_arch, place
from recipe import Recipe
from runtime import distributed
from runtime.devices import (
    keep_freed_memory,
    pick_device,
    pick_precision,
    tune_cuda,
    use_threads,
    with_threads,
)
from runtime.file_checks import check_npy
from runtime.files import hash_arrays, require_file
from stages.checkpoints import Original, load_weights
from stages.settings import recipe_of_method
from unlearn.base import Method
from utils import UserError, stream


def load_data(args: argparse.Namespace) -> ImageSet:
    """The data set of the flags, with what they claim about it checked."""
    spec = DATASETS[args.dataset]
    size = args.input_size if "input_size" in args.typed else None
    check_arch(args.arch, size or spec.image_size, args.imagenet_arch)
    dataset = distributed.main_first(
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


def set_up(args: argparse.Namespace) -> tuple[torch.device, str]:
    """The device and the training precision; in a run of several processes they meet here."""
    device = pick_device(args.device, args.gpu)
    use_threads(args.threads, device)
    distributed.initialize(device)
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
