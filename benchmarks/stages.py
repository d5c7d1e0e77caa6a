"""What is timed. Each stage has sides; a side is made in a process of its own and gives two
functions.

``run()`` is one timed repetition. ``check()`` is what every side must agree on before anything is
timed: named tensors or numbers. Sides start from the same data, the same seeds and the same
weights.
"""

import contextlib
import copy
import dataclasses
import functools
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import plain
from datasets import load_dataset
from datasets.loaders import Data, DeviceImages, Loader
from datasets.splits import choose_forget, make_split
from engine import Loop, Updater, predict, train_epoch
from evaluation.accuracy import accuracies
from evaluation.membership import DrawRule, svc_attack
from masks.gate import SaliencyGate
from masks.masks import top_masks
from models import build_model
from recipe import make_optimizer
from runtime.devices import keep_freed_memory, pick_precision
from runtime.files import save
from stages.results import to_numpy
from unlearn.base import cross_entropy_steps
from unlearn.random_label import RandomLabel
from unlearn.tools.per_sample import fisher_diagonal
from unlearn.wfisher import influence_vector

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH = 256
LR, MOMENTUM, DECAY = 0.01, 0.9, 5e-4

plain_loader = functools.partial(plain.loader, device=DEVICE)


class Side(NamedTuple):
    run: Callable[[], object]
    check: Callable[[], dict]


@dataclasses.dataclass(frozen=True)
class Stage:
    """``make(side, quick)`` gives the side; ``tolerance`` is the largest relative difference of
    what is checked.

    ``warm_up``: ``check`` does not do the timed work itself, so that a first run goes untimed.
    """

    title: str
    make: Callable[[str, bool], Side]
    bar: float
    sides: tuple[str, ...] = ("plain", "ours")
    tolerance: float = 1e-3
    warm_up: bool = False


def task(images: int, forget: int, test: int = 1000) -> Data:
    """The first ``images`` training and ``test`` test images of fashion_mini at 32x32, augmented as
    CIFAR-10 is.
    """
    whole = load_dataset("fashion_mini", Path(), input_size=32, workers=0)
    few = {"x_train": images, "y_train": images, "x_test": test, "y_test": test}
    part = dataclasses.replace(
        whole,
        **{name: getattr(whole, name)[:count] for name, count in few.items()},
        crop=4,
        flip=True,
    )
    split = make_split(part.y_train, 1)
    chosen = choose_forget(split, part.y_train, count=forget, forget_seed=2)
    return Data(part, split, chosen, device=DEVICE, batch_size=BATCH, seed=1)


def network(ours: bool, arch: str = "resnet18") -> torch.nn.Module:
    """The same weights on every side; channels_last is part of ours."""
    torch.manual_seed(0)
    model = build_model(arch, 10, (0.286,) * 3, (0.353,) * 3).to(DEVICE)
    return model.to(memory_format=torch.channels_last) if ours else model


def pictures(data: Data, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of a split, for the plain loader."""
    whole, chosen = data.dataset, data.chosen
    if name == "test":
        return whole.x_test, whole.y_test
    indices = np.sort(
        {"forget": chosen.forget, "retain": chosen.retain, "val": data.split.val}[name]
    )
    return whole.x_train[indices], whole.y_train[indices]


def optimizer_of(model: torch.nn.Module, ours: bool, lr: float = LR) -> torch.optim.SGD:
    if ours:
        return make_optimizer(model.parameters(), lr, MOMENTUM, DECAY)
    return torch.optim.SGD(model.parameters(), lr, momentum=MOMENTUM, weight_decay=DECAY)


def first_gradient(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict:
    """Loss and gradient of one batch in train mode, on a copy."""
    model = copy.deepcopy(model).train()
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    return {
        "loss": loss.detach(),
        "gradient": torch.cat([p.grad.flatten() for p in model.parameters()]),
    }


def training(side: str, quick: bool) -> Side:
    """An epoch over the retain set. ``ours`` is --precision auto, ``fp32`` is --precision fp32."""
    data, ours = task(400 if quick else 854, 104 if quick else 256), side != "plain"
    model = network(ours)
    optimizer = optimizer_of(model, ours)
    images, labels = next(iter(data.evaluation["retain"].batches_of(64)))
    if not ours:
        batches = plain_loader(*pictures(data, "retain"), BATCH, train=True)
        return Side(
            lambda: plain.train_epoch(model, batches, optimizer),
            lambda: first_gradient(model, images.contiguous(), labels),
        )
    precision = pick_precision("auto" if side == "ours" else "fp32", DEVICE)
    run = lambda: train_epoch(  # noqa: E731
        cross_entropy_steps(model, data.retain),
        Updater(model, optimizer),
        Loop(precision=precision),
    )
    return Side(run, lambda: first_gradient(model, images, labels))


def half_mask(model: torch.nn.Module) -> dict:
    generator = torch.Generator().manual_seed(3)
    scores = {
        name: torch.rand(p.shape, generator=generator) for name, p in model.named_parameters()
    }
    return top_masks(scores, [0.5])[0.5]


def salun(side: str, quick: bool) -> Side:
    """An epoch of random labels on forget and true labels on retain under a mask of one half."""
    data, ours = task(400 if quick else 854, 104 if quick else 256), side == "ours"
    model = network(ours)
    mask, optimizer = half_mask(model), optimizer_of(model, ours)
    original = {name: p.detach().clone() for name, p in model.named_parameters()}
    integers = {name: value.long().to(DEVICE) for name, value in mask.items()}
    images, labels = next(iter(data.evaluation["forget"].batches_of(32)))

    def check() -> dict:
        """One masked step in fp32, on a copy; its rate is 1, so that the difference of weights is
        not all rounding.
        """
        twin = copy.deepcopy(model).train()
        own = optimizer_of(twin, ours, lr=1.0)
        if ours:
            gate = SaliencyGate(twin, mask)
            F.cross_entropy(twin(images), labels).backward()
            own.step()
            gate.restore()
        else:
            plain.masked_step(twin, integers, original, own, images.contiguous(), labels)
        moved = torch.cat(
            [(p.detach() - original[name]).flatten() for name, p in twin.named_parameters()]
        )
        frozen = torch.cat([~value.flatten() for value in mask.values()])
        return {"moved": moved, "frozen weights that moved": moved[frozen].count_nonzero()}

    if not ours:
        parts = [plain.Images(*pictures(data, name), True) for name in ("forget", "retain")]
        return Side(
            lambda: plain.salun_epoch(
                model, *parts, BATCH, 10, integers, original, optimizer, DEVICE
            ),
            check,
        )
    gate, method = SaliencyGate(model, mask), RandomLabel()
    precision = pick_precision("auto", DEVICE)
    run = lambda: train_epoch(  # noqa: E731
        method.losses(model, data, 0),
        Updater(model, optimizer, gate=gate),
        Loop(precision=precision),
    )
    return Side(run, check)


def masks(side: str, quick: bool) -> Side:
    """From ready scores to ten files."""
    model = network(side == "ours")
    generator = torch.Generator().manual_seed(3)
    scores = {
        name: torch.randn(p.shape, generator=generator).abs()
        for name, p in model.named_parameters()
    }
    folder = Path(tempfile.mkdtemp())

    def run() -> None:
        if side == "plain":
            plain.save_masks(scores, folder)
        else:
            for ratio, mask in top_masks(scores).items():
                save(mask, folder / f"with_{ratio}.pt")

    def check() -> dict:
        run()
        files = [
            torch.load(folder / f"with_{ratio / 10}.pt", weights_only=True)
            for ratio in range(1, 11)
        ]
        same = {
            f"mask {i}": torch.cat([value.flatten() for value in file.values()]).sum()
            for i, file in enumerate(files)
        }
        whole = torch.cat([value.flatten().bool() for value in files[2].values()])
        return same | {
            "which weights at 0.3": whole.nonzero().double().square().sum(),
            "disk": disk(folder),
        }

    return Side(run, check)


def disk(folder: Path) -> str:
    """A string is recorded and not compared."""
    return f"{sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.1f} MB"


def trained_outputs(
    every: int, epochs: int, device: torch.device = DEVICE
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """10,000 + 10,000 + 4,500 outputs of a ResNet-20s after ``epochs`` on fashion_mini at 16x16,
    each image at several shifts.

    Of these, every ``every``-th.
    """
    whole = load_dataset("fashion_mini", Path(), input_size=16, workers=0)
    split = make_split(whole.y_train, 1)
    chosen = choose_forget(split, whole.y_train, count=450, forget_seed=2)
    data = Data(whole, split, chosen, device=device, batch_size=64, seed=1)
    model = network(True, "resnet20s").to(device)
    optimizer = make_optimizer(model.parameters(), 0.05, MOMENTUM, DECAY)
    for epoch in range(epochs):
        data.set_epoch(epoch)
        train_epoch(cross_entropy_steps(model, data.retain), Updater(model, optimizer))
    moves = [(y, x) for y in (0, 1, -1, 2, -2) for x in (0, 1, -1)]
    held_out = (
        np.concatenate([whole.x_test, whole.x_train[split.val]]),
        np.concatenate([whole.y_test, whole.y_train[split.val]]),
    )
    parts = {
        "retain": (*pictures(data, "retain"), 10_000),
        "test": (*held_out, 10_000),
        "forget": (*pictures(data, "forget"), 4_500),
    }
    seen = {}
    for name, (pixels, labels, count) in parts.items():
        kept = slice(0, count, every)
        shifted = np.concatenate([np.roll(pixels, move, (1, 2)) for move in moves])[kept]
        images = DeviceImages(shifted, device, 0)
        seen[name] = to_numpy(
            predict(
                model,
                Loader(
                    images,
                    np.arange(len(shifted)),
                    np.tile(labels, len(moves))[kept],
                    512,
                    name=name,
                ),
            )
        )
    return seen


def attack(side: str, quick: bool) -> Side:
    """The five machines on outputs of a trained network; --quick takes a quarter of the points."""
    seen = trained_outputs(4 if quick else 1, 2 if quick else 6)
    three = seen["retain"], seen["test"], seen["forget"]
    if side == "ours":
        run = converged = lambda: svc_attack(*three, DrawRule("first"))
    else:
        # scikit-learn's default tolerance is timed; it alone moves a share by up to 0.2 points, so
        # the check tightens it.
        run, converged = (
            (lambda: plain.svc_attack(*three)),
            (lambda: plain.svc_attack(*three, tol=1e-5)),
        )
    return Side(run, lambda: {f"{name} %": 100 * value for name, value in converged().items()})


def gradient_v(side: str, quick: bool) -> Side:
    """wfisher's v over forget and retain."""
    data, ours = task(300 if quick else 854, 50 if quick else 256), side == "ours"
    model = network(ours)
    if ours:
        views = (data.forget.eval_view(), data.retain.eval_view())
        run = functools.partial(influence_vector, model, *views)
    else:
        loaders = [
            plain_loader(*pictures(data, name), BATCH, train=False) for name in ("forget", "retain")
        ]
        run = functools.partial(plain.influence_vector, model, *loaders)
    return Side(run, lambda: {"v": torch.cat([value.flatten() for value in run().values()])})


def fisher(side: str, quick: bool) -> Side:
    """The diagonal of the empirical Fisher matrix."""
    data, ours = task(1300, 128), side == "ours"
    model, count = network(ours), 100 if quick else 1000
    samples = data.retain.eval_view().subset(count, "fisher").batches_of(50)
    if ours:
        run = lambda: fisher_diagonal(model, samples)  # noqa: E731
    else:
        pairs = [torch.cat(part) for part in zip(*samples, strict=True)]
        pairs[0] = pairs[0].contiguous()
        run = lambda: plain.fisher_diagonal(model, *pairs)  # noqa: E731
    return Side(run, lambda: {"diagonal": torch.cat([value.flatten() for value in run().values()])})


def evaluation(side: str, quick: bool) -> Side:
    """Four splits and the attack in fp32."""
    data, ours = task(*((400, 100, 400) if quick else (1300, 250))), side == "ours"
    model = network(ours)
    if not ours:
        splits = {
            name: plain_loader(*pictures(data, name), BATCH, train=False)
            for name in ("forget", "retain", "val", "test")
        }
        run = lambda: plain.evaluate(model, splits)  # noqa: E731
    else:

        def run() -> dict:
            outputs = {
                name: to_numpy(predict(model, loader)) for name, loader in data.evaluation.items()
            }
            shares = svc_attack(
                outputs["retain"], outputs["test"], outputs["forget"], DrawRule("first")
            )
            return accuracies(outputs) | {"MIA": 100 * shares["confidence"]}

    return Side(run, lambda: {f"{name} %": value for name, value in run().items()})


def loading(side: str, quick: bool) -> Side:
    """Augmented images of one epoch, without a model."""
    data, ours = task(5000, 500), side == "ours"
    batches = data.retain if ours else plain_loader(*pictures(data, "retain"), BATCH, train=True)

    def check() -> dict:
        """The same images, as they are."""
        first = (
            data.evaluation["retain"]
            if ours
            else plain_loader(*pictures(data, "retain"), BATCH, train=False)
        )
        return {
            "images": next(iter(first))[0][:200].contiguous(),
            "number of batches": len(list(batches)),
        }

    return Side(lambda: [images for images, _ in batches][-1], check)


def story(side: str, quick: bool) -> Side:
    """Train, retrain, mask, SalUn, each with its evaluation: fashion_mini at 16x16, ResNet-20s, the
    demo's batch sizes.
    """
    import generate_mask
    import main_forget
    import main_random
    import main_train

    epochs, steps = (1, 1) if quick else (4, 2)
    folder = Path(tempfile.mkdtemp())

    def ours() -> None:
        recipe = [
            "--dataset",
            "fashion_mini",
            "--input_size",
            "16",
            "--arch",
            "resnet20s",
            "--lr",
            "0.05",
            "--overwrite",
        ]
        task = [
            "--num_indexes_to_replace",
            "450",
            "--model_path",
            f"{folder}/0model_SA_best.pth.tar",
            "--save_dir",
            str(folder),
        ]
        long = ["--batch_size", "64", "--epochs", str(epochs)]
        with contextlib.redirect_stdout(io.StringIO()):
            assert main_train.main([*recipe, *long, "--save_dir", str(folder)]) == 0
            assert main_forget.main([*recipe, *long, *task, "--unlearn", "retrain"]) == 0
            assert generate_mask.main([*task[:-1], f"{folder}/mask", "--overwrite"]) == 0
            mask = [
                "--mask_path",
                f"{folder}/mask/with_0.5.pt",
                "--unlearn_epochs",
                str(steps),
                "--unlearn_lr",
                "0.025",
            ]
            assert (
                main_random.main(
                    [*task, *mask, "--unlearn", "RL", "--batch_size", "128", "--overwrite"]
                )
                == 0
            )

    def straightforward() -> None:
        whole = load_dataset("fashion_mini", Path(), input_size=16, workers=0)
        split = make_split(whole.y_train, 1)
        chosen = choose_forget(split, whole.y_train, count=450, forget_seed=2)
        parts = {
            "train": split.train,
            "val": split.val,
            "retain": chosen.retain,
            "forget": chosen.forget,
        }
        pixels = {
            name: (whole.x_train[kept], whole.y_train[kept]) for name, kept in parts.items()
        } | {"test": (whole.x_test, whole.y_test)}
        splits = {
            name: plain_loader(*pixels[name], 64, train=False)
            for name in ("forget", "retain", "val", "test")
        }

        def fit(model: torch.nn.Module, name: str) -> None:
            optimizer = torch.optim.SGD(
                model.parameters(), 0.05, momentum=MOMENTUM, weight_decay=DECAY
            )
            for _ in range(epochs):
                plain.train_epoch(
                    model, plain_loader(*pixels[name], 64, train=True, augment=False), optimizer
                )
                plain.accuracy(model, splits["val"])

        model, retrained = network(False, "resnet20s"), network(False, "resnet20s")
        fit(model, "train")
        plain.accuracy(model, splits["test"])
        fit(retrained, "retain")
        plain.evaluate(retrained, splits)
        plain.save_masks(
            {name: g.abs() for name, g in plain.gradients(model, splits["forget"]).items()}, folder
        )
        mask = torch.load(folder / "with_0.5.pt", map_location=DEVICE, weights_only=True)
        original = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer = torch.optim.SGD(
            model.parameters(), 0.025, momentum=MOMENTUM, weight_decay=DECAY
        )
        forget, retain = (plain.Images(*pixels[name], False) for name in ("forget", "retain"))
        for _ in range(steps):
            plain.salun_epoch(model, forget, retain, 128, 10, mask, original, optimizer, DEVICE)
            plain.accuracy(model, splits["val"])
        plain.evaluate(model, splits)

    return Side(ours if side == "ours" else straightforward, dict)


# In train mode the gradient of a fresh ResNet-18 in fp32 is off fp64's by 0.3 % in the plain layout
# and by 2.4 % in channels_last, where torch's BatchNorm sums on the CPU are less exact (32 images,
# measured here): hence their 5 %.
STAGES = {
    "train": Stage(
        "training epoch, ResNet-18, 32x32, batch 256, augmented",
        training,
        3.5,
        ("plain", "ours", "fp32"),
        5e-2,
        warm_up=True,
    ),
    "salun": Stage("SalUn epoch, the same network", salun, 3.5, tolerance=5e-2, warm_up=True),
    "masks": Stage("ten masks on disk from ready scores, ResNet-18", masks, 10, tolerance=0),
    "attack": Stage("SVC attack, five features, 10,000 + 10,000 + 4,500 points", attack, 10),
    "v": Stage("wfisher's gradient v, ResNet-18, fp32", gradient_v, 1.3),
    "fisher": Stage("Fisher diagonal, 1,000 samples, ResNet-18", fisher, 1.3, tolerance=5e-3),
    "evaluation": Stage(
        "evaluation of one ResNet-18, fp32, four splits and the attack", evaluation, 1.5
    ),
    "loader": Stage("loader alone, augmented 32x32 images", loading, 4, tolerance=0, warm_up=True),
    "story": Stage(
        "train, retrain, mask, SalUn with evaluation, fashion_mini, ResNet-20s",
        story,
        3,
        warm_up=True,
    ),
}


def prepare(side: str) -> None:
    """What the scripts do to the process, on our sides only."""
    if side != "plain" and DEVICE.type == "cpu":
        keep_freed_memory()
