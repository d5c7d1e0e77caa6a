"""A plan's runs: the commands, their folders' names, and which needs which."""

import dataclasses
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from sweeping.plan import REFERENCE, SCRIPTS, Plan, Stage, base_of, in_order
from utils import UserError

# Flags that change where and how a run is made but not its result: no part of its folder's name.
MACHINE_FLAGS = {
    *("device", "gpu", "threads", "workers", "print_freq", "tensorboard", "cache", "store")
}

# check(script, {flag: value}) -> (words of a command line, {flag: value as parsed}); raises
# UserError for what the script refuses.
Check = Callable[[str, dict], tuple[list[str], dict]]


@dataclasses.dataclass(frozen=True)
class Run:
    """One command.

    Attributes:
        name: its folder below the plan's.
        words: the command line after the script's name.
        settings: the same flags as the script parses them.
        needs: names of the runs that must be done before.
        result, checkpoint: file names in its folder (see :class:`sweeping.plan.Script`).
        axes: its values of the stage's axes.
        keep: what stays of it once it is done (see :mod:`sweeping.keep`).
        processes: by how many processes it is made.
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
    axes: dict
    keep: str
    processes: int = 1


def expand(plan: Plan, check: Check) -> list[Run]:
    """Every run of the plan once, each after the runs that it needs.

    A run needs those of a stage that it refers to that have its seed and its values of the axes
    which both stages have.

    Raises:
        UserError: ``check`` refuses a run, a reference fits no run or too many, or two runs have
            one folder.
    """
    by_stage: dict[str, list[Run]] = {}
    by_folder: dict[str, Run] = {}
    for stage in in_order(plan):
        of_stage = {}
        index = functools.cache(functools.partial(_index, plan, by_stage, stage))
        for run in _runs_of(plan, stage, index, check):
            earlier = by_folder.setdefault(run.name, run)
            if earlier.words != run.words:
                difference = " ".join(sorted({*earlier.words} ^ {*run.words}))
                raise UserError(
                    f"plan: [stages.{stage.name}]: two runs differ only in {difference}, which"
                    " makes no other run"
                )
            of_stage[run.name] = run
        by_stage[stage.name] = list(of_stage.values())
    return [run for runs in by_stage.values() for run in runs]


@dataclasses.dataclass
class _Index:
    """A needed stage's runs by their values of shared axes and, with ``per_seed``, the seed."""

    shared: list[str]
    per_seed: bool
    runs: dict[tuple, list[Run]]

    def key(self, axes: dict, seed: int | None) -> tuple:
        return seed if self.per_seed else None, *(json.dumps(axes[name]) for name in self.shared)


def _index(plan: Plan, by_stage: dict[str, list[Run]], stage: Stage, needed: str) -> _Index:
    other = plan.stages[needed]
    shared = sorted(other.axes.keys() & stage.axes.keys())
    index = _Index(shared, other.per_seed and stage.per_seed, {})
    for run in by_stage[needed]:
        index.runs.setdefault(index.key(run.axes, run.seed), []).append(run)
    return index


def _runs_of(
    plan: Plan, stage: Stage, index: Callable[[str], _Index], check: Check
) -> Iterable[Run]:
    script = SCRIPTS[stage.script]
    for entry, *point in itertools.product(stage.list, *stage.axes.values()):
        axes = dict(zip(stage.axes, point, strict=True))
        flags = {} if script.many else axes
        values = {**base_of(plan, stage.script), **stage.flags, **flags, **entry}
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
            yield _Combination(plan, stage, axes, seed, index).run(words, settings, many)


@dataclasses.dataclass
class _Combination:
    """Values of a stage's axes and a seed, from which :meth:`run` makes the run.

    ``needs`` collects the names of the runs that it refers to, in order.
    """

    plan: Plan
    stage: Stage
    axes: dict
    seed: int | None
    index: Callable[[str], _Index]
    needs: dict[str, None] = dataclasses.field(default_factory=dict)

    def run(self, words: list[str], settings: dict, many: dict) -> Run:
        stage, script = self.stage, SCRIPTS[self.stage.script]
        words = [REFERENCE.sub(self._one_folder, word) for word in words]
        for flag, value in many.items():
            files = self._files(flag, value if isinstance(value, list) else [value])
            words += files if flag == "dirs" else [f"--{flag}", *files]
        for needed in stage.needs:
            self._needed_runs(needed)
        if self.seed is not None and script.seed_flag:
            words.append(f"--{script.seed_flag}={self.seed}")
        name = self._folder_name(settings)
        if stage.script != "report":
            words.append(f"--save_dir={self.plan.folder / name}")
        method = settings.get("unlearn", "retrain")
        result = script.result.format(unlearn=method)
        checkpoint = script.checkpoint and script.checkpoint.format(unlearn=method)
        identity = (name, stage.name, stage.script, tuple(words), settings, tuple(self.needs))
        of_stage = (self.axes, stage.keep, stage.processes)
        return Run(*identity, result, checkpoint, self.seed, *of_stage)

    def _needed_runs(self, needed: str) -> list[Run]:
        """The runs of a stage with this seed and these values of shared axes."""
        index = self.index(needed)
        runs = index.runs.get(index.key(self.axes, self.seed), [])
        if not runs:
            raise UserError(
                f"plan: [stages.{self.stage.name}]: no run of {needed} has the same seed and axes"
            )
        self.needs.update(dict.fromkeys(run.name for run in runs))
        return runs

    def _one_folder(self, match: re.Match) -> str:
        """The folder that {STAGE} in a word stands for."""
        runs = self._needed_runs(match[1])
        if len(runs) > 1:
            raise UserError(
                f"plan: [stages.{self.stage.name}]: {match[0]} is {len(runs)} runs, one is wanted;"
                f" share an axis with {match[1]}"
            )
        return str(self.plan.folder / runs[0].name)

    def _files(self, flag: str, parts: list) -> list[str]:
        """The values of a flag of many values; a part with {STAGE} stands for all of its runs."""
        files = []
        for part in map(str, parts):
            named = REFERENCE.findall(part)
            if len(named) > 1:
                raise UserError(f"plan: {part!r} names {len(named)} stages, one is wanted")
            if not named:
                files.append(part)
                continue
            for run in self._needed_runs(named[0]):
                files.append(part.replace(f"{{{named[0]}}}", str(self.plan.folder / run.name)))
        if any(file.startswith("-") for file in files):
            raise UserError(
                f"plan: [stages.{self.stage.name}]: {flag} {files[0]}: a file's name that begins"
                " with - would be read as a flag"
            )
        return files

    def _folder_name(self, settings: dict) -> str:
        """stage/method-seed-hash; the hash is over script, flags, seed, the runs it needs and the
        number of processes, where it is not one.
        """
        counted = {name: value for name, value in settings.items() if name not in MACHINE_FLAGS}
        if counted.get("precision") == "auto":
            del counted["precision"]
        if "data" in counted:
            counted["data"] = Path(counted["data"]).name
        script = self.stage.script
        groups = self.axes if SCRIPTS[script].many else {}
        content = [script, sorted(counted.items()), self.seed, groups, sorted(self.needs)]
        if self.stage.processes > 1:
            content.append(self.stage.processes)
        text = json.dumps(content, default=str)
        parts = [settings["unlearn"]] if "unlearn" in settings else []
        if self.seed is not None:
            parts.append(f"s{self.seed}")
        parts.append(hashlib.sha256(text.encode()).hexdigest()[:10])
        return f"{self.stage.name}/{'-'.join(parts)}"
