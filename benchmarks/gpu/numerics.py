"""The checks of correct.py that need no script: every method, the CPU against the device, the
loader.
"""

import contextlib
import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from arg_parser import unlearn_request
from benchmarks.gpu.battery import judged
from benchmarks.gpu.runs import Bench, compared, relative, same, weights
from datasets.loaders import Data, Loader
from engine import Updater, check_batch_norm, predict, run, train_epoch
from masks.masks import Mask, top_masks
from masks.scores import mean_gradient
from recipe import make_optimizer
from runtime.devices import exact_fp32
from stages.checkpoints import adopt
from stages.settings import recipe_of_method, settle_and_say
from stages.task import Task, open_task, set_up
from unlearn import METHODS
from unlearn.base import Iterative, cross_entropy_steps
from unlearn.tools.per_sample import fisher_diagonal
from unlearn.wfisher import influence_vector

# Flags with which a method does something here, and soon: SSD's threshold is for well trained
# models.
OPTIONS = {
    "ssd": ["--alpha", "0.5"],
    "sfron": ["--gamma", "0"],  # a mask file takes the place of its own mask
    "lfssd": ["--alpha", "0.5"],
    "wfisher": ["--samples", "10"],
    "fisher": ["--fisher_samples", "30"],
    "fisher_new": ["--fisher_samples", "10"],
    "unsir": ["--noise_steps", "10", "--noise_batches", "10"],
}
# Parts in which the methods are checked: on a GPU the first step at each batch size takes seconds.
PARTS = 4
# raw changes nothing, and SCRUB+R may go back to the original.
MAY_STAY = ("raw", "scrub_r")
# Largest relative l2 differences from fp64 in fp32. A value next to 0 before a ReLU falls on either
# side of it, which moves single gradients by more than rounding: ResNet-18's on the CPU (16x16, 50
# images) are off by 1e-3, at logits that are off by 4e-7. In train mode BatchNorm's sums over a
# batch lose digits on the CPU in channels_last.
TOLERANCE = {"logits": 1e-4, "gradient": 1e-2, "fisher": 5e-3, "wfisher_v": 1e-2, "step": 5e-2}
# An unequal bit of a mask is a near tie where its fp64 score is this close to the fp64 threshold,
# relative to it.
NEAR_TIE = 1e-2
LEAST_EQUAL = 0.999  # share of a mask's bits
MOST_FAR = (
    1e-4  # share of a mask's bits that are unequal and no near ties: gradients at a ReLU's corner
)


# ------------------------------------------------------------------------------------------ methods


def settings_of(bench: Bench, name: str, precision: str) -> tuple:
    """A method and its parsed flags, for two epochs on a small part of the retain set."""
    part = [
        "--retain_fraction",
        bench.scale.retain_part,
        "--batch_size",
        bench.scale.batch,
        "--precision",
        precision,
    ]
    iterative = (
        ["--unlearn_epochs", 2, "--unlearn_lr", 0.01]
        if issubclass(METHODS[name], Iterative)
        else []
    )
    words = [*bench.request(), "--unlearn", name, *part, *iterative, *OPTIONS.get(name, [])]
    request = adopt(unlearn_request([str(word) for word in words]), bench.record)
    return settle_and_say(request, bench.record)


def open_bench(bench: Bench, precision: str) -> Task:
    """Data and the original model on the device, through the function that the scripts use."""
    request, method = settings_of(bench, "FT", precision)
    device, precision = set_up(request)
    recipe = recipe_of_method(request, method, precision)
    return open_task(request, bench.record, device, recipe)


def run_once(bench: Bench, task: Task, name: str, mask: Mask | None) -> dict[str, Tensor]:
    """The weights that a method ends with, by the function that the scripts call, from the original
    ones.
    """
    request, method = settings_of(bench, name, task.recipe.precision)
    task.data.set_epoch(0)
    model, recipe = (
        copy.deepcopy(task.model),
        recipe_of_method(request, method, task.recipe.precision),
    )
    one_image = isinstance(method, Iterative) and check_batch_norm(model, method, task.data)
    run(model, method, task.data, recipe, mask, one_image=one_image)
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def mask_like(model: nn.Module, density: float) -> Mask:
    """A seeded random mask of this density, on the CPU as mask files are."""
    draw = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(p.shape, generator=draw) < density for name, p in model.named_parameters()
    }


def check_method(bench: Bench, task: Task, name: str) -> tuple[dict, list[str]]:
    """How no mask and an all-true one compare, and what is wrong with the method."""
    before = {key: value.detach().clone() for key, value in task.model.state_dict().items()}
    free = run_once(bench, task, name, None)
    wrong = (
        ["changes nothing"]
        if same(free, before) != (name == "raw") and name not in MAY_STAY
        else []
    )
    numbers, fits = compared(
        run_once(bench, task, name, mask_like(task.model, 2.0)),
        free,
        lambda: run_once(bench, task, name, None),
    )
    if not fits:
        wrong.append("an all-true mask is not as no mask")
    mask = mask_like(task.model, 0.5)
    half = run_once(bench, task, name, mask)
    moved = [
        key
        for key, may in mask.items()
        if not torch.equal(half[key].cpu()[~may], before[key].cpu()[~may])
    ]
    if moved:
        wrong.append(f"{len(moved)} tensors with frozen weights that moved, {moved[0]} first")
    if same(half, before) and name not in MAY_STAY:
        wrong.append("changes nothing under a mask")
    return numbers, wrong


def methods_of(precision: str) -> list[str]:
    """The methods that this precision is of, each by one of its names."""
    first = {method: name for name, method in reversed(METHODS.items())}
    return [
        name
        for method, name in first.items()
        if precision == "fp32" or issubclass(method, Iterative)
    ]


def methods(bench: Bench, precision: str, part: int) -> dict:
    """Every fourth registered method, from the ``part``-th on: without a mask, with an all-true one
    and with a random half: frozen bits, equal runs, finite weights.

    In bf16 those that train: a method that edits once does so in fp32 whatever the precision is.
    """
    task = open_bench(bench, precision)
    names = methods_of(precision)[part - 1 :: PARTS]
    apart, failed = {}, {}
    for name in names:
        print(f"---- {name}", flush=True)
        try:
            numbers, wrong = check_method(bench, task, name)
        except (Exception, SystemExit) as error:
            numbers, wrong = {"equal": True}, [f"{type(error).__name__}: {error}"]
        if not numbers["equal"]:
            apart[name] = f"{numbers['apart']:.1e}, two equal runs {numbers['repeat_apart']:.1e}"
        if wrong:
            failed[name] = "; ".join(wrong)
    found = {
        "methods": len(names),
        "all_true_mask_equals_none": len(names) - len(apart),
        "unequal_as_the_device_is": apart,
    }
    return judged(
        found | {"failed": failed}, {f"{name} ({reason})": False for name, reason in failed.items()}
    )


# --------------------------------------------------------------------------- CPU against the device


@contextlib.contextmanager
def tf32_seen(model: nn.Module) -> Iterator[set[bool]]:
    """Whether TF32 was on in the model's forward passes, with TF32 on around them."""
    seen: set[bool] = set()

    def look(*unused: object) -> None:
        seen.add(
            torch.get_float32_matmul_precision() != "highest" or torch.backends.cudnn.allow_tf32
        )

    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    handle = model.register_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


class Side:
    """One device and dtype: the same weights, the same images, in the same order."""

    def __init__(self, task: Task, device: torch.device, dtype: torch.dtype, few: int):
        data = task.data
        self.model = copy.deepcopy(task.model).to(device, dtype)
        self.data = Data(
            task.dataset,
            task.split,
            task.chosen,
            device=device,
            batch_size=data.forget.batch_size,
            seed=data.seed,
            augment=False,
        )
        self.device, self.dtype = device, dtype
        names = ("forget", "retain", "test")
        self.forget, self.retain, self.test = (
            self.data.evaluation[name].subset(few, "few") for name in names
        )

    def logits(self) -> Tensor:
        if self.dtype == torch.float32:
            return predict(self.model, self.test)[0]
        with torch.no_grad():  # predict() rounds to fp32
            return torch.cat([self.model.eval()(images) for images, _ in self.test])

    def quantities(self) -> dict[str, dict[str, Tensor]]:
        """What the project measures in exact fp32, by the name of its tolerance."""
        return {
            "logits": {"logits": self.logits()},
            "gradient": mean_gradient(self.model, self.forget),
            "fisher": fisher_diagonal(self.model, self.retain.batches_of(50)),
            "wfisher_v": influence_vector(self.model, self.forget, self.retain),
        }

    def step(self) -> dict[str, Tensor]:
        """What one SGD step on one batch in train mode adds to the weights."""
        model = copy.deepcopy(self.model)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        batch = [next(iter(self.forget))]
        train_epoch(
            cross_entropy_steps(model, batch),
            Updater(model, make_optimizer(model.parameters(), 0.1, 0.9, 5e-4)),
        )
        return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def near_ties(scores: Tensor, mask: Tensor, wanted: Tensor, count: int) -> tuple[float, float]:
    """The share of equal bits of two masks of ``count`` weights, and the share that is unequal and
    no near tie.

    ``scores`` (n,) are those of ``wanted``; the threshold is the smallest chosen one.
    """
    unequal = mask != wanted
    threshold = scores.sort(descending=True).values[count - 1]
    far = unequal & ((scores - threshold).abs() > NEAR_TIE * threshold)
    return 1 - float(unequal.double().mean()), float(far.double().mean())


def compare_masks(
    reference: dict[str, Tensor], gradient: dict[str, Tensor]
) -> dict[str, list[float]]:
    """Per ratio below 1: how a gradient's mask differs from the fp64 gradient's; see
    :func:`near_ties`.
    """
    theirs, ours = (
        top_masks({name: value.abs() for name, value in one.items()})
        for one in (reference, gradient)
    )
    scores = torch.cat([value.abs().flatten().cpu() for value in reference.values()])
    found: dict[str, list[float]] = {"equal_bits": [], "far_bits": []}
    for ratio in (ratio for ratio in theirs if ratio < 1):
        mask, wanted = (
            torch.cat([part.flatten() for part in one[ratio].values()]) for one in (ours, theirs)
        )
        equal, far = near_ties(scores, mask, wanted, int(wanted.sum()))
        found["equal_bits"].append(equal)
        found["far_bits"].append(far)
    return found


def cpu_against_device(bench: Bench) -> dict:
    """Logits, masks, gradient, one step, Fisher diagonal and wfisher's v in fp32 on both, each
    beside fp64 on the CPU.
    """
    task = open_bench(bench, "fp32")
    cpu = torch.device("cpu")
    exact = Side(task, cpu, torch.float64, bench.scale.few)
    wanted, step = exact.quantities(), exact.step()
    found, expected = {}, {}
    for name, device in {"cpu": cpu, "device": bench.device}.items():
        side = Side(task, device, torch.float32, bench.scale.few)
        with tf32_seen(side.model) as tf32:
            values = side.quantities()
        with exact_fp32():
            values["step"] = side.step()
        as_trained = found[f"{name}_step_as_trained"] = relative(
            side.step(), step
        )  # as open_task() set the device up
        for what, limit in TOLERANCE.items():
            found[f"{name}_{what}"] = relative(
                values[what], step if what == "step" else wanted[what]
            )
            expected[f"{name}: {what} within {limit} of fp64"] = found[f"{name}_{what}"] <= limit
        masks = compare_masks(wanted["gradient"], values["gradient"])
        found |= {f"{name}_masks_{what}": numbers for what, numbers in masks.items()}
        found[f"{name}_tf32_where_exact"] = sorted(tf32)
        expected |= {
            f"{name}: no TF32 where fp32 is exact": tf32 == {False},
            f"{name}: one step as trained within {TOLERANCE['step']}": as_trained
            <= TOLERANCE["step"],
            f"{name}: masks equal in {LEAST_EQUAL} of the bits": min(masks["equal_bits"])
            >= LEAST_EQUAL,
            f"{name}: unequal bits are near ties, but for {MOST_FAR} of all": max(masks["far_bits"])
            <= MOST_FAR,
        }
    return judged(found, expected)


# ------------------------------------------------------------------------------------------- loader


def passes(
    data: Data, epoch: int, meanwhile: Callable[[], object] = lambda: None, augmented: bool = True
) -> tuple[Tensor, Tensor]:
    """Pixel values (n, 3, side, side) uint8 and labels (n,) of one training epoch, on the CPU."""
    data.set_epoch(epoch)
    images, labels = [], []
    for pixels, classes in data.train if augmented else data.train.unaugmented():
        meanwhile()
        images.append((pixels * 255).round().to(torch.uint8).cpu())
        labels.append(classes.cpu())
    return torch.cat(images), torch.cat(labels)


def sorted_images(data: Data) -> tuple[Tensor, Tensor]:
    """The different images of one training epoch without augmentation, and how often each was
    there.
    """
    return torch.unique(passes(data, 0, augmented=False)[0].flatten(1), dim=0, return_counts=True)


def host_waits(loader: Loader) -> int | None:
    """How often a pass over the loader makes the host wait for the GPU, as far as torch tells; None
    on the CPU.
    """
    if loader.images.device.type != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in loader:
                pass
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught)


def loader(bench: Bench) -> dict:
    """Where images are and draws come from, what they depend on, and whether both devices see the
    same.

    All images are on the device from the start: no path streams them, so there is nothing to pin
    and no transfer to overlap.
    """
    task = open_bench(bench, "fp32")
    whole = dataclasses.replace(task.dataset, crop=2, flip=True)
    cpu, device = torch.device("cpu"), bench.device

    def data(where: torch.device, seed: int = 1) -> Data:
        return Data(whole, task.split, None, device=where, batch_size=bench.scale.batch, seed=seed)

    here, there = data(cpu), data(device)
    first, again = (
        passes(there, 0),
        passes(there, 0, meanwhile=lambda: torch.rand(3, device=device)),
    )
    theirs = passes(here, 0)
    stored = [
        (a[0], b[0].cpu())
        for a, b in zip(here.evaluation["train"], there.evaluation["train"], strict=True)
    ]
    kinds = {
        str(draw.device)
        for draw in [
            there.train.generator("order"),
            there.train.generator("crop"),
            there.generator("labels"),
        ]
    }
    found = {
        "streamed_path": "none: images are on the device from the start, nothing is pinned",
        "images_on": str(there.train.images.pixels.device),
        "generators_on": sorted(kinds),
        "largest_difference_of_unaugmented_images": max(
            float((a - b).abs().max()) for a, b in stored
        ),
        "order_and_augmentation_equal_those_of_the_cpu": all(map(torch.equal, first, theirs)),
        "host_waits_in_a_pass": host_waits(there.train),
    }
    expected = {
        "images are on the device": there.train.images.pixels.device.type == device.type,
        "generators are on the device": all(
            torch.device(kind).type == device.type for kind in kinds
        ),
        "unaugmented images are equal to a rounding": found[
            "largest_difference_of_unaugmented_images"
        ]
        <= 1e-7,
        "an epoch repeats itself, whatever else is drawn": all(map(torch.equal, first, again)),
        "another epoch differs": not torch.equal(first[0], passes(there, 1)[0]),
        "another seed differs": not torch.equal(first[0], passes(data(device, seed=2), 0)[0]),
        "an epoch has the CPU's images": all(
            map(torch.equal, sorted_images(there), sorted_images(here))
        ),
    }
    return judged(found, expected)


def evaluated_logits(bench: Bench, checkpoint: Path) -> tuple[Tensor, Tensor]:
    """Logits (n, k) and labels (n,) of the test images by a model that was never compiled."""
    task = open_bench(bench, "fp32")
    task.model.load_state_dict(weights(checkpoint))
    return predict(task.model, task.data.evaluation["test"])
