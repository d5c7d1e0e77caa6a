"""A small study to move, change, kill and audit: an original, masks, unlearned models, Retrains, a
pool of shadow models.
"""

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from faults.cases import FEW, Child, audit_numbers, run

from datasets import sources

# One epoch of few steps: what is compared are hashes, not how good a model is.
LEAN = ["--arch", "resnet20s", "--device", "cpu", "--precision", "fp32", "--batch_size", "128"]
SHADOWS = 6
METHODS = ("RL", "FT")
MOST_IMAGES = 500


def in_folder(folder: Path) -> Callable[[], None]:
    """What a child does first: change its working folder."""
    return lambda: os.chdir(folder)


def make_study(world: Path, kind: str, *suites: str) -> Path:
    """A folder with runs/ and, for npz, data/images.npz, made from inside the folder with relative
    paths, or with absolute ones.

    ``kind`` is "digits relative", "digits absolute", "npz relative" or "npz absolute"; it also
    holds audits of ``suites``.
    """
    folder = world / "study" / kind.replace(" ", "_")
    at = folder if kind.endswith("absolute") else Path()
    if not (folder / "ready").exists():
        _make_runs(world, kind, folder, at)
    for suite in suites:
        if not (folder / "runs" / f"audit_{suite}" / "audit.json").exists():
            code, said = run(
                "evaluate", audit_words(at, suite), world / "study.log", in_folder(folder)
            )
            assert code == 0, said
    return folder


def _make_runs(world: Path, kind: str, folder: Path, at: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    data = sources.digits(None, sources.Reading())
    arrays = {name: data[name][:MOST_IMAGES] for name in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(folder / "data" / "images.npz", **arrays)
    for script, words in steps(kind, at).values():
        code, said = run(script, words, world / "study.log", in_folder(folder))
        assert code == 0, said
    (folder / "ready").touch()


def data_words(kind: str, at: Path) -> list[str]:
    """The flags of the data set."""
    return (
        ["--dataset", "npz", "--data", str(at / "data" / "images.npz")]
        if kind.startswith("npz")
        else ["--dataset", "digits"]
    )


def few(kind: str) -> list[str]:
    """The flags of the forget set."""
    return ["--num_indexes_to_replace", "40"] if kind.startswith("npz") else FEW[:2]


def steps(kind: str, at: Path) -> dict[str, tuple[str, list[str]]]:
    """{name: command} of a study below ``at``, in order."""
    original, mask = (
        at / "runs" / "original" / "0model_SA_best.pth.tar",
        at / "runs" / "mask" / "with_0.5.pt",
    )
    model = [*LEAN, *few(kind), "--model_path", str(original)]
    unlearned = {
        "RL": (
            "main_random",
            ["--unlearn", "RL", "--unlearn_epochs", "2", "--mask_path", str(mask)],
        ),
        "FT": ("main_forget", ["--unlearn", "FT", "--unlearn_epochs", "2"]),
    }
    found = {
        "original": ("main_train", [*data_words(kind, at), *LEAN, "--epochs", "2", "--lr", "0.1"]),
        "mask": ("generate_mask", model),
    }
    found |= {name: (script, [*model, *words]) for name, (script, words) in unlearned.items()}
    for seed in (2, 3):
        found[f"retrain{seed}"] = (
            "main_forget",
            [*model, "--unlearn", "retrain", "--seed", str(seed), "--forget_seed", "2"],
        )
    return {
        name: (script, [*words, "--save_dir", str(at / "runs" / name)])
        for name, (script, words) in found.items()
    }


def audit_words(at: Path, suite: str) -> list[str]:
    """evaluate.py's flags for a study below ``at``; each suite has its own folder, where the models
    of its pool are. An audit that is there is replaced.
    """
    runs = at / "runs"
    models = [str(runs / name / f"{name}checkpoint.pth.tar") for name in METHODS]
    beside = (
        []
        if suite == "basic"
        else ["--retrain", str(runs / "retrain*" / "retraincheckpoint.pth.tar")]
    )
    original = ["--original", str(runs / "original" / "0model_SA_best.pth.tar")]
    pool = ["--shadows", str(SHADOWS)] if suite == "full" else []
    lean = ["--overwrite", "--device", "cpu", "--relearn_steps", "2", "--relearn_seeds", "2"]
    return [
        "--models",
        *models,
        *beside,
        *original,
        *pool,
        *lean,
        "--suite",
        suite,
        "--save_dir",
        str(runs / f"audit_{suite}"),
    ]


def audit_of(folder: Path, suite: str) -> dict:
    """The numbers of a study's audit."""
    return audit_numbers(folder / "runs" / f"audit_{suite}" / "audit.json")


def copy_study(study: Path, target: Path, *, pool: bool, caches: bool) -> Path:
    """A copy of a study; without its pool of shadow models or its kept logits where they are not
    wanted.
    """
    left_out = [*([] if pool else ["shadows"]), *([] if caches else ["logits"])]
    shutil.rmtree(target, ignore_errors=True)
    return Path(
        shutil.copytree(study, target, symlinks=True, ignore=shutil.ignore_patterns(*left_out))
    )


def half_done(script: str, words: list[str], log: Path, stop: int, folder: Path) -> None:
    """Run a command up to its ``stop``-th finished file, and end it there as kill -9 does."""
    child = Child(
        script,
        words,
        log,
        prepare=lambda: (os.chdir(folder), stop_at(stop, before=False, kill=True)),
    )
    assert child.wait() == 9, child.output()


def stop_at(number: int, *, before: bool, kill: bool) -> None:
    """End this process right before or right after its ``number``-th rename of a finished file: as
    kill -9 does, or by Ctrl-C.
    """
    real, count = os.replace, 0

    def end() -> None:
        if kill:
            os._exit(9)
        raise KeyboardInterrupt

    def replace(source: object, target: object) -> None:
        nonlocal count
        count += 1
        if count == number and before:
            end()
        real(source, target)
        if count == number and not before:
            end()

    os.replace = replace


def count_writes(file: Path) -> None:
    """Let ``file`` hold one byte for each rename of a finished file in this process."""
    real = os.replace

    def replace(source: object, target: object) -> None:
        real(source, target)
        with contextlib.suppress(OSError), open(file, "ab") as tally:
            tally.write(b".")

    os.replace = replace
