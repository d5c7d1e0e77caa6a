"""What the fault trials run: one small command for each script and method, and forked children to
run it in.
"""

import contextlib
import json
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import sklearn.datasets  # these and torch._dynamo cost seconds, which the forked children share
import sklearn.svm  # noqa: F401
import torch
import torch._dynamo

import evaluate
import generate_mask
import main_forget
import main_random
import main_train
import report
import sweep
from runtime.files import hash_arrays, load, load_json
from sweeping import launchers
from unlearn import METHODS

SCRIPTS = {
    "main_train": main_train,
    "generate_mask": generate_mask,
    "main_forget": main_forget,
    "main_random": main_random,
    "evaluate": evaluate,
    "report": report,
    "sweep": sweep,
}
SETUP = [
    "--dataset",
    "digits",
    "--arch",
    "resnet20s",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--batch_size",
    "64",
]
# Little work: a quarter of the retain set, few samples, and thresholds at which the small model
# changes at all.
FEW = ["--num_indexes_to_replace", "130", "--retain_fraction", "0.25"]
OWN = {
    "wfisher": ["--samples", "40", "--max_iterations", "4"],
    "fisher": ["--fisher_samples", "40"],
    "fisher_new": ["--fisher_samples", "10"],
    "ssd": ["--alpha", "0.5"],
    "lfssd": ["--alpha", "0.5"],
    "unsir": ["--noise_steps", "3"],
}


def make_world(folder: Path) -> Path:
    """An original model and its masks in ``folder``; made once, in a child."""
    original = folder / "original" / "0model_SA_best.pth.tar"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "mask" / "mask_result.json").exists():
        train = [
            *SETUP,
            "--epochs",
            "3",
            "--lr",
            "0.1",
            "--save_dir",
            str(original.parent),
            "--overwrite",
        ]
        masks = [
            *SETUP,
            *FEW,
            "--model_path",
            str(original),
            "--save_dir",
            str(folder / "mask"),
            "--overwrite",
        ]
        for script, words in (("main_train", train), ("generate_mask", masks)):
            child = Child(script, words, folder / "world.log")
            assert child.wait() == 0, child.output()
    return folder


def commands(world: Path) -> dict[str, tuple[str, list[str]]]:
    """{name: (script, flags without --save_dir)} for every script and every registered method,
    about half of them under a mask.
    """
    original, mask = world / "original" / "0model_SA_best.pth.tar", world / "mask" / "with_0.5.pt"
    rest = [*SETUP, *FEW, "--model_path", str(original)]
    train = [*SETUP, "--epochs", "2", "--lr", "0.1"]
    found = {
        "main_train": ("main_train", train),
        "main_train, saved every 4 steps": ("main_train", [*train, "--save_every_steps", "4"]),
        "main_train, streamed": ("main_train", [*train, "--store", "stream"]),
        "generate_mask": ("generate_mask", rest),
        "generate_mask random": ("generate_mask", [*rest, "--score", "random"]),
        "main_random RL": (
            "main_random",
            [*rest, "--unlearn", "RL", "--unlearn_epochs", "3", "--mask_path", str(mask)],
        ),
        "main_forget NegGrad+, streamed": (
            "main_forget",
            [*rest, "--unlearn", "neggrad_plus", "--unlearn_epochs", "3", "--store", "stream"],
        ),
    }
    for number, name in enumerate(METHODS):
        masked = ["--mask_path", str(mask)] if number % 2 else []
        found[f"main_forget {name}"] = (
            "main_forget",
            [*rest, "--unlearn", name, "--unlearn_epochs", "3", *OWN.get(name, []), *masked],
        )
    return found


class Child:
    """A script's ``main(argv)`` in a forked copy of this process, which has torch imported and has
    never run a thread.
    """

    def __init__(
        self,
        script: str,
        words: list[str],
        log: Path,
        file_limit: int | None = None,
        prepare: Callable[[], object] | None = None,
    ):
        """``prepare`` is called in the child before the script: to change its folder, its variables
        or a function.
        """
        self.log, self.started = log, time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            self._run(script, words, file_limit, prepare)

    def _run(
        self,
        script: str,
        words: list[str],
        file_limit: int | None,
        prepare: Callable[[], object] | None,
    ) -> None:
        code = 99
        try:
            handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            signal.signal(
                signal.SIGINT, signal.default_int_handler
            )  # a background job of a shell ignores it
            torch.set_num_threads(1)
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
            launchers.Local._start = _worker_here
            if prepare is not None:
                prepare()
            code = SCRIPTS[script].main(words)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                os.sys.stdout.flush()
            os._exit(code)

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        _, status, self.usage = os.wait4(self.pid, 0)
        self.seconds = time.monotonic() - self.started
        return os.waitstatus_to_exitcode(status)

    def end(self, number: int, after: float) -> int:
        """Send it a signal ``after`` so many seconds; its exit code."""
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)  # not reaped yet, so that the number is still its own
        return self.wait()

    def output(self) -> str:
        return self.log.read_text(errors="replace")


class _Ended:
    """A worker of a sweep that has ended."""

    def __init__(self, code: int):
        self.code = code

    def poll(self) -> int:
        return self.code

    def stop(self) -> None:
        """It has ended."""


def _worker_here(launcher: launchers.Local, slot: int, words: list[str]) -> _Ended:
    """A sweep's worker in the sweep's own process, which saves a start of Python; interrupted, it
    interrupts the sweep.
    """
    code = sweep.main([*words[2:], f"--parent={os.getppid()}"])
    if code == 130:
        raise KeyboardInterrupt
    return _Ended(code)


def run(
    script: str, words: list[str], log: Path, prepare: Callable[[], object] | None = None
) -> tuple[int, str]:
    """A command in a child: its exit code and all that it said."""
    child = Child(script, words, log, prepare=prepare)
    return child.wait(), child.output()


def checkpoint_of(script: str, words: list[str]) -> str:
    """The name of the file that --resume reads."""
    if script == "main_train":
        return "0checkpoint.pth.tar"
    return (
        "mask_result.json"
        if script == "generate_mask"
        else f"{words[words.index('--unlearn') + 1]}checkpoint.pth.tar"
    )


def outcome(script: str, words: list[str], folder: Path) -> dict:
    """What a finished run left behind, without its times: equal for equal runs."""
    if script == "evaluate":
        return audit_numbers(folder / "audit.json")
    if script == "sweep":
        return {
            str(file.relative_to(folder)): numbers_of(file)
            for file in sorted(folder.rglob("*result.json"))
        }
    if script == "generate_mask":
        record = load_json(folder / "mask_result.json", "record")
        for name, mask in record["masks"].items():
            assert hash_arrays(load(folder / name, "mask")) == mask["sha256"]
        return record["masks"]
    state = load(folder / checkpoint_of(script, words), "checkpoint")
    found = {"weights": hash_arrays(state["state_dict"]), "epoch": state["epoch"]}
    if script == "main_train":
        best, result = (
            load(folder / "0model_SA_best.pth.tar", "best"),
            load_json(folder / "train_result.json", "result"),
        )
        return found | {
            "best": hash_arrays(best["state_dict"]),
            "metrics": result["metrics"],
        }
    name = words[words.index("--unlearn") + 1]
    result = load_json(folder / f"{name}result.json", "result")
    assert result["provenance"]["unlearned_sha256"] == found["weights"]
    return found | {
        "metrics": result["metrics"],
        "reference": load(folder / f"{name}eval_result.pth.tar", "dictionary"),
    }


def audit_numbers(file: Path) -> dict:
    """An audit without its time, its command and its paths."""
    audit = load_json(file, "audit")
    models = [
        {name: value for name, value in model.items() if name != "path"}
        for model in audit["models"]
    ]
    return {**audit, "models": models, "provenance": None}


def numbers_of(file: Path) -> dict:
    """A result without its times, its command and its paths."""
    result = load_json(file, "result")
    kept = {
        name: result.get(name)
        for name in ("label", "metrics", "hyperparameters", "recipe", "data", "masks", "standing")
    }
    hashes = {
        name: value for name, value in result["provenance"].items() if name.endswith("sha256")
    }
    return {**kept, "hashes": hashes, "density": (result.get("mask") or {}).get("density")}


def whole_files(folder: Path) -> None:
    """Raise if a file in ``folder`` that has its final name is not whole."""
    for file in folder.iterdir():
        if file.name.endswith((".pth.tar", ".pt")):
            load(file, "file")
        elif file.suffix == ".json":
            json.loads(file.read_text())
