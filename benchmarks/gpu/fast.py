"""How fast the training loop, the masks, the influence passes, the evaluation and the attack are on
this machine's GPU.

    python benchmarks/gpu/fast.py            # in two calls or more: it goes on where it stopped
    python benchmarks/gpu/fast.py --only ceilings,loop_waits
    python benchmarks/gpu/fast.py --twin     # the same checks on the CPU, at toy size

Times are of finished device work, medians of several repeats after a warm-up, with the smallest and
largest beside them. A profiler slows down what runs after it in the same process. So where a check
has profiled the device, checks that time something are left to the next call; on the CPU all run in
one. Shares are of the matrix-product rate that the check ``ceilings`` measures. The images are
random, or those of --data; the speed does not depend on them. A check with an aim says whether it
is met; an aim that is missed is no failure.
"""

import contextlib
import dataclasses
import functools
import gc
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import engine
import main_train
from benchmarks import plain
from benchmarks.gpu.battery import Battery, LeftOut, make_parser, run
from benchmarks.gpu.timing import (
    READ,
    Window,
    between,
    busy_time,
    count_of,
    flops_of,
    host_marks,
    idle_share,
    rate_share,
    ratios,
    seconds_of,
    spread,
)
from benchmarks.stages import (
    DECAY,
    LR,
    MOMENTUM,
    half_mask,
    pictures,
    trained_outputs,
)
from datasets import ImageSet, load_dataset
from datasets.loaders import Data, Loader
from datasets.splits import choose_forget, make_split
from engine import Loop as Settings
from engine import Updater, predict, train_epoch
from evaluation.accuracy import accuracies
from evaluation.membership import DrawRule, svc_attack
from masks.gate import SaliencyGate
from masks.masks import top_masks
from masks.scores import saliency_scores
from models import IMAGENET_STEMS, MODELS, build_model, place
from recipe import learning_rate_factor, make_optimizer, make_scheduler
from runtime.devices import exact_fp32
from runtime.files import require_file, save, save_arrays, save_text
from stages.requests import TrainRequest
from stages.results import to_numpy
from stages.task import set_up
from unlearn.base import Steps, cross_entropy_steps
from unlearn.random_label import RandomLabel
from unlearn.tools.per_sample import fisher_diagonal
from unlearn.wfisher import FISHER_PIXELS, FisherProduct

# Compiles a model in place; returns arguments of engine.Loop.
Compiler = Callable[[nn.Module, torch.device], dict[str, object]]
CLASSES = 10
LAUNCHES = (
    "cudaLaunchKernel",
    "cudaLaunchKernelExC",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cudaGraphLaunch",
)
SPLITS = ("forget", "retain", "val", "test")
PROFILES = (
    "loop_waits",
    "where_time_goes",
    "other_profiles",
)  # how the names of checks that profile begin


@dataclasses.dataclass(frozen=True)
class Size:
    """How much of everything.

    Args:
        large: architecture, side, number of images and batch size of the check on large images.
        matrix: side of the square matrices of ``ceilings``; ``copied`` is the number of floats that
            it copies.
        samples: of the Fisher matrix; ``plain_samples`` of these are enough for the plain side.
        attack: every how many-th point the attack gets, and epochs that its network is trained for.
        window: steps before a profile, and steps in it.
        workers: processes that load images for the plain side.
    """

    arch: str
    side: int
    images: int
    test: int
    forget: int
    batch: int
    other_batches: tuple[int, ...]
    gate_batches: tuple[int, ...]
    gate_steps: int
    large: tuple[str, int, int, int]
    matrix: int
    copied: int
    samples: int
    plain_samples: int
    attack: tuple[int, int]
    repeats: int
    window: tuple[int, int]
    workers: int


FULL = Size(
    arch="resnet18",
    side=32,
    images=50_000,
    test=10_000,
    forget=4_500,
    batch=256,
    other_batches=(128, 512, 1024),
    gate_batches=(256, 32),
    gate_steps=100,
    large=("resnet50", 224, 5_120, 128),
    matrix=8192,
    copied=2**28,
    samples=1_000,
    plain_samples=200,
    attack=(1, 6),
    repeats=3,
    window=(8, 20),
    workers=4,
)
TOY = Size(
    arch="resnet20s",
    side=8,
    images=200,
    test=40,
    forget=40,
    batch=32,
    other_batches=(16,),
    gate_batches=(32, 16),
    gate_steps=4,
    large=("resnet20s", 16, 100, 8),
    matrix=64,
    copied=2**16,
    samples=16,
    plain_samples=4,
    attack=(100, 0),
    repeats=2,
    window=(1, 2),
    workers=0,
)


class HostWaits(Exception):
    """The training loop waits for the device between two logs."""


def main(argv: list[str]) -> int:
    parser = make_parser("fast", __doc__)
    parser.add_argument(
        "--data",
        type=Path,
        help="npz with x_train, y_train, x_test, y_test; default: random images",
    )
    args = parser.parse_args(argv)
    if args.data is not None:
        require_file(args.data, "--data")
    battery = Battery("fast", args)
    battery.folder.mkdir(parents=True, exist_ok=True)
    run_in_turn(battery, checks_of(Fast(battery, args.data)))
    return battery.finish()


def run_in_turn(battery: Battery, checks: dict[str, Callable[[], dict]]) -> None:
    """Every check up to one that would time the device after it was profiled in this process: CUPTI
    stays and costs every launch.

    That one and all behind it are the next call's.
    """
    profiled = postponed = False
    for name in battery.in_turn(checks):
        before = battery.checks.get(name)
        if postponed or (profiled and not is_profile(name)):
            postponed |= battery.postpone(name)
            continue
        battery.check(name, functools.partial(clean, battery.device, checks[name]))
        ran = battery.checks.get(name) is not before
        profiled |= ran and is_profile(name) and battery.device.type == "cuda"


def is_profile(name: str) -> bool:
    return name.startswith(PROFILES)


def checks_of(fast: "Fast") -> dict[str, Callable[[], dict]]:
    """Every check in the order in which they run: what the aims are about first, the rarest of what
    compiles for minutes last.
    """
    size, arch, side = fast.size, fast.size.arch, fast.size.side
    vit = next((name for name in MODELS if name.startswith("vit")), None)
    large_arch, large_side, _, large_batch = size.large
    name = f"train_{arch}_{side}"
    main_name = f"{name}_{size.batch}_bf16"
    checks = {
        "ceilings": fast.ceilings,
        main_name: lambda: fast.train(arch, size.batch, "bf16", aim=25_000),
        f"salun_{arch}_{side}_{size.batch}_bf16": fast.salun,
        "gate": fast.gate,
        "ten_masks": fast.ten_masks,
        "evaluation": fast.evaluation,
        "attack": fast.attack,
        "against_plain_train": fast.against_plain_train,
        "against_plain_salun": fast.against_plain_salun,
        "script_eager": lambda: fast.script([]),
        "script_compile": lambda: fast.script(["--compile"]),
        f"{main_name}_compile": lambda: fast.train(arch, size.batch, "bf16", compiler=as_flag),
        "loop_waits": fast.loop_waits,
        "where_time_goes": fast.where_time_goes,
        "against_plain_evaluation": fast.against_plain_evaluation,
        "against_plain_masks": fast.against_plain_masks,
        "against_plain_fisher": fast.against_plain_fisher,
        "mask_end_to_end": fast.mask_end_to_end,
        "wfisher_iteration": fast.wfisher_iteration,
        "fisher_diagonal": fast.fisher_diagonal,
    }
    for batch in size.other_batches:
        checks[f"{name}_{batch}_bf16"] = functools.partial(fast.train, arch, batch, "bf16")
    checks |= {
        f"{name}_{size.batch}_fp32": lambda: fast.train(arch, size.batch, "fp32"),
        f"{main_name}_contiguous": lambda: fast.train(arch, size.batch, "bf16", contiguous=True),
        f"train_{large_arch}_{large_side}_{large_batch}_bf16": lambda: fast.train_large(large_arch),
        f"train_{vit or 'vit'}_{large_side}_{large_batch}_bf16": lambda: fast.train_large(vit),
        f"{main_name}_compile_no_graphs": lambda: fast.train(
            arch, size.batch, "bf16", compiler=no_graphs
        ),
        "loop_waits_compile": lambda: fast.loop_waits(as_flag),
        "other_profiles": fast.other_profiles,
    }
    return checks


def as_flag(model: nn.Module, device: torch.device) -> dict[str, object]:
    """Compile ``model`` in place as --compile does; returns what
    :class:`engine.Loop` is to be given then.
    """
    return {"mark_steps": engine.compile_model(model, device)}


def no_graphs(model: nn.Module, device: torch.device) -> dict[str, object]:
    """Compile ``model`` in place, one program for each batch size, without CUDA graphs."""
    model.compile(dynamic=False)
    return {}


def as_contiguous(model: nn.Module) -> None:
    """Take ``model`` out of channels_last, and what it is given too."""
    model.to(memory_format=torch.contiguous_format)
    model.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(),))


def clean(device: torch.device, action: Callable[[], dict]) -> dict:
    """Run a check as if nothing before it had used the device's memory and the compiler."""
    torch.manual_seed(0)
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    found = action()
    if device.type == "cuda":
        found["peak_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def judged(aim: str, met: bool) -> dict[str, object]:
    return {"aim": aim, "met": bool(met)}


def random_images(count: int, test: int, side: int) -> ImageSet:
    """Random uint8 images and labels, augmented as CIFAR-10 is."""
    rng = np.random.default_rng(0)

    def half(n: int) -> tuple[np.ndarray, np.ndarray]:
        images = (
            np.frombuffer(rng.bytes(n * side * side * 3), np.uint8).reshape(n, side, side, 3).copy()
        )
        return images, (np.arange(n) % CLASSES).astype(np.int64)

    names = tuple(str(c) for c in range(CLASSES))
    (x_train, y_train), (x_test, y_test) = half(count), half(test)
    return ImageSet(
        "random",
        x_train,
        y_train,
        x_test,
        y_test,
        names,
        (0.5,) * 3,
        (0.29,) * 3,
        max(1, side // 8),
        True,
    )


@contextlib.contextmanager
def torch_defaults() -> Iterator[None]:
    """torch's own settings for the plain side: ours are part of what is measured."""
    cudnn = torch.backends.cudnn
    precision, benchmark, tf32 = (
        torch.get_float32_matmul_precision(),
        cudnn.benchmark,
        cudnn.allow_tf32,
    )
    torch.set_float32_matmul_precision("highest")
    cudnn.benchmark, cudnn.allow_tf32 = False, True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        cudnn.benchmark, cudnn.allow_tf32 = benchmark, tf32


class Loop:
    """A training loop as the scripts drive it: one call is one epoch of :func:`engine.train_epoch`
    with a schedule.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        steps_of: Callable[[int], Steps],
        loaders: list[Loader],
        precision: str,
        gate: SaliencyGate | None = None,
    ):
        self.model, self.data, self.steps_of, self.precision, self.gate = (
            model,
            data,
            steps_of,
            precision,
            gate,
        )
        self.images, self.steps = (
            sum(loader.num_samples for loader in loaders),
            sum(map(len, loaders)),
        )
        self.optimizer = make_optimizer(model.parameters(), LR, MOMENTUM, DECAY)
        self.scheduler = make_scheduler(
            self.optimizer, learning_rate_factor("cosine", 100), [self.steps] * 100
        )
        self.number, self.flags = 0, {}

    def compile(self, compiler: Compiler) -> None:
        self.flags = compiler(self.model, self.data.device)

    def epoch(self, marks: dict[int, Callable[[], None]] | None = None) -> None:
        """One epoch, or its steps up to the last of ``marks``: see :func:`timing.between`."""
        self.data.set_epoch(self.number)
        steps = self.steps_of(self.number)
        self.number += 1
        train_epoch(
            between(steps, marks) if marks else steps,
            Updater(self.model, self.optimizer, self.scheduler, gate=self.gate),
            Settings(precision=self.precision, **self.flags),
            total=self.steps,
        )

    def profiled(self, first: int, count: int) -> Window:
        """The profile of some steps, which lie before the epoch's first log."""
        window = Window(self.data.device, first, count)
        try:
            self.epoch(window.marks)
        finally:
            window.close()
        return window


class Fast:
    """The checks of this stage; each returns what it found."""

    def __init__(self, battery: Battery, data: Path | None):
        self.battery, self.size, self.data_file = battery, TOY if battery.twin else FULL, data
        # The process is set up as a script's is.
        self.device, _ = set_up(TrainRequest.of(device=battery.device.type))

    # --------------------------------------------------------------------------------------- pieces

    @functools.cached_property
    def images(self) -> ImageSet:
        size = self.size
        if self.data_file is None:
            return random_images(size.images, size.test, size.side)
        return load_dataset("npz", self.data_file, input_size=size.side)

    def data(self, batch: int, forget: bool = True, images: ImageSet | None = None) -> Data:
        """The images on the device, with a forget set or for training alone."""
        images = images or self.images
        split = make_split(images.y_train, 1)
        chosen = choose_forget(split, images.y_train, count=self.size.forget) if forget else None
        return Data(images, split, chosen, device=self.device, batch_size=batch, seed=1)

    def network(self, arch: str = "", images: ImageSet | None = None) -> nn.Module:
        images, arch = images or self.images, arch or self.size.arch
        stem = images.image_size > 64 and arch in IMAGENET_STEMS
        model = build_model(
            arch,
            images.num_classes,
            images.mean,
            images.std,
            image_size=images.image_size,
            imagenet_stem=stem,
        )
        return place(model, self.device)

    def training(
        self, model: nn.Module, batch: int, precision: str, images: ImageSet | None = None
    ) -> Loop:
        data = self.data(batch, forget=False, images=images)
        return Loop(
            model,
            data,
            lambda epoch: cross_entropy_steps(model, data.train),
            [data.train],
            precision,
        )

    def unlearning(self, batch: int) -> Loop:
        """SalUn at half of the weights, in bf16."""
        data, model, method = self.data(batch), self.network(), RandomLabel()
        gate = SaliencyGate(model, half_mask(model))
        loaders = method.loaders(data)
        return Loop(
            model, data, lambda epoch: method.losses(model, data, epoch), loaders, "bf16", gate
        )

    @functools.cached_property
    def rates(self) -> dict:
        """What ``ceilings`` found, now or earlier."""
        return self.battery.found("ceilings") or self.ceilings()

    def matrix_rate(self, precision: str) -> tuple[str, float]:
        """The measured rate that a training precision is held against: its name and 10^12
        operations a second.
        """
        name = (
            precision
            if precision == "bf16"
            else "tf32"
            if torch.backends.cudnn.allow_tf32
            else "fp32"
        )
        return name, self.rates[f"{name}_tflops"]

    # ------------------------------------------------------------------------------------- ceilings

    def ceilings(self) -> dict:
        """The measured rates of a matrix product in three precisions and of a copy (bytes read and
        written).
        """
        n, found = self.size.matrix, {}
        for name, dtype, matmul in (
            ("bf16", torch.bfloat16, "highest"),
            ("tf32", torch.float32, "high"),
            ("fp32", torch.float32, "highest"),
        ):
            a, b = (torch.randn(n, n, device=self.device, dtype=dtype) for _ in range(2))
            out = torch.empty_like(a)
            with exact_fp32():
                torch.set_float32_matmul_precision(matmul)
                product = functools.partial(torch.mm, a, b, out=out)
                seconds = seconds_of(product, self.device, repeats=7, warm_ups=2, inner=5)
            found |= spread(f"{name}_tflops", [2 * n**3 / second / 1e12 for second in seconds])
        source = torch.rand(self.size.copied, device=self.device)
        target = torch.empty_like(source)
        seconds = seconds_of(
            lambda: target.copy_(source), self.device, repeats=7, warm_ups=2, inner=5
        )
        moved = 2 * source.numel() * source.element_size()
        return found | spread("copy_gb_per_s", [moved / second / 1e9 for second in seconds])

    # ------------------------------------------------------------------------------------- training

    def train(
        self,
        arch: str,
        batch: int,
        precision: str,
        *,
        images: ImageSet | None = None,
        aim: float | None = None,
        contiguous: bool = False,
        compiler: Compiler | None = None,
    ) -> dict:
        """A training loop, eager unless there is a ``compiler``."""
        loop = self.training(self.network(arch, images), batch, precision, images)
        flops = flops_of(loop.model, self.sample(loop))
        if contiguous:
            as_contiguous(loop.model)
        with self.compiling():
            if compiler is not None:
                loop.compile(compiler)
            found = self.measured(loop, flops)
        if aim is not None:
            found |= judged(f"at least {aim:,.0f} images/s", found["images_per_s"] >= aim)
        return found

    def sample(self, loop: Loop) -> Tensor:
        """Two images, to count the arithmetic of."""
        return next(iter(loop.data.evaluation["val"].batches_of(2)))[0]

    def train_large(self, arch: str | None) -> dict:
        """The same on large images, resident on the device."""
        if arch is None:
            raise LeftOut("models/ has no ViT")
        return self.train(arch, self.size.large[-1], "bf16", images=self.large_images())

    def large_images(self) -> ImageSet:
        return random_images(self.size.large[2], CLASSES, self.size.large[1])

    def compiling(self) -> contextlib.AbstractContextManager:
        """The twin asks for compiled models and runs them eagerly: there may be no C++ compiler,
        and it takes minutes.
        """
        return (
            torch.compiler.set_stance("force_eager")
            if self.battery.twin
            else contextlib.nullcontext()
        )

    def measured(self, loop: Loop, flops: float) -> dict:
        """Images a second, the share of the matrix rate, and the host's time of a step; ``flops``
        are of one image.
        """
        (first_epoch,) = seconds_of(loop.epoch, self.device, repeats=1, warm_ups=0)
        seconds = seconds_of(loop.epoch, self.device, self.size.repeats, warm_ups=1)
        found = spread("images_per_s", [loop.images / second for second in seconds])
        epoch_s = loop.images / found["images_per_s"]
        step_ms = 1e3 * epoch_s / loop.steps
        name, rate = self.matrix_rate(loop.precision)
        host: list[float] = []
        loop.epoch(host_marks(self.device, *self.size.window, host))
        found |= {
            "epoch_s": epoch_s,
            "first_epoch_s": first_epoch,
            "ms_per_step": step_ms,
            "gflop_per_image": flops / 1e9,
            f"percent_of_{name}_rate": rate_share(flops, found["images_per_s"], rate),
            **spread("host_ms_per_step", [1e3 * second for second in host]),
        }
        return found

    def seen_in(self, window: Window, timed: str) -> dict:
        """Who waits for whom in a step, whose time without a profiler is that of the check
        ``timed``, where that has run.
        """
        events = window.events()
        busy, span = (value / 1e3 / window.count for value in busy_time(events))
        found = {
            "device_ms_per_step": busy,
            "device_idle_percent_profiled": idle_share(busy, span),
            "launches_per_step": count_of(events, *LAUNCHES) / window.count,
            "item_calls": count_of(events, READ),
        }
        step = (self.battery.found(timed) or {}).get("ms_per_step")
        return found if step is None else found | {"device_idle_percent": idle_share(busy, step)}

    def loop_waits(self, compiler: Compiler | None = None) -> dict:
        """No wait for the device between two logs, in training and in SalUn.

        Raises:
            HostWaits: there was one; the message says how often, under which operator and, on CUDA,
                from which line.
        """
        size = self.size
        loops = {
            "train": self.training(self.network(), size.batch, "bf16"),
            "salun": self.unlearning(size.batch),
        }
        found, wrong = {}, []
        for name, loop in loops.items():
            with self.compiling():
                if compiler is not None:
                    loop.compile(compiler)
                loop.epoch()
                window = loop.profiled(*size.window)
            waits = window.waits()
            found[f"{name}_waits"], found[f"{name}_steps"] = len(waits), window.count
            timed = f"{name}_{size.arch}_{size.side}_{size.batch}_bf16" + "_compile" * (
                compiler is not None
            )
            found |= {
                f"{name}_{what}": value for what, value in self.seen_in(window, timed).items()
            }
            wrong += [f"{name}, {window.count} steps, {wait}" for wait in waits]
        if wrong:
            raise HostWaits("; ".join(wrong))
        return found | judged("0 waits between two logs", True)

    def where_time_goes(self) -> dict:
        """The 15 most expensive kernels and operators of the training step, in fast_profile.txt."""
        size = self.size
        loop = self.training(self.network(), size.batch, "bf16")
        loop.epoch()
        window = loop.profiled(*size.window)
        file = self.battery.folder / "fast_profile.txt"
        save_text(
            f"{window.count} steps of {size.arch}, batch {size.batch},"
            f" bf16\n\n{window.tables(15)}\n",
            file,
        )
        return {
            "file": file.name,
            **self.seen_in(window, f"train_{size.arch}_{size.side}_{size.batch}_bf16"),
        }

    def other_profiles(self) -> dict:
        """The same numbers of the other training loops, by the name of the check that
        times each.
        """
        size, found = self.size, {}
        arch, side, _, batch = size.large
        kinds: dict[str, tuple] = {
            f"{size.batch}_fp32": (size.batch, "fp32"),
            f"{size.batch}_bf16_contiguous": (size.batch, "bf16"),
        }
        kinds = {f"{other}_bf16": (other, "bf16") for other in size.other_batches} | kinds
        loops = {
            f"train_{size.arch}_{size.side}_{name}": functools.partial(
                self.training, batch=of[0], precision=of[1]
            )
            for name, of in kinds.items()
        }
        for name, loop_of in loops.items():
            loop = loop_of(self.network())
            if name.endswith("contiguous"):
                as_contiguous(loop.model)
            found[name] = self.one_profile(loop, name)
        images, name = self.large_images(), f"train_{arch}_{side}_{batch}_bf16"
        found[name] = self.one_profile(
            self.training(self.network(arch, images), batch, "bf16", images), name
        )
        return found

    def one_profile(self, loop: Loop, timed: str) -> dict:
        loop.epoch(dict.fromkeys([self.size.window[0]], lambda: None))  # a warm-up of a few steps
        return self.seen_in(loop.profiled(*self.size.window), timed)

    def script(self, flags: list[str]) -> dict:
        """Epochs of main_train.py itself, so that --compile is whatever the project makes of it."""
        size = self.size
        with tempfile.TemporaryDirectory() as folder, self.compiling():
            file, arrays = Path(folder, "images.npz"), ("x_train", "y_train", "x_test", "y_test")
            save_arrays({name: getattr(self.images, name) for name in arrays}, file)
            command = (
                f"--dataset npz --data {file} --input_size {size.side} --arch {size.arch}"
                f" --batch_size {size.batch} --epochs {2 + size.repeats} --lr {LR} --precision bf16"
                f" --device {self.device.type} --save_dir {folder}"
            )
            code = main_train.main([*command.split(), *flags])
            if code:
                raise RuntimeError(f"main_train.py ended with exit code {code}")
            lines = Path(folder, "0curve.jsonl").read_text().splitlines()
        sums = [json.loads(line)["seconds"] for line in lines]
        seconds = np.diff(sums)[1:].tolist()  # the first two epochs warm up
        images = len(make_split(self.images.y_train, 1).train)
        found = spread("epoch_s", seconds) | spread(
            "images_per_s", [images / second for second in seconds]
        )
        found["first_epoch_s"] = sums[0]
        eager = self.battery.found("script_eager")
        if flags and eager:
            found["times_as_fast_as_eager"] = found["images_per_s"] / eager["images_per_s"]
        return found | judged("an epoch under 2 s", found["epoch_s"] < 2)

    # ----------------------------------------------------------------------------------- unlearning

    def salun(self) -> dict:
        """A SalUn epoch: random labels on forget, true ones on retain, half of the
        weights frozen.
        """
        loop = self.unlearning(self.size.batch)
        return self.measured(loop, flops_of(loop.model, self.sample(loop)))

    def gate(self) -> dict:
        """The gate's share of a step, at two batch sizes."""
        found = {}
        for batch in self.size.gate_batches:
            loop = self.unlearning(batch)
            steps = min(loop.steps, self.size.gate_steps)
            some = functools.partial(loop.epoch, {steps: lambda: None})
            step = [second / steps for second in seconds_of(some, self.device, self.size.repeats)]
            gate = seconds_of(loop.gate.restore, self.device, self.size.repeats, inner=50)
            shares = [100 * g / s for g, s in zip(gate, step, strict=True)]
            found |= spread(f"percent_at_{batch}", shares) | spread(
                f"us_at_{batch}", [1e6 * g for g in gate]
            )
            # A weight is read, its original and its mask too, and it is written: 4 + 4 + 1 + 4
            # bytes.
            moved = 13 * loop.gate.flat.numel() / (1e3 * found[f"us_at_{batch}"])
            found["percent_of_copy_rate"] = 100 * moved / self.rates["copy_gb_per_s"]
        worst = max(found[f"percent_at_{batch}"] for batch in self.size.gate_batches)
        return found | judged("under 1 % of a step", worst < 1)

    def scores(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: torch.rand_like(p) for name, p in model.named_parameters()}

    def write_masks(self, scores: dict[str, Tensor], folder: Path) -> None:
        for ratio, mask in top_masks(scores).items():
            save(mask, folder / f"with_{ratio}.pt")

    def ten_masks(self) -> dict:
        """Ten masks from ready scores to ten files."""
        scores = self.scores(self.network())
        with tempfile.TemporaryDirectory(dir=self.battery.folder) as folder:
            seconds = seconds_of(
                lambda: self.write_masks(scores, Path(folder)), self.device, self.size.repeats
            )
        found = spread("seconds", seconds)
        return found | judged("under 1 s", found["seconds"] < 1)

    def mask_end_to_end(self) -> dict:
        """From a model and a forget set to ten files."""
        model, forget = self.network(), self.data(self.size.batch).forget.eval_view()
        with tempfile.TemporaryDirectory(dir=self.battery.folder) as folder:
            seconds = seconds_of(
                lambda: self.write_masks(saliency_scores(model, forget), Path(folder)),
                self.device,
                self.size.repeats,
            )
        return spread("seconds", seconds) | {"forget_images": forget.num_samples}

    def fisher_samples(self, batch: int, count: int) -> Loader:
        return (
            self.data(self.size.batch).retain.eval_view().subset(count, "fisher").batches_of(batch)
        )

    def wfisher_iteration(self) -> dict:
        """One product of the Fisher matrix with a vector, which an iteration of wfisher's solver
        is.
        """
        model = self.network().eval()
        samples = self.fisher_samples(max(1, FISHER_PIXELS // self.size.side**2), self.size.samples)
        product, vector = FisherProduct(model, samples, 1.0), self.scores(model)
        with exact_fp32():
            seconds = seconds_of(lambda: product(vector), self.device, self.size.repeats)
        return spread("seconds", seconds) | {"samples": samples.num_samples}

    def fisher_diagonal(self) -> dict:
        model, samples = self.network(), self.fisher_samples(50, self.size.samples)
        seconds = seconds_of(
            lambda: fisher_diagonal(model, samples), self.device, self.size.repeats
        )
        return spread("seconds", seconds) | {"samples": samples.num_samples}

    # ----------------------------------------------------------------------------------- evaluation

    def evaluation(self) -> dict:
        """Logits of all images on the host, in fp32, and the accuracies of four splits."""
        model, data = self.network(), self.data(self.size.batch)
        seconds = seconds_of(lambda: evaluate(model, data), self.device, self.size.repeats)
        found = spread("seconds", seconds) | {
            "images": sum(loader.num_samples for loader in data.evaluation.values())
        }
        flops = flops_of(model, next(iter(data.evaluation["val"].batches_of(2)))[0], backward=False)
        per_second = found["images"] / found["seconds"]
        found["percent_of_fp32_rate"] = rate_share(flops, per_second, self.rates["fp32_tflops"])
        return found | judged("under 2 s", found["seconds"] < 2)

    def attack(self) -> dict:
        """The support-vector attack, on the host, on outputs of a trained network."""
        seen = trained_outputs(*self.size.attack, device=self.device)
        three = [seen[name] for name in ("retain", "test", "forget")]
        cpu = torch.device("cpu")
        seconds = seconds_of(lambda: svc_attack(*three, DrawRule("first")), cpu, self.size.repeats)
        found = spread("seconds", seconds) | {"points": [len(labels) for _, labels in three]}
        return found | judged("under 3 s", found["seconds"] < 3)

    # -------------------------------------------------------------------------------- against plain

    def versus(
        self,
        theirs: Callable[[], object],
        ours: Callable[[], object],
        aim: bool = True,
        scale: float = 1.0,
    ) -> dict:
        """Both sides in turns after a warm-up of each; their times are multiplied by ``scale``."""
        seconds: dict[str, list[float]] = {"plain": [], "ours": []}
        for turn in range(1 + self.size.repeats):
            with torch_defaults():
                (plain_s,) = seconds_of(theirs, self.device, 1, warm_ups=0)
            (ours_s,) = seconds_of(ours, self.device, 1, warm_ups=0)
            if turn:
                seconds["plain"].append(plain_s * scale)
                seconds["ours"].append(ours_s)
        found = spread("ratio", ratios(seconds["plain"], seconds["ours"]))
        found |= spread("plain_s", seconds["plain"]) | spread("ours_s", seconds["ours"])
        return found | (judged("at least 3 times as fast", found["ratio"] >= 3) if aim else {})

    def plain_network(self) -> nn.Module:
        return self.network().to(memory_format=torch.contiguous_format)

    def plain_optimizer(self, model: nn.Module) -> torch.optim.SGD:
        return torch.optim.SGD(model.parameters(), LR, momentum=MOMENTUM, weight_decay=DECAY)

    def plain_side(self) -> dict:
        """What the plain loaders are given: a batch size, the device, the worker processes."""
        return {"batch_size": self.size.batch, "device": self.device, "workers": self.size.workers}

    def against_plain_train(self) -> dict:
        """An epoch of training: fp32 with PIL transforms against the loop in bf16."""
        loop, model = self.training(self.network(), self.size.batch, "bf16"), self.plain_network()
        kept = loop.data.split.train
        batches = plain.loader(
            self.images.x_train[kept], self.images.y_train[kept], train=True, **self.plain_side()
        )
        optimizer = self.plain_optimizer(model)
        found = self.versus(lambda: plain.train_epoch(model, batches, optimizer), loop.epoch)
        return found | {"plain_workers": self.size.workers}

    def against_plain_salun(self) -> dict:
        loop, model = self.unlearning(self.size.batch), self.plain_network()
        mask = {name: value.long().to(self.device) for name, value in half_mask(model).items()}
        original = {name: p.detach().clone() for name, p in model.named_parameters()}
        parts = [plain.Images(*pictures(loop.data, name), True) for name in ("forget", "retain")]
        optimizer = self.plain_optimizer(model)
        theirs = functools.partial(
            plain.salun_epoch,
            model,
            *parts,
            classes=self.images.num_classes,
            mask=mask,
            original=original,
            optimizer=optimizer,
            **self.plain_side(),
        )
        return self.versus(theirs, loop.epoch) | {"plain_workers": self.size.workers}

    def against_plain_evaluation(self) -> dict:
        """Accuracies of four splits and the outputs of three, without the attack."""
        data, model, twin = self.data(self.size.batch), self.network(), self.plain_network()
        loaders = {
            name: plain.loader(*pictures(data, name), train=False, **self.plain_side())
            for name in SPLITS
        }

        def theirs() -> None:
            for batches in loaders.values():
                plain.accuracy(twin, batches)
            for name in ("retain", "test", "forget"):
                plain.outputs(twin, loaders[name])

        return self.versus(theirs, lambda: evaluate(model, data)) | {
            "plain_workers": self.size.workers
        }

    def against_plain_masks(self) -> dict:
        scores = self.scores(self.network())
        with tempfile.TemporaryDirectory(dir=self.battery.folder) as folder:
            theirs, ours = Path(folder, "plain"), Path(folder, "ours")
            return self.versus(
                lambda: plain.save_masks(scores, theirs), lambda: self.write_masks(scores, ours)
            )

    def against_plain_fisher(self) -> dict:
        """One backward pass per sample, on fewer samples and scaled up."""
        samples, model, twin = (
            self.fisher_samples(50, self.size.samples),
            self.network(),
            self.plain_network(),
        )
        images, labels = (
            torch.cat(part)[: self.size.plain_samples] for part in zip(*samples, strict=True)
        )
        images = images.contiguous()
        return self.versus(
            lambda: plain.fisher_diagonal(twin, images, labels),
            lambda: fisher_diagonal(model, samples),
            aim=False,
            scale=samples.num_samples / len(labels),
        )


def evaluate(model: nn.Module, data: Data) -> dict[str, float]:
    return accuracies(
        {name: to_numpy(predict(model, loader)) for name, loader in data.evaluation.items()}
    )


if __name__ == "__main__":
    sys.exit(run("fast", main))
