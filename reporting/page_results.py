"""The page's table of results: the four metrics with their gaps, its legend and its notes."""

from reporting.attacks import attack_numbers
from reporting.cells import AGAIN, RMIA, average_cell, chance_of_rmia, legend
from reporting.markup import Html, column, joined, row_name, sort_value, sortable, tag
from reporting.rows import AVERAGES, METRICS
from reporting.tables import Scenario

TEXTS = {
    "Avg. Gap": (
        "mean absolute gap to Retrain over UA, RA, TA and MIA, in percentage points; lower is"
        " better"
    ),
    RMIA: (
        "area under the ROC of the RMIA attack with Retrain models as references, below it where"
        " chance puts it"
    ),
    "UA": "100 - accuracy on the forget set, in percent",
    "RA": "accuracy on the retain set, in percent",
    "TA": "accuracy on the test set, in percent",
    "MIA": "share of the forget set that a weak membership attack calls non-member, in percent",
    "Gap (entropy)": (
        "the same with the share of the forget set that the entropy attack calls member in the"
        " place of MIA"
    ),
    "RTE (s)": "seconds of unlearning, the mask included, data loading and evaluation excluded",
    "runs": "how many seeds the row averages over",
}
BY_GAP = "sorts by the absolute gap to Retrain, the closest first"


def results(scenario: Scenario) -> Html:
    """The table, its legend and its notes.

    The average gap stands first, so that a phone shows it without scrolling, and beside it RMIA,
    where an audit has it.
    """
    table = scenario.table
    attacks = attack_numbers(scenario.audits, scenario.groups)
    is_attacked = any("rmia_auc" in numbers for numbers in attacks.values())
    has_gaps = any(row["is_retrain"] for row in table["rows"])
    fixed, body = [], []
    for row in table["rows"]:
        numbers = attacks.get(row["name"], {}) if is_attacked else None
        (fixed if row["is_retrain"] else body).append(_row(row, numbers))
    if table["floor"]:
        fixed.append(_floor_row(table["floor"], is_attacked))
    caption = "Mean ± standard deviation over seeds. Press a column's name to sort by it."
    if has_gaps:
        caption = (
            "Mean ± standard deviation over seeds, below it the gap to Retrain. Press a column's"
            " name to sort by it; where gaps are shown, the closest to Retrain comes first."
        )
    marks = legend(table, "Green and ~", bold=True)
    if any(row["warnings"] for row in table["rows"]):
        marks.append("⚠: a run of this row gave a warning, repeated below.")
    parts = [
        sortable(caption, _header(has_gaps, is_attacked), fixed, body),
        tag("p", " ".join(marks), class_="note"),
    ]
    if table["notes"]:
        parts.append(tag("ul", *(tag("li", note) for note in table["notes"]), class_="note"))
    return joined(*parts)


def _header(has_gaps: bool, is_attacked: bool) -> list[Html]:
    columns = []
    for name, text in TEXTS.items():
        order = "ascending" if name == "Avg. Gap" else "none"
        words = f"{text}; {BY_GAP}" if has_gaps and name in METRICS else text
        if name != RMIA or is_attacked:
            columns.append(column(name, words, order))
    return columns


def _floor_row(floor: dict, is_attacked: bool) -> Html:
    """What more Retrain runs would score; a dash where nothing is expected."""
    average, entropy = (average_cell(floor[f"avg_gap{end}"]) for end in AVERAGES)
    numbers = [average, *(["-"] if is_attacked else [])]
    numbers += [f"±{floor[metric]:.2f}" for metric in METRICS]
    numbers += [entropy, "-", str(floor["runs"])]
    return tag("tr", tag("th", AGAIN, scope="row"), *(tag("td", number) for number in numbers))


def _row(row: dict, rmia: dict[str, float] | None) -> Html:
    average, entropy = (_average_cell(row, end) for end in AVERAGES)
    cells = [average, *([] if rmia is None else [_rmia_cell(rmia)])]
    cells += [*(_metric_cell(row, metric) for metric in METRICS), entropy]
    seconds, deviation = row["RTE"], _deviation(row["RTE_std"], 1)
    cells.append(tag("td", f"{seconds:.1f}", deviation, data_value=sort_value(seconds)))
    cells.append(tag("td", str(row["runs"]), data_value=row["runs"]))
    kinds = [*(["best"] if row["is_best"] else []), *(["warned"] if row["warnings"] else [])]
    return tag("tr", row_name(row["name"]), *cells, class_=" ".join(kinds) or None)


def _rmia_cell(numbers: dict[str, float]) -> Html:
    if (area := numbers.get("rmia_auc")) is None:
        return tag("td", "-")
    chance = tag("span", chance_of_rmia(numbers), class_="gap")
    return tag("td", f"{area:.3f}", chance, data_value=sort_value(area))


def _average_cell(row: dict, end: str) -> Html:
    gap, inside = row[f"avg_gap{end}"], row[f"inside_noise{end}"]
    why = None
    if inside is not None:
        why = f"At least 95 % of true Retrains stay below {row[f'avg_gap{end}_band']:.2f}."
    kinds = [*([] if end else ["average"]), *(["noise"] if inside else [])]
    shown, kind = average_cell(gap) + (" ~" if inside else ""), " ".join(kinds) or None
    return tag("td", shown, class_=kind, title=why, data_value=sort_value(gap))


def _metric_cell(row: dict, metric: str) -> Html:
    gap, inside = row[f"{metric}_gap"], row[f"{metric}_inside_noise"]
    below, place = None, row[metric]
    if gap is not None and not row["is_retrain"]:
        place = abs(gap)
        below = tag("span", f"({gap:+.2f}){' ~' if inside else ''}", class_="gap")
    return tag(
        "td",
        f"{row[metric]:.2f}",
        _deviation(row[f"{metric}_std"], 2),
        below,
        class_="noise" if inside else None,
        title=_reasons(row, metric) or None,
        data_value=sort_value(place),
    )


def _reasons(row: dict, metric: str) -> str:
    """The interval of the mean and the band of Retrain's noise, as far as they are known."""
    reasons = []
    if row[f"{metric}_low"] is not None:
        ends = f"{row[f'{metric}_low']:.2f} to {row[f'{metric}_high']:.2f}"
        reasons.append(f"95 % interval of the mean over {row['runs']} seeds: {ends}.")
    inside, band = row[f"{metric}_inside_noise"], row[f"{metric}_band"]
    if inside is not None:
        draws = row.get(f"{metric}_draw_noise")
        what = "seeds and the attack's draws explain" if draws else "seeds alone explain"
        reasons.append(
            f"The gap is {'inside' if inside else 'outside'} Retrain's noise: {what} up to"
            f" ±{band:.2f}."
        )
    return " ".join(reasons)


def _deviation(deviation: float | None, digits: int) -> Html | None:
    return None if deviation is None else tag("span", f" ±{deviation:.{digits}f}", class_="sd")
