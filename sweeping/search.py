"""Hyper-parameters of one method: which values are tried, what they are judged by, and the table of
all trials.

With Optuna installed its TPE sampler proposes the values, and any number of processes share a study
through a journal file; else the trials are a grid. Every method gets the same number of trials. A
trial is a run like any other.
"""

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from engine import predict
from evaluation.accuracy import accuracy
from evaluation.attacks import auc, class_weights, effective_size
from evaluation.gaps import AVERAGED, AVERAGED_ENTROPY, ENTROPY, gap_of_means
from evaluation.scores import member_scores
from evaluation.selection import val_proxy, val_proxy_class, val_proxy_noise
from runtime.devices import pick_device
from runtime.files import load_json, lock, save_json, save_text
from stages.outputs import Subject
from stages.saved import Saved, read_saved
from sweeping.launchers import need
from sweeping.plan import Check, Plan, Run, Stage, expand
from sweeping.runs import DONE, FAILED, RUNNING, attempt
from unlearn import METHODS, method_key
from unlearn.base import Range
from utils import RunFailed, UserError

LEVELS = 5  # rows of a hyper-parameter in the sensitivity table
OBJECTIVES = ("val_proxy", "oracle_gap")
SAMPLERS = ("optuna", "grid")
WARNING = (
    "oracle_gap looks at the answer: it needs Retrain, which a user of unlearning does not have,"
    " and test images"
)


@dataclasses.dataclass(frozen=True)
class Workplace:
    """A process of a search: which one it is of (a number, by which tries are counted), its name in
    records, whether it is to go on.
    """

    sweep_id: float = dataclasses.field(default_factory=time.time)
    worker: str = "search"
    alive: Callable[[], bool] = lambda: True


@dataclasses.dataclass(frozen=True)
class Search:
    """One method's search: its stage in a plan of its own, the values that stay and the ranges of
    those that are tried.
    """

    plan: Plan
    stage: Stage
    fixed: dict
    ranges: dict[str, Range]

    def run_of(self, point: dict, check: Check) -> tuple[Run, list[Run]]:
        """The run of a trial and the runs that it needs, in order."""
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


def as_planned(plan: Plan, name: str) -> str:
    """A stage or a method as the plan calls it, where ``name`` is another name of the method."""
    methods = [str(method) for *_, method in _entries(plan)]
    if name in (*plan.stages, *methods) or (key := method_key(name)) is None:
        return name
    return next((method for method in methods if method_key(method) == key), name)


def _entries(plan: Plan) -> Iterator[tuple[Stage, dict, object]]:
    """Each entry of the plan that is a method's: (stage, flags, method)."""
    for stage in plan.stages.values():
        for entry in stage.list:
            flags = stage.flags | entry
            if stage.script in ("main_forget", "main_random") and flags.get("unlearn"):
                yield stage, flags, flags["unlearn"]


def search_of(plan: Plan, name: str) -> Search:
    """The search for a method or a stage of the plan, on the request of [search] and its first
    seed.

    Raises:
        UserError: the plan has no such run or several, or the method declares no range.
    """
    found = [
        (stage, flags) for stage, flags, method in _entries(plan) if name in (stage.name, method)
    ]
    if len(found) != 1 or found[0][0].axes:
        raise UserError(
            f"--search {name}: {len(found)} entries of the plan are it, or it has axes; name one"
            " stage or method without"
        )
    stage, flags = found[0]
    kind = METHODS.get(method_key(str(flags["unlearn"])))
    ranges = (
        {
            field.name: field.metadata["range"]
            for field in dataclasses.fields(kind)
            if field.metadata.get("range")
        }
        if kind
        else {}
    )
    if not ranges:
        raise UserError(
            f"--search {name}: {flags['unlearn']} declares no range; known with one are"
            f" {', '.join(searchable())}"
        )
    fixed = {flag: value for flag, value in flags.items() if flag not in ranges}
    trial = dataclasses.replace(stage, name=f"search-{name}", flags={}, list=[fixed])
    others = {
        each.name: each
        for each in plan.stages.values()
        if each.script in ("main_train", "generate_mask") or _is_retrain(each)
    }
    base = plan.base | plan.search
    return Search(
        dataclasses.replace(
            plan, base=base, seeds=plan.seeds[:1], stages={**others, trial.name: trial}
        ),
        trial,
        fixed,
        ranges,
    )


def searchable() -> list[str]:
    """The methods that declare a range."""
    return [
        name
        for name, kind in METHODS.items()
        if any(field.metadata.get("range") for field in dataclasses.fields(kind))
    ]


def _is_retrain(stage: Stage) -> bool:
    return (
        stage.script == "main_forget" and method_key(str(stage.flags.get("unlearn"))) == "retrain"
    )


# ------------------------------------------------------------------------------------- which values


def grid(ranges: dict[str, Range], trials: int) -> list[dict]:
    """At most ``trials`` points: levels for each range, as equal in number as the product allows,
    even in the range's scale.
    """
    levels = dict.fromkeys(ranges, 1)
    while True:
        for name in sorted(levels, key=levels.get):
            if math.prod({**levels, name: levels[name] + 1}.values()) <= trials:
                levels[name] += 1
                break
        else:
            break
    axes = [
        [range_.at((i + 0.5) / levels[name]) for i in range(levels[name])]
        for name, range_ in ranges.items()
    ]
    return [dict(zip(ranges, values, strict=True)) for values in itertools.product(*axes)]


@contextlib.contextmanager
def waiting(folder: Path, name: str) -> Iterator[None]:
    """Hold a lock of ``utils.lock`` as soon as it is free."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock(folder, name))
                break
            except UserError:
                time.sleep(0.05)
        yield


def tried_by_grid(
    points: list[dict], score: Callable[..., float], alive: Callable[[], bool]
) -> None:
    """Each point once; what another process is at is left for later, when it mostly is done."""
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


def tried_by_optuna(
    search: Search,
    trials: int,
    folder: Path,
    study_name: str,
    score: Callable[[dict], float],
    alive: Callable[[], bool],
) -> None:
    """Ask, run and tell until the study has its trials; trials of killed processes are given out
    again.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    state = optuna.trial.TrialState
    folder.mkdir(parents=True, exist_ok=True)
    with waiting(folder, "study"):
        storage = JournalStorage(JournalFileBackend(str(folder / f"{study_name}.journal")))
        study = optuna.create_study(
            storage=storage, study_name=study_name, direction="minimize", load_if_exists=True
        )
    # Optuna knows no scale for a share close to one: it draws the place in such a range.
    float_kind = optuna.distributions.FloatDistribution
    kinds = {
        name: float_kind(0, 1) if each.rest else float_kind(each.low, each.high, log=each.log)
        for name, each in search.ranges.items()
    }
    while alive():
        with contextlib.ExitStack() as held:
            with waiting(folder, "study"):
                for trial in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
                    with (
                        contextlib.suppress(UserError),
                        lock(folder, f"{study_name}-{trial.number}"),
                    ):
                        study.tell(trial.number, state=state.FAIL)  # its process is gone
                        study.enqueue_trial(trial.params)
                counted = [
                    t
                    for t in study.get_trials(deepcopy=False)
                    if t.state != state.WAITING and _counts(t, state)
                ]
                if len(counted) >= trials:
                    return
                trial = study.ask(kinds)
                held.enter_context(lock(folder, f"{study_name}-{trial.number}"))
            try:
                ranges = search.ranges
                value = score(
                    {
                        name: ranges[name].at(drawn) if ranges[name].rest else drawn
                        for name, drawn in trial.params.items()
                    }
                )
            except RunFailed:
                value = math.inf
            trial.set_user_attr("ended", True)
            study.tell(
                trial,
                value if math.isfinite(value) else None,
                state=state.COMPLETE if math.isfinite(value) else state.FAIL,
            )


def _counts(trial: object, state: object) -> bool:
    return trial.state != state.FAIL or trial.user_attrs.get("ended", False)


# -------------------------------------------------------------------------------------- judging one


class Busy(Exception):
    """Another process is at this trial."""


def made(run: Run, plan: Plan, workplace: Workplace, *, wait: bool = True) -> None:
    """Make a run here, or wait while another process makes it.

    Raises:
        Busy: another process is at it, and ``wait`` is off.
        RunFailed: it was tried as often as the plan allows.
    """
    while (
        state := attempt(
            run, plan.folder, sweep_id=workplace.sweep_id, tries=plan.tries, worker=workplace.worker
        )
    ) != DONE:
        if state == FAILED:
            raise RunFailed(f"{plan.folder / run.name} has failed; see its log.txt")
        if state == RUNNING and not wait:
            raise Busy
        if state == RUNNING:
            time.sleep(0.5)


def val_proxy_score(checkpoint: Path, original: Path, device: str, gpu: int) -> tuple[float, float]:
    """(val_proxy, its noise) of an unlearned model: outputs on forget, retain and validation, never
    on test.
    """
    unlearned, start = read_saved(checkpoint, "models"), read_saved(original, "original")
    request = Subject(unlearned, data=None, device=pick_device(device, gpu), batch_size=256)
    request.check(start)
    after, before = (_outputs(request, saved) for saved in (unlearned, start))
    percent, theirs = (
        {name: accuracy(*outputs) for name, outputs in each.items()} for each in (after, before)
    )
    mine = {"UA": 100 - percent["forget"], "RA": percent["retain"], "VA": percent["val"]}
    origin = {"RA": theirs["retain"], "VA": theirs["val"]}
    if request.chosen.dropped_class is not None:
        return val_proxy_class(mine, origin), 0.0
    # Validation images with the class shares of forget, as far as there are any of its classes.
    (forget, labels), (unseen, others) = (
        (member_scores(*after[name])["loss"], after[name][1]) for name in ("forget", "val")
    )
    known = np.isin(labels, others)
    weights = class_weights(labels[known], others)
    return val_proxy(mine, origin, auc(forget[known], unseen, weights)), val_proxy_noise(
        known.sum(), effective_size(weights)
    )


def _outputs(request: Subject, saved: Saved) -> dict:
    model = request.build(saved)
    found = {name: predict(model, request.loaders[name]) for name in ("forget", "retain", "val")}
    return {name: (logits.numpy(), labels.numpy()) for name, (logits, labels) in found.items()}


def oracle_gap_score(result: Path, retrain: list[Path], metrics: Sequence[str] = AVERAGED) -> float:
    """Avg. Gap, in points, of one result to Retrain's."""
    sides = (
        [load_json(file, "result")["metrics"] for file in files] for files in ([result], retrain)
    )
    return gap_of_means(
        *({name: [each[name] for each in side] for name in metrics} for side in sides)
    )


def entropy_gap_score(result: Path, retrain: list[Path]) -> float | None:
    """The same under the entropy attack; None where a result is older than that or the attack had
    no images.
    """
    known = [load_json(file, "result")["metrics"].get(ENTROPY) for file in (result, *retrain)]
    return None if None in known else oracle_gap_score(result, retrain, AVERAGED_ENTROPY)


# ----------------------------------------------------------------------------------------- a search


def run_search(
    plan: Plan,
    name: str,
    *,
    trials: int,
    objective: str,
    check: Check,
    sampler: str | None = None,
    sweep_id: float | None = None,
) -> dict:
    """Search, keep every trial in search/NAME-OBJECTIVE.json and .md below the plan's folder,
    return what the JSON file has.

    ``sampler`` is one of SAMPLERS, by default Optuna where it is installed; by ``sweep_id``, by
    default a new one, tries are counted.
    """
    how = sampler or default_sampler()
    workplace = Workplace() if sweep_id is None else Workplace(sweep_id)
    make_trials(
        plan,
        name,
        trials=trials,
        objective=objective,
        check=check,
        sampler=how,
        workplace=workplace,
    )
    search, folder = search_of(plan, name), plan.folder / "search"
    lines = [load_json(file, "trial") for file in trial_files(plan, name, objective)]
    if not lines:
        raise RunFailed(f"no trial of {name} ended well; see {plan.folder / search.stage.name}")
    lines.sort(key=lambda trial: trial["objective"])
    found = {
        "schema": 1,
        "search": name,
        "objective": objective,
        "sampler": how,
        "budget": trials,
        "fixed": search.fixed,
        "ranges": {flag: each._asdict() for flag, each in search.ranges.items()},
        "noise": lines[0]["noise"],
        "best": lines[0],
        "trials": lines,
    }
    save_json(found, folder / f"{name}-{objective}.json")
    save_text(as_markdown(found), folder / f"{name}-{objective}.md")
    return found


def trial_files(plan: Plan, name: str, objective: str) -> list[Path]:
    """What is kept of each finished trial, in its run's folder."""
    return sorted((plan.folder / f"search-{name}").glob(f"*/{objective}.json"))


def default_sampler() -> str:
    """Optuna's where it is installed."""
    return "optuna" if importlib.util.find_spec("optuna") else "grid"


def make_trials(
    plan: Plan,
    name: str,
    *,
    trials: int,
    objective: str,
    check: Check,
    sampler: str,
    workplace: Workplace,
) -> None:
    """Make and judge what is missing of a search's trials: what each of its processes does."""
    search = search_of(plan, name)
    retrain = [
        run
        for run in expand(search.plan, check)
        if run.script == "main_forget" and run.settings.get("unlearn") == "retrain"
    ]
    if objective == "oracle_gap":
        if not retrain:
            raise UserError(
                "--objective oracle_gap: the plan has no stage with unlearn = retrain among its"
                " flags"
            )
        if (
            len(
                {
                    json.dumps(run.settings | {"seed": None}, default=str, sort_keys=True)
                    for run in retrain
                }
            )
            > 1
        ):
            names = ", ".join(run.name for run in retrain)
            raise UserError(
                "--objective oracle_gap: unlike Retrains are never pooled, and the plan has"
                f" {names}; leave one kind"
            )
        for wait in (False, True):  # first what nobody is at
            for run in retrain:
                with contextlib.suppress(Busy):
                    made(run, search.plan, workplace, wait=wait)

    def score(point: dict, *, wait: bool = True) -> float:
        run, needed = search.run_of(point, check)
        for each in needed:
            made(each, search.plan, workplace)
        made(run, search.plan, workplace, wait=wait)
        at = plan.folder / run.name
        with waiting(at, objective):
            trial = judged(
                run,
                at,
                point,
                objective,
                [plan.folder / each.name / each.result for each in retrain],
            )
        print(
            f"{' '.join(f'--{flag}={number:.6g}' for flag, number in point.items())}  {objective}"
            f" {objectives_of(trial)}",
            flush=True,
        )
        return trial["objective"]

    if sampler == "optuna":
        need("optuna", "--sampler optuna")
        tried_by_optuna(
            search, trials, plan.folder / "search", f"{name}-{objective}", score, workplace.alive
        )
    else:
        tried_by_grid(grid(search.ranges, trials), score, workplace.alive)


def judged(run: Run, at: Path, point: dict, objective: str, retrain: list[Path]) -> dict:
    """A finished trial with its objective, which is kept beside it; val_proxy is a matter of the
    trial alone and computed once.
    """
    file, value, noise = at / f"{objective}.json", None, 0.0
    if objective == "oracle_gap":
        value = oracle_gap_score(at / run.result, retrain)
    elif file.is_file():
        return load_json(file, "trial")
    else:
        original = next(
            word.removeprefix("--model_path=")
            for word in run.words
            if word.startswith("--model_path=")
        )
        settings = run.settings
        value, noise = val_proxy_score(
            at / run.checkpoint,
            Path(original),
            settings.get("device", "auto"),
            settings.get("gpu", 0),
        )
    trial = {"values": point, "objective": value, "noise": noise, "run": run.name}
    if objective == "oracle_gap":
        trial["entropy_gap"] = entropy_gap_score(at / run.result, retrain)
    save_json(trial, file)
    return trial


def objectives_of(trial: dict, between: str = ", under the entropy MIA ") -> str:
    """What a trial is judged by; with oracle_gap also its gap under the other attack, which judges
    nothing, or a dash.
    """
    if "entropy_gap" not in trial:
        return f"{trial['objective']:.3f}"
    other = trial["entropy_gap"]
    return f"{trial['objective']:.3f}{between}{'-' if other is None else f'{other:.3f}'}"


def as_markdown(found: dict) -> str:
    """The chosen values, the sensitivity to each hyper-parameter, every trial."""
    best, flags = found["best"], list(found["ranges"])
    chosen = " ".join(f"`--{flag}={best['values'][flag]:.6g}`" for flag in flags)
    tied = [
        trial
        for trial in found["trials"]
        if trial["objective"] <= best["objective"] + found["noise"]
    ]
    parts = [
        f"**{found['search']}** by {found['objective']} ({found['sampler']}, {len(found['trials'])}"
        f" of {found['budget']} trials): {chosen}, {found['objective']} {objectives_of(best)}."
    ]
    if found["noise"]:
        parts.append(
            f"Noise of the objective {found['noise']:.2f}: {len(tied)} trials are not told apart"
            " from the best."
        )
    if found["objective"] == "oracle_gap":
        parts.append(f"Warning: {WARNING}.")
    parts.append(
        "| flag | from | to | trials | best | median |\n|---|---:|---:|---:|---:|---:|\n"
        + "\n".join(sensitivity(found))
    )
    rows = []
    for trial in found["trials"]:
        values = " | ".join(f"{trial['values'][flag]:.4g}" for flag in flags)
        rows.append(f"| {values} | {objectives_of(trial, ' | ')} | {trial['run']} |")
    columns = [*flags, found["objective"], *(["entropy MIA"] if "entropy_gap" in best else [])]
    head = f"| {' | '.join(columns)} | run |\n{'|---:' * len(columns)}|---|"
    return "\n\n".join([*parts, "\n".join([head, *rows])]) + "\n"


def sensitivity(found: dict) -> list[str]:
    """For each hyper-parameter the best and the median objective of its lowest trials, the next
    ones, and so on.
    """
    rows = []
    for flag in found["ranges"]:
        trials = sorted(found["trials"], key=lambda trial: trial["values"][flag])
        count = min(LEVELS, len(trials))
        for i in range(count):
            part = trials[i * len(trials) // count : (i + 1) * len(trials) // count]
            values = [trial["objective"] for trial in part]
            ends = f"{part[0]['values'][flag]:.4g} | {part[-1]['values'][flag]:.4g}"
            rows.append(
                f"| {flag} | {ends} | {len(part)} | {min(values):.3f} |"
                f" {statistics.median(values):.3f} |"
            )
    return rows
