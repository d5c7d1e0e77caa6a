"""Calls of the project's scripts, in a process of their own or in this one, with a log whose lines
carry their time.
"""

import importlib
import io
import itertools
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What a training has to save its last step, and how often a job is looked at.
SECONDS_TO_STOP = 20.0
POLL_SECONDS = 0.1
# How long an ended job's output may stay open: in the hands of a compiler's processes that outlive
# it.
SECONDS_TO_READ = 5.0
EPOCH = re.compile(r"^ *([\d.]+) epoch (\d+)/\d+ ")


class StampedLog(io.TextIOBase):
    """Text in, the same lines out to the end of a file, each behind the seconds since the log was
    opened.
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.begun, self.line = path.open("a"), time.monotonic(), ""

    def write(self, text: str) -> int:
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            shown = (
                line.rstrip("\r").rpartition("\r")[2].strip()
            )  # what a progress bar drew over is gone
            self.file.write(f"{time.monotonic() - self.begun:9.2f} {shown}\n")
        self.file.flush()
        return len(text)

    def flush(self) -> None:
        if not self.file.closed:
            self.file.flush()

    def close(self) -> None:
        if self.closed:
            return
        if self.line:
            self.write("\n")
        self.file.close()
        super().close()


class Process:
    """A script in a process of its own; a crash of it costs nothing else."""

    def __init__(self, script: str, flags: Sequence[str], log: Path):
        self.log = StampedLog(log)
        self.log.write(f"$ python {script} {' '.join(flags)}\n")
        command = [sys.executable, str(ROOT / script), *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command, **pipes, text=True, errors="replace")
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if not self.log.closed:
                self.log.write(line)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self.process.poll() is None:
            return None
        self.reader.join(SECONDS_TO_READ)
        self.log.close()
        return self.process.returncode

    def stop(self) -> None:
        """Let it save what it has and end; after a while, end it."""
        self.process.terminate()
        try:
            self.process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.poll()


class Here:
    """A script in this process, finished when this returns: the twin's, which cannot wait for a
    start of torch for each.
    """

    def __init__(self, script: str, flags: Sequence[str], log: Path):
        stamped = StampedLog(log)
        stamped.write(f"$ python {script} {' '.join(flags)}\n")
        try:
            with redirect_stdout(stamped), redirect_stderr(stamped):
                self.code = importlib.import_module(script.removesuffix(".py")).main(list(flags))
        finally:
            stamped.close()

    def poll(self) -> int:
        return self.code

    def stop(self) -> None:
        """Nothing is left to stop."""


def last_line(log: Path) -> str:
    """What a script said last, without the time."""
    lines = log.read_text().splitlines() or [""]
    return lines[-1].lstrip().partition(" ")[2]


def epoch_seconds(log: Path) -> float:
    """The median time from one epoch's line to the next one's, in a log of one training: saving and
    validation included.

    Raises:
        ValueError: fewer than two epochs.
    """
    found = (EPOCH.match(line) for line in log.read_text().splitlines())
    times = [float(each[1]) for each in found if each]
    if len(times) < 2:
        raise ValueError(f"{log} has no two epochs: {last_line(log)}")
    between = sorted(later - earlier for earlier, later in itertools.pairwise(times))
    return between[len(between) // 2]
