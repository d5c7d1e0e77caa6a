"""A forget request on loaded data, with the model it is about."""

import dataclasses

import numpy as np
import torch
from torch import nn

from datasets import DATASETS, ImageSet, forgetting, load_dataset
from datasets.copies import settle_copies
from datasets.device_images import choose_store
from datasets.forgetting import amount_of, class_index, unmasked
from datasets.lists import INTEGER, read_list
from datasets.loaders import Data
from datasets.splits import (
    ForgetSplit,
    Split,
    check_lineage,
    leave_forgotten,
    leave_out,
    make_split,
    retain_part,
    split_record,
)
from evaluation.membership import DrawRule, draw_rule
from models import build_model, check_arch, place, set_drop_path, skeleton
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
from runtime.files import hash_arrays
from stages.checkpoints import Original, load_weights
from stages.requests import ForgetRequest, LoopRequest, Request
from utils import UserError, printable, stream


def load_data(request: Request) -> ImageSet:
    """The data set of the flags, with what they claim about it checked."""
    spec = DATASETS[request.dataset]
    size = request.input_size if "input_size" in request.typed else None
    check_arch(request.arch, size or spec.image_size, request.imagenet_arch)
    if isinstance(request, LoopRequest) and request.drop_path != "own":
        model = skeleton(request.arch, 2, size or spec.image_size, request.imagenet_arch)
        set_drop_path(model, request.drop_path, f"--arch {request.arch}")
    dataset = distributed.main_first(
        lambda: load_dataset(
            request.dataset,
            request.data,
            input_size=size,
            workers=request.workers,
            fit=request.fit,
            cache=request.cache,
            augment=request.augment,
        )
    )
    for line in dataset.lines():
        print(printable(line))
    if request.num_classes and request.num_classes != dataset.num_classes:
        raise UserError(
            f"--num_classes {request.num_classes}: {request.dataset} has {dataset.num_classes};"
            " drop the flag, it is derived"
        )
    return dataset


def store_of(asked: str, dataset: ImageSet, device: torch.device) -> str:
    """Where the images are, device or stream; says so."""
    store, line = choose_store(asked, (dataset.x_train, dataset.x_test), device)
    print(line)
    return store


def split_of(request: Request, labels: np.ndarray) -> Split:
    """The split of --split_seed and --val_fraction, without the training images of --leave_out."""
    split = make_split(labels, request.split_seed, request.val_fraction)
    if request.leave_out is None:
        return split
    return leave_out(split, _left_out(request.leave_out, len(split.train)))


def _left_out(text: str, available: int | None = None) -> np.ndarray:
    """The positions of --leave_out; a mask needs the number of training images."""
    values = read_list(text, asked := f"--leave_out {text[:60]}").values
    return values if available is None else unmasked(values, available, asked, "training images")


def choose(request: ForgetRequest, split: Split, dataset: ImageSet) -> ForgetSplit:
    """Who is forgotten; says how a list was read."""
    spec = request.forget_spec()
    chosen, lines = forgetting.choose(spec, split, dataset, request.draw_seed(), request.skip_val)
    for line in lines:
        print(line)
    return chosen


def retain_seed(request: ForgetRequest, chosen: ForgetSplit) -> int:
    """The seed of --retain_fraction: one that --seed does not change on a given forget set, so that
    several seeds see the same part.
    """
    # A list or a whole class is the same forget set under every --seed.
    given = chosen.kind == "indexes" or chosen.dropped_classes
    return request.split_seed if request.forget_seed is None and given else request.draw_seed()


def check_request(request: ForgetRequest) -> None:
    """Refuse, before data or models, what the request alone shows to be impossible."""
    spec = request.forget_spec()
    if spec.is_list:
        spec.listed()
    if request.leave_out is not None:
        _left_out(request.leave_out)
    if request.skip_val and spec.kind not in ("indices", "files"):
        raise UserError(
            f"--skip_val leaves validation images out of indices:@FILE and files:@FILE;"
            f" {spec.asked} names none, drop it"
        )
    known = DATASETS[request.dataset].num_classes
    if known and spec.kind in ("class", "classes"):
        for part in spec.what.partition(":")[0].split(","):
            if INTEGER.fullmatch(part.strip()):
                class_index(part, tuple(map(str, range(known))), spec)


def known_sizes(request: ForgetRequest, original: Original) -> tuple[int, int] | None:
    """The numbers of classes and of retain images where random images are forgotten and the
    original's file says of how many; None where only the data tell.
    """
    classes = original.num_classes or DATASETS[request.dataset].num_classes
    spec = request.forget_spec()
    others = request.leave_out or request.forget_copies or request.retain_fraction < 1
    if spec.kind != "random" or others or len(original.forgotten):
        return None
    if original.split is None or not classes:
        return None
    available = len(original.split["train"])
    forgotten = amount_of(spec.amount, available, spec.asked)
    return (classes, available - forgotten) if 0 < forgotten < available else None


def set_up(request: Request) -> tuple[torch.device, str]:
    """The device and the training precision; in a run of several processes they meet here."""
    device = pick_device(request.device, request.gpu)
    use_threads(request.threads, device)
    distributed.initialize(device)
    tune_cuda(device, request.deterministic)
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
        forget = chosen.record(self.dataset.classes) | {"forget_seed": request.draw_seed()}
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
    chosen = choose(request, split, dataset)
    chosen = settle_copies(dataset.train_hashes, chosen, forget_them=request.forget_copies)
    data_sha256 = dataset.sha256()
    if original is not None:
        chosen = without_forgotten(chosen, original, dataset, keep=request.retain_forgotten)
    if original is not None:
        trained_on = _trained_on(original, dataset, data_sha256, request.val_fraction)
        check_lineage(trained_on, data_sha256, split, chosen)
    seed, share = retain_seed(request, chosen), request.retain_fraction
    part = retain_part(chosen, dataset.y_train, share, seed)
    order = stream(request.seed, "unlearn")
    batches = recipe.batches()
    batches["store"] = store_of(request.store, dataset, device)
    data = Data(dataset, split, chosen, device=device, seed=order, retain=part, **batches)
    model = new_model(request, dataset, device)
    if original is not None:
        original = load_weights(model, original, request)
    print(data_line(data))
    if share < 1:
        print(f"--retain_fraction {share}: methods see {len(part)} of the retain images")
    print(f"{request.arch}, {recipe.precision} on {with_threads(device)}")
    return Task(request, device, recipe, original, dataset, data_sha256, split, chosen, data, model)


def without_forgotten(
    chosen: ForgetSplit, original: Original, dataset: ImageSet, *, keep: bool
) -> ForgetSplit:
    """The forget split without what the original was made to forget before; says so, also if it is
    to ``keep`` them.
    """
    if not len(original.forgotten):
        return chosen
    if keep:
        kept = len(np.intersect1d(chosen.retain, original.forgotten))
        print(f"--retain_forgotten: {kept} images that {original.path} forgot are retained again")
        return chosen
    again = len(np.intersect1d(chosen.forget, original.forgotten))
    chosen = leave_forgotten(chosen, original.forgotten, dataset.y_train)
    if chosen.gone:
        names = ", ".join(dataset.classes[c] for c in chosen.gone)
        print(f"forgotten before as a whole, and left out of validation and test: class {names}")
    repeated = f"; {again} of the images to forget are among those it forgot" if again else ""
    print(
        f"{original.path} forgot {len(original.forgotten)} images before: {len(chosen.before)} are"
        f" left out of retain and evaluated as forgotten_before{repeated}; --retain_forgotten keeps"
        " them"
    )
    return chosen


def data_line(data: Data) -> str:
    """The sizes of the splits, and what is forgotten."""
    sizes = ", ".join(f"{name} {loader.num_samples}" for name, loader in data.evaluation.items())
    said = f"{data.chosen.said(data.dataset.classes)} {data.chosen.sha256()[:12]}"
    seed = data.split.split_seed
    return f"{data.dataset.name}: {sizes} images; split seed {seed}, forget {said}"


def _trained_on(
    original: Original, dataset: ImageSet, data_sha256: str, val_fraction: float
) -> dict:
    """The record of the original's training images; that of --split_seed 1 and --val_fraction
    where it has none.
    """
    if original.split is not None:
        return original.split
    print(
        f"{original.path} has no record of its training images; taken as trained on --split_seed 1"
    )
    assumed = make_split(dataset.y_train, 1, val_fraction)
    return split_record(dataset.name, data_sha256, assumed, assumed.train)
