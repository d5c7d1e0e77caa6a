"""A plan: its file read and checked, and its stages in an order in which they can run."""

import dataclasses
import graphlib
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from datasets.forgetting import is_drawn
from runtime.files import load_json, require_file
from stages.file_names import AUDIT, CHECKPOINT, LAST, MASK_RECORD, RESULT, TRAIN_RESULT
from stages.requests import OF_REFERENCE
from utils import UserError

REFERENCE = re.compile(r"\{([^{}]*)\}")
NAME = re.compile(r"[A-Za-z][\w-]*")
NOT_IN_FOLDERS = re.compile(r"[*?\[\]{}]|^-")


@dataclasses.dataclass(frozen=True)
class Script:
    """What the sweep knows of a script.

    Attributes:
        result: the file that says that a run is done; ``{unlearn}`` is the method's name.
        checkpoint: the file that ``--resume`` reads.
        seed_flag: the flag that a plan's seeds set.
        many: flags of many values. A script that has any reads other runs, and ``axes`` are no
            flags of it: they only say which runs belong together.
    """

    result: str
    checkpoint: str | None = None
    seed_flag: str | None = None
    many: tuple[str, ...] = ()


SCRIPTS = {
    "main_train": Script(TRAIN_RESULT, LAST, "train_seed"),
    "generate_mask": Script(MASK_RECORD, None, "seed"),
    "main_forget": Script("{unlearn}" + RESULT, "{unlearn}" + CHECKPOINT, "seed"),
    "main_random": Script("{unlearn}" + RESULT, "{unlearn}" + CHECKPOINT, "seed"),
    "evaluate": Script(AUDIT, many=("models", "retrain")),
    "report": Script("report.txt", many=("dirs",)),
}
# The flags of [base] that these scripts take; the others take all.
BASE_FLAGS = {"evaluate": {"data", "device", "gpu", "threads"}, "report": set()}
# Flags of [base] that main_train does not use: one original serves every forget set.
FORGET_FLAGS = {*OF_REFERENCE, "forget", "skip_val", "forget_seed"}
FORGET_FLAGS |= {"retain_fraction", "seed", "mia_members"}
SET_BY_SWEEP = {"save_dir", "run", "resume", "overwrite"}
KEEP = ("all", "weights", "none")  # what stays of a finished run: see sweeping/keep.py
MAKE_NO_RUN = {"dry_run", "config", "checkpoint", "compare", "list_methods", "help"}


@dataclasses.dataclass(frozen=True)
class Stage:
    """Runs of one script: a run for each point of ``axes``, entry of ``list`` and seed."""

    name: str
    script: str
    flags: dict
    axes: dict[str, list]
    list: list[dict]
    per_seed: bool
    needs: tuple[str, ...]
    keep: str
    processes: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The content of a plan's file; flags of ``search`` replace those of ``base`` in a search."""

    folder: Path
    seeds: tuple[int, ...]
    tries: int
    base: dict
    stages: dict[str, Stage]
    search: dict


def read_plan(path: Path) -> Plan:
    """Read a TOML or JSON plan (see :func:`make_plan`)."""
    if path.suffix == ".json":
        return make_plan(load_json(path, "plan"))
    require_file(path, "plan")
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"plan {path} is not readable TOML: {error}") from None
    return make_plan(content)


def make_plan(content: dict) -> Plan:
    """The plan of a file's content.

    Raises:
        UserError: an unknown key, a value of a wrong type, or stages that need each other in a
            circle.
    """
    defaults = {"folder": "", "seeds": [2], "tries": 3, "keep": "all"}
    defaults |= {"base": {}, "stages": {}, "search": {}}
    fields = _with_defaults(content, "plan", defaults)
    folder, seeds, tries = content.get("folder"), fields["seeds"], fields["tries"]
    if not folder or NOT_IN_FOLDERS.search(folder):
        raise UserError(
            f"plan: folder {folder!r}: where the runs go is wanted, without any of * ? [ ] {{ }}"
            " and no leading -"
        )
    if not seeds or any(type(seed) is not int for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"plan: seeds {seeds}: a non-empty list of different integers is wanted")
    if tries < 1:
        raise UserError(f"plan: tries {tries}: at least 1 is wanted")
    base, search = fields["base"], fields["search"]
    _check_flags(base, "[base]")
    keep = _keep(fields["keep"], "plan")
    stages = {name: _stage(name, stage, base, keep) for name, stage in fields["stages"].items()}
    if not stages:
        raise UserError("plan: no [stages.NAME]; give at least one")
    _check_flags(search, "[search]")
    if Path(folder).exists() and not Path(folder).is_dir():
        raise UserError(f"plan: folder {folder!r}: a file is there, give another name")
    plan = Plan(Path(folder), tuple(seeds), tries, base, stages, search)
    in_order(plan)
    return plan


def _with_defaults(content: object, where: str, defaults: dict) -> dict:
    """``defaults`` updated by ``content``, whose values must have the defaults' types."""
    if not isinstance(content, dict):
        raise UserError(f"{where}: a table is wanted, not {content!r}")
    for name, value in content.items():
        if name not in defaults:
            raise UserError(f"{where}: unknown key {name!r}; known are {', '.join(defaults)}")
        kind = type(defaults[name])
        if type(value) is not kind:
            raise UserError(f"{where}: {name} is {value!r}; wanted is a {kind.__name__}")
    return defaults | content


def _check_flags(values: dict, where: str) -> None:
    """Refuse flags that plans may not set, and values that are no scalars or lists of them."""
    for name, value in values.items():
        if name in SET_BY_SWEEP | MAKE_NO_RUN:
            raise UserError(
                f"plan: {where}: {name} is not for plans; the sweep sets it where it is needed"
            )
        parts = value if isinstance(value, list) else [value]
        if not parts or not all(isinstance(part, str | int | float | bool) for part in parts):
            raise UserError(
                f"plan: {where}: {name} is {value!r}; a text, a number, true, false or a list of"
                " them is wanted"
            )


def _keep(value: str, where: str) -> str:
    if value not in KEEP:
        raise UserError(f"{where}: keep is {value!r}; allowed are {', '.join(KEEP)}")
    return value


def _stage(name: str, content: object, base: dict, keep: str) -> Stage:
    where = f"[stages.{name}]"
    if not NAME.fullmatch(name):
        raise UserError(
            f"plan: {where}: a stage's name is a letter and then letters, digits, _ or -"
        )
    defaults = {"script": "", "flags": {}, "axes": {}, "list": [{}], "per_seed": True, "needs": []}
    fields = _with_defaults(content, where, defaults | {"keep": keep, "processes": 1})
    flags, axes, entries, needs = (fields[name] for name in ("flags", "axes", "list", "needs"))
    script = content.get("script")
    if script not in SCRIPTS:
        raise UserError(f"plan: {where}: script is {script!r}; allowed are {', '.join(SCRIPTS)}")
    _check_axes(axes, where)
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(
            f"plan: {where}: list is {entries!r}; a non-empty list of tables of flags is wanted"
        )
    for part in (flags, *entries):
        _check_flags(part, where)
        if twice := sorted(part.keys() & axes.keys()):
            raise UserError(
                f"plan: {where}: {twice[0]} is an axis and has a value beside it; drop one of them"
            )
    if not all(isinstance(need, str) for need in needs):
        raise UserError(f"plan: {where}: needs is {needs!r}; a list of stages is wanted")
    named: dict[str, list] = defaultdict(list)
    for part in (base, flags, axes, *entries):
        for flag, value in part.items():
            named[flag] += value if isinstance(value, list) else [value]
    per_seed = content.get("per_seed", _per_seed(script, named))
    keep, processes = _keep(fields["keep"], f"plan: {where}"), fields["processes"]
    if processes < 1 or (processes > 1 and script == "report"):
        wanted = "1 is wanted of report" if script == "report" else "at least 1 is wanted"
        raise UserError(f"plan: {where}: processes is {processes}; {wanted}")
    needs = tuple(needs)
    return Stage(name, script, flags, axes, entries, per_seed, needs, keep, processes)


def _check_axes(axes: dict, where: str) -> None:
    for axis, values in axes.items():
        if not isinstance(values, list) or not values:
            raise UserError(
                f"plan: {where}: axis {axis} is {values!r}; a non-empty list of values is wanted"
            )
        for value in values:
            _check_flags({axis: value}, f"{where} axes")


def _per_seed(script: str, named: dict[str, list]) -> bool:
    """The default of per_seed: whether a stage unlearns or its seed draws a forget set.

    ``named`` are the values of each flag that the stage names.
    """
    if script in ("main_forget", "main_random"):
        return True
    whole_class = "class_to_replace" in named and "num_indexes_to_replace" not in named
    fixed = whole_class or "forget_seed" in named or "indexes_to_replace" in named
    fixed = fixed or ("forget" in named and not any(map(is_drawn, map(str, named["forget"]))))
    return script in ("generate_mask", "evaluate") and not fixed


def in_order(plan: Plan) -> list[Stage]:
    """The stages, each after those that it needs.

    Raises:
        UserError: a stage needs one that does not exist, or itself through others.
    """
    graph = {}
    for stage in plan.stages.values():
        needed = [*stage.needs]
        for value in _values(plan, stage):
            needed += _references(value)
        for name in needed:
            if name not in plan.stages:
                raise UserError(
                    f"plan: [stages.{stage.name}] needs {name!r}; the stages are"
                    f" {', '.join(plan.stages)}"
                )
        graph[stage.name] = needed
    try:
        return [plan.stages[name] for name in graphlib.TopologicalSorter(graph).static_order()]
    except graphlib.CycleError as error:
        raise UserError(f"plan: the needs run in a circle: {error}") from None


def _values(plan: Plan, stage: Stage) -> Iterable[object]:
    yield from base_of(plan, stage.script).values()
    for part in (stage.flags, *stage.list):
        yield from part.values()
    for values in stage.axes.values():
        yield from values


def base_of(plan: Plan, script: str) -> dict:
    """The flags of [base] that a script takes."""
    taken = BASE_FLAGS.get(script, plan.base.keys())
    if script == "main_train":
        taken = plan.base.keys() - FORGET_FLAGS
    return {name: value for name, value in plan.base.items() if name in taken}


def _references(value: object) -> list[str]:
    """The stages that a value names as {STAGE}."""
    parts = value if isinstance(value, list) else [value]
    return [name for part in parts if isinstance(part, str) for name in REFERENCE.findall(part)]
