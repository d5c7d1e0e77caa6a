"""A plan -> its runs, in an order in which they can be made. Pure functions but for reading the
plan's file.
"""

import dataclasses
import functools
import graphlib
import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

from runtime.files import load_json, require_file
from utils import UserError

REFERENCE = re.compile(r"\{([^{}]*)\}")
NAME = re.compile(r"[A-Za-z][\w-]*")


@dataclasses.dataclass(frozen=True)
class Script:
    """What the sweep must know of a script: the file that says it is done, what --resume reads, its
    seed, its flags of many values.

    ``{unlearn}`` in a file's name is the method's.
    """

    result: str
    checkpoint: str | None = None
    seed_flag: str | None = None
    many: tuple[str, ...] = ()


SCRIPTS = {
    "main_train": Script("train_result.json", "0checkpoint.pth.tar", "train_seed"),
    "generate_mask": Script("mask_result.json", None, "seed"),
    "main_forget": Script("{unlearn}result.json", "{unlearn}checkpoint.pth.tar", "seed"),
    "main_random": Script("{unlearn}result.json", "{unlearn}checkpoint.pth.tar", "seed"),
    "evaluate": Script("audit.json", many=("models", "retrain")),
    "report": Script("report.txt", many=("dirs",)),
}
# Of [base], what a script that does not take all of it reads.
READS_OF_BASE = {"evaluate": {"data", "device", "gpu", "threads"}, "report": set()}
# What main_train accepts and does not read: one original serves every forget set.
NOT_OF_TRAINING = {
    "num_indexes_to_replace",
    "class_to_replace",
    "indexes_to_replace",
    "forget_seed",
    "retain_fraction",
    "seed",
    "mia_members",
}
# The sweep's own business, or no run.
NOT_OF_PLANS = {
    "save_dir",
    "run",
    "resume",
    "overwrite",
    "dry_run",
    "config",
    "checkpoint",
    "compare",
    "list_methods",
    "help",
}
# Where and how a run is made, not what: no part of its folder's name. --data counts by its last
# component.
OF_THE_MACHINE = {"device", "gpu", "threads", "workers", "print_freq", "tensorboard"}

# check(script, {flag: value}) -> (words of a command line, {flag: value as parsed}); raises
# UserError for what the script refuses.
Check = Callable[[str, dict], tuple[list[str], dict]]


@dataclasses.dataclass(frozen=True)
class Stage:
    """Runs of one script: ``flags`` for all, a run for each combination of ``axes`` and each entry
    of ``list``, per seed or not.
    """

    name: str
    script: str
    flags: dict
    axes: dict[str, list]
    list: list[dict]
    per_seed: bool
    needs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a plan's file says; ``search`` holds the flags that a search has instead of [base]'s."""

    folder: Path
    seeds: tuple[int, ...]
    tries: int
    base: dict
    stages: dict[str, Stage]
    search: dict


@dataclasses.dataclass(frozen=True)
class Run:
    """One command. ``name`` is its folder below the plan's, ``needs`` the names of the runs that
    must be done before.
    """

    name: str
    stage: str
    script: str
    words: tuple[str, ...]
    settings: dict
    needs: tuple[str, ...]
    result: str
    checkpoint: str | None
    seed: int | None
    point: dict


# ----------------------------------------------------------------------------------- reading a plan


def read_plan(path: Path) -> Plan:
    """Read a TOML or JSON plan; whatever in it is not understood is refused by name."""
    if path.suffix == ".json":
        content = load_json(path, "plan")
    else:
        require_file(path, "plan")
        try:
            content = tomllib.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"plan {path} is not readable TOML: {error}") from None
    return make_plan(content)


def make_plan(content: dict) -> Plan:
    """The plan that a file's content means.

    Raises:
        UserError: an unknown key, a value of another kind than its key takes, or needs that run in
            a circle.
    """
    found = _fields(
        content,
        "plan",
        {"folder": str, "seeds": list, "tries": int, "base": dict, "stages": dict, "search": dict},
    )
    if not found.get("folder") or re.search(r"[*?\[\]{}]|^-", found["folder"]):
        raise UserError(
            f"plan: folder {found.get('folder')!r}: where the runs go is wanted, without any of * ?"
            " [ ] { } and no leading -"
        )
    seeds = found.get("seeds", [2])
    if not seeds or any(type(seed) is not int for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"plan: seeds {seeds}: a non-empty list of different integers is wanted")
    if found.get("tries", 3) < 1:
        raise UserError(f"plan: tries {found['tries']}: at least 1 is wanted")
    base = found.get("base", {})
    _scalars(base, "[base]")
    stages = {name: _stage(name, stage, base) for name, stage in found.get("stages", {}).items()}
    if not stages:
        raise UserError("plan: no [stages.NAME]; give at least one")
    plan = Plan(
        Path(found["folder"]),
        tuple(seeds),
        found.get("tries", 3),
        base,
        stages,
        found.get("search", {}),
    )
    _scalars(plan.search, "[search]")
    in_order(plan)
    return plan


def _fields(content: object, where: str, kinds: dict[str, type]) -> dict:
    if not isinstance(content, dict):
        raise UserError(f"{where}: a table is wanted, not {content!r}")
    for name, value in content.items():
        if name not in kinds:
            raise UserError(f"{where}: unknown key {name!r}; known are {', '.join(kinds)}")
        if type(value) is not kinds[name]:
            raise UserError(f"{where}: {name} is {value!r}; wanted is a {kinds[name].__name__}")
    return content


def _scalars(values: dict, where: str) -> None:
    """Flags have plain values; NAME is one of a flag as it stands in the parsers,
    without dashes.
    """
    for name, value in values.items():
        if name in NOT_OF_PLANS:
            raise UserError(
                f"plan: {where}: {name} is not for plans; the sweep sets it where it is needed"
            )
        parts = value if isinstance(value, list) else [value]
        if not parts or not all(isinstance(part, str | int | float | bool) for part in parts):
            raise UserError(
                f"plan: {where}: {name} is {value!r}; a text, a number, true, false or a list of"
                " them is wanted"
            )


def _stage(name: str, content: object, base: dict) -> Stage:
    where = f"[stages.{name}]"
    if not NAME.fullmatch(name):
        raise UserError(
            f"plan: {where}: a stage's name is a letter and then letters, digits, _ or -"
        )
    kinds = {
        "script": str,
        "flags": dict,
        "axes": dict,
        "list": list,
        "per_seed": bool,
        "needs": list,
    }
    found = _fields(content, where, kinds)
    if found.get("script") not in SCRIPTS:
        raise UserError(
            f"plan: {where}: script is {found.get('script')!r}; allowed are {', '.join(SCRIPTS)}"
        )
    flags, axes, entries = found.get("flags", {}), found.get("axes", {}), found.get("list", [{}])
    for axis, values in axes.items():
        if not isinstance(values, list) or not values:
            raise UserError(
                f"plan: {where}: axis {axis} is {values!r}; a non-empty list of values is wanted"
            )
        for value in values:
            _scalars({axis: value}, f"{where} axes")
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(
            f"plan: {where}: list is {entries!r}; a non-empty list of tables of flags is wanted"
        )
    for part in (flags, *entries):
        _scalars(part, where)
        if twice := sorted(part.keys() & axes.keys()):
            raise UserError(
                f"plan: {where}: {twice[0]} is an axis and has a value beside it; drop one of them"
            )
    needs = found.get("needs", [])
    if not all(isinstance(need, str) for need in needs):
        raise UserError(f"plan: {where}: needs is {needs!r}; a list of stages is wanted")
    named = {*base, *flags, *axes, *(key for entry in entries for key in entry)}
    per_seed = found.get("per_seed", _per_seed(found["script"], named))
    return Stage(name, found["script"], flags, axes, entries, per_seed, tuple(needs))


def _per_seed(script: str, named: set[str]) -> bool:
    """Whether a stage has a run for each seed where the plan does not say: where the seed, or who
    is forgotten by it, matters.
    """
    whole_class = "class_to_replace" in named and "num_indexes_to_replace" not in named
    fixed = whole_class or bool({"forget_seed", "indexes_to_replace"} & named)
    return script in ("main_forget", "main_random") or (
        script in ("generate_mask", "evaluate") and not fixed
    )


def in_order(plan: Plan) -> list[Stage]:
    """The stages, each after those that it needs.

    Raises:
        UserError: a stage needs one that does not exist, or, in the end, itself.
    """
    graph = {}
    for stage in plan.stages.values():
        named = [
            *stage.needs,
            *(name for values in _all_values(plan, stage) for name in references(values)),
        ]
        for name in named:
            if name not in plan.stages:
                raise UserError(
                    f"plan: [stages.{stage.name}] needs {name!r}; the stages are"
                    f" {', '.join(plan.stages)}"
                )
        graph[stage.name] = named
    try:
        return [plan.stages[name] for name in graphlib.TopologicalSorter(graph).static_order()]
    except graphlib.CycleError as error:
        raise UserError(f"plan: the needs run in a circle: {error}") from None


def _all_values(plan: Plan, stage: Stage) -> Iterable[object]:
    yield from base_of(plan, stage.script).values()
    for part in (stage.flags, *stage.list):
        yield from part.values()
    for values in stage.axes.values():
        yield from values


def base_of(plan: Plan, script: str) -> dict:
    """The part of [base] that a script reads."""
    if script == "main_train":
        return {name: value for name, value in plan.base.items() if name not in NOT_OF_TRAINING}
    return {
        name: value
        for name, value in plan.base.items()
        if name in READS_OF_BASE.get(script, plan.base)
    }


def references(value: object) -> list[str]:
    """The stages that a value names as {STAGE}."""
    parts = value if isinstance(value, list) else [value]
    return [name for part in parts if isinstance(part, str) for name in REFERENCE.findall(part)]


# ------------------------------------------------------------------------------------ a plan's runs


def expand(plan: Plan, check: Check) -> list[Run]:
    """Every run of the plan once, each after the runs that it needs.

    A run needs those of a stage that it refers to that have its seed and its values of the axes
    which both stages have.
    """
    made: dict[str, list[Run]] = {}
    folders: dict[str, Run] = {}
    for stage in in_order(plan):
        found = {}
        partners = functools.cache(functools.partial(_index, plan, made, stage))
        for run in _runs_of(plan, stage, partners, check):
            earlier = folders.setdefault(run.name, run)
            if earlier.words != run.words:
                raise UserError(
                    f"plan: [stages.{stage.name}]: two runs differ only in"
                    f" {_difference(earlier, run)}, which makes no other run"
                )
            found[run.name] = run
        made[stage.name] = list(found.values())
    return [run for runs in made.values() for run in runs]


def _difference(a: Run, b: Run) -> str:
    return " ".join(sorted({*a.words} ^ {*b.words}))


def _index(
    plan: Plan, made: dict[str, list[Run]], stage: Stage, needed: str
) -> tuple[tuple, bool, dict[tuple, list[Run]]]:
    """The runs of a needed stage by what they share with ``stage``: (names of the shared axes,
    whether the seed counts, runs by both).
    """
    other = plan.stages[needed]
    shared = tuple(sorted(other.axes.keys() & stage.axes.keys()))
    with_seed = other.per_seed and stage.per_seed
    found: dict[tuple, list[Run]] = {}
    for run in made[needed]:
        found.setdefault(_key(run.point, run.seed if with_seed else None, shared), []).append(run)
    return shared, with_seed, found


def _key(point: dict, seed: int | None, shared: tuple) -> tuple:
    return seed, *(json.dumps(point[name]) for name in shared)


def _runs_of(plan: Plan, stage: Stage, partners: Callable, check: Check) -> Iterable[Run]:
    script = SCRIPTS[stage.script]
    # evaluate.py and report.py have no flag for what their models were made with: there an axis
    # only says which belong together.
    groups = stage.script in READS_OF_BASE
    for entry, *point in itertools.product(stage.list, *stage.axes.values()):
        axes = dict(zip(stage.axes, point, strict=True))
        values = {**base_of(plan, stage.script), **stage.flags, **({} if groups else axes), **entry}
        many = {name: values.pop(name) for name in script.many if name in values}
        try:
            words, settings = check(stage.script, values | many)
        except UserError as error:
            raise UserError(f"plan: [stages.{stage.name}]: {error}") from None
        if stage.per_seed and script.seed_flag in values:
            raise UserError(
                f"plan: [stages.{stage.name}]: {script.seed_flag} is set by seeds; drop it, or set"
                " per_seed = false"
            )
        for seed in plan.seeds if stage.per_seed else (None,):
            yield _run(plan, stage, words, settings, many, axes, seed, partners)


def _run(
    plan: Plan,
    stage: Stage,
    words: list[str],
    settings: dict,
    many: dict,
    axes: dict,
    seed: int | None,
    partners: Callable,
) -> Run:
    script, needs = SCRIPTS[stage.script], {}

    def matching(needed: str) -> list[Run]:
        shared, with_seed, found = partners(needed)
        runs = found.get(_key(axes, seed if with_seed else None, shared), [])
        if not runs:
            raise UserError(
                f"plan: [stages.{stage.name}]: no run of {needed} has the same seed and axes"
            )
        needs.update((run.name, run) for run in runs)
        return runs

    def one_folder(match: re.Match) -> str:
        runs = matching(match[1])
        if len(runs) > 1:
            raise UserError(
                f"plan: [stages.{stage.name}]: {match[0]} is {len(runs)} runs, one is wanted; share"
                f" an axis with {match[1]}"
            )
        return str(plan.folder / runs[0].name)

    words = [REFERENCE.sub(one_folder, word) for word in words]
    for name, value in many.items():
        listed = [
            each
            for part in (value if isinstance(value, list) else [value])
            for each in _each_folder(plan, str(part), matching)
        ]
        if any(each.startswith("-") for each in listed):
            raise UserError(
                f"plan: [stages.{stage.name}]: {name} {listed[0]}: a file's name that begins with -"
                " would be read as a flag"
            )
        words += listed if name == "dirs" else [f"--{name}", *listed]
    for needed in stage.needs:
        matching(needed)
    if seed is not None and script.seed_flag:
        words.append(f"--{script.seed_flag}={seed}")
    name = _folder_name(stage, settings, seed, axes, [*needs])
    method = settings.get("unlearn", "retrain")
    files = [file and file.format(unlearn=method) for file in (script.result, script.checkpoint)]
    if stage.script != "report":
        words.append(f"--save_dir={plan.folder / name}")
    return Run(
        name, stage.name, stage.script, tuple(words), settings, tuple(needs), *files, seed, axes
    )


def _each_folder(plan: Plan, part: str, matching: Callable) -> list[str]:
    """A value of a flag of many values, once for each run that it names; it refers to one stage at
    most.
    """
    named = REFERENCE.findall(part)
    if not named:
        return [part]
    if len(named) > 1:
        raise UserError(f"plan: {part!r} names {len(named)} stages, one is wanted")
    return [
        part.replace(f"{{{named[0]}}}", str(plan.folder / run.name)) for run in matching(named[0])
    ]


def _folder_name(
    stage: Stage, settings: dict, seed: int | None, axes: dict, needs: list[str]
) -> str:
    """stage/method-seed-hash; the hash is over what makes the run what it is, and over the runs
    that it needs.
    """
    counted = {
        name: value
        for name, value in settings.items()
        if name not in OF_THE_MACHINE and (name, value) != ("precision", "auto")
    }
    if "data" in counted:
        counted["data"] = Path(counted["data"]).name
    grouped = axes if stage.script in READS_OF_BASE else {}
    text = json.dumps(
        [stage.script, sorted(counted.items()), seed, grouped, sorted(needs)], default=str
    )
    parts = [
        *([settings["unlearn"]] if "unlearn" in settings else []),
        *([] if seed is None else [f"s{seed}"]),
    ]
    return f"{stage.name}/{'-'.join([*parts, hashlib.sha256(text.encode()).hexdigest()[:10]])}"
