"""What audits say of attacks, by the rows of a table: RMIA beside it, U-LiRA below."""

import statistics
from collections.abc import Sequence

from evaluation.metrics import define
from reporting.groups import told_apart

# U-LiRA's numbers in the order and the words in which they are printed.
ULIRA = {
    "ulira_auc": "U-LiRA AUC",
    "ulira_tpr_at_fpr_1": "TPR at 1 % FPR",
    "ulira_tpr_at_fpr_0.1": "TPR at 0.1 % FPR",
    "ulira_sample_auc_median": "AUC of the median image",
    "ulira_worst_1_percent_auc": "AUC of the worst 1 %",
    "ulira_low_memorisation_auc": "AUC at low memorisation",
    "ulira_middle_memorisation_auc": "AUC at middle memorisation",
    "ulira_high_memorisation_auc": "AUC at high memorisation",
    "ulira_TA": "TA on the shadow models",
}


def ulira_cells(row: dict) -> dict[str, str]:
    """An audited row's U-LiRA numbers by the words of ULIRA, beside each chance or interval."""
    cells = {}
    for name, words in ULIRA.items():
        if (value := row["mean"].get(name)) is None:
            continue
        digits = 2 if name == "ulira_TA" else 3
        end = define(name).chance
        floor = None if end is None else row["mean"].get(name + end)
        chance, ends = (row.get("chance") or {}).get(name), row["ci"].get(name)
        beside = ""
        if floor is not None:
            beside = f" (chance {floor:.3f})"
        elif chance is not None:
            beside = f" (chance {chance[0]:.3f} to {chance[1]:.3f})"
        elif ends is not None:
            beside = f" ({ends[0]:.3f} to {ends[1]:.3f})"
        cells[words] = f"{value:.{digits}f}{beside}"
    return cells


def attack_numbers(
    audits: Sequence[dict], groups: dict[str, list[dict]]
) -> dict[str, dict[str, float]]:
    """By the table's rows: rmia_auc, its ends at chance, and U-LiRA's; the first audit counts.

    Only of rows all of whose models, and no others, were audited.
    """
    found: dict[str, dict[str, float]] = {}
    for audit in audits:
        for name, row in named_rows(audit, groups).items():
            if name in groups and _missed(row, groups[name]) is None:
                known = found.setdefault(name, {})
                known |= {**_numbers_of(row), **known}
    return found


def _numbers_of(row: dict) -> dict[str, float]:
    numbers = {}
    chances = [model["chance"].get("rmia_auc") for model in row["models"]]
    if "rmia_auc" in row["mean"] and chances and None not in chances:
        low, high = (statistics.fmean(ends) for ends in zip(*chances, strict=True))
        numbers["rmia_auc"] = row["mean"]["rmia_auc"]
        numbers["rmia_auc_chance_low"], numbers["rmia_auc_chance_high"] = low, high
    for metric in ULIRA:
        if row["mean"].get(metric) is not None:
            numbers[metric] = row["mean"][metric]
    return numbers


def named_rows(audit: dict, groups: dict[str, list[dict]]) -> dict[str, dict]:
    """The audited rows in the order of the table, those without a result last.

    A row has the name of the table's row with the same weights, and of several such the one with
    its label; else the audit's own label. The original is left out where raw was audited, too: it
    is the same model.
    """
    places = {name: place for place, name in enumerate(groups)}
    found: list[tuple[str, dict]] = []
    for row in audit["rows"]:
        name = _table_name(row, groups)
        same = [other for known, other in found if known == name]
        if row["role"] == "original" and any(_weights(row) <= _weights(other) for other in same):
            continue
        found.append((name, row))
    found.sort(key=lambda item: places.get(item[0], len(places)))
    names = told_apart([name for name, _ in found])
    return dict(zip(names, (row for _, row in found), strict=True))


def partly_audited(audit: dict, groups: dict[str, list[dict]]) -> list[str]:
    """A line on the audited rows but Retrain's whose attacks are left out of the table, or []."""
    missed = [
        (name, _missed(row, groups[name]))
        for name, row in named_rows(audit, groups).items()
        if name in groups and row["role"] != "retrain"
    ]
    words = ", ".join(f"{name} ({why})" for name, why in missed if why is not None)
    if not words:
        return []
    return [f"An audit is not of just these runs' weights and is left out of the table: {words}."]


def _missed(row: dict, runs: list[dict]) -> str | None:
    """How the audited models are not the row's; None where they are, or no hash is recorded."""
    weights, own = _weights(row), {run["provenance"].get("unlearned_sha256") for run in runs}
    if weights == own or own == {None}:
        return None
    if foreign := weights - own:
        return f"{len(foreign)} of {len(weights)} audited models are of no run here"
    return f"{len(weights)} of {len(own)} models audited"


def _table_name(row: dict, groups: dict[str, list[dict]]) -> str:
    weights, own, others = _weights(row), [], []
    for name, runs in groups.items():
        if weights <= {run["provenance"].get("unlearned_sha256") for run in runs}:
            (own if runs[0]["label"] == row["label"] else others).append(name)
    return (own or others or [row["label"]])[0]


def _weights(row: dict) -> set[str]:
    return {model["weights_sha256"] for model in row["models"]}
