"""What a result says of the code, the machine and the command that made it."""

import contextvars
import functools
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from runtime import distributed


class Call(NamedTuple):
    """A script that runs: its file's name and its words, and the machine's load before it, or the
    script that called it, began.
    """

    command: list[str]
    load: float | None


current_call: contextvars.ContextVar[Call | None] = contextvars.ContextVar("call", default=None)


def machine_load() -> float | None:
    """How many processes ran or waited for a core in the last minute; None where the system does
    not say.
    """
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def git_revision() -> str:
    """The commit of this code, with ``+`` where the tree has changes; empty outside of a git
    checkout of its own.

    A copy of the code inside another repository has none: that repository's commit says nothing of
    it. No lock is taken.
    """
    here = Path(__file__).resolve().parent.parent
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_")
    }  # such as a hook's
    try:
        run = functools.partial(
            subprocess.run,
            cwd=here,
            env=plain,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        top, commit = run(["git", "rev-parse", "--show-toplevel", "HEAD"]).stdout.splitlines()
        if Path(top).resolve() != here:
            return ""
        changed = run(
            ["git", "--no-optional-locks", "status", "--porcelain", "-uno"]
        ).stdout.strip()
        return commit + ("+" if changed else "")
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""


def provenance(device: torch.device, precision: str, seeds: dict[str, int]) -> dict:
    """Where a result comes from: command, code, machine, versions, seeds."""
    call = current_call.get()
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine()
    )
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
