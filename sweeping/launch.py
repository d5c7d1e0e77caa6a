"""Starting workers for a plan or a search, watching them, and replacing those that die."""

import dataclasses
import itertools
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sweeping.expansion import Check, Run
from sweeping.keep import Keeper, check_kept
from sweeping.launchers import GPUS_OF, LAUNCHERS, gpu_groups
from sweeping.objectives import WARNING, check_validation
from sweeping.plan import Plan
from sweeping.progress import Progress, clock
from sweeping.runs import DONE, FAILED, IMPOSSIBLE, RECORD, ROOT, Worker, read_record
from sweeping.search import SearchRequest, run_search, search_of, trial_files
from utils import RunFailed, UserError, warn

IDLE_DEATHS = 3  # workers that die without having taken a run, until the launcher gives up
LOGS = ".workers"  # the folder of the workers' own logs, in the plan's


@dataclasses.dataclass(frozen=True)
class Workers:
    """A key of LAUNCHERS, how many workers in all or on each GPU, options as NAME=VALUE, and how
    many GPUs a run of the plan takes.
    """

    launcher: str
    number: int | None
    per_gpu: int | None
    options: list[str]
    gpus: int = 1

    def count(self) -> int:
        """How many at a time: ``number``, else ``per_gpu`` (1) for each local GPU or, where a run
        takes several, for as many, else one.
        """
        if self.number:
            return self.number
        if self.launcher != "local":
            if self.per_gpu:
                raise UserError(
                    f"--per_gpu {self.per_gpu} is of --launcher local; give --workers, and"
                    " --options for a worker's share of a GPU"
                )
            return 1
        groups = len(gpu_groups(self.gpus))
        if self.per_gpu and not groups:
            raise UserError(
                f"--per_gpu {self.per_gpu}: no GPU here; --workers {self.per_gpu} makes as many"
                " runs at a time on the CPU"
            )
        return max(1, groups) * (self.per_gpu or 1)

    def start_launcher(self, folder: Path, count: int) -> Any:
        """The launcher, with a folder for its logs in the plan's ``folder``."""
        logs = folder / LOGS
        options = dict(map(_option, self.options))
        own = {"gpus": self.gpus} if self.launcher == "local" else {}
        if self.gpus > 1 and not own and not any("gpu" in name for name in options):
            option = f"--options {GPUS_OF[self.launcher]}={self.gpus}"
            warn(f"runs of the plan are {self.gpus} processes; on GPUs they need {option}")
        launcher = LAUNCHERS[self.launcher](count, options, logs, **own)
        try:
            logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"folder {folder} cannot be written: {error.strerror}") from None
        return launcher


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UserError(f"--options {text}: NAME=VALUE is wanted")
    return name, value


def sweep(plan: Plan, runs: list[Run], plan_file: Path, workers: Workers) -> None:
    """Let workers make the runs; show how far they are, and print how it ended.

    Raises:
        RunFailed: some runs are not done.
    """
    count = workers.count()
    launcher = workers.start_launcher(plan.folder, count)
    progress, began = Progress(runs, plan.folder), time.time()
    before = progress.done()
    print(
        f"{len(runs)} runs, {before} done; {count} workers ({workers.launcher}); python sweep.py"
        f" {shlex.quote(str(plan_file))} --status tells more"
    )
    words = [str(plan_file), f"--sweep_id={began!r}"]
    with tqdm(total=len(runs), initial=before, unit="run", disable=None) as bar:

        def show() -> None:
            bar.update(progress.done() - bar.n)
            failed = progress.counts()[FAILED]
            bar.set_postfix_str(f"to go {clock(progress.remaining(count))}, failed {failed}")

        if before < len(runs):
            supervise(launcher, words, min(count, len(runs) - before), plan.folder, began, show)
    keeper = Keeper(runs, plan.folder)
    for run in runs:
        if progress.states[run.name] == DONE:
            keeper.finished(run)
    done = progress.counts()[DONE]
    print(progress.table(count))
    print(
        f"RESULT sweep={plan.folder} runs={len(runs)} done={done} seconds={time.time() - began:.1f}"
    )
    if done < len(runs):
        raise RunFailed(_not_done(runs, progress))


def _not_done(runs: list[Run], progress: Progress) -> str:
    """What to do about runs that are not done."""
    folders = [progress.root / run.name for run in runs if progress.states[run.name] == FAILED]
    refused = sum(read_record(folder).code == IMPOSSIBLE for folder in folders)
    said = f"{len(runs) - progress.counts()[DONE]} of {len(runs)} runs are not done"
    if not refused:
        return f"{said}; the same command tries them again"
    return f"{said}, {refused} of them refused as above: mend that first, then the same command"


def search(
    plan: Plan, request: SearchRequest, check: Check, plan_file: Path, workers: Workers
) -> None:
    """Search in this process, or by workers if they are asked for, and print what is best."""
    if request.objective == "oracle_gap":
        warn(WARNING)
    _check_needed(plan, request, check)
    began = time.time()
    if workers.number or workers.per_gpu or workers.launcher != "local":
        _share_search(plan, request, plan_file, workers, began)
    best = run_search(plan, request, check, Worker("search", began, plan.tries))["best"]
    shown = " ".join(f"{flag}={value:.6g}" for flag, value in best["values"].items())
    print(f"RESULT search={request.name} {request.objective}={best['objective']:.4f} {shown}")


def _check_needed(plan: Plan, request: SearchRequest, check: Check) -> None:
    """Refuse here, not in each worker's log, a search of what cannot be searched, or whose trials
    need what ``keep`` has removed.
    """
    wanted = search_of(plan, request.name)
    middle = {flag: each.at(0.5) for flag, each in wanted.ranges.items()}
    trial, needed = wanted.run_of(middle, check)
    if request.objective == "val_proxy":
        check_validation(trial, needed)
    check_kept([*needed, trial], plan.folder, f"the search of {request.name}")


def _share_search(
    plan: Plan, request: SearchRequest, plan_file: Path, workers: Workers, began: float
) -> None:
    """Let workers make the trials."""
    count = min(workers.count(), request.trials)
    launcher = workers.start_launcher(plan.folder, count)
    words = [str(plan_file), f"--search={request.name}", f"--trials={request.trials}"]
    words += [f"--objective={request.objective}", f"--sampler={request.sampler}"]
    words.append(f"--sweep_id={began!r}")
    with tqdm(total=request.trials, unit="trial", disable=None) as bar:

        def show() -> None:
            bar.update(len(trial_files(plan, request)) - bar.n)

        supervise(launcher, words, count, plan.folder, began, show)


def supervise(
    launcher: Any,
    words: list[str],
    workers: int,
    folder: Path,
    sweep_id: float,
    show: Callable[[], None],
    every: float = 0.5,
) -> None:
    """Keep ``workers`` workers at it until each ends by itself; one that dies is replaced.

    A worker's death costs the run that it made a try, so such deaths are bounded; workers that die
    before they take a run, as on a machine without the packages, end the sweep.

    Args:
        words: sweep.py's arguments in a worker, without the worker's name.
        folder: the plan's, for the records of the runs that workers took.
        every: seconds between two looks at the workers.

    Raises:
        RunFailed: IDLE_DEATHS workers in all died without having taken a run.
    """
    command = [sys.executable, str(ROOT / "sweep.py"), *words]
    names, idle = {}, 0

    def start(slots: list[int], generation: int) -> dict:
        for slot in slots:
            names[slot] = f"{slot}-{os.getpid()}-{generation}"
        return launcher.start({slot: [*command, f"--worker={names[slot]}"] for slot in slots})

    running = start(list(range(workers)), 0)
    try:
        for generation in itertools.count(1):
            time.sleep(every)
            codes = {slot: handle.poll() for slot, handle in running.items()}
            died = [slot for slot, code in codes.items() if code]
            idle += sum(not _took_a_run(folder, names[slot], sweep_id) for slot in died)
            running = {slot: handle for slot, handle in running.items() if codes[slot] is None}
            if idle >= IDLE_DEATHS:
                raise RunFailed(f"{idle} workers ended before they took a run")
            if died:
                running |= start(died, generation)
            show()
            if not running:
                return
    finally:
        for handle in running.values():
            handle.stop()


def _took_a_run(folder: Path, worker: str, sweep_id: float) -> bool:
    """Whether a worker of this sweep started a run of the plan in ``folder``."""
    for file in folder.glob(f"*/*/{RECORD}"):
        for start in read_record(file.parent).starts:
            if (start["worker"], start.get("sweep_id")) == (worker, sweep_id):
                return True
    return False
