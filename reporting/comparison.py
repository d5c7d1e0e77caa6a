"""Comparisons with published rows as text, Markdown, CSV and JSON; a row of docs/results.md."""

import csv
import io
import json
from collections.abc import Sequence

from reporting.formats import aligned, markdown, markdown_table, spreadsheet
from reporting.published import RULE
from runtime.files import finite
from utils import printable

HEADER = ["method", "number", "here", "published", "difference", "verdict"]


def as_text(comparisons: Sequence[dict]) -> str:
    """A line per cell, aligned for a terminal; what sets the tables apart stands above."""
    parts = []
    for each in comparisons:
        parts += _above(each)
        parts += _left_last(_lines(each))
        parts += [*_below(each), ""]
    return printable("\n".join(parts).rstrip())


def as_markdown(comparisons: Sequence[dict]) -> str:
    """One Markdown table per comparison."""
    parts = []
    for each in comparisons:
        title, *more = map(markdown, _above(each))
        parts += [f"**{title}**", "", *(f"{line}\n" for line in more)]
        parts += [*markdown_table(_lines(each)), ""]
        parts += [f"{markdown(line)}\n" for line in _below(each)]
    return printable("\n".join(parts).rstrip())


def as_csv(comparisons: Sequence[dict]) -> str:
    """A line per cell."""
    lines = []
    for each in comparisons:
        named = {"scenario": spreadsheet(each["title"]), "published": each["published"]}
        why = {"reasons": spreadsheet("; ".join(each["reasons"]))}
        for cell in each["cells"]:
            lines.append({**named, **cell, "method": spreadsheet(cell["method"]), **why})
    out = io.StringIO()
    writer = csv.DictWriter(out, lines[0] if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue().rstrip()


def as_json(comparisons: Sequence[dict]) -> str:
    """The comparisons as :func:`reporting.published.compare` returns them."""
    return json.dumps(finite(list(comparisons)), indent=1, allow_nan=False)


COMPARISON_FORMATS = {"text": as_text, "markdown": as_markdown, "csv": as_csv, "json": as_json}


def _above(each: dict) -> list[str]:
    lines = [each["title"], f"beside {each['published']}: {each['source']}"]
    if each["reasons"]:
        lines.append(f"Not comparable: {'; '.join(each['reasons'])}.")
    return lines


def _below(each: dict) -> list[str]:
    return [RULE, *each["notes"]]


def _lines(each: dict) -> list[list[str]]:
    """The header and the cells as printed: ``mean±sd (runs)`` on both sides."""
    lines = [HEADER]
    for cell in each["cells"]:
        version = f" ({cell['version']})" if cell["version"] else ""
        there = _number(cell["there"], cell["there_sd"], cell["trials"]) + version
        difference = "-" if cell["difference"] is None else f"{cell['difference']:+.2f}"
        here = _number(cell["here"], cell["here_sd"], cell["runs"])
        lines.append([cell["method"], cell["metric"], here, there, difference, cell["verdict"]])
    return lines


def _number(mean: float | None, sd: float | None, count: int | None) -> str:
    spread = "" if sd is None else f"±{sd:.2f}"
    of = "" if count is None else f" ({count})"
    return "-" if mean is None else f"{mean:.2f}{spread}{of}"


def _left_last(lines: Sequence[Sequence[str]]) -> list[str]:
    """Aligned, but for the words at the end, which begin in one column."""
    numbers = aligned([line[:-1] for line in lines])
    return [f"{cells}  {line[-1]}".rstrip() for cells, line in zip(numbers, lines, strict=True)]
