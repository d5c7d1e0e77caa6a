"""Odd surroundings of a process: closed files, variables, folders, limits. A run ends as ever, or
in one line.
"""

import contextlib
import ctypes
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from faults.cases import FEW, SETUP, outcome
from faults.files import complaints_about

ROOT = Path(__file__).parents[2]
PR_CAPBSET_DROP, OF_ROOT = 24, (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
LAUNCHED = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999"}


class Around(NamedTuple):
    """What is odd: variables (None takes one away), what the child does before it begins, where
    results go, how it may end.
    """

    variables: dict[str, str | None] = {}
    prepare: Callable[[Path], None] = lambda folder: None
    save_dir: str = "out"
    codes: tuple[int, ...] = (0,)
    quiet: bool = False  # standard error is closed


def closed(*numbers: int) -> Callable[[Path], None]:
    """Close standard files, as >&- does."""
    return lambda folder: [os.close(number) for number in numbers]


def full(number: int) -> Callable[[Path], None]:
    """A standard file on a full disk."""
    return lambda folder: os.dup2(os.open("/dev/full", os.O_WRONLY), number)


def as_others(folder: Path) -> None:
    """Without root's right to read and write what its mode forbids."""
    if os.geteuid() == 0:
        for capability in OF_ROOT:
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


def read_only(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out").chmod(0o555)
    as_others(folder)


def in_deleted_folder(folder: Path) -> None:
    (folder / "gone").mkdir()
    os.chdir(folder / "gone")
    (folder / "gone").rmdir()


def in_file(folder: Path) -> None:
    (folder / "out").touch()


def dangling(folder: Path) -> None:
    (folder / "out").symlink_to(folder / "nowhere" / "at all")


def few_files(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))


def small_stack(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))


def without_rights_on_new_files(folder: Path) -> None:
    os.umask(0o777)
    as_others(folder)


SURROUNDINGS = {
    "no stdin": Around(prepare=closed(0)),
    "no stdout": Around(prepare=closed(1)),
    "no stderr": Around(prepare=closed(2), quiet=True),
    "no standard files": Around(prepare=closed(0, 1, 2), quiet=True),
    "stdout full": Around(prepare=full(1), codes=(0, 1)),
    "stderr full": Around(prepare=full(2), quiet=True),
    "RANK empty": Around({"RANK": "", "WORLD_SIZE": "1", **LAUNCHED}, codes=(2,)),
    "WORLD_SIZE a word": Around({"RANK": "0", "WORLD_SIZE": "x", **LAUNCHED}, codes=(2,)),
    "WORLD_SIZE empty": Around({"RANK": "0", "WORLD_SIZE": "", **LAUNCHED}, codes=(2,)),
    "WORLD_SIZE 0": Around({"RANK": "0", "WORLD_SIZE": "0", **LAUNCHED}, codes=(2,)),
    "RANK above": Around({"RANK": "1", "WORLD_SIZE": "1", **LAUNCHED}, codes=(2,)),
    "RANK negative": Around({"RANK": "-1", "WORLD_SIZE": "2", **LAUNCHED}, codes=(2,)),
    "LOCAL_RANK a word": Around(
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "x", **LAUNCHED}, codes=(2,)
    ),
    "RANK alone": Around({"RANK": "3"}),
    "WORLD_SIZE alone": Around({"WORLD_SIZE": "x"}),
    "one launched process": Around({"RANK": "0", "WORLD_SIZE": "1", **LAUNCHED}),
    "TMPDIR missing": Around({"TMPDIR": "/nonexistent"}),
    "TMPDIR a file": Around({"TMPDIR": "/etc/passwd"}),
    "HOME missing": Around({"HOME": "/nonexistent"}),
    "no HOME": Around({"HOME": None}),
    "HOME read-only": Around({"HOME": "/proc"}),
    "no variables": Around(
        {
            "HOME": None,
            "PATH": None,
            "LANG": None,
            "USER": None,
            "SHELL": None,
            "PWD": None,
            "TMPDIR": None,
        }
    ),
    "LANG C": Around({"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "LC_ALL unknown": Around({"LC_ALL": "xx_YY.UTF-99"}),
    "ascii output": Around({"PYTHONIOENCODING": "ascii"}),
    "ascii output, strict": Around({"PYTHONIOENCODING": "ascii:strict"}, save_dir="ä😀"),
    "OMP_NUM_THREADS a word": Around({"OMP_NUM_THREADS": "garbage"}),
    "OMP_NUM_THREADS negative": Around({"OMP_NUM_THREADS": "-3"}),
    "OMP_NUM_THREADS huge": Around({"OMP_NUM_THREADS": "99999999999999999999"}),
    "MKL_NUM_THREADS": Around({"MKL_NUM_THREADS": "x"}),
    "CUDA_VISIBLE_DEVICES a word": Around({"CUDA_VISIBLE_DEVICES": "garbage"}),
    "no CUDA": Around({"CUDA_VISIBLE_DEVICES": ""}),
    "TERM dumb": Around({"TERM": "dumb"}),
    "COLUMNS 1": Around({"COLUMNS": "1", "LINES": "1"}),
    "COLUMNS a word": Around({"COLUMNS": "x"}),
    "GIT_DIR elsewhere": Around({"GIT_DIR": "/nonexistent", "GIT_WORK_TREE": "/"}),
    "no PATH": Around({"PATH": ""}),
    "PYTHONOPTIMIZE": Around({"PYTHONOPTIMIZE": "1"}),
    "PYTHONUNBUFFERED": Around({"PYTHONUNBUFFERED": "1"}),
    "SHARE_GPUS": Around({"SHARE_GPUS": "1"}),
    "warnings are errors": Around({"PYTHONWARNINGS": "error"}),
    "save_dir read-only": Around(prepare=read_only, codes=(2,)),
    "save_dir a file": Around(prepare=in_file, codes=(2,)),
    "save_dir a dangling link": Around(prepare=dangling, codes=(0, 1, 2)),
    "working folder deleted": Around(prepare=in_deleted_folder, codes=(2,)),
    "path too long": Around(save_dir="/".join(["d" * 200] * 30), codes=(2,)),
    "name too long": Around(save_dir="n" * 300, codes=(2,)),
    "long path": Around(save_dir="/".join(["d" * 200] * 10)),
    "path with a newline": Around(save_dir="a\nb\r\tc"),
    "path of odd bytes": Around(save_dir=os.fsdecode(b"\xff\xfe o\x80")),
    "path with markup": Around(save_dir="$(id) `id` ; 'q\" {x} %s *?["),
    "path with a dash": Around(save_dir="-x"),
    "umask 777": Around(prepare=without_rights_on_new_files, codes=(0, 1, 2)),
    "few open files": Around(prepare=few_files, codes=(0, 1, 2)),
    "small stack": Around(prepare=small_stack),
}


def commands_around(world: Path) -> dict[str, tuple[str, list[str]]]:
    """Small commands of every kind, by script."""
    original = ["--model_path", str(world / "original" / "0model_SA_best.pth.tar")]
    plain = [*SETUP, "--threads", "1"]
    return {
        "main_forget": (
            "main_forget",
            [*plain, *FEW, *original, "--unlearn", "GA", "--unlearn_epochs", "1"],
        ),
        "main_train": ("main_train", [*plain, "--epochs", "1", "--lr", "0.1"]),
        "generate_mask": ("generate_mask", [*plain, *FEW, *original]),
    }


def process(folder: Path, around: Around, script: str, words: list[str]) -> tuple[int, str, Path]:
    """A command in a process of its own: exit code, standard error, the folder of its results."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    variables = {
        name: value
        for name, value in {**os.environ, **around.variables}.items()
        if value is not None
    }
    out = folder / around.save_dir
    with open(folder / "stdout", "wb") as stdout, open(folder / "stderr", "wb") as stderr:
        done = subprocess.run(
            [
                sys.executable,
                str(ROOT / f"{script}.py"),
                *words,
                f"--save_dir={around.save_dir if around.save_dir[0] == '-' else out}",
            ],
            cwd=folder,
            env=variables,
            stdout=stdout,
            stderr=stderr,
            stdin=None,
            preexec_fn=lambda: around.prepare(folder),
            timeout=300,
            check=False,
        )
    return done.returncode, (folder / "stderr").read_text(errors="replace"), out


def around_trial(world: Path, name: str, seed: int, whole: Callable[[str], dict]) -> dict:
    """One command in odd surroundings: its usual outcome, or one line and the right exit code.
    ``whole`` gives a script's outcome.
    """
    rng, around = random.Random(f"around/{name}/{seed}"), SURROUNDINGS[name]
    case, (script, words) = rng.choice(list(commands_around(world).items()))
    code, said, out = process(world / "around", around, script, words)
    complaints = (
        complaints_about(code, said, around.codes)
        if not around.quiet
        else ([] if code in around.codes else [f"{code}"])
    )
    if code == 0 and not complaints:
        if name == "umask 777":
            for file in out.rglob("*"):
                with contextlib.suppress(OSError):
                    file.chmod(0o777)
        found = outcome(script, words, out)
        complaints += [] if found == whole(case) else ["another outcome than in usual surroundings"]
    return {
        "case": name,
        "seed": seed,
        "script": script,
        "code": code,
        "complaints": complaints,
        "ok": not complaints,
    }
