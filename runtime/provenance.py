"""The command, the code and the machine that a result was made with."""

import contextlib
import contextvars
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from runtime import distributed


class Call(NamedTuple):
    """A running script: file name and arguments, and the machine's load before the outermost script
    began.
    """

    command: list[str]
    load: float | None


current_call: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)


def machine_load() -> float | None:
    """Processes that ran or waited for a core in the last minute, on average; None if unknown."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


@contextlib.contextmanager
def calling(name: str, argv: list[str]) -> Iterator[None]:
    """Within the block results record this command; torch's number of threads is restored after
    it.
    """
    outer, threads = current_call.get(), torch.get_num_threads()
    token = current_call.set(Call([name, *argv], outer.load if outer else machine_load()))
    try:
        yield
    finally:
        current_call.reset(token)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def git_revision() -> str:
    """The commit of this code, with ``+`` where the tree has changes; empty outside of a git
    checkout of its own, as in a copy inside another repository. No lock is taken.
    """
    root = Path(__file__).resolve().parent.parent
    try:
        top, commit = _git(root, "rev-parse", "--show-toplevel", "HEAD").splitlines()
        if Path(top).resolve() != root:
            return ""
        changed = _git(root, "--no-optional-locks", "status", "--porcelain", "-uno").strip()
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return commit + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str:
    # Inside another repository's hook, GIT_DIR and the like name that repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = ["git", *words]
    run = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=10, check=True
    )
    return run.stdout


def provenance(device: torch.device, precision: str, seeds: dict[str, int]) -> dict:
    """Command, code, machine, versions and seeds, for a result file."""
    call = current_call.get()
    name = platform.processor() or platform.machine()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "command": call.command if call else [Path(sys.argv[0]).name, *sys.argv[1:]],
        "git": git_revision(),
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "precision": precision,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **seeds,
    }
