"""Result records -> tables: a row per method and settings, sorted by its gap to Retrain."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence

from evaluation.gaps import usual_runs
from reporting.attacks import partly_audited
from reporting.groups import is_retrain, named_groups, reference_row
from reporting.notes import audit_notes, rule_notes, table_notes
from reporting.rows import AVERAGES, METRICS, floor_of, row_of


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What belongs together: one data set, architecture and kind of forget set.

    ``table`` comes from :func:`summarise` and has no rows without results; ``groups`` holds each
    row's result records by the row's name, in the order of the rows; ``audits`` are those of
    :func:`reporting.audits.read_audits` on the same images, ``curves`` those of
    :func:`reporting.curves.with_curves`.
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

    Args:
        reference: see :func:`reporting.groups.pick_reference`.
        members: the rule of the membership attack that gaps are taken by.

    Raises:
        UserError: Retrains of several kinds, and none of them is chosen.
    """
    runs_of, audits_of = by_scenario(results), by_scenario(audits)
    found = []
    for key in sorted(runs_of.keys() | audits_of.keys()):
        table = summarise(key, runs_of[key], reference, members)
        unsorted = named_groups(runs_of[key])
        groups = {row["name"]: unsorted[row["name"]] for row in table["rows"]}
        retrain = [run for row in table["rows"] if row["is_retrain"] for run in groups[row["name"]]]
        for audit in audits_of[key]:
            table["notes"] += audit_notes(audit, retrain) + partly_audited(audit, groups)
        found.append(Scenario(table, groups, audits_of[key]))
    return found


def chosen_rows(scenario: Scenario, text: str | None, top: int | None) -> Scenario:
    """The rows whose name holds ``text``, in any case, and of these the ``top`` of least Avg. Gap;
    Retrain and the original stay. A note says how many are left out.
    """
    rows = scenario.table["rows"]
    own = [row for row in rows if not _is_reference(row, scenario)]
    kept = [row for row in own if text is None or text.lower() in row["name"].lower()]
    if top is not None:
        known = [row for row in kept if row["avg_gap"] is not None]
        kept = sorted(known, key=lambda row: row["avg_gap"])[:top]
    left_out = len(own) - len(kept)
    if not left_out:
        return scenario
    names = {row["name"] for row in kept}
    shown = [row for row in rows if row["name"] in names or _is_reference(row, scenario)]
    note = f"{left_out} of {len(own)} rows are left out by --filter or --top"
    table = scenario.table | {"rows": shown, "notes": [*scenario.table["notes"], note]}
    groups = {row["name"]: scenario.groups[row["name"]] for row in shown}
    return dataclasses.replace(scenario, table=table, groups=groups)


def _is_reference(row: dict, scenario: Scenario) -> bool:
    return row["is_retrain"] or scenario.groups[row["name"]][0]["method"] == "raw"


def by_scenario(records: Sequence[dict]) -> dict[tuple, list[dict]]:
    """Results or audits on the same images, architecture and kind of forget set."""
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
    scenario = (
        data["dataset"],
        data["arch"],
        _asked(forget),
        forget["count"],
        data["sizes"]["retain"],
        data["data_sha256"],
    )
    if [type(part) for part in scenario] != [str, str, str, int, int, str]:
        raise TypeError(f"data is {scenario}")
    return scenario


def _asked(forget: dict) -> str:
    """What was asked to be forgotten, such as ``class 3``; not by names, which older files lack.
    Each list is a request of its own.
    """
    if forget["kind"] == "indexes":
        return f"list {forget['sha256'][:8]}"
    if forget["kind"] != "class":
        return forget["kind"]
    if len(classes := forget.get("classes", ())) > 1:
        return f"classes {', '.join(str(each['index']) for each in classes)}"
    return f"class {forget['class']}"


def _with_names(what: str, runs: list[dict]) -> str:
    """The same with the classes' names where all of these runs know them."""
    known = [run["data"]["forget"].get("classes") for run in runs]
    if not known or None in known:
        return what
    shown = [
        str(each["index"])
        if each["name"] == str(each["index"])
        else "{index} ({name})".format(**each)
        for each in known[0]
    ]
    return f"{what.split()[0]} {', '.join(shown)}"


def summarise(
    scenario: tuple, runs: list[dict], reference: str | None = None, members: str | None = None
) -> dict:
    """One table, rows sorted with Retrain first and then by Avg. Gap.

    A ``reference`` that names no Retrain is ignored in a table with one kind of them.

    Returns:
        {"title", "data_sha256", "rows", "notes", "floor"}. The floor, None with fewer than two
        Retrain runs, is {"runs": k, metric: points, "avg_gap": points, "avg_gap_entropy": points or
        None}: the absolute gaps to expect of k other Retrain runs, as many as most rows average
        over.

    Raises:
        UserError: see :func:`reporting.groups.reference_row`.
    """
    dataset, arch, what, count, retained, images = scenario
    share = 100 * count / (count + retained)
    forgotten = f"forget {count} training images ({share:.0f} %, {_with_names(what, runs)})"
    title = f"{dataset} ({short_hash(images)}), {arch}: {forgotten}"
    groups = named_groups(runs)
    kinds = [name for name, group in groups.items() if is_retrain(group[0])]
    chosen = reference_row(title, groups, reference if len(kinds) > 1 else None, members)
    retrain = groups[chosen] if chosen is not None else []
    rows = [row_of(name, group, retrain) for name, group in groups.items()]
    rows.sort(key=_place)
    _mark_best(rows, {name: group[0]["method"] for name, group in groups.items()})
    notes = []
    if len(kinds) > 1:
        notes.append(f"The gaps are to {chosen}; other kinds of Retrain are rows like any other.")
    if runs:
        notes += table_notes(groups, retrain) + rule_notes(groups, chosen, members)
    table = {"title": title, "data_sha256": images, "rows": rows, "notes": notes}
    return {**table, "floor": _floor(retrain, rows)}


def short_hash(data_sha256: str) -> str:
    """What a title shows of the hash of the training images and labels."""
    return data_sha256[:8]


def _place(row: dict) -> tuple:
    gap = math.inf if row["avg_gap"] is None else row["avg_gap"]
    return not row["is_retrain"], gap, row["name"]


def _floor(retrain: list[dict], rows: list[dict]) -> dict | None:
    runs = usual_runs([row["runs"] for row in rows if not row["is_retrain"]])
    if floor_of(retrain, METRICS, runs) is None:
        return None
    floor = {"runs": runs, **{metric: floor_of(retrain, [metric], runs) for metric in METRICS}}
    for end, metrics in AVERAGES.items():
        floor[f"avg_gap{end}"] = floor_of(retrain, metrics, runs)
    return floor


def _mark_best(rows: list[dict], methods: dict[str, str]) -> None:
    """Set ``is_best`` of the method with the lowest Avg. Gap whose runs gave no warning."""
    candidates = {}
    for row in rows:
        gap = row["avg_gap"]
        is_sound = gap is not None and math.isfinite(gap) and not row["warnings"]
        if is_sound and not row["other_draw"] and methods[row["name"]] not in ("raw", "retrain"):
            candidates[row["name"]] = gap
    lowest = min(candidates.values(), default=None)
    for row in rows:
        row["is_best"] = row["name"] in candidates and row["avg_gap"] == lowest
