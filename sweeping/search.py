"""The search over one method's hyper-parameters: its trials, each a run, and their table."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

from runtime.files import load_json, save_json, save_text
from sweeping.expansion import Check, Run, expand
from sweeping.launchers import need
from sweeping.objectives import check_original, check_validation, judge
from sweeping.plan import Plan, Stage
from sweeping.runs import DONE, FAILED, RUNNING, SEARCH, Worker, attempt
from sweeping.samplers import Busy, grid, try_grid, try_optuna, wait_for_lock
from sweeping.search_table import as_markdown, objectives_of
from unlearn import METHODS, method_key, presets_of, values_of
from unlearn.base import Preset, Range
from utils import RunFailed, UserError


@dataclasses.dataclass(frozen=True)
class SearchRequest:
    """A stage or method of the plan, the most trials, and keys of OBJECTIVES and of SAMPLERS."""

    name: str
    trials: int
    objective: str
    sampler: str


@dataclasses.dataclass(frozen=True)
class Search:
    """A search's stage in a plan of its own, the ``fixed`` flags and the ``ranges`` of others."""

    plan: Plan
    stage: Stage
    fixed: dict
    ranges: dict[str, Range]

    def run_of(self, point: dict, check: Check) -> tuple[Run, list[Run]]:
        """The run of a trial, and the runs that it needs, in order."""
        stage = dataclasses.replace(self.stage, list=[self.fixed | point])
        plan = dataclasses.replace(self.plan, stages={**self.plan.stages, stage.name: stage})
        runs = {run.name: run for run in expand(plan, check)}
        (trial,) = (run for run in runs.values() if run.stage == stage.name)
        needed, todo = set(), [*trial.needs]
        while todo:
            name = todo.pop()
            needed.add(name)
            todo += runs[name].needs
        return trial, [run for run in runs.values() if run.name in needed]


# ------------------------------------------------------------------------------- a search of a plan


def as_planned(plan: Plan, name: str) -> str:
    """A stage or a method as the plan calls it, where ``name`` is another name of the method."""
    methods = [str(flags["unlearn"]) for _, flags in _entries(plan)]
    if name in (*plan.stages, *methods) or (key := method_key(name)) is None:
        return name
    return next((method for method in methods if method_key(method) == key), name)


def _entries(plan: Plan) -> Iterator[tuple[Stage, dict]]:
    """(stage, flags) of each entry of the plan that runs a method."""
    for stage in plan.stages.values():
        for entry in stage.list:
            flags = stage.flags | entry
            if stage.script in ("main_forget", "main_random") and flags.get("unlearn"):
                yield stage, flags


def search_of(plan: Plan, name: str) -> Search:
    """The search for a method or a stage of the plan, with the flags of [search] and the first
    seed.

    Raises:
        UserError: the plan has no such run or several, or the method declares no range.
    """
    entries = [each for each in _entries(plan) if name in (each[0].name, each[1]["unlearn"])]
    if len(entries) != 1:
        where = ", ".join(sorted({stage.name for stage, _ in entries})) or "none"
        raise UserError(
            f"--search {name}: {len(entries)} runs of the plan are of it (stages: {where}); name a"
            " stage or a method that has one"
        )
    stage, flags = entries[0]
    if stage.axes:
        raise UserError(
            f"--search {name}: stage {stage.name} has axes ({', '.join(stage.axes)}); a search"
            " needs a stage without"
        )
    given = plan.base | plan.search | flags
    ranges = _ranges(method_key(str(flags["unlearn"])), given)
    if not ranges:
        raise UserError(
            f"--search {name}: {flags['unlearn']} declares no range; known with one are"
            f" {', '.join(searchable())}"
        )
    fixed = {flag: value for flag, value in flags.items() if flag not in ranges}
    trial = dataclasses.replace(stage, name=f"{SEARCH}{name}", flags={}, list=[fixed])
    stages = {
        each.name: each
        for each in plan.stages.values()
        if each.script in ("main_train", "generate_mask") or _is_retrain(each)
    }
    stages[trial.name] = trial
    base, seeds = plan.base | plan.search, plan.seeds[:1]
    own_plan = dataclasses.replace(plan, base=base, seeds=seeds, stages=stages)
    return Search(own_plan, trial, fixed, ranges)


def _ranges(key: str | None, flags: dict) -> dict[str, Range]:
    """The ranges that a method declares and that mean something beside ``flags``; none for a name
    that is no method's.
    """
    if key not in METHODS:
        return {}
    method = METHODS[key]
    preset = presets_of(method).get(str(flags.get("preset")), Preset({}, ""))
    values = values_of(method, preset) | flags
    fields = {field.name: field for field in dataclasses.fields(method)}
    found = {}
    for name, field in fields.items():
        needed = fields.get(field.metadata["needs"])
        if field.metadata["range"] and (not needed or values[needed.name] != needed.default):
            found[name] = field.metadata["range"]
    return found


def searchable() -> list[str]:
    """The methods that declare a range."""
    return [name for name in METHODS if _ranges(name, {})]


def _is_retrain(stage: Stage) -> bool:
    method = method_key(str(stage.flags.get("unlearn")))
    return stage.script == "main_forget" and method == "retrain"


# ----------------------------------------------------------------------------------------- a search


def run_search(
    plan: Plan, request: SearchRequest, check: Check, worker: Worker | None = None
) -> dict:
    """Make the missing trials, and write search/NAME-OBJECTIVE.json and .md below the plan's
    folder.

    Returns:
        The content of the JSON file, trials by their objective, the best first.

    Raises:
        UserError: see :func:`search_of`.
        RunFailed: no trial ended well.
    """
    worker = worker or Worker("search", time.time(), plan.tries)
    make_trials(plan, request, check, worker)
    name, objective = request.name, request.objective
    search = search_of(plan, name)
    trials = [load_json(file, "trial") for file in trial_files(plan, request)]
    if not trials:
        raise RunFailed(f"no trial of {name} ended well; see {plan.folder / search.stage.name}")
    trials.sort(key=lambda trial: trial["objective"])
    content = {
        "schema": 1,
        "search": name,
        "objective": objective,
        "sampler": request.sampler,
        "budget": request.trials,
        "fixed": search.fixed,
        "ranges": {flag: each._asdict() for flag, each in search.ranges.items()},
        "noise": trials[0]["noise"],
        "best": trials[0],
        "trials": trials,
    }
    save_json(content, plan.folder / "search" / f"{name}-{objective}.json")
    save_text(as_markdown(content), plan.folder / "search" / f"{name}-{objective}.md")
    return content


def trial_files(plan: Plan, request: SearchRequest) -> list[Path]:
    """The file of each finished trial, in its run's folder."""
    folder = plan.folder / f"{SEARCH}{request.name}"
    return sorted(folder.glob(f"*/{request.objective}.json"))


def make_trials(plan: Plan, request: SearchRequest, check: Check, worker: Worker) -> None:
    """Make and judge the missing trials of a search: what each of its processes does."""
    search, objective = search_of(plan, request.name), request.objective
    retrain = _make_retrains(search, check, worker) if objective == "oracle_gap" else []
    retrain_results = [plan.folder / run.name / run.result for run in retrain]

    def score(point: dict, *, wait: bool = True) -> float:
        run, needed = search.run_of(point, check)
        if objective == "val_proxy":
            check_validation(run, needed)
        for each in needed:
            finish(each, plan.folder, worker)
        if objective == "val_proxy":
            check_original(run)
        finish(run, plan.folder, worker, wait=wait)
        with wait_for_lock(plan.folder / run.name, objective):
            trial = judge(run, plan.folder, point, objective, retrain_results)
        values = " ".join(f"--{flag}={value:.6g}" for flag, value in point.items())
        print(f"{values}  {objective} {objectives_of(trial)}", flush=True)
        return trial["objective"]

    if request.sampler == "optuna":
        need("optuna", "--sampler optuna")
        folder, study = plan.folder / "search", f"{request.name}-{objective}"
        try_optuna(search.ranges, request.trials, folder, study, score, worker.alive)
    else:
        try_grid(grid(search.ranges, request.trials), score, worker.alive)


def _make_retrains(search: Search, check: Check, worker: Worker) -> list[Run]:
    """Make the plan's Retrain runs, which oracle_gap compares with.

    Raises:
        UserError: the plan has none, or some that differ in more than their seed.
    """
    forgetting = [run for run in expand(search.plan, check) if run.script == "main_forget"]
    runs = [run for run in forgetting if run.settings.get("unlearn") == "retrain"]
    if not runs:
        raise UserError(
            "--objective oracle_gap: the plan has no stage with unlearn = retrain among its flags"
        )
    kinds = set()
    for run in runs:
        kinds.add(json.dumps(run.settings | {"seed": None}, default=str, sort_keys=True))
    if len(kinds) > 1:
        raise UserError(
            "--objective oracle_gap: unlike Retrains are never pooled, and the plan has"
            f" {', '.join(run.name for run in runs)}; leave one kind"
        )
    for wait in (False, True):  # first those that no other process makes
        for run in runs:
            with contextlib.suppress(Busy):
                finish(run, search.plan.folder, worker, wait=wait)
    return runs


def finish(run: Run, root: Path, worker: Worker, *, wait: bool = True) -> None:
    """Make a run here, or wait while another process makes it.

    Raises:
        Busy: another process makes it, and ``wait`` is off.
        RunFailed: it was tried as often as the plan allows.
    """
    while (state := attempt(run, root, worker)) != DONE:
        if state == FAILED:
            raise RunFailed(f"{root / run.name} has failed; see its log.txt")
        if state == RUNNING and not wait:
            raise Busy
        if state == RUNNING:
            time.sleep(0.5)
