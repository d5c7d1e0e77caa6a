"""Result files -> tables: a row per method and settings, its gaps to Retrain, and which of them Retrain's own seeds explain."""

import dataclasses
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from evaluation.gaps import gap_floor, inside_noise, noise_band, trained_unlike
from evaluation.intervals import bootstrap_mean
from evaluation.membership import draw_noise, rule_of, widened
from evaluation.rows import unlike_retrain
from settings import differences
from utils import UserError, load_json

METRICS = ("UA", "RA", "TA", "MIA")
AUDIT = "audit.json"


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What belongs together: one data set, architecture and kind of forget set.

    ``table`` comes from :func:`summarise`; ``groups`` holds each row's runs by the row's name, in the order of the rows;
    ``audits`` are those of :func:`reporting.audits.read_audits` on the same images, ``curves`` those of
    :func:`reporting.audits.with_curves`, where they were asked for. Without results the table has no rows.
    """

    table: dict
    groups: dict[str, list[dict]]
    audits: list[dict]
    curves: dict[str, list[list[dict]]] = dataclasses.field(default_factory=dict)


def scenarios(results: Sequence[dict], audits: Sequence[dict], members: str | None = None) -> list[Scenario]:
    """Results and audits by scenario, sorted by data set, architecture and forget set; ``members`` as in :func:`summarise`."""
    runs, audited = by_scenario(results), by_scenario(audits)
    found = []
    for key in sorted(runs.keys() | audited.keys()):
        mine = runs.get(key, [])
        table = summarise(key, mine, members)
        groups = named_groups(mine)
        found.append(Scenario(table, {row["name"]: groups[row["name"]] for row in table["rows"]}, audited.get(key, [])))
    return found


# -------------------------------------------------------------------------------------------------------- reading


def find(folders: Sequence[Path], pattern: str) -> list[Path]:
    """The files below ``folders`` that match ``pattern``, and those of ``folders`` that are such files; each once, sorted.

    Raises:
        UserError: a folder does not exist.
    """
    for folder in folders:
        if not folder.exists():
            raise UserError(f"{folder}: no such folder")
    is_audit = pattern == AUDIT
    given = {file for file in folders if file.is_file() and (file.name == AUDIT) == is_audit}
    below = {file for folder in folders if folder.is_dir() for file in folder.rglob(pattern)}
    return sorted({file.resolve() for file in given | below})


def collect(folders: Sequence[Path]) -> list[dict]:
    """The unlearning results below ``folders``, each file once; each also holds its path, under "file".

    Raises:
        UserError: a folder does not exist, a file is damaged, or there is no result at all.
    """
    results = [{**result, "file": file} for file in find(folders, "*result.json") if (result := _read(file)) is not None]
    if not results:
        raise UserError(f"no unlearning result in {', '.join(map(str, folders))}; main_forget.py and main_random.py write them")
    return results


def _read(file: Path) -> dict | None:
    """One unlearning result with all that a row needs; None for the record of another step."""
    result = load_json(file, "result")
    try:
        if not set(METRICS) <= result.get("metrics", {}).keys():
            return None
        # JSON has no word for a number that is none: a test set without images has no accuracy.
        result["metrics"] = {name: math.nan if value is None else value for name, value in result["metrics"].items()}
        json.dumps(result, ensure_ascii=False).encode()  # half a character, which JSON can hold, could not be written anywhere
        scenario = scenario_of(result)
        hash(_pair_key(result))
        (row,) = summarise(scenario, [result])["rows"]
        row["name"] + "".join(f"{row[metric]:.2f}" for metric in (*METRICS, "RTE"))
        _check_optional(result)
    except KeyError as error:
        raise UserError(f"result {file} lacks {error}; run its method again with --overwrite, or move the file away") from None
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"result {file} is damaged: {error}; run its method again with --overwrite, or move the file away") from None
    return result


def _check_optional(result: dict) -> None:
    """The entries that only the page shows, where they are there: kinds that it can show."""
    origin = result["provenance"]
    if not isinstance(origin.get("command", []), list) or not isinstance(origin.get("unlearned_sha256", ""), str):
        raise TypeError("the command is no list, or the hash of the weights no text")
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
    scenario = data["dataset"], data["arch"], what, forget["count"], data["sizes"]["retain"], data["data_sha256"]
    if [type(part) for part in scenario] != [str, str, str, int, int, str]:
        raise TypeError(f"data is {scenario}")
    return scenario


# ----------------------------------------------------------------------------------------------------------- rows


def summarise(scenario: tuple, runs: list[dict], members: str | None = None) -> dict:
    """One table, rows sorted with Retrain first and then by Avg. Gap.

    ``members`` of the attack choose among Retrains that were asked by several rules; a result by another one is named.

    Returns:
        {"title", "rows", "notes", "floor"}. The floor, None with fewer than two Retrain runs, is {"runs": m, metric: points,
        "avg_gap": points}: the absolute gaps to expect of m other Retrain runs against these m.
    """
    groups = named_groups(runs)
    retrains = [group for group in groups.values() if _is_retrain(group[0])]
    retrains = [group for group in retrains if members and rule_of(group[0]).get("members") == members] or retrains
    retrain = max(retrains, key=len, default=[])
    rows = [_row(name, group, retrain) for name, group in groups.items()]
    rows.sort(key=lambda row: (not row["is_retrain"], row["avg_gap"] if row["avg_gap"] is not None else 0, row["name"]))
    _mark_best(rows, {name: group[0]["method"] for name, group in groups.items()})
    dataset, arch, what, count, retained, images = scenario
    share = 100 * count / (count + retained)
    title = f"{dataset} ({images[:8]}), {arch}: forget {count} training images ({share:.0f} %, {what})"
    notes = [*_notes(runs, retrain, len(retrains)), *_other_draws(runs, retrain, members)] if runs else []
    return {"title": title, "rows": rows, "notes": notes, "floor": _floor(retrain)}


def _is_retrain(run: dict) -> bool:
    """What gaps are measured against: all weights, trained on all that is retained."""
    return run["method"] == "retrain" and not run.get("mask") and "retain_fraction" not in (run.get("recipe") or {})


def named_groups(runs: Sequence[dict]) -> dict[str, list[dict]]:
    """Runs with the same method and settings, by the name of their row."""
    groups = defaultdict(list)
    for run in runs:
        groups[_row_key(run)].append(run)
    return dict(zip(_row_names(list(groups.values())), groups.values(), strict=True))


def _row_key(run: dict) -> str:
    density = round(run["mask"]["density"], 6) if run.get("mask") else None
    return json.dumps([run["label"], run["hyperparameters"], run.get("recipe"), density, rule_of(run)], sort_keys=True)


def _row_names(groups: list[list[dict]]) -> list[str]:
    """The labels, with what sets them apart where one label has several rows."""
    settings = []
    for group in groups:
        run = group[0]
        mask = {"mask": round(run["mask"]["density"], 6)} if run.get("mask") else {}
        settings.append({**run["hyperparameters"], **(run.get("recipe") or {}), **mask, **rule_of(run)})
    labels = [group[0]["label"] for group in groups]
    names = []
    for label, mine in zip(labels, settings, strict=True):
        others = [other for name, other in zip(labels, settings, strict=True) if name == label]
        differing = [key for key in mine if any(other.get(key) != mine[key] for other in others)]
        if "members" in differing:  # which say more than how often they were drawn
            differing = [key for key in differing if key not in ("draws", "seeded_by")]
        names.append(label + (" (" + ", ".join(f"{key} {mine[key]}" for key in differing) + ")" if differing else ""))
    return told_apart(names)


def told_apart(names: list[str]) -> list[str]:
    """``names`` with equal ones numbered from the second on: rows can differ in what no name shows."""
    return [name if names.index(name) == i else f"{name} [{names[: i + 1].count(name)}]" for i, name in enumerate(names)]


def _row(name: str, group: list[dict], retrain: list[dict]) -> dict:
    """Every number of one row, in percentage points and seconds; None where it is not known."""
    row = {"name": name, "runs": len(group), "is_retrain": bool(retrain) and group is retrain}
    for metric in (*METRICS, "RTE"):
        row |= _spread(metric, _values(group, metric))
    for metric in METRICS:
        row |= _gap(metric, _values(group, metric), _values(retrain, metric), row["is_retrain"])
    row["avg_gap"] = statistics.fmean(abs(row[f"{metric}_gap"]) for metric in METRICS) if retrain else None
    row["mean_paired_gap"] = _paired_gap(group, retrain)
    row["avg_gap_floor"] = _floor_of(retrain, METRICS, len(group))
    inside = [row[f"{metric}_inside_noise"] for metric in METRICS]
    row["inside_noise"] = None if None in inside else all(inside)
    row["warnings"] = sum(bool(run.get("warnings")) for run in group)
    return _with_draw_noise(row, group, retrain)


def _with_draw_noise(row: dict, group: list[dict], retrain: list[dict]) -> dict:
    """The row with the noise of the attack's draws in the band of MIA, and a quarter of what that adds in the one of Avg. Gap.

    Known where all runs were asked by the same draws, two or more.
    """
    values = [[(run.get("attack") or {}).get("MIA") for run in side] for side in (group, retrain)]
    same = {(run["data"]["forget"]["sha256"], json.dumps(rule_of(run))) for run in (*group, *retrain)}
    draws = min((len(each) if isinstance(each, list) else 0 for side in values for each in side), default=0)
    known = bool(retrain) and len(same) == 1 and draws > 1 and not any(value is None for side in values for each in side for value in each)
    noise = row["MIA_draw_noise"] = draw_noise(*values) if known else None
    if noise is None or row["MIA_band"] is None:
        return row
    band = widened(row["MIA_band"], noise, draws)
    added = (band - row["MIA_band"]) / len(METRICS)
    row |= {"MIA_band": band, "MIA_inside_noise": abs(row["MIA_gap"]) <= band}
    if row.get("avg_gap_band") is None:
        row["inside_noise"] = all(row[f"{metric}_inside_noise"] for metric in METRICS)
    else:
        row["avg_gap_band"] += added
        row["inside_noise"] |= row["avg_gap"] <= row["avg_gap_band"]
    return row


def _values(group: list[dict], metric: str) -> list[float]:
    return [run["RTE"]["total"] if metric == "RTE" else run["metrics"][metric] for run in group]


def _spread(metric: str, values: list[float]) -> dict:
    """Mean, sample standard deviation and bootstrap interval of the mean; the last two for several finite runs only."""
    several = len(values) > 1 and all(map(math.isfinite, values))
    low, high = bootstrap_mean(values) if several else (None, None)
    return {
        metric: statistics.fmean(values), f"{metric}_std": statistics.stdev(values) if several else None,
        f"{metric}_low": low, f"{metric}_high": high,
    }  # fmt: skip


def _gap(metric: str, values: list[float], retrain: list[float], is_retrain: bool) -> dict:
    """The signed gap, the half-width of the band in which Retrain's own would fall, and whether it does."""
    gap = statistics.fmean(values) - statistics.fmean(retrain) if retrain else None
    known = len(retrain) > 1 and not is_retrain and all(map(math.isfinite, [*values, *retrain]))
    return {
        f"{metric}_gap": gap,
        f"{metric}_band": noise_band(retrain, len(values)) if known else None,
        f"{metric}_inside_noise": inside_noise(values, retrain) if known else None,
    }


def _paired_gap(group: list[dict], retrain: list[dict]) -> float | None:
    """The mean over runs of the mean absolute difference to the Retrain of the same forget set and seed."""
    partners = {_pair_key(run): run for run in retrain}
    gaps = [
        statistics.fmean(abs(run["metrics"][metric] - partners[_pair_key(run)]["metrics"][metric]) for metric in METRICS)
        for run in group
        if _pair_key(run) in partners
    ]
    return statistics.fmean(gaps) if gaps else None


def _pair_key(run: dict) -> tuple:
    return run["data"]["forget"]["sha256"], run["provenance"]["seed"]


def _floor(retrain: list[dict]) -> dict | None:
    if _floor_of(retrain, METRICS, 1) is None:
        return None
    return {
        "runs": len(retrain),
        **{metric: _floor_of(retrain, [metric], len(retrain)) for metric in METRICS},
        "avg_gap": _floor_of(retrain, METRICS, len(retrain)),
    }


def _floor_of(retrain: list[dict], metrics: Sequence[str], method_runs: int) -> float | None:
    """The mean over ``metrics`` of the absolute gap to expect of ``method_runs`` Retrain runs against ``retrain``."""
    values = {metric: _values(retrain, metric) for metric in metrics}
    if len(retrain) < 2 or not all(math.isfinite(value) for column in values.values() for value in column):
        return None
    return gap_floor(values, method_runs, len(retrain))


def _mark_best(rows: list[dict], methods: dict[str, str]) -> None:
    """Set ``is_best`` where Avg. Gap is lowest among methods without a warning; doing nothing and Retrain are no candidates."""
    candidates = {
        row["name"]: row["avg_gap"]
        for row in rows
        if row["avg_gap"] is not None and math.isfinite(row["avg_gap"])
        if not row["warnings"] and methods[row["name"]] not in ("raw", "retrain")
    }
    lowest = min(candidates.values(), default=None)
    for row in rows:
        row["is_best"] = row["name"] in candidates and row["avg_gap"] == lowest


def _other_recipes(runs: list[dict]) -> set[str]:
    """Retrains whose recipe is another than the one of an original that a run of this table started from."""
    originals = [run["original_recipe"] for run in runs if isinstance(run.get("original_recipe"), dict)]
    return {
        f"{run['label']}: trained unlike the original: {apart}"
        for run in runs if run["method"] == "retrain"
        for original in originals if (apart := differences({**run["hyperparameters"], **(run.get("recipe") or {})}, original))
    }  # fmt: skip


def _other_draws(runs: list[dict], retrain: list[dict], members: str | None) -> list[str]:
    """What names the results whose MIA was made by another rule than Retrain's, or than the ``members`` that were asked for."""
    usual = rule_of((retrain or runs)[0])
    wanted = members or usual.get("members")
    others = [run for run in runs if rule_of(run) != usual or rule_of(run).get("members") != wanted]
    found = {f"{run['label']} (seed {run['provenance']['seed']}) by {_in_words(rule_of(run))}" for run in others}
    if not found:
        return []
    here = _in_words(usual) if usual.get("members") == wanted else f"members {wanted}"
    return [
        f"The attack's rule here is {here}; another rule made the MIA of {'; '.join(sorted(found))}. "
        "Evaluate such a run anew by --resume, with the --mia_members that are wanted."
    ]


def _in_words(rule: dict) -> str:
    if not rule:
        return "a rule that it does not say"
    seeded = f", seeded by {rule['seeded_by']}" if "seeded_by" in rule else ""
    return f"members {rule['members']}, {rule['draws']} {'draw' if rule['draws'] == 1 else 'draws'}{seeded}"


def _notes(runs: list[dict], retrain: list[dict], kinds: int) -> list[str]:
    notes = []
    if not retrain:
        notes.append(
            "No Retrain result: how close a method came is not known. Run main_forget.py --unlearn retrain on the same forget set."
        )
    if kinds > 1:
        notes.append(f"{kinds} kinds of Retrain; the gaps are to the one with most runs.")
    sets = {run["data"]["forget"]["sha256"] for run in runs}
    if len(sets) > 1:
        notes.append(f"The runs cover {len(sets)} forget sets.")
    notes += sorted({f"{run['label']}: {message}" for run in runs for message in run.get("warnings", [])} | _other_recipes(runs))
    originals = [run["metrics"]["RA"] for run in runs if run["method"] == "raw"]
    theirs = [run["metrics"]["RA"] for run in retrain]
    notes += [unlike_retrain(original, theirs) for original in set(originals) if trained_unlike(original, theirs)]
    return notes
