"""Tables for a terminal, for Markdown, and as CSV and JSON for other programs."""

import csv
import io
import json
from collections.abc import Sequence

from evaluation.definition import markdown_line
from reporting.attacks import attack_numbers
from reporting.cells import GAPS, SHADOWS, legend, table_lines, ulira_lines
from reporting.latex import as_latex
from reporting.tables import Scenario
from runtime.files import finite
from utils import printable

AUDIT_ALONE = (
    "Only an audit: its numbers are in audit.json and on the page of --html; for rows here give the"
    " folders of its runs, too."
)
MARKDOWN = {"<": "&lt;", ">": "&gt;", "[": r"\[", "]": r"\]", "`": r"\`", "*": r"\*", "\n": " "}


def as_text(scenarios: list[Scenario]) -> str:
    """Aligned columns for a terminal."""
    parts = []
    for scenario in scenarios:
        table = scenario.table
        parts.append(table["title"])
        if table["rows"]:
            columns = zip(*table_lines(scenario, "~"), strict=True)
            spaced = [_room_for_marks(column) for column in columns]
            parts += aligned(list(zip(*spaced, strict=True)))
            parts += [GAPS, *legend(table, "~"), *table["notes"]]
        else:
            parts.append(AUDIT_ALONE)
        for lines in ulira_lines(scenario):
            parts += [*aligned(lines), SHADOWS]
        parts.append("")
    return printable("\n".join(parts).rstrip())


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells side by side: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = []
    for first, *rest in lines:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        aligned.append("  ".join([first.ljust(widths[0]), *cells]))
    return aligned


def _room_for_marks(column: Sequence[str]) -> Sequence[str]:
    """A column with spaces in the place of missing marks, so that digits are aligned."""
    if not any(cell.endswith("~") for cell in column):
        return column
    return [cell if cell.endswith("~") else cell + " " for cell in column]


def as_markdown(scenarios: list[Scenario]) -> str:
    """One Markdown table per scenario, and one more for each audit with shadow models."""
    parts = []
    for scenario in scenarios:
        table = scenario.table
        parts += [f"**{markdown(table['title'])}**", ""]
        if table["rows"]:
            notes = [*legend(table, r"\~"), *map(markdown, table["notes"])]
            parts += [*markdown_table(table_lines(scenario, r"\~")), ""]
            parts += [f"{note}\n" for note in notes]
        else:
            parts.append(f"{AUDIT_ALONE}\n")
        for lines in ulira_lines(scenario):
            parts += [*markdown_table(lines), "", f"{SHADOWS}\n"]
    return printable("\n".join(parts).rstrip())


def markdown_table(lines: list[list[str]]) -> list[str]:
    header, *rest = lines
    rule = "|---" + "|---:" * (len(header) - 1) + "|"
    rows = [markdown_line([markdown(name), *cells]) for name, *cells in rest]
    return [markdown_line(map(markdown, header)), rule, *rows]


def markdown(text: str) -> str:
    """``text`` with what would begin a tag, a link, code or bold type made plain."""
    return "".join(MARKDOWN.get(character, character) for character in text)


def as_csv(scenarios: list[Scenario]) -> str:
    """Every number of every row, one line each, with RMIA and U-LiRA of an audit at the end."""
    lines = []
    for scenario in scenarios:
        title = spreadsheet(scenario.table["title"])
        attacks = attack_numbers(scenario.audits, scenario.groups)
        for row in scenario.table["rows"]:
            line = {"scenario": title, **row, **attacks.get(row["name"], {})}
            lines.append({**line, "name": spreadsheet(row["name"])})
    if not lines:
        return ""
    columns = list(dict.fromkeys(name for line in lines for name in line))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue().rstrip()


def spreadsheet(text: str) -> str:
    """``text`` with an apostrophe before what a spreadsheet would take for a formula."""
    return printable(f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text)


def as_json(scenarios: list[Scenario]) -> str:
    """The tables, and with each the rows and definitions of the audits that belong to it."""
    tables = []
    for scenario in scenarios:
        audits = []
        for audit in scenario.audits:
            rows = []
            for row in audit["rows"]:
                rows.append({**row, "models": [each["weights_sha256"] for each in row["models"]]})
            audits.append({**audit, "rows": rows})
            del audits[-1]["data"]
        tables.append({**scenario.table, "audits": audits})
    return json.dumps(finite(tables), indent=1, allow_nan=False)


FORMATS = {
    "text": as_text,
    "markdown": as_markdown,
    "latex": as_latex,
    "csv": as_csv,
    "json": as_json,
}
