"""What the checks of correct.py run: scripts as users call them, at the size of the device, and how
far two results are apart.
"""

import dataclasses
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.battery import ROOT
from runtime.files import load
from stages.checkpoints import Original, read_original

State = Mapping[str, Tensor]
# A run on a device that does not repeat itself may differ from another by this many times what two
# equal runs do.
REPEATS = 10
# How often a run is made again before it counts as one that repeats itself.
TRIES = 3
# What a process that is asked to end has for it: torchrun gives its own ones half a minute.
SECONDS_TO_STOP = 40


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes of the runs: ``task`` are the flags of the data set and the machine, ``forget`` and
    ``batch`` count images.
    """

    task: tuple[str, ...]
    arch: str
    epochs: int
    batch: int
    forget: int
    retain_part: str  # --retain_fraction of the registry's runs
    few: int  # images of a split that the CPU sees in fp64
    long: int  # epochs of a run that is to be killed


# 16x16 images: a GPU computes as for larger ones, and the CPU that it is compared with does not
# take all of the time.
DEVICE = Scale(
    ("--dataset", "fashion_mini", "--input_size", "16", "--device", "auto"),
    "resnet18",
    3,
    256,
    450,
    "0.2",
    200,
    8,
)
TWIN = Scale(
    ("--dataset", "digits", "--device", "cpu", "--threads", "1"),
    "resnet20s",
    2,
    64,
    61,
    "0.05",
    61,
    4,
)


class Bench:
    """A folder with an original model and a mask of it, made when a check first needs them, and the
    ways to run a script.
    """

    def __init__(self, folder: Path, device: torch.device, twin: bool):
        self.folder, self.device, self.twin = folder, device, twin
        self.scale = TWIN if twin else DEVICE

    @cached_property
    def original(self) -> Path:
        """The checkpoint of a model trained here."""
        self.call("main_train", *self.training(), "--save_dir", self.folder / "original")
        return self.folder / "original" / "0model_SA_best.pth.tar"

    @cached_property
    def mask(self) -> Path:
        """Its mask of one half."""
        self.call("generate_mask", *self.request(), "--save_dir", self.folder / "mask")
        return self.folder / "mask" / "with_0.5.pt"

    @cached_property
    def unlearned(self) -> Path:
        """The checkpoint of RL under the mask."""
        self.call("main_forget", *self.salun(), "--save_dir", self.folder / "unlearned")
        return self.folder / "unlearned" / "RLcheckpoint.pth.tar"

    @cached_property
    def record(self) -> Original:
        """The original as the scripts read it."""
        return read_original(self.original)

    def training(self, *more: object, epochs: int | None = None) -> list[object]:
        """main_train's flags, without a folder."""
        scale = self.scale
        recipe = [
            "--arch",
            scale.arch,
            "--lr",
            "0.05",
            "--batch_size",
            scale.batch,
            "--epochs",
            epochs or scale.epochs,
        ]
        return [*scale.task, *recipe, *more]

    def request(self) -> list[object]:
        """The flags of every later step: which model forgets what."""
        return [
            *self.scale.task,
            "--model_path",
            self.original,
            "--num_indexes_to_replace",
            self.scale.forget,
        ]

    def salun(self, *more: object, epochs: int | None = None) -> list[object]:
        """main_forget's flags for RL under the mask, without a folder."""
        steps = [
            "--unlearn_epochs",
            epochs or self.scale.epochs,
            "--unlearn_lr",
            "0.01",
            "--batch_size",
            self.scale.batch,
        ]
        return [*self.request(), "--unlearn", "RL", "--mask_path", self.mask, *steps, *more]

    def call(self, script: str, *words: object) -> None:
        """Run a script in this process."""
        if code := importlib.import_module(script).main([str(word) for word in words]):
            raise RuntimeError(f"{script} ended with exit code {code}; its message is in the log")

    def start(self, command: list[object], **environment: str) -> subprocess.Popen:
        """Start a Python command in a process of its own, from the repository."""
        words = [sys.executable, *map(str, command)]
        there = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        return subprocess.Popen(
            words, cwd=ROOT, env=there, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def process(
        self, command: list[object], code: int = 0, seconds: float = 150, **environment: str
    ) -> str:
        """What a Python command printed; another exit code, or no end within ``seconds``, is an
        error.
        """
        process = self.start(command, **environment)
        try:
            printed, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise RuntimeError(
                f"no end after {seconds:.0f} s: {stopped(process)[-2000:]}"
            ) from None
        print(printed)
        if process.returncode != code:
            raise RuntimeError(
                f"exit code {process.returncode} in the place of {code}: {printed[-500:]}"
            )
        return printed


def stopped(process: subprocess.Popen) -> str:
    """End a process that does not end by itself; returns what it printed.

    torchrun ends its own processes where it is asked to, and not where it is killed. What is left
    of them may hold the output open, so that nobody waits for its end.
    """
    printed = b""
    for end, seconds in ((process.terminate, SECONDS_TO_STOP), (process.kill, 5)):
        end()
        try:
            return process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired as error:
            printed = error.output or printed
    return printed.decode(errors="replace") if isinstance(printed, bytes) else printed


def weights(checkpoint: Path) -> dict[str, Tensor]:
    """The model that a checkpoint holds, on the CPU."""
    return load(checkpoint, "checkpoint")["state_dict"]


def same(a: State, b: State) -> bool:
    """Whether two models are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def flat(values: State) -> Tensor:
    """All floating-point values as one vector (n,) in fp64 on the CPU."""
    return torch.cat(
        [
            value.detach().double().cpu().flatten()
            for value in values.values()
            if value.is_floating_point()
        ]
    )


def relative(a: State, b: State, start: State | None = None) -> float:
    """||a - b|| / ||b - start||, of all floating-point values; without ``start`` / ||b||."""
    a, b = flat(a), flat(b)
    norm = (b if start is None else b - flat(start)).norm()
    return float((a - b).norm() / norm.clamp_min(1e-30))


def compared(
    found: State, wanted: State, again: Callable[[], State], allowed: float = 0.0
) -> tuple[dict, bool]:
    """How ``found`` differs from ``wanted``, and whether no more than it may.

    Unequal models are excused where the device does not repeat itself: ``again`` makes ``wanted``
    anew, and the difference is at most ``REPEATS`` times the one between the two; or where the
    relative difference is at most ``allowed``.
    """
    if same(found, wanted):
        return {"equal": True}, True
    apart = relative(found, wanted)
    for _ in range(1 if apart <= allowed else TRIES):
        repeated = again()
        if not same(repeated, wanted):
            break
    repeat_apart = relative(repeated, wanted)
    as_a_repeat = not same(repeated, wanted) and apart <= REPEATS * repeat_apart
    return {
        "equal": False,
        "apart": apart,
        "repeat_apart": repeat_apart,
    }, as_a_repeat or apart <= allowed
