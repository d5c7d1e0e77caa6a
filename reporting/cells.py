"""A table as rows of text cells, and the words below it: shared by all formats and the page."""

from reporting.attacks import ULIRA, attack_numbers, named_rows, ulira_cells
from reporting.rows import AVERAGES, METRICS
from reporting.tables import Scenario

HEADER = ["method", *METRICS, "Avg. Gap", "Gap (entropy)", "RTE (s)", "runs"]
AGAIN = "Retrain again"  # the row of the noise floor
RMIA = "RMIA AUC (chance)"
GAPS = "In brackets: signed gap to Retrain. Percent; closer to Retrain is better."
SHADOWS = (
    "An AUC within chance is as good as it gets; below it the images are conspicuous. Read it"
    " beside the accuracies."
)


def legend(table: dict, mark: str, *, bold: bool = False) -> list[str]:
    """What the row of the floor, the mark beside a gap and bold type mean, where they are used."""
    lines, rows = [], table["rows"]
    if table["floor"]:
        more = table["floor"]["runs"]
        which = "one more Retrain run" if more == 1 else f"the mean of {more} more Retrain runs"
        lines.append(f"{AGAIN}: the gaps to expect of {which}.")
    marks = [f"{metric}_inside_noise" for metric in METRICS]
    marks += [f"inside_noise{end}" for end in AVERAGES]
    if any(row[name] for row in rows for name in marks):
        lines.append(
            f"{mark}: a gap that Retrain's own seeds explain: 95 % of true Retrains have it; beside"
            " an average gap, at least 95 %."
        )
    if any(row["avg_gap_entropy"] is not None for row in rows):
        lines.append(
            "Gap (entropy): Avg. Gap with the share that the entropy attack calls member in the"
            " place of MIA."
        )
    if bold and any(row["is_best"] for row in rows):
        lines.append("Bold: the lowest Avg. Gap among methods whose runs gave no warning.")
    return lines


def table_lines(scenario: Scenario, mark: str) -> list[list[str]]:
    """The header, Retrain, the floor and the methods; a column for RMIA where an audit has it."""
    table = scenario.table
    lines = [_cells(row, mark) for row in table["rows"]]
    if table["floor"]:
        lines.insert(1, _floor_cells(table["floor"]))
    attacks = attack_numbers(scenario.audits, scenario.groups)
    areas = {}
    for name, numbers in attacks.items():
        if numbers.get("rmia_auc") is not None:
            areas[name] = f"{numbers['rmia_auc']:.3f} {chance_of_rmia(numbers)}"
    if not areas:
        return [HEADER, *lines]
    return [[*HEADER, RMIA], *([*line, areas.get(line[0], "-")] for line in lines)]


def _cells(row: dict, mark: str) -> list[str]:
    """One row as printed: ``mean±sd (gap)``, with ``mark`` after a gap inside Retrain's noise."""
    cells = [row["name"]]
    for metric in METRICS:
        cell = f"{row[metric]:.2f}" + _spread(row[f"{metric}_std"], 2)
        gap = row[f"{metric}_gap"]
        if gap is not None and not row["is_retrain"]:
            cell += f" ({gap:+.2f})" + (mark if row[f"{metric}_inside_noise"] else "")
        cells.append(cell)
    for end in AVERAGES:
        cell = average_cell(row[f"avg_gap{end}"])
        cells.append(cell + (mark if row[f"inside_noise{end}"] else ""))
    return [*cells, f"{row['RTE']:.1f}" + _spread(row["RTE_std"], 1), str(row["runs"])]


def _spread(deviation: float | None, digits: int) -> str:
    return "" if deviation is None else f"±{deviation:.{digits}f}"


def _floor_cells(floor: dict) -> list[str]:
    expected = [f"(±{floor[metric]:.2f})" for metric in METRICS]
    averages = [average_cell(floor[f"avg_gap{end}"]) for end in AVERAGES]
    return [AGAIN, *expected, *averages, "-", str(floor["runs"])]


def average_cell(gap: float | None) -> str:
    """An average gap as printed; a dash where it is not known."""
    return "-" if gap is None else f"{gap:.2f}"


def chance_of_rmia(numbers: dict[str, float]) -> str:
    """The interval in which chance puts RMIA's area, from :func:`attack_numbers` of a row."""
    return f"({numbers['rmia_auc_chance_low']:.3f} to {numbers['rmia_auc_chance_high']:.3f})"


def ulira_lines(scenario: Scenario) -> list[list[list[str]]]:
    """For each audit with shadow models a header with the rows' names and a line per number."""
    tables = []
    for audit in scenario.audits:
        cells_of = {}
        for name, row in named_rows(audit, scenario.groups).items():
            if cells := ulira_cells(row):
                cells_of[name] = cells
        lines = [["on shadow models", *cells_of]]
        for words in ULIRA.values():
            if any(words in cells for cells in cells_of.values()):
                lines.append([words, *(cells.get(words, "-") for cells in cells_of.values())])
        if cells_of:
            tables.append(lines)
    return tables
