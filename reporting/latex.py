"""Tables for LaTeX."""

from collections.abc import Sequence

from reporting.cells import GAPS, HEADER, SHADOWS, legend, table_lines, ulira_lines
from reporting.tables import Scenario
from utils import printable

LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **dict.fromkeys("\n\r", " "),
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
}
MARK = r"\textsuperscript{$\sim$}"


def as_latex(scenarios: list[Scenario]) -> str:
    """A table environment (booktabs) per scenario, and per audit with shadow models."""
    tables = []
    for scenario in scenarios:
        if scenario.table["rows"]:
            tables.append(_results(scenario))
        for header, *lines in ulira_lines(scenario):
            tables.append(_environment(SHADOWS, header, [_line(line) for line in lines]))
    return "% \\usepackage{booktabs}\n\n" + "\n\n".join(tables)


def _results(scenario: Scenario) -> str:
    table, (header, *printed) = scenario.table, table_lines(scenario, "~")
    best = {row["name"] for row in table["rows"] if row["is_best"]}
    lines = [_line(line, is_best=line[0] in best) for line in printed]
    caption = [table["title"] + "."]
    if table["rows"][0]["is_retrain"]:
        lines.insert(2 if table["floor"] else 1, r"\midrule")
        caption.append(GAPS)
    caption += legend(table, "~", bold=True)
    return _environment(" ".join(caption), header, lines, table["notes"])


def _environment(
    caption: str, header: list[str], lines: list[str], notes: Sequence[str] = ()
) -> str:
    caption = latex(caption).replace(LATEX["~"], r"$\sim$")
    head = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
    head += [r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}", r"\toprule"]
    head += [" & ".join(map(latex, header)) + r" \\", r"\midrule"]
    tail = [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    tail += [f"% {printable(' '.join(note.split()))}" for note in notes]
    return "\n".join([*head, *lines, *tail])


def _line(line: list[str], is_best: bool = False) -> str:
    """One row; minus signs, marks as superscripts, and the best row's name and Avg. Gap bold."""
    name, *numbers = line
    cells = [latex(name)]
    for number in numbers:
        text = latex(number.removesuffix("~")).replace("(-", "($-$").replace("(+", "($+$")
        cells.append(text + (MARK if number.endswith("~") else ""))
    if is_best:
        for column in (0, HEADER.index("Avg. Gap")):
            cells[column] = rf"\textbf{{{cells[column]}}}"
    return " & ".join(cells) + r" \\"


def latex(text: str) -> str:
    """``text`` with every character that LaTeX would read as a command made plain."""
    return "".join(LATEX.get(c, c if c.isprintable() else " ") for c in text)
