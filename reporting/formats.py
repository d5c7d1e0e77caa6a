"""Tables as text: for a terminal, for Markdown, for LaTeX, and as CSV and JSON for
other programs.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence

from evaluation.definition import markdown_line
from reporting.audits import ULIRA, attack_numbers, named_rows, rmia_cells, ulira_cells
from reporting.tables import AVERAGES, METRICS, Scenario
from runtime.files import finite
from utils import printable

HEADER = ["method", *METRICS, "Avg. Gap", "Gap (entropy)", "RTE (s)", "runs"]
AGAIN = "Retrain again"  # the row of the noise floor
SHADOWS = (
    "An AUC within chance is as good as it gets; below it the images are conspicuous. Read it"
    " beside the accuracies."
)
RMIA = "RMIA AUC (chance)"
GAPS = "In brackets: signed gap to Retrain. Percent; closer to Retrain is better."


def legend(table: dict, mark: str, *, bold: bool = False) -> list[str]:
    """What the row of the floor, the mark beside a gap and, where it is used, bold type say;
    nothing about what the table lacks.
    """
    lines, rows = [], table["rows"]
    if table["floor"]:
        more = table["floor"]["runs"]
        lines.append(
            f"{AGAIN}: the gaps to expect of"
            f" {'one more Retrain run' if more == 1 else f'the mean of {more} more Retrain runs'}."
        )
    if any(row[f"{name}_inside_noise"] for row in rows for name in METRICS) or any(
        row[f"inside_noise{end}"] for row in rows for end in AVERAGES
    ):
        lines.append(
            f"{mark}: a gap that Retrain's own seeds explain: 95 % of true Retrains have it; beside"
            " an average gap, at least 95 %."
        )
    if any(row["avg_gap_entropy"] is not None for row in rows):
        lines.append(
            "Gap (entropy): Avg. Gap with the share that the entropy attack calls member in the"
            " place of MIA."
        )
    if bold and any(row["is_best"] for row in table["rows"]):
        lines.append("Bold: the lowest Avg. Gap among methods whose runs gave no warning.")
    return lines


def cells(row: dict, mark: str = "~") -> list[str]:
    """One row as printed: ``mean±sd (gap)``, with ``mark`` after a gap inside Retrain's noise."""
    out = [row["name"]]
    for metric in METRICS:
        spread = "" if row[f"{metric}_std"] is None else f"±{row[f'{metric}_std']:.2f}"
        gap = row[f"{metric}_gap"]
        beside = (
            ""
            if gap is None or row["is_retrain"]
            else f" ({gap:+.2f}){mark if row[f'{metric}_inside_noise'] else ''}"
        )
        out.append(f"{row[metric]:.2f}{spread}{beside}")
    out += [
        average_cell(row[f"avg_gap{end}"]) + (mark if row[f"inside_noise{end}"] else "")
        for end in AVERAGES
    ]
    spread = "" if row["RTE_std"] is None else f"±{row['RTE_std']:.1f}"
    return [*out, f"{row['RTE']:.1f}{spread}", str(row["runs"])]


def average_cell(gap: float | None) -> str:
    """An average gap as printed; a dash where it is not known."""
    return "-" if gap is None else f"{gap:.2f}"


def floor_cells(floor: dict) -> list[str]:
    """The row of the noise floor, for the columns of :func:`cells`."""
    averages = [average_cell(floor[f"avg_gap{end}"]) for end in AVERAGES]
    return [
        AGAIN,
        *(f"(±{floor[metric]:.2f})" for metric in METRICS),
        *averages,
        "-",
        str(floor["runs"]),
    ]


def lines_of(table: dict, mark: str = "~") -> list[list[str]]:
    """The printed rows: Retrain, what Retrain's other seeds score where that is known, the
    methods.
    """
    lines = [cells(row, mark) for row in table["rows"]]
    if table["floor"]:
        lines.insert(1, floor_cells(table["floor"]))
    return lines


def table_lines(scenario: Scenario, mark: str) -> list[list[str]]:
    """The header and the printed rows, with the AUC of RMIA where an audit of these
    models has it.
    """
    lines = [HEADER, *lines_of(scenario.table, mark)]
    cells = rmia_cells(scenario.audits, scenario.groups)
    return (
        [
            [*line, cell]
            for line, cell in zip(
                lines, [RMIA, *(cells.get(line[0], "-") for line in lines[1:])], strict=True
            )
        ]
        if cells
        else lines
    )


def ulira_lines(scenario: Scenario) -> list[list[list[str]]]:
    """For each audit with a pool of shadow models a table: a header with the names of the rows,
    then a line for each number.
    """
    tables = []
    for audit in scenario.audits:
        cells = {
            name: found
            for name, row in named_rows(audit, scenario.groups).items()
            if (found := ulira_cells(row))
        }
        lines = [
            [words, *(found.get(words, "-") for found in cells.values())]
            for words in ULIRA.values()
            if any(words in found for found in cells.values())
        ]
        if cells:
            tables.append([["on shadow models", *cells], *lines])
    return tables


def as_text(scenarios: list[Scenario]) -> str:
    """Aligned columns for a terminal."""
    parts = []
    for scenario in scenarios:
        table = scenario.table
        parts.append(table["title"])
        if table["rows"]:
            columns = [
                _room_for_marks(column) for column in zip(*table_lines(scenario, "~"), strict=True)
            ]
            parts += [
                *_aligned(zip(*columns, strict=True)),
                GAPS,
                *legend(table, "~"),
                *table["notes"],
            ]
        for lines in ulira_lines(scenario):
            parts += [*_aligned(lines), SHADOWS]
        parts.append("")
    return printable("\n".join(parts).rstrip())


def _aligned(lines: Iterable[Sequence[str]]) -> list[str]:
    """Cells side by side: the first column to the left, the others to the right."""
    lines = list(lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            [
                first.ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)),
            ]
        )
        for first, *rest in lines
    ]


def _room_for_marks(column: tuple[str, ...]) -> list[str]:
    """Where a cell of a column ends in a mark, a space in its place after the others, so that their
    digits stand in line.
    """
    if not any(cell.endswith("~") for cell in column):
        return list(column)
    return [cell if cell.endswith("~") else cell + " " for cell in column]


def as_markdown(scenarios: list[Scenario]) -> str:
    """One Markdown table per scenario, and one more for each audit with shadow models."""
    parts = []
    for scenario in scenarios:
        table = scenario.table
        parts += [f"**{markdown(table['title'])}**", ""]
        if table["rows"]:
            parts += _markdown_table(table_lines(scenario, r"\~"))
            parts += [
                "",
                *(f"{note}\n" for note in [*legend(table, r"\~"), *map(markdown, table["notes"])]),
            ]
        for lines in ulira_lines(scenario):
            parts += [*_markdown_table(lines), "", f"{SHADOWS}\n"]
    return printable("\n".join(parts).rstrip())


def _markdown_table(lines: list[list[str]]) -> list[str]:
    rule = "|---" + "|---:" * (len(lines[0]) - 1) + "|"
    header, *rest = lines
    return [
        markdown_line(map(markdown, header)),
        rule,
        *(markdown_line([markdown(name), *cells]) for name, *cells in rest),
    ]


def markdown(text: str) -> str:
    """``text`` with what would begin a tag, a link, code or bold type made plain."""
    return "".join(MARKDOWN.get(character, character) for character in text)


def as_csv(scenarios: list[Scenario]) -> str:
    """Every number of every row, one line each; at the end what an audit of these models says of
    RMIA and U-LiRA.
    """
    lines = [
        {
            "scenario": _spreadsheet(scenario.table["title"]),
            **row,
            "name": _spreadsheet(row["name"]),
            **audited.get(row["name"], {}),
        }
        for scenario in scenarios
        for audited in [attack_numbers(scenario.audits, scenario.groups)]
        for row in scenario.table["rows"]
    ]
    if not lines:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(
        out, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue().rstrip()


def _spreadsheet(text: str) -> str:
    """``text`` as a spreadsheet takes it for text: what begins like a formula gets an apostrophe in
    front.
    """
    return printable(f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text)


def as_json(scenarios: list[Scenario]) -> str:
    """The tables as they are, and beside each the rows and definitions of the audits that belong to
    it.
    """
    tables = []
    for scenario in scenarios:
        audits = [
            {name: value for name, value in audit.items() if name != "data"}
            for audit in scenario.audits
        ]
        for audit in audits:
            audit["rows"] = [
                {**row, "models": [model["weights_sha256"] for model in row["models"]]}
                for row in audit["rows"]
            ]
        tables.append({**scenario.table, "audits": audits})
    return json.dumps(finite(tables), indent=1, allow_nan=False)


MARKDOWN = {"<": "&lt;", ">": "&gt;", "[": r"\[", "]": r"\]", "`": r"\`", "*": r"\*", "\n": " "}

# -------------------------------------------------------------------------------------------- LaTeX

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "\n": " ",
    "\r": " ",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
}
MARK = r"\textsuperscript{$\sim$}"


def as_latex(scenarios: list[Scenario]) -> str:
    r"""One table environment per scenario, for ``\usepackage{booktabs}``, and one for each audit
    with shadow models.
    """
    tables = []
    for scenario in scenarios:
        tables += [_latex_results(scenario)] if scenario.table["rows"] else []
        tables += [
            _latex_environment(SHADOWS, lines[0], [_latex_line(line, False) for line in lines[1:]])
            for lines in ulira_lines(scenario)
        ]
    return "% \\usepackage{booktabs}\n\n" + "\n\n".join(tables)


def _latex_results(scenario: Scenario) -> str:
    table, (header, *printed) = scenario.table, table_lines(scenario, "~")
    best = {row["name"] for row in table["rows"] if row["is_best"]}
    lines = [_latex_line(line, line[0] in best) for line in printed]
    retrain = table["rows"][0]["is_retrain"]
    if retrain:
        lines.insert(2 if table["floor"] else 1, r"\midrule")
    caption = " ".join(
        [table["title"] + ".", *([GAPS] if retrain else []), *legend(table, "~", bold=True)]
    )
    return _latex_environment(caption, header, lines, table["notes"])


def _latex_environment(
    caption: str, header: list[str], lines: list[str], notes: Sequence[str] = ()
) -> str:
    caption = latex(caption).replace(LATEX["~"], r"$\sim$")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}}}",
            r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}",
            r"\toprule",
            " & ".join(map(latex, header)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            *(f"% {printable(' '.join(note.split()))}" for note in notes),
        ]
    )


def _latex_line(line: list[str], best: bool) -> str:
    """One row; signs become minus signs, marks superscripts, and the best row's name and Avg. Gap
    bold.
    """
    name, *numbers = line
    out = [latex(name)]
    for cell in numbers:
        text = latex(cell.removesuffix("~")).replace("(-", "($-$").replace("(+", "($+$")
        out.append(text + (MARK if cell.endswith("~") else ""))
    if best:
        gap = HEADER.index("Avg. Gap")
        out[0], out[gap] = rf"\textbf{{{out[0]}}}", rf"\textbf{{{out[gap]}}}"
    return " & ".join(out) + r" \\"


def latex(text: str) -> str:
    """``text`` with every character that LaTeX would read as a command made plain."""
    return "".join(
        LATEX.get(character, character if character.isprintable() else " ") for character in text
    )


FORMATS = {
    "text": as_text,
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
    "json": as_json,
}
