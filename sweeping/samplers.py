"""Which points of a search are tried: a grid, or what Optuna's TPE sampler proposes.

Processes share a grid by the locks of its runs, and Optuna's study by a journal file.
"""

import contextlib
import importlib.util
import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from runtime.files import lock
from unlearn.base import Range
from utils import RunFailed, UserError

SAMPLERS = ("optuna", "grid")

Point = dict[str, float]


class Busy(Exception):
    """Another process makes this run."""


def default_sampler() -> str:
    """Optuna's where it is installed."""
    return "optuna" if importlib.util.find_spec("optuna") else "grid"


@contextlib.contextmanager
def wait_for_lock(folder: Path, name: str) -> Iterator[None]:
    """Hold :func:`runtime.files.lock` for the block, as soon as it is free."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock(folder, name))
                break
            except UserError:
                time.sleep(0.05)
        yield


# ------------------------------------------------------------------------------------------- a grid


def grid(ranges: dict[str, Range], trials: int) -> list[Point]:
    """At most ``trials`` points: each range has about as many levels, even in its scale."""
    levels = dict.fromkeys(ranges, 1)
    while True:
        for name in sorted(levels, key=levels.get):
            if math.prod({**levels, name: levels[name] + 1}.values()) <= trials:
                levels[name] += 1
                break
        else:
            break
    axes = []
    for name, count in levels.items():
        axes.append([ranges[name].at((i + 0.5) / count) for i in range(count)])
    return [dict(zip(ranges, values, strict=True)) for values in itertools.product(*axes)]


def try_grid(points: list[Point], score: Callable[..., float], alive: Callable[[], bool]) -> None:
    """Score each point once; those that another process makes come last."""
    while points:
        busy = []
        for point in points:
            if not alive():
                return
            try:
                score(point, wait=False)
            except Busy:
                busy.append(point)
            except RunFailed:
                continue
        points = busy
        time.sleep(0.5 if points else 0)


# ------------------------------------------------------------------------------------------- Optuna


def try_optuna(
    ranges: dict[str, Range],
    trials: int,
    folder: Path,
    study_name: str,
    score: Callable[[Point], float],
    alive: Callable[[], bool],
) -> None:
    """Score what Optuna proposes until the study has ``trials`` trials."""
    import optuna

    study = _open_study(folder, study_name)
    # Optuna has no scale for a share close to one: it draws the position in such a range.
    distributions = {}
    for name, each in ranges.items():
        low, high, log = (0, 1, False) if each.rest else (each.low, each.high, each.log)
        distributions[name] = optuna.distributions.FloatDistribution(low, high, log=log)
    while alive():
        with contextlib.ExitStack() as held:
            with wait_for_lock(folder, "study"):
                _fail_trials_of_dead_processes(study, folder)
                if _count(study) >= trials:
                    return
                trial = study.ask(distributions)
                held.enter_context(_trial_lock(study, folder, trial))
            point = {}
            for name, drawn in trial.params.items():
                point[name] = ranges[name].at(drawn) if ranges[name].rest else drawn
            try:
                value = score(point)
            except RunFailed:
                value = math.inf
            trial.set_user_attr("ended", True)
            if math.isfinite(value):
                study.tell(trial, value, state=optuna.trial.TrialState.COMPLETE)
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _open_study(folder: Path, name: str) -> Any:
    """The Optuna study in the journal ``folder/NAME.journal``."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(folder, "study"):
        storage = JournalStorage(JournalFileBackend(str(folder / f"{name}.journal")))
        return optuna.create_study(
            storage=storage, study_name=name, direction="minimize", load_if_exists=True
        )


def _trial_lock(study: Any, folder: Path, trial: Any) -> contextlib.AbstractContextManager:
    """The lock that a process holds while it makes a trial."""
    return lock(folder, f"{study.study_name}-{trial.number}")


def _fail_trials_of_dead_processes(study: Any, folder: Path) -> None:
    """Fail each running trial whose lock is free, and enqueue its point again."""
    import optuna

    state = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
        with contextlib.suppress(UserError), _trial_lock(study, folder, trial):
            study.tell(trial.number, state=state.FAIL)
            study.enqueue_trial(trial.params)


def _count(study: Any) -> int:
    """Trials that run or ended, also with an error; not those whose process died."""
    count = 0
    for trial in study.get_trials(deepcopy=False):
        state = trial.state.name
        count += state != "WAITING" and (state != "FAIL" or trial.user_attrs.get("ended", False))
    return count
