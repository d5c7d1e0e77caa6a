"""Making runs, and their state, all of it in files: a killed sweep is just started again."""

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
from sweeping import processes
from sweeping.expansion import Run
from sweeping.processes import INTERRUPTED, ROOT
from utils import UserError

RECORD, LOG, COMMAND, LOCK = "run.json", "log.txt", "cmd.txt", "run"
SEARCH = "search-"  # begins the name of the stage of a search's trials
TAIL = 5  # lines of a log that a failure keeps
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between two passes over runs that others hold
IMPOSSIBLE = 2  # an exit code of the scripts

DONE, RUNNING, FAILED, DIED, OPEN = "done", "running", "failed", "died", "open"


@dataclasses.dataclass(frozen=True)
class Worker:
    """A process that makes runs.

    Attributes:
        name: how the runs' records name it.
        sweep_id: the sweep that it belongs to; starts of other sweeps do not count as ``tries``.
        tries: how often a sweep starts a run that dies.
        alive: False once it is to end after the run at hand.
    """

    name: str
    sweep_id: float
    tries: int
    alive: Callable[[], bool] = lambda: True


# ----------------------------------------------------------------------------------------- commands


def command(run: Run, root: Path) -> str:
    """The run as a line for bash, from the current folder; report.py's table goes to its file."""
    script = f"{run.script}.py" if Path.cwd() == ROOT else str(ROOT / f"{run.script}.py")
    start = ["python"]
    if run.processes > 1:
        start = ["torchrun", "--standalone", f"--nproc_per_node={run.processes}"]
    line = shlex.join([*start, script, *run.words])
    if run.script != "report":
        return line
    folder = shlex.quote(str(root / run.name))
    result = shlex.quote(str(root / run.name / run.result))
    return f"mkdir -p {folder} && {line} > {result}"


def call(script: str, words: list[str]) -> int:
    """The exit code of a script's ``main`` in this process, which saves the imports."""
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
    """run.json: each start, and how the last one ended.

    ``code`` is the exit code; None while the run goes on, and for good if it was killed.
    ``removed`` are the bytes of files that ``keep`` let go since (:mod:`sweeping.keep`).
    """

    starts: list[dict] = dataclasses.field(default_factory=list)
    code: int | None = None
    seconds: float | None = None
    tail: list[str] = dataclasses.field(default_factory=list)
    removed: dict[str, int] = dataclasses.field(default_factory=dict)


def read_record(folder: Path) -> Record:
    """The record in a run's folder; an empty one if the run has not been started."""
    try:
        return Record(**json.loads((folder / RECORD).read_text()))
    except FileNotFoundError:
        return Record()
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{folder / RECORD} is damaged ({error}); remove it") from None


def is_held(folder: Path) -> bool:
    """Whether a process, this one or another, holds the run's lock."""
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
    """DONE, RUNNING, FAILED (with an error), DIED (stopped or killed) or OPEN (never started, or
    its result is removed).
    """
    folder = root / run.name
    if (folder / run.result).is_file():
        return DONE
    if not (folder / RECORD).is_file():
        return OPEN
    if is_held(folder):
        return RUNNING
    code = read_record(folder).code
    if code == 0:
        return OPEN
    return DIED if code in (None, INTERRUPTED) else FAILED


# ------------------------------------------------------------------------------------------ one run


def attempt(run: Run, root: Path, worker: Worker) -> str:
    """Make the run unless it is done, elsewhere being made, or tried often enough by this sweep.

    Returns:
        DONE, RUNNING (another process makes it), FAILED (not to be tried again in this sweep), DIED
        (may be tried again).

    Raises:
        KeyboardInterrupt: the run was interrupted; it is resumed next time.
    """
    folder = root / run.name
    if (folder / run.result).is_file():
        return DONE
    with contextlib.ExitStack() as stack:
        table = [run.result] if run.script == "report" else []
        files = [folder / name for name in (RECORD, COMMAND, *table)]
        try:
            stack.enter_context(lock(folder, LOCK, files))
        except UserError:
            if not os.access(folder, os.W_OK):
                raise
            return RUNNING
        if (folder / run.result).is_file():  # done before the lock was taken
            return DONE
        record = read_record(folder)
        starts = [start for start in record.starts if start.get("sweep_id") == worker.sweep_id]
        if starts and (len(starts) >= worker.tries or record.code == IMPOSSIBLE):
            return FAILED
        record = _make(run, root, record.starts, worker)
    if record.code == INTERRUPTED:
        raise KeyboardInterrupt
    return DONE if record.code == 0 else DIED


def _make(run: Run, root: Path, starts: list[dict], worker: Worker) -> Record:
    """Run the script, log its output and keep how it ended; an earlier start is resumed."""
    folder, host = root / run.name, platform.node()
    start = {"time": time.time(), "sweep_id": worker.sweep_id, "worker": worker.name}
    record = Record([*starts, start | {"pid": os.getpid(), "host": host}])
    save_text(command(run, root) + "\n", folder / COMMAND)
    save_json(dataclasses.asdict(record), folder / RECORD)
    began = time.perf_counter()
    with open(folder / LOG, "a") as log:
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        header = f"--- start {len(record.starts)}, {now}, {worker.name} on {host}"
        print(header, file=log, flush=True)
        for flags in _resume_flags(run, folder, first=not starts):
            record.code = _logged(run, [*run.words, *flags], folder, log)
            if record.code != IMPOSSIBLE:
                break
    if record.code == 0 and not (folder / run.result).is_file():
        record.code = 1
    record.seconds = time.perf_counter() - began
    if record.code:
        record.tail = (folder / LOG).read_text(errors="replace").splitlines()[-TAIL:]
    save_json(dataclasses.asdict(record), folder / RECORD)
    return record


def _resume_flags(run: Run, folder: Path, *, first: bool) -> list[list[str]]:
    """Flags to try in turn; what --resume refuses, as another precision, is overwritten."""
    if first or run.script == "report":
        return [[]]
    if run.checkpoint and (folder / run.checkpoint).is_file():
        return [["--resume"], ["--overwrite"]]
    return [["--overwrite"]]


def _logged(run: Run, words: list[str], folder: Path, log: io.TextIOBase) -> int:
    if run.processes > 1:
        return processes.call(ROOT / f"{run.script}.py", words, run.processes, log)
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
    worker: Worker,
    finished: Callable[[Run], None] = lambda run: None,
) -> None:
    """Make runs until each is done or cannot be: what every worker of every launcher does.
    ``finished`` is called for each that is done, whoever made it.

    Workers share nothing but the folders. A run belongs to who holds its lock, which ends with the
    process. Each pass makes all runs whose needs are done; after a pass that made none there is a
    pause.
    """
    pending, done, lost = {run.name: run for run in runs}, set(), set()
    pause = FIRST_PAUSE
    while pending:
        moved = False
        for run in list(pending.values()):
            if not worker.alive():
                return
            if any(need in lost for need in run.needs):
                state = FAILED
            elif all(need in done for need in run.needs):
                state = attempt(run, root, worker)
            else:
                continue
            moved |= state != RUNNING
            if state in (DONE, FAILED):
                (done if state == DONE else lost).add(run.name)
                del pending[run.name]
            if state == DONE:
                finished(run)
        pause = FIRST_PAUSE if moved else min(2 * pause, LONGEST_PAUSE)
        if pending and not moved:
            time.sleep(pause)
