"""Runs of one method with equal settings are one row; one row of Retrain is the reference."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from evaluation.membership import rule_of
from stages.records import completed
from utils import UserError

NOT_WHOLE = {"mask", "retain_fraction"}  # settings of a Retrain that changed or saw only a part


def counted(count: int, word: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count} {word}{'s' * (count != 1)}"


def forget_sets(runs: Sequence[dict]) -> set[str]:
    """The hashes of the forget sets of these runs."""
    return {run["data"]["forget"]["sha256"] for run in runs}


def told_apart(names: Sequence[str]) -> list[str]:
    """``names`` with equal ones numbered from the second on."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name} [{seen[name]}]")
    return unique


# ------------------------------------------------------------------------------------------- groups


def named_groups(runs: Sequence[dict]) -> dict[str, list[dict]]:
    """Result records by the name of their row."""
    labels = [run["label"] for run in runs]
    settings = [{**recipe_of(run), **rule_of(run)} for run in runs]
    for label in set(labels):
        same = [i for i, other in enumerate(labels) if other == label]
        for i, whole in zip(same, completed([settings[i] for i in same]), strict=True):
            settings[i] = whole
    groups = grouped(labels, settings)
    return {name: [runs[i] for i in positions] for name, positions in groups.items()}


def recipe_of(run: dict) -> dict:
    """Hyper-parameters, recipe and mask density of a result record; nothing of raw, which has no
    use for them.
    """
    if run["method"] == "raw":
        return {}
    mask = {"mask": round(run["mask"]["density"], 6)} if run.get("mask") else {}
    return {**run["hyperparameters"], **(run.get("recipe") or {}), **mask}


def grouped(labels: Sequence[str], settings: Sequence[dict]) -> dict[str, list[int]]:
    """Positions of runs with equal label and settings, by the row's name: "label (settings)"."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, run in enumerate(zip(labels, settings, strict=True)):
        groups[json.dumps(run, sort_keys=True)].append(i)
    rows_of: dict[str, list[dict]] = defaultdict(list)
    for first, *_ in groups.values():
        rows_of[labels[first]].append(settings[first])
    varied = {label: _varied(rows) for label, rows in rows_of.items()}
    names = []
    for first, *_ in groups.values():
        apart = _differing(settings[first], varied[labels[first]])
        names.append(f"{labels[first]} ({', '.join(apart)})" if apart else labels[first])
    return dict(zip(told_apart(names), groups.values(), strict=True))


def _varied(rows: Sequence[dict]) -> dict[str, bool]:
    """The names of the settings in which some rows differ, and whether four digits tell all of
    their numbers apart.
    """
    found = {}
    for name in {name for row in rows for name in row}:
        values = [row.get(name) for row in rows]
        if any(value != values[0] for value in values):
            numbers = {value for value in values if isinstance(value, float)}
            found[name] = len({_short(number) for number in numbers}) == len(numbers)
    return found


def _short(number: float) -> float:
    return float(f"{number:.4g}")


def _differing(settings: dict, varied: dict[str, bool]) -> list[str]:
    names = [name for name in settings if name in varied]
    if "members" in names:  # implies the number of draws and their seed
        names = [name for name in names if name not in ("draws", "seeded_by")]
    short = {name: isinstance(settings[name], float) and varied[name] for name in names}
    return [f"{name} {_short(settings[name]) if short[name] else settings[name]}" for name in names]


# ---------------------------------------------------------------------------------------- reference


def is_whole(settings: Mapping[str, object]) -> bool:
    """Whether a Retrain with these settings changed all weights, on all retained images."""
    return NOT_WHOLE.isdisjoint(settings)


def is_retrain(run: dict) -> bool:
    """Whether gaps can be measured against this result."""
    return run["method"] == "retrain" and is_whole(recipe_of(run))


def reference_row(
    title: str, groups: dict[str, list[dict]], reference: str | None, members: str | None
) -> str | None:
    """The name of the Retrain row that gaps are to, None without any.

    Retrains of one recipe can differ in the rule of the membership attack. Then the row by the
    wanted ``members`` counts, else the one whose rule most other runs share, else today's rule.

    Raises:
        UserError: Retrains of several recipes and no choice, see :func:`pick_reference`.
    """
    retrains = {name: group for name, group in groups.items() if is_retrain(group[0])}
    named = {name: retrains[name] for name in _matching(retrains, reference)}
    recipes = completed([recipe_of(group[0]) for group in named.values()])
    if not named or any(recipe != recipes[0] for recipe in recipes):
        counts = {name: len(group) for name, group in retrains.items()}
        return pick_reference(title, counts, reference)
    rules = [
        rule_of(run) for group in groups.values() for run in group if run["method"] != "retrain"
    ]

    def preference(name: str) -> tuple:
        rule = rule_of(named[name][0])
        is_todays = "seeded_by" not in rule or rule["draws"] > 1
        return rule.get("members") == members, rules.count(rule), is_todays, len(named[name])

    return max(named, key=preference)


def pick_reference(where: str, kinds: Mapping[str, int], reference: str | None) -> str | None:
    """The kind of Retrain that gaps are to: the only or the named one; None without any.

    Args:
        where: the subject of the error message.
        kinds: the numbers of runs by the names of the rows.
        reference: a name, or a part of a name that no other one has.

    Raises:
        UserError: several kinds and no choice, or a choice that matches none or several.
    """
    if reference is None and len(kinds) < 2:
        return next(iter(kinds), None)
    listed = ", ".join(f"'{name}' ({counted(runs, 'run')})" for name, runs in kinds.items())
    if reference is None:
        raise UserError(
            f"{where}: {len(kinds)} kinds of Retrain, which are never pooled: {listed}; --reference"
            " NAME chooses one"
        )
    named = _matching(kinds, reference)
    if len(named) != 1:
        raise UserError(
            f"{where}: --reference '{reference}' does not name one kind of Retrain; there is"
            f" {listed or 'no Retrain'}"
        )
    return named[0]


def _matching(names: Mapping[str, object], reference: str | None) -> list[str]:
    """The name equal to ``reference``, else the names that contain it; all where it is None."""
    if reference is None:
        return list(names)
    return [reference] if reference in names else [name for name in names if reference in name]
