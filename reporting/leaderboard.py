"""A row of docs/results.md: one method at one setting, with what it takes to believe it."""

import math
import shlex
from collections.abc import Sequence

from evaluation.definition import markdown_line
from evaluation.gaps import AVERAGES, FEWEST
from evaluation.reproduction import average_error, half_width, mean_error
from reporting.cells import average_cell
from reporting.formats import markdown
from reporting.groups import counted, forget_sets
from reporting.page import shortened
from reporting.rows import METRICS, values_of
from reporting.tables import Scenario
from utils import UserError, printable

COLUMNS = [
    "method",
    "setting",
    "seeds",
    "Retrains",
    *METRICS,
    "Avg. Gap",
    "interval",
    "floor",
    "Gap (entropy)",
    "hardware",
    "commit",
    "command",
]
NO_INTERVAL = "-"  # one run has no interval


def leaderboard_row(scenarios: Sequence[Scenario], method: str) -> str:
    """One Markdown row of :data:`COLUMNS`.

    Args:
        method: the name of a row of the tables, or a label that only one row has, in any case.

    Raises:
        UserError: no or several rows are called so, or fewer than three Retrains stand beside it.
    """
    scenario, row = _only(scenarios, method)
    groups = scenario.groups
    retrain = next((groups[r["name"]] for r in scenario.table["rows"] if r["is_retrain"]), [])
    if len(retrain) < FEWEST:
        raise UserError(
            f"--row {method}: {counted(len(retrain), 'Retrain run')} beside it, a row of"
            f" docs/results.md needs {FEWEST}; add main_forget.py --unlearn retrain --seed N with"
            " the same --forget_seed"
        )
    check_sets(method, groups[row["name"]], retrain)
    group = sorted(groups[row["name"]], key=lambda run: str(run["provenance"]["seed"]).zfill(9))
    setting = scenario.table["title"]
    if (sets := len(forget_sets(group))) > 1:
        setting += f", {sets} forget sets"
    return _line(setting, row, group, retrain)


def check_sets(method: str, group: Sequence[dict], retrain: Sequence[dict]) -> None:
    """Refuse runs on forget sets that no Retrain is of: the gap would hold the sets' difference."""
    ours = forget_sets(group)
    if missing := len(ours - forget_sets(retrain)):
        raise UserError(
            f"--row {method}: {missing} of its {counted(len(ours), 'forget set')} have no Retrain;"
            " add main_forget.py --unlearn retrain with the same --forget_seed"
        )


def heading() -> list[str]:
    """The two lines above the rows."""
    return [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]


def _only(scenarios: Sequence[Scenario], method: str) -> tuple[Scenario, dict]:
    rows = [(scenario, row) for scenario in scenarios for row in scenario.table["rows"]]
    exact = [(s, row) for s, row in rows if row["name"] == method]
    found = exact or [
        (s, row) for s, row in rows if s.groups[row["name"]][0]["label"].lower() == method.lower()
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        names = ", ".join(dict.fromkeys(row["name"] for _, row in rows))
        raise UserError(f"--row {method}: no row is called so; there is {names or 'none'}")
    names = ", ".join(f"'{row['name']}' ({scenario.table['title']})" for scenario, row in found)
    raise UserError(
        f"--row {method}: {len(found)} rows are called so: {names}; give a whole name, or the"
        " folders of one table"
    )


def _line(title: str, row: dict, group: Sequence[dict], retrain: Sequence[dict]) -> str:
    seeds = ", ".join(dict.fromkeys(str(run["provenance"]["seed"]) for run in group))
    named = row["name"]
    if row["warnings"]:
        named += f", {counted(row['warnings'], 'run')} with a warning"
    cells = [named, title, f"{row['runs']} ({seeds})", str(len(retrain))]
    for metric in METRICS:
        sd = row[f"{metric}_std"]
        cells.append(f"{row[metric]:.2f}" + ("" if sd is None else f"±{sd:.2f}"))
    cells.append(average_cell(row["avg_gap"]))
    cells += [_interval(row, group, retrain), average_cell(row["avg_gap_floor"])]
    cells.append(average_cell(row["avg_gap_entropy"]))
    commits = [str(run["provenance"].get("git") or "-") for run in group]
    cells += [_each(group, "device"), ", ".join(dict.fromkeys(map(_short, commits)))]
    command = _command(group[0]["provenance"])
    code = markdown(command) if "`" in command else f"`{command}`"
    return printable(markdown_line([*map(markdown, cells), code]))


def _each(group: Sequence[dict], name: str) -> str:
    """What the runs' provenance says, each value once."""
    return ", ".join(dict.fromkeys(str(run["provenance"].get(name) or "-") for run in group))


def _short(commit: str) -> str:
    """Ten digits of a commit, with the ``+`` of a changed tree."""
    return commit[:10] + ("+" if commit.endswith("+") else "")


def _command(provenance: dict) -> str:
    """The first run's command, absolute paths cut to their last part."""
    words = provenance.get("command") or []
    return shlex.join(["python", *map(shortened, words)]) if words else "-"


def _interval(row: dict, group: Sequence[dict], retrain: Sequence[dict]) -> str:
    """At least 95 % for Avg. Gap over seeds of the method and of Retrain; none for one run."""
    columns = [(values_of(group, name), values_of(retrain, name)) for name in AVERAGES[""]]
    known = all(map(math.isfinite, (value for pair in columns for each in pair for value in each)))
    if row["is_retrain"] or len(group) < 2 or not known:
        return NO_INTERVAL
    errors = [(mean_error(ours), mean_error(target)) for ours, target in columns]
    half = half_width(average_error(errors))
    return f"{max(row['avg_gap'] - half, 0):.2f} to {min(row['avg_gap'] + half, 100):.2f}"
