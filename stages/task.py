"""A forget request on loaded data, with the model it is about."""

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
from stages.requests import ForgetRequest, Request
from utils import UserError, stream


def load_data(request: Request) -> ImageSet:
    """The data set of the flags, with what they claim about it checked."""
    spec = DATASETS[request.dataset]
    size = request.input_size if "input_size" in request.typed else None
    check_arch(request.arch, size or spec.image_size, request.imagenet_arch)
    dataset = distributed.main_first(
        lambda: load_dataset(
            request.dataset, request.data, input_size=size, workers=request.workers
        )
    )
    if request.num_classes and request.num_classes != dataset.num_classes:
        raise UserError(
            f"--num_classes {request.num_classes}: {request.dataset} has {dataset.num_classes};"
            " drop the flag, it is derived"
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


def split_of(request: Request, labels: np.ndarray) -> Split:
    """The split of --split_seed, without the training images of --leave_out."""
    split = make_split(labels, request.split_seed)
    if request.leave_out is None:
        return split
    return leave_out(split, read_positions(request.leave_out, "--leave_out"))


def choose(request: ForgetRequest, split: Split, labels: np.ndarray) -> ForgetSplit:
    """Who is forgotten."""
    count, named = request.num_indexes_to_replace, request.indexes_to_replace
    if named is None and count is None and request.class_to_replace == -1:
        raise UserError(
            "nothing to forget: give --num_indexes_to_replace N, --class_to_replace C or"
            " --indexes_to_replace 1,5,9"
        )
    return choose_forget(
        split,
        labels,
        count=count,
        class_to_forget=request.class_to_replace,
        positions=None if named is None else read_positions(named),
        forget_seed=request.draw_seed(),
    )


def retain_seed(request: ForgetRequest, chosen: ForgetSplit) -> int:
    """The seed of --retain_fraction: one that --seed does not change on a given forget set, so that
    several seeds see the same part.
    """
    # A list or a whole class is the same forget set under every --seed.
    given = chosen.kind == "indexes" or chosen.dropped_class is not None
    return request.split_seed if request.forget_seed is None and given else request.draw_seed()


def check_request(request: ForgetRequest) -> None:
    """Refuse, before data or models, what the request alone shows to be impossible."""
    for flag in ("indexes_to_replace", "leave_out"):
        if getattr(request, flag) is not None:
            read_positions(getattr(request, flag), f"--{flag}")
    classes, wanted = DATASETS[request.dataset].num_classes, request.class_to_replace
    if wanted < -1 or (classes and wanted >= classes):
        allowed = f"to {classes - 1}" if classes else "and up"
        raise UserError(f"--class_to_replace {wanted}: allowed -1 (all) {allowed}")


def set_up(request: Request) -> tuple[torch.device, str]:
    """The device and the training precision; in a run of several processes they meet here."""
    device = pick_device(request.device, request.gpu)
    use_threads(request.threads, device)
    distributed.initialize(device)
    tune_cuda(device)
    if device.type == "cpu":
        keep_freed_memory()
    return device, pick_precision(request.precision, device)


def new_model(request: Request, dataset: ImageSet, device: torch.device) -> nn.Module:
    model = build_model(
        request.arch,
        dataset.num_classes,
        request.mean or dataset.mean,
        request.std or dataset.std,
        image_size=dataset.image_size,
        imagenet_stem=request.imagenet_arch,
    )
    return place(model, device)


@dataclasses.dataclass(frozen=True)
class Task:
    """A forget request on loaded data, with the model it is about."""

    request: ForgetRequest
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

    def attack(self) -> tuple[DrawRule, dict]:
        """Who teaches the membership attack, and the record of it."""
        members = self.request.mia_members
        forget = self.chosen.sha256()
        rule = draw_rule(members, self.split.split_seed, self.data_sha256, forget)
        retain, test = (
            self.data.evaluation[name].indices.cpu().numpy() for name in ("retain", "test")
        )
        return rule, rule.record(self.dataset.y_train[retain], self.dataset.y_test[test])

    def data_record(self) -> dict:
        """The ``data`` entry of a result."""
        request, chosen = self.request, self.chosen
        forget = {
            "kind": chosen.kind,
            "count": len(chosen.forget),
            "sha256": chosen.sha256(),
            "forget_seed": request.draw_seed(),
        }
        if chosen.kind == "class":
            forget["class"] = request.class_to_replace
        kept = {
            "fraction": request.retain_fraction,
            "count": self.data.retain.num_samples,
            "sha256": self.retain_sha256(),
        }
        return {
            "dataset": self.dataset.name,
            "arch": request.arch,
            "split_seed": self.split.split_seed,
            "data_sha256": self.data_sha256,
            "test_sha256": self.dataset.test_sha256(),
            "forget": forget,
            "retain": kept,
            "sizes": {name: loader.num_samples for name, loader in self.data.evaluation.items()},
        }


def open_task(
    request: ForgetRequest, original: Original | None, device: torch.device, recipe: Recipe
) -> Task:
    """Load data and model of a forget request, and assert that they belong together."""
    dataset = load_data(request)
    split = split_of(request, dataset.y_train)
    chosen = choose(request, split, dataset.y_train)
    data_sha256 = dataset.sha256()
    if original is not None:
        check_lineage(_trained_on(original, dataset, data_sha256), data_sha256, split, chosen)
    seed, share = retain_seed(request, chosen), request.retain_fraction
    part = retain_part(chosen, dataset.y_train, share, seed)
    order = stream(request.seed, "unlearn")
    batches = recipe.batches()
    data = Data(dataset, split, chosen, device=device, seed=order, retain=part, **batches)
    model = new_model(request, dataset, device)
    if original is not None:
        original = load_weights(model, original, request)
    sizes = ", ".join(f"{name} {loader.num_samples}" for name, loader in data.evaluation.items())
    print(
        f"{dataset.name}: {sizes} images; split seed {split.split_seed}, forget {chosen.kind}"
        f" {chosen.sha256()[:12]}"
    )
    if share < 1:
        print(f"--retain_fraction {share}: methods see {len(part)} of the retain images")
    print(f"{request.arch}, {recipe.precision} on {with_threads(device)}")
    return Task(request, device, recipe, original, dataset, data_sha256, split, chosen, data, model)


def _trained_on(original: Original, dataset: ImageSet, data_sha256: str) -> dict:
    """The record of the original's training images; that of --split_seed 1 where it has none."""
    if original.split is not None:
        return original.split
    print(
        f"{original.path} has no record of its training images; taken as trained on --split_seed 1"
    )
    assumed = make_split(dataset.y_train, 1)
    return split_record(dataset.name, data_sha256, assumed, assumed.train)
