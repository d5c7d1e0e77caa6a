"""All plots of a scenario, and a figure as a file or inside the page.

The same data give the same bytes: no date, no random name.
"""

import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any

from reporting.audit_plots import audit_plots
from reporting.drawing import INK, Plot, style
from reporting.run_plots import run_plots
from reporting.table_plots import table_plots
from reporting.tables import Scenario
from utils import UserError


def require() -> None:
    """Raise UserError where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise UserError(
            "--html and --plots draw with matplotlib, which is not installed: pip install"
            " matplotlib"
        ) from None


def as_file(figure: Any, kind: str) -> bytes:
    """A figure as the bytes of a ``png`` (200 dots per inch, white), ``pdf`` or ``svg`` file."""
    out = io.BytesIO()
    undated = {
        "png": {},
        "pdf": {"CreationDate": None},
        "svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
    }[kind]
    dpi, background = (200, "white") if kind == "png" else (72, "none")
    with style():
        figure.savefig(out, format=kind, dpi=dpi, facecolor=background, metadata=undated)
    return out.getvalue()


def as_svg(figure: Any, prefix: str) -> str:
    """A figure as an <svg> element in the page's text colour; ``prefix`` makes its ids unique."""
    text = as_file(figure, "svg").decode()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r'\b(id="|href="#)', rf"\1{prefix}-", text)
    return text.replace("url(#", f"url(#{prefix}-").strip()


def named(scenarios: Sequence[Scenario]) -> dict[str, Plot]:
    """All plots of all scenarios by the name of their file, without its ending."""
    found = {}
    for scenario in scenarios:
        title = re.sub(r"[^a-z0-9]+", "-", scenario.table["title"].lower()).strip("-")
        found |= {f"{title}-{plot.name}": plot for plot in plots_of(scenario)}
    return found


def plots_of(scenario: Scenario) -> list[Plot]:
    """What the data of one scenario let us draw, in the order of reading."""
    found = table_plots(scenario.table)
    for number, audit in enumerate(scenario.audits, 1):
        suffix = f"-{number}" if len(scenario.audits) > 1 else ""
        for plot in audit_plots(audit, scenario.groups):
            found.append(dataclasses.replace(plot, name=plot.name + suffix))
    return found + run_plots(scenario)
