"""Result files -> tables: a row per method and settings, its gaps to Retrain, and which of them
Retrain's own seeds explain.
"""

import dataclasses
import fnmatch
import json
import math
import os
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation.gaps import (
    AVERAGED,
    AVERAGES,
    ENTROPY,
    FEWEST,
    AverageGap,
    average_gap,
    gap_floor,
    inside_noise,
    noise_band,
    too_few,
    trained_unlike,
    usual_runs,
    widened,
)
from evaluation.intervals import mean_interval
from evaluation.membership import draw_noise, rule_of
from evaluation.verdicts import (
    AT_CHANCE,
    DESTROYED,
    Standing,
    judge,
    mean_standing,
    once_each,
    remedies,
    verdict_of,
)
from runtime.files import load_json
from stages.records import completed, differences
from unlearn import label_today
from utils import UserError

METRICS = AVERAGED
REMEDY_OF_DRAWS = (
    "A run's own command with --resume and the --mia_members that are wanted evaluates it anew."
)
AUDIT = "audit.json"
LARGEST = 1e100  # of any number that fp32 logits can lead to; squares of larger ones are not finite
# Where evaluate.py --suite full keeps the runs on its shadow models, which are no rows of a table:
# each forgot other images.
OF_SHADOWS = re.compile(r"(^|/)shadows/shadow\d+/[^/]+-[0-9a-f]{8}/")


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What belongs together: one data set, architecture and kind of forget set.

    ``table`` comes from :func:`summarise`; ``groups`` holds each row's runs by the row's name, in
    the order of the rows; ``audits`` are those of :func:`reporting.audits.read_audits` on the same
    images, ``curves`` those of :func:`reporting.audits.with_curves`, where they were asked for.
    Without results the table has no rows.
    """

    table: dict
    groups: dict[str, list[dict]]
    audits: list[dict]
    curves: dict[str, list[list[dict]]] = dataclasses.field(default_factory=dict)


def scenarios(
    results: Sequence[dict],
    audits: Sequence[dict],
    reference: str | None = None,
    members: str | None = None,
) -> list[Scenario]:
    """Results and audits by scenario, sorted by data set, architecture and forget set.

    For ``reference`` see :func:`pick_reference`; ``members`` names the rule of the attack that gaps
    are taken by.

    Raises:
        UserError: Retrains of several kinds, and none of them is chosen.
    """
    runs, audited = by_scenario(results), by_scenario(audits)
    found = []
    for key in sorted(runs.keys() | audited.keys()):
        mine = runs.get(key, [])
        table = summarise(key, mine, reference, members)
        groups = named_groups(mine)
        groups = {row["name"]: groups[row["name"]] for row in table["rows"]}
        retrain = [run for row in table["rows"] if row["is_retrain"] for run in groups[row["name"]]]
        table["notes"] += [
            note for audit in audited.get(key, []) for note in _audit_notes(audit, retrain)
        ]
        found.append(Scenario(table, groups, audited.get(key, [])))
    return found


# ------------------------------------------------------------------------------------------ reading


def find(folders: Sequence[Path], pattern: str) -> list[Path]:
    """The files below ``folders`` that match ``pattern``, and those of ``folders`` that are such
    files; each once, sorted.

    The runs on shadow models are left out, unless one of ``folders`` is their own folder or lies
    within it.

    Raises:
        UserError: a folder does not exist.
    """
    for folder in folders:
        if not folder.exists():
            raise UserError(f"{folder}: no such folder")
    is_audit = pattern == AUDIT
    given = {file for file in folders if file.is_file() and (file.name == AUDIT) == is_audit}
    below = {
        file
        for folder in folders
        for file in _below(folder, pattern)
        if not OF_SHADOWS.search(file.relative_to(folder).as_posix())
    }
    return sorted({file.resolve() for file in given | below})


def _below(folder: Path, pattern: str) -> Iterator[Path]:
    """The files below a folder that match, through symbolic links to folders too, each folder once;
    what vanishes meanwhile is none.
    """
    seen = set()
    for where, inside, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(where)) in seen:
            inside.clear()
            continue
        seen.add(real)
        yield from (Path(where) / name for name in fnmatch.filter(files, pattern))


def collect(folders: Sequence[Path]) -> list[dict]:
    """The unlearning results below ``folders``, each file once; each also holds its path, under
    "file".

    Raises:
        UserError: a folder does not exist, or a file is damaged.
    """
    return [
        {**result, "file": file}
        for file in find(folders, "*result.json")
        if (result := unless_gone(file, _read)) is not None
    ]


def unless_gone(file: Path, read: Callable[[Path], Any]) -> Any | None:
    """What ``read`` makes of a file; None where it is gone by now, as beside runs that --overwrite
    begins anew.

    A file that cannot be read but is there is read once more: it may have been gone for a moment.
    """
    try:
        return read(file)
    except UserError:
        return read(file) if file.exists() else None


def _read(file: Path) -> dict | None:
    """One unlearning result with all that a row needs; None for the record of another step."""
    result = load_json(file, "result")
    try:
        if not set(METRICS) <= result.get("metrics", {}).keys():
            return None
        # JSON has no word for a number that is none: a test set without images has no accuracy.
        result["metrics"] = {
            name: math.nan if value is None else value for name, value in result["metrics"].items()
        }
        if any(
            abs(value) > LARGEST
            for value in (*result["metrics"].values(), result["RTE"]["total"])
            if isinstance(value, int | float)
        ):
            raise ValueError(f"a number in it is larger than {LARGEST:.0e}")
        mask, label = result.get("mask"), result["label"]
        if not isinstance(label, str):
            raise TypeError(f"label is {label!r}")
        result["label"] = label_today(
            result["method"], label, bool(mask), mask.get("score") if mask else None
        )
        json.dumps(
            result, ensure_ascii=False
        ).encode()  # half a character, which JSON can hold, could not be written anywhere
        scenario = scenario_of(result)
        hash(_pair_key(result))
        (row,) = summarise(scenario, [result])["rows"]
        row["name"] + "".join(f"{row[metric]:.2f}" for metric in (*METRICS, "RTE"))
        _check_optional(result)
    except KeyError as error:
        raise UserError(
            f"result {file} lacks {error}; run its method again with --overwrite, or move the file"
            " away"
        ) from None
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"result {file} is damaged: {error}; run its method again with --overwrite, or move the"
            " file away"
        ) from None
    return result


def _check_optional(result: dict) -> None:
    """The entries that only the page shows, where they are there: kinds that it can show."""
    origin = result["provenance"]
    if not isinstance(origin.get("command", []), list) or not isinstance(
        origin.get("unlearned_sha256", ""), str
    ):
        raise TypeError("the command is no list, or the hash of the weights no text")
    for each in filter(None, (_standing(result), _standing(result, "original_standing"))):
        if (
            not all(isinstance(value, int | float) for value in each if value is not None)
            or each.accuracy is None
        ):
            raise TypeError(f"a standing holds {tuple(each)}")
    for name, share in ((result.get("mask") or {}).get("layers") or {}).items():
        if not 0 <= share <= 1:
            raise ValueError(f"layer {name} of the mask has a density of {share}")


def by_scenario(records: Sequence[dict]) -> dict[tuple, list[dict]]:
    """Runs or audits that may stand together: same images, architecture and kind of forget set."""
    found = defaultdict(list)
    for record in records:
        found[scenario_of(record)].append(record)
    return found


def scenario_of(record: dict) -> tuple:
    """(data set, architecture, kind of forget set, its size, retained images, hash of the images).

    Raises:
        KeyError, TypeError: an entry is missing or of another kind.
    """
    data, forget = record["data"], record["data"]["forget"]
    what = f"class {forget['class']}" if forget["kind"] == "class" else forget["kind"]
    scenario = (
        data["dataset"],
        data["arch"],
        what,
        forget["count"],
        data["sizes"]["retain"],
        data["data_sha256"],
    )
    if [type(part) for part in scenario] != [str, str, str, int, int, str]:
        raise TypeError(f"data is {scenario}")
    return scenario


# --------------------------------------------------------------------------------------------- rows


def summarise(
    scenario: tuple, runs: list[dict], reference: str | None = None, members: str | None = None
) -> dict:
    """One table, rows sorted with Retrain first and then by Avg. Gap.

    ``members`` of the attack choose among Retrains that were asked by several rules; a result by
    another one is named.

    Returns:
        {"title", "rows", "notes", "floor"}. The floor, None with fewer than two Retrain runs, is
        {"runs": k, metric: points, "avg_gap": points, "avg_gap_entropy": points or None}: the
        absolute gaps to expect of k other Retrain runs, as many as most rows average over.

    Raises:
        UserError: see :func:`_reference`; a ``reference`` that names no Retrain of a table with one
            kind is passed over.
    """
    dataset, arch, what, count, retained, images = scenario
    share = 100 * count / (count + retained)
    title = (
        f"{dataset} ({images[:8]}), {arch}: forget {count} training images ({share:.0f} %, {what})"
    )
    groups = named_groups(runs)
    kinds = [name for name, group in groups.items() if _is_retrain(group[0])]
    chosen = _reference(title, groups, reference if len(kinds) > 1 else None, members)
    retrain = groups[chosen] if chosen is not None else []
    rows = [_row(name, group, retrain) for name, group in groups.items()]
    rows.sort(
        key=lambda row: (
            not row["is_retrain"],
            row["avg_gap"] if row["avg_gap"] is not None else 0,
            row["name"],
        )
    )
    _mark_best(rows, {name: group[0]["method"] for name, group in groups.items()})
    notes = [f"The gaps are to {chosen}; other kinds of Retrain are rows like any other."] * (
        len(kinds) > 1
    )
    notes += [*_notes(groups, retrain), *_other_draws(groups, chosen, members)] if runs else []
    return {"title": title, "rows": rows, "notes": notes, "floor": _floor(retrain, rows)}


def _reference(
    title: str, groups: dict[str, list[dict]], reference: str | None, members: str | None
) -> str | None:
    """The row that gaps are to. Retrains of several recipes ask for a choice, whatever rule of the
    attack's draw they were asked by.

    Of one recipe under several rules, the one of the members asked for, else of most other runs,
    else today's.

    Raises:
        UserError: see :func:`pick_reference`.
    """
    retrains = {name: group for name, group in groups.items() if _is_retrain(group[0])}
    named = {
        name: group for name, group in retrains.items() if reference is None or reference in name
    }
    named = {name: group for name, group in named.items() if name == reference} or named
    recipes = completed([_recipe(group[0]) for group in named.values()])
    if not named or any(recipe != recipes[0] for recipe in recipes):
        return pick_reference(
            title, {name: len(group) for name, group in retrains.items()}, reference
        )
    methods = [
        rule_of(run) for group in groups.values() for run in group if run["method"] != "retrain"
    ]

    def preferred(name: str) -> tuple:
        rule = rule_of(named[name][0])
        return (
            rule.get("members") == members,
            methods.count(rule),
            "seeded_by" not in rule or rule["draws"] > 1,
            len(named[name]),
        )

    return max(named, key=preferred)


def pick_reference(where: str, kinds: Mapping[str, int], reference: str | None) -> str | None:
    """The kind of Retrain that gaps are to: the only one, or the one that ``reference`` names; None
    without any.

    Args:
        where: what a refusal is about.
        kinds: the numbers of runs by the names of the rows.
        reference: a name, or a part of a name that no other one has.

    Raises:
        UserError: several kinds and no choice, or a choice that is none or several of them.
    """
    if reference is None and len(kinds) < 2:
        return next(iter(kinds), None)
    named = [name for name in kinds if name == reference] or [
        name for name in kinds if reference is not None and reference in name
    ]
    if len(named) == 1:
        return named[0]
    listed = (
        ", ".join(f"'{name}' ({runs} run{'s' * (runs > 1)})" for name, runs in kinds.items())
        or "no Retrain"
    )
    if reference is None:
        raise UserError(
            f"{where}: {len(kinds)} kinds of Retrain, which are never pooled: {listed}; --reference"
            " NAME chooses one"
        )
    raise UserError(
        f"{where}: --reference '{reference}' does not name one kind of Retrain; there is {listed}"
    )


def _is_retrain(run: dict) -> bool:
    """What gaps are measured against: all weights, trained on all that is retained."""
    return run["method"] == "retrain" and is_whole(_recipe(run))


def is_whole(settings: Mapping[str, object]) -> bool:
    """Whether a Retrain with these settings changed all weights, on all that is retained."""
    return not {"mask", "retain_fraction"} & settings.keys()


def named_groups(runs: Sequence[dict]) -> dict[str, list[dict]]:
    """Runs with the same method and settings, by the name of their row."""
    settings, labels = [_settings(run) for run in runs], [run["label"] for run in runs]
    for label in set(labels):
        same = [i for i, other in enumerate(labels) if other == label]
        for i, whole in zip(same, completed([settings[i] for i in same]), strict=True):
            settings[i] = whole
    groups = grouped(labels, settings)
    return {name: [runs[i] for i in positions] for name, positions in groups.items()}


def grouped(labels: Sequence[str], settings: Sequence[dict]) -> dict[str, list[int]]:
    """Positions of the runs with equal label and settings, by a name: the label, with what sets it
    apart where it has several rows.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for i, run in enumerate(zip(labels, settings, strict=True)):
        groups[json.dumps(run, sort_keys=True)].append(i)
    firsts = [positions[0] for positions in groups.values()]
    names = _row_names([labels[i] for i in firsts], [settings[i] for i in firsts])
    return dict(zip(names, groups.values(), strict=True))


def _settings(run: dict) -> dict:
    """What sets a row apart from others of its label."""
    return {**_recipe(run), **rule_of(run)}


def _recipe(run: dict) -> dict:
    """What a run did, its density included, but not how it was asked."""
    mask = {"mask": round(run["mask"]["density"], 6)} if run.get("mask") else {}
    return {**run["hyperparameters"], **(run.get("recipe") or {}), **mask}


def _row_names(labels: Sequence[str], settings: Sequence[dict]) -> list[str]:
    """The labels, with the settings that differ where one label has several rows."""
    names = []
    for label, mine in zip(labels, settings, strict=True):
        others = [other for name, other in zip(labels, settings, strict=True) if name == label]
        differing = [key for key in mine if any(other.get(key) != mine[key] for other in others)]
        if "members" in differing:  # which say more than how often they were drawn
            differing = [key for key in differing if key not in ("draws", "seeded_by")]
        names.append(
            label
            + (
                " (" + ", ".join(f"{key} {mine[key]}" for key in differing) + ")"
                if differing
                else ""
            )
        )
    return told_apart(names)


def told_apart(names: list[str]) -> list[str]:
    """``names`` with equal ones numbered from the second on: rows can differ in what no name
    shows.
    """
    return [
        name if names.index(name) == i else f"{name} [{names[: i + 1].count(name)}]"
        for i, name in enumerate(names)
    ]


def _row(name: str, group: list[dict], retrain: list[dict]) -> dict:
    """Every number of one row, in percentage points and seconds; None where it is not known."""
    row = {"name": name, "runs": len(group), "is_retrain": bool(retrain) and group is retrain}
    for metric in (*METRICS, ENTROPY, "RTE"):
        row |= _spread(metric, _values(group, metric))
    noise = _draw_noise(group, retrain)
    for metric in (*METRICS, ENTROPY):
        row |= _gap(
            _values(group, metric),
            _values(retrain, metric),
            row["is_retrain"],
            noise.get(metric, (0.0, 1)),
            metric,
        )
    for end, metrics in AVERAGES.items():
        row |= _average(end, metrics, group, retrain, row["is_retrain"], noise)
    row |= _other_draw(row, group, retrain, noise)
    warnings = [_warnings(run, retrain) for run in group]
    row["warnings"] = sum(map(bool, warnings))
    if any(verdict_of(message) == DESTROYED for messages in warnings for message in messages):
        # One metric in which Retrains differ widely would put the mean band around anything.
        row |= {name: False for name in ("inside_noise", "inside_noise_entropy") if row[name]}
    return row


def _draw_noise(group: list[dict], retrain: list[dict]) -> dict[str, tuple[float, int]]:
    """MIA's noise from the attack's draws and their number; {} where not all runs were asked by the
    same two draws or more.
    """
    values = [[(run.get("attack") or {}).get("MIA") for run in side] for side in (group, retrain)]
    same = {
        (run["data"]["forget"]["sha256"], json.dumps(rule_of(run))) for run in (*group, *retrain)
    }
    draws = min(
        (len(each) if isinstance(each, list) else 0 for side in values for each in side), default=0
    )
    if (
        not retrain
        or len(same) > 1
        or draws < 2
        or any(value is None for side in values for each in side for value in each)
    ):
        return {}
    return {"MIA": (draw_noise(*values), draws)}


def _other_draw(
    row: dict, group: list[dict], retrain: list[dict], noise: dict[str, tuple[float, int]]
) -> dict:
    """Whether a row's MIA was made by another rule than Retrain's; it then gets no mark."""
    if retrain and rule_of(group[0]) != rule_of(retrain[0]):
        return dict.fromkeys(
            ("MIA_band", "MIA_inside_noise", "MIA_draw_noise", "avg_gap_band", "inside_noise")
        ) | {"other_draw": True}
    return {"other_draw": False, "MIA_draw_noise": noise["MIA"][0] if noise else None}


def _values(group: list[dict], metric: str) -> list[float]:
    """A number for each run; none at all where a run is older than the metric."""
    values = [
        run["RTE"]["total"] if metric == "RTE" else run["metrics"].get(metric) for run in group
    ]
    return [] if None in values else values


def _finite_columns(group: list[dict], metrics: Sequence[str]) -> dict[str, list[float]] | None:
    """The runs' values of each metric; None where one is missing or no number."""
    columns = {metric: _values(group, metric) for metric in metrics}
    return (
        columns
        if all(column and all(map(math.isfinite, column)) for column in columns.values())
        else None
    )


def _spread(metric: str, values: list[float]) -> dict:
    """Mean, sample standard deviation and interval of the mean; the last two for several finite
    runs only.
    """
    several = len(values) > 1 and all(map(math.isfinite, values))
    within = (0.0, math.inf if metric == "RTE" else 100.0)
    low, high = mean_interval(values, within=within) if several else (None, None)
    return {
        metric: statistics.fmean(values) if values else None,
        f"{metric}_std": statistics.stdev(values) if several else None,
        f"{metric}_low": low,
        f"{metric}_high": high,
    }


def _gap(
    values: list[float],
    retrain: list[float],
    is_retrain: bool,
    noise: tuple[float, int],
    metric: str,
) -> dict:
    """The signed gap, the half-width of the band in which Retrain's own would fall, and whether it
    does.
    """
    gap = statistics.fmean(values) - statistics.fmean(retrain) if values and retrain else None
    known = (
        gap is not None
        and len(retrain) >= FEWEST
        and not is_retrain
        and all(map(math.isfinite, [*values, *retrain]))
    )
    return {
        f"{metric}_gap": gap,
        f"{metric}_band": widened(noise_band(retrain, len(values)), *noise) if known else None,
        f"{metric}_inside_noise": inside_noise(values, retrain, *noise) if known else None,
    }


def _average(
    end: str,
    metrics: Sequence[str],
    group: list[dict],
    retrain: list[dict],
    is_retrain: bool,
    noise: dict[str, tuple[float, int]],
) -> dict:
    """One average gap, that of paired runs, what Retrain's own would be, what it would stay below,
    and whether this one does.
    """
    ours, theirs = _finite_columns(group, metrics), _finite_columns(retrain, metrics)
    found = AverageGap()
    if ours and theirs:
        keys = [_pair_key(run) for run in group], [_pair_key(run) for run in retrain]
        found = average_gap(ours, theirs, keys, noise, is_retrain=is_retrain)
    return {
        f"avg_gap{end}": found.of_means,
        f"mean_paired_gap{end}": found.paired,
        f"avg_gap{end}_floor": _floor_of(retrain, metrics, len(group)),
        f"avg_gap{end}_band": found.band,
        f"inside_noise{end}": found.inside,
    }


def _pair_key(run: dict) -> tuple:
    return run["data"]["forget"]["sha256"], run["provenance"]["seed"]


def _floor(retrain: list[dict], rows: list[dict]) -> dict | None:
    runs = usual_runs([row["runs"] for row in rows if not row["is_retrain"]])
    if _floor_of(retrain, METRICS, runs) is None:
        return None
    return {
        "runs": runs,
        **{metric: _floor_of(retrain, [metric], runs) for metric in METRICS},
        **{f"avg_gap{end}": _floor_of(retrain, metrics, runs) for end, metrics in AVERAGES.items()},
    }


def _floor_of(retrain: list[dict], metrics: Sequence[str], method_runs: int) -> float | None:
    """The mean over ``metrics`` of the absolute gap to expect of ``method_runs`` Retrain runs
    against ``retrain``.
    """
    values = _finite_columns(retrain, metrics)
    return gap_floor(values, method_runs, len(retrain)) if values and len(retrain) > 1 else None


def _mark_best(rows: list[dict], methods: dict[str, str]) -> None:
    """Set ``is_best`` where Avg. Gap is lowest among methods without a warning; doing nothing and
    Retrain are no candidates.
    """
    candidates = {
        row["name"]: row["avg_gap"]
        for row in rows
        if row["avg_gap"] is not None and math.isfinite(row["avg_gap"])
        if not row["warnings"]
        and not row["other_draw"]
        and methods[row["name"]] not in ("raw", "retrain")
    }
    lowest = min(candidates.values(), default=None)
    for row in rows:
        row["is_best"] = row["name"] in candidates and row["avg_gap"] == lowest


def _other_recipes(groups: dict[str, list[dict]]) -> set[str]:
    """Retrains whose recipe is another than the one of an original that a run of this table started
    from.
    """
    originals = [
        run["original_recipe"]
        for runs in groups.values()
        for run in runs
        if isinstance(run.get("original_recipe"), dict)
    ]
    return {
        f"{name}: trained unlike the original: {apart}"
        for name, runs in groups.items()
        for run in runs
        if run["method"] == "retrain"
        for original in originals
        if (apart := differences({**run["hyperparameters"], **(run.get("recipe") or {})}, original))
    }


def _warnings(run: dict, retrain: list[dict]) -> list[str]:
    """A run's warnings; beside Retrain its verdict is taken anew, in the place of its own, which
    had but the original to compare with.

    Of older results, which record no chance, their own stays.
    """
    stored, standings = run.get("warnings", []), [_standing(other) for other in (run, *retrain)]
    if (
        not retrain
        or _is_retrain(run)
        or run["method"] == "raw"
        or all(each.chance is None for each in standings)
    ):
        return stored
    advice, _ = remedies(run["hyperparameters"])
    anew = judge(
        standings[0],
        _standing(run, "original_standing"),
        mean_standing(standings[1:]),
        advice=advice,
    )
    return anew + [message for message in stored if verdict_of(message) != DESTROYED]


def _standing(run: dict, name: str = "standing") -> Standing | None:
    """What the result says of its model, or of the original that it began with; of an older result
    the accuracy alone.
    """
    older = Standing(run["metrics"]["RA"]) if name == "standing" else None
    return older if run.get(name) is None else Standing(**run[name])


def _row_notes(name: str, group: list[dict], retrain: list[dict]) -> list[str]:
    """A row's warnings under its name; that the original is at chance is about no row."""
    found = [_warnings(run, retrain) for run in group]
    of_all = {
        line for lines in found for line in lines if line.startswith(f"{AT_CHANCE}: the original")
    }
    return [
        *of_all,
        *(
            f"{name}: {line}"
            for line in once_each(
                [[line for line in lines if line not in of_all] for lines in found]
            )
        ),
    ]


def _other_draws(
    groups: dict[str, list[dict]], chosen: str | None, members: str | None
) -> list[str]:
    """What names the rows whose MIA was made by another rule than the one that gaps are taken by,
    which is Retrain's.
    """
    rules = {name: rule_of(runs[0]) for name, runs in groups.items()}
    usual = rules[chosen] if chosen is not None else next(iter(rules.values()))
    notes = []
    if members is not None and usual.get("members") != members:
        notes.append(
            f"No Retrain's MIA is by members {members}: gaps are by {_in_words(usual)}."
            f" {REMEDY_OF_DRAWS}"
        )
    others = [
        f"{name} ({len(groups[name])} run{'s' * (len(groups[name]) > 1)}) by {_in_words(rule)}"
        for name, rule in rules.items()
        if rule != usual
    ]
    if others:
        notes.append(
            f"The attack's rule here is {_in_words(usual)}; another rule made the MIA of"
            f" {'; '.join(others)}. {REMEDY_OF_DRAWS}"
        )
    return notes


def _audit_notes(audit: dict, retrain: list[dict]) -> list[str]:
    """What names an audit beside a table whose gaps are to other Retrain models, or under another
    rule of the attack.
    """
    if not retrain:
        return []
    which, usual, rule = (
        f"The audit of {audit['provenance'].get('time', 'an unknown time')}",
        rule_of(retrain[0]),
        rule_of(audit),
    )
    notes = (
        [f"{which} attacks by {_in_words(rule)}; the table by {_in_words(usual)}."]
        if rule != usual
        else []
    )
    here = {run["provenance"].get("unlearned_sha256") for run in retrain}
    there = {
        model["weights_sha256"]
        for row in audit["rows"]
        if row["role"] == "retrain"
        for model in row["models"]
    }
    if there != here and None not in here:
        shared = f"{len(here & there)} of the table's {len(here)}"
        notes.append(
            f"{which} has gaps to {len(there)} Retrain model{'s' * (len(there) != 1)}, {shared}"
            " among them."
        )
    return notes


def _in_words(rule: dict) -> str:
    if not rule:
        return "a rule that it does not say"
    seeded = f", seeded by {rule['seeded_by']}" if "seeded_by" in rule else ""
    return (
        f"members {rule['members']}, {rule['draws']}"
        f" {'draw' if rule['draws'] == 1 else 'draws'}{seeded}"
    )


def _notes(groups: dict[str, list[dict]], retrain: list[dict]) -> list[str]:
    runs, notes = [run for group in groups.values() for run in group], []
    if not retrain:
        notes.append(
            "No Retrain result: how close a method came is not known. Run main_forget.py --unlearn"
            " retrain on the same forget set."
        )
    if (message := too_few(len(retrain))) and len(runs) > len(retrain):
        notes.append(f"~: {message}.")
    sets = {run["data"]["forget"]["sha256"] for run in runs}
    if len(sets) > 1:
        notes.append(f"The runs cover {len(sets)} forget sets.")
    if len(tests := {run["data"].get("test_sha256") for run in runs} - {None}) > 1:
        notes.append(
            f"The runs saw {len(tests)} sets of test images: their TA and MIA are not of the same."
        )
    notes += sorted(
        {line for name, group in groups.items() for line in _row_notes(name, group, retrain)}
        | _other_recipes(groups)
    )
    originals = [run["metrics"]["RA"] for run in runs if run["method"] == "raw"]
    theirs = [run["metrics"]["RA"] for run in retrain]
    notes += filter(None, (trained_unlike(original, theirs) for original in set(originals)))
    return notes
