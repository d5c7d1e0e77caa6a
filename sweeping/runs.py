"""What is done, who is at it, and doing it: all read from files, so that a killed sweep needs
nothing but to be started again.
"""

import contextlib
import dataclasses
import gc
import importlib
import io
import json
import os
import platform
import shlex
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from runtime.files import lock, save_json, save_text
from sweeping.plan import Run
from utils import UserError

ROOT = Path(__file__).resolve().parents[1]
RECORD, LOG, COMMAND, LOCK = "run.json", "log.txt", "cmd.txt", "run"
TAIL = 5  # lines of a log that a failure keeps
LONGEST_PAUSE = 2.0  # seconds between two looks at runs that others are at

DONE, RUNNING, FAILED, DIED, OPEN = "done", "running", "failed", "died", "open"


# ----------------------------------------------------------------------------------------- commands


def command(run: Run, root: Path) -> str:
    """The run as a line for bash, from the current folder; report.py's table goes to its file."""
    script = f"{run.script}.py" if Path.cwd() == ROOT else str(ROOT / f"{run.script}.py")
    line = shlex.join(["python", script, *run.words])
    if run.script != "report":
        return line
    folder = root / run.name
    return (
        f"mkdir -p {shlex.quote(str(folder))} && {line} > {shlex.quote(str(folder / run.result))}"
    )


def call(script: str, words: list[str]) -> int:
    """A script's ``main`` in this process: the imports are paid once for many runs."""
    try:
        return importlib.import_module(script).main(words)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


# ------------------------------------------------------------------------------------------- states


@dataclasses.dataclass
class Record:
    """run.json: each start, and how the last one ended; ``code`` is None while it runs, and for
    ever where it was killed.
    """

    starts: list[dict] = dataclasses.field(default_factory=list)
    code: int | None = None
    seconds: float | None = None
    tail: list[str] = dataclasses.field(default_factory=list)


def read_record(folder: Path) -> Record:
    """The record of a run's folder; an empty one where nothing has started."""
    try:
        return Record(**json.loads((folder / RECORD).read_text()))
    except FileNotFoundError:
        return Record()
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{folder / RECORD} is damaged ({error}); remove it") from None


def is_held(folder: Path) -> bool:
    """Whether a process, this one or another, is at the run."""
    import fcntl

    try:
        handle = os.open(folder / f".{LOCK}.lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def state_of(run: Run, root: Path) -> str:
    """done, running, failed (ended with an error), died (was stopped or killed), or open (never
    started).
    """
    folder = root / run.name
    if (folder / run.result).is_file():
        return DONE
    if not (folder / RECORD).is_file():
        return OPEN
    if is_held(folder):
        return RUNNING
    return FAILED if read_record(folder).code not in (None, 130) else DIED


# ------------------------------------------------------------------------------------------ one run


def attempt(run: Run, root: Path, *, sweep_id: float, tries: int, worker: str) -> str:
    """Make the run unless it is done, somebody is at it, or this sweep tried it often enough.

    Returns:
        DONE, RUNNING (somebody else is at it), FAILED (not to be tried again in this sweep), DIED
        (may be tried again).

    Raises:
        KeyboardInterrupt: the run was interrupted; it is resumed next time.
    """
    folder = root / run.name
    if (folder / run.result).is_file():
        return DONE
    with contextlib.ExitStack() as stack:
        try:
            table = [run.result] if run.script == "report" else []
            stack.enter_context(
                lock(folder, LOCK, [folder / name for name in (RECORD, COMMAND, *table)])
            )
        except UserError:
            if not os.access(folder, os.W_OK):
                raise
            return RUNNING
        if (folder / run.result).is_file():  # between the look and the lock
            return DONE
        record = read_record(folder)
        recent = [start for start in record.starts if start.get("sweep_id") == sweep_id]
        # Code 2 means that the request itself is impossible: another try would say the same.
        if recent and (len(recent) >= tries or record.code == 2):
            return FAILED
        record = make(run, folder, record, command(run, root), worker, sweep_id)
    if record.code == 130:
        raise KeyboardInterrupt
    return DONE if record.code == 0 else DIED


def make(run: Run, folder: Path, record: Record, line: str, worker: str, sweep_id: float) -> Record:
    """Run the script with its output in the log; what there is of an earlier start is resumed, or
    else replaced.
    """
    first = not record.starts
    start = {
        "time": time.time(),
        "sweep_id": sweep_id,
        "worker": worker,
        "pid": os.getpid(),
        "host": platform.node(),
    }
    record = Record([*record.starts, start])
    save_text(line + "\n", folder / COMMAND)
    save_json(dataclasses.asdict(record), folder / RECORD)
    clock = time.perf_counter()
    with open(folder / LOG, "a") as log:
        print(
            f"--- start {len(record.starts)}, {time.strftime('%Y-%m-%dT%H:%M:%S%z')}, {worker} on"
            f" {start['host']}",
            file=log,
            flush=True,
        )
        for extra in _ways(run, folder, first):
            record.code = _logged(run, [*run.words, *extra], folder, log)
            if record.code != 2:
                break
    if record.code == 0 and not (folder / run.result).is_file():
        record.code = 1
    record.seconds = time.perf_counter() - clock
    record.tail = (
        (folder / LOG).read_text(errors="replace").splitlines()[-TAIL:] if record.code else []
    )
    save_json(dataclasses.asdict(record), folder / RECORD)
    return record


def _ways(run: Run, folder: Path, first: bool) -> list[list[str]]:
    """What to add to the command. A checkpoint is resumed; one that is refused, as of another
    precision, is replaced.
    """
    if first or run.script in ("evaluate", "report"):
        return [[]]
    if run.checkpoint and (folder / run.checkpoint).is_file():
        return [["--resume"], ["--overwrite"]]
    return [["--overwrite"]]


def _logged(run: Run, words: list[str], folder: Path, log: io.TextIOBase) -> int:
    table = io.StringIO() if run.script == "report" else None
    with contextlib.redirect_stdout(table or log), contextlib.redirect_stderr(log):
        code = call(run.script, words)
    log.flush()
    if table and code == 0:
        save_text(table.getvalue(), folder / run.result)
    return code


# ----------------------------------------------------------------------------------------- a worker


def work(
    runs: Iterable[Run],
    root: Path,
    *,
    sweep_id: float,
    tries: int,
    worker: str,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Take runs until each is done or cannot be: what every worker of every launcher does.

    Workers share nothing but the folders. A run belongs to who holds its lock; the lock goes with
    the process, however it ends. A pass over what is left makes all that is ready; between passes
    that made nothing there is a pause.
    """
    pending, done, lost = {run.name: run for run in runs}, set(), set()
    pause = 0.05
    while pending:
        moved = False
        for run in list(pending.values()):
            if not alive():
                return
            if any(need in lost for need in run.needs):
                state = FAILED
            elif all(need in done for need in run.needs):
                state = attempt(run, root, sweep_id=sweep_id, tries=tries, worker=worker)
            else:
                continue
            moved |= state != RUNNING
            if state in (DONE, FAILED):
                (done if state == DONE else lost).add(run.name)
                del pending[run.name]
        pause = 0.05 if moved else min(2 * pause, LONGEST_PAUSE)
        if pending and not moved:
            time.sleep(pause)


# ----------------------------------------------------------------------------------------- progress


class Progress:
    """How far a plan is, by its files. A finished run is looked at once."""

    def __init__(self, runs: list[Run], root: Path):
        self.runs, self.root = runs, root
        self.states = dict.fromkeys((run.name for run in runs), OPEN)
        self.seconds: dict[str, list[float]] = {run.stage: [] for run in runs}

    def look(self) -> dict[str, str]:
        """{run: state} as of now."""
        for run in self.runs:
            if self.states[run.name] == DONE:
                continue
            state = state_of(run, self.root)
            if state == DONE:
                seconds = read_record(self.root / run.name).seconds
                if seconds is None and is_held(self.root / run.name):
                    state = RUNNING  # its result is there, its record comes in a moment
                self.seconds[run.stage] += [] if seconds is None else [seconds]
            self.states[run.name] = state
        return self.states

    def remaining(self, workers: int) -> float | None:
        """Seconds to go at the mean so far of each stage, or of all where a stage has none; None
        before the first run is done.
        """
        known = [value for values in self.seconds.values() for value in values]
        if not known:
            return None
        mean = {
            stage: sum(values) / len(values) if values else sum(known) / len(known)
            for stage, values in self.seconds.items()
        }
        return sum(mean[run.stage] for run in self.runs if self.states[run.name] != DONE) / workers

    def counts(self, stage: str | None = None) -> dict[str, int]:
        """{state: runs} of a stage, or of all."""
        found = dict.fromkeys((DONE, RUNNING, FAILED, DIED, OPEN), 0)
        for run in self.runs:
            found[self.states[run.name]] += stage in (None, run.stage)
        return found

    def table(self, workers: int) -> str:
        """A row for each stage, the time to go, and why runs failed."""
        stages = list(self.seconds)
        width = max(map(len, ["stage", "all", *stages]))
        lines = [
            f"{'stage':{width}} "
            + " ".join(f"{name:>8}" for name in ("runs", *self.counts(), "mean (s)"))
        ]
        for stage in (*stages, None):
            counts = self.counts(stage)
            seconds = [
                value
                for name, values in self.seconds.items()
                for value in values
                if stage in (None, name)
            ]
            mean = f"{sum(seconds) / len(seconds):.1f}" if seconds else "-"
            lines.append(
                f"{stage or 'all':{width}} "
                + " ".join(f"{cell:>8}" for cell in (sum(counts.values()), *counts.values(), mean))
            )
        lines.append(
            f"to go: {clock_of(self.remaining(workers))} with {workers} worker{'s' * (workers > 1)}"
        )
        for run in self.runs:
            if self.states[run.name] == FAILED:
                lines += failure(run, self.root)
        return "\n".join(lines)


def failure(run: Run, root: Path) -> list[str]:
    """What is known of a run that ended with an error."""
    record = read_record(root / run.name)
    return [
        f"failed: {root / run.name} (exit {record.code}, start {len(record.starts)})",
        *(f"    {line}" for line in record.tail),
    ]


def clock_of(seconds: float | None) -> str:
    """h:mm:ss, or ? for what is not known."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
