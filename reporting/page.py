"""The page: one HTML file with tables, plots and the origin of every row, readable from disk
without a network.

Whatever comes from a file is escaped as it enters the markup: :func:`reporting.markup.tag` escapes
plain strings and lets only :class:`Html` through. A content security policy allows the page's own
script by its hash and nothing else.
"""

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from reporting.contact_sheet import contact_sheet
from reporting.groups import counted
from reporting.markup import Html, escape, joined, scrolling, tag
from reporting.page_audit import audit_part
from reporting.page_results import results
from reporting.plots import Plot, as_svg, plots_of
from reporting.tables import Scenario, short_hash

HERE = Path(__file__).parent
TITLE = "How close to Retrain?"
INTRODUCTION = (
    "Retrain is the target, not 0 and not 100: it never saw the forget set. A method has unlearned"
    " as far as its numbers are Retrain's. Below each mean stands the signed gap to Retrain. A"
    " method that is no closer than Original, which did nothing, has not unlearned."
)
NO_RESULTS = "An audit of models whose result files are not below the given folders."
ORIGINS = "Commands and hardware"
FACTS = ["seed", "forget_seed", "device", "threads", "precision", "torch", "python", "git", "time"]
MOST_VALUES = 10  # of a fact, that a row lists
ABSOLUTE = re.compile(r"(?<![^=@,])(?:[A-Za-z]:)?[/\\\\](?:[^/\\\\=,]*[/\\\\])*([^/\\\\=,]*)")

HASH = (
    "In brackets behind a data set's name stand the first eight digits of the SHA-256 hash of its"
    " training images and labels: titles with the same digits are about the same data."
)

# Hidden until the script, without which it does nothing, shows it.
SEARCH = tag(
    "p",
    tag("label", "Rows whose name holds ", Html('<input type="search" spellcheck="false"/>')),
    tag("output", ""),
    class_="search",
    hidden="",
)

Part = tuple[str, str, Html]  # (anchor, title, markup)


def page(scenarios: Sequence[Scenario]) -> str:
    """The whole file. The same inputs give the same text."""
    sections = [_section(f"s{i}", scenario) for i, scenario in enumerate(scenarios, 1)]
    script, style = Html((HERE / "page.js").read_text()), Html((HERE / "page.css").read_text())
    contents = tag("nav", tag("ul", *map(_entry, sections)), aria_label="Contents")
    body = tag(
        "body",
        tag(
            "header",
            tag("h1", TITLE),
            tag("p", INTRODUCTION),
            contents,
            SEARCH,
            tag("p", HASH, class_="note"),
        ),
        tag("main", *(part for parts in sections for _, _, part in parts)),
        tag("script", script),
    )
    head = tag(
        "head",
        Html('<meta charset="utf-8">'),
        _policy(script),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", TITLE),
        tag("style", style),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def _policy(script: str) -> Html:
    """Nothing but this script may run, and nothing may be fetched: images are in the page itself.
    Styles are free: the plots carry style attributes, which no hash covers, and styles cannot run
    anything.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src"
        " data:; base-uri 'none'; form-action 'none'"
    )
    return Html(f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">')


def _entry(parts: Sequence[Part]) -> Html:
    """A scenario in the table of contents."""
    first, *links = [tag("a", title, href=f"#{anchor}") for anchor, title, _ in parts]
    return tag("li", first, tag("ul", *(tag("li", link) for link in links)))


def _section(anchor: str, scenario: Scenario) -> list[Part]:
    """The parts of one scenario, the first one with the scenario's heading."""
    title = scenario.table["title"]
    first = results(scenario) if scenario.table["rows"] else tag("p", NO_RESULTS)
    heading = tag("h2", _explained(title, scenario.table["data_sha256"]), id=anchor)
    parts = [(anchor, title, joined(heading, first))]
    plots = [_figure(f"{anchor}-{plot.name}", plot) for plot in plots_of(scenario)]
    parts += plots[:2]
    for number, audit in enumerate(scenario.audits, 1):
        summary = tag("summary", "Where this audit comes from")
        origin = tag("details", summary, _run_origin(audit["provenance"]))
        content = audit_part(audit, scenario.groups)
        parts.append(_part(f"{anchor}-audit-{number}", "Audit", content, origin))
    parts += plots[2:]
    if (sheet := contact_sheet(scenario.groups)) is not None:
        parts.append(_part(f"{anchor}-sheet", "Forgotten images", sheet))
    if scenario.groups:
        parts.append(_part(f"{anchor}-origin", ORIGINS, *_origins(scenario.groups)))
    return parts


def _explained(title: str, data_sha256: str) -> Html:
    """``title`` with a tooltip at the hash in it."""
    shown = short_hash(data_sha256)
    before, _, after = title.partition(f"({shown})")
    what = f"start of the SHA-256 hash of the training images and labels: {data_sha256}"
    return joined(before, "(", tag("abbr", shown, title=what), ")", after)


def _part(anchor: str, title: str, *content: Html) -> Part:
    return anchor, title, joined(tag("h3", title, id=anchor), *content)


def _figure(anchor: str, plot: Plot) -> Part:
    drawing = tag("div", Html(as_svg(plot.figure(), anchor)), role="img", aria_label=plot.alt)
    figure = tag("figure", tag("figcaption", plot.read), scrolling(drawing, plot.title))
    return _part(anchor, plot.title, figure)


# ------------------------------------------------------------------------------------------- origin


def _origins(groups: dict[str, list[dict]]) -> tuple[Html, Html]:
    """A command of each row, and machine and versions of its runs, folded up; first what all
    share.
    """
    facts = [set(_facts(run["provenance"])) for runs in groups.values() for run in runs]
    common = set.intersection(*facts)
    first = next(iter(groups.values()))[0]["provenance"]
    shared = [fact for fact in _facts(first) if fact in common]
    words = "What made each row: the command of its first run, and what its runs differ by."
    if shared:
        words += f" The same in all runs: {', '.join(shared)}."
    rows = []
    for name, runs in groups.items():
        summary = tag("summary", f"{name} ({counted(len(runs), 'run')})")
        provenances = [run["provenance"] for run in runs]
        origin = joined(_command(provenances[0]), tag("p", _values(provenances), class_="note"))
        rows.append(tag("details", summary, origin))
    return tag("p", words), tag("div", *rows, class_="origins")


def _run_origin(provenance: dict) -> Html:
    return joined(_command(provenance), tag("p", ", ".join(_facts(provenance)), class_="note"))


def _command(provenance: dict) -> Html:
    command = provenance.get("command")
    words = "no command recorded"
    if isinstance(command, list) and command:
        words = shlex.join(["python", *map(shortened, command)])
    return tag("pre", words)


def _values(provenances: list[dict]) -> str:
    """What the runs of a row record, such as ``seed 1, 2, 3; device cpu``."""
    found = []
    for name in FACTS:
        values = dict.fromkeys(f"{run[name]}" for run in provenances if run.get(name) is not None)
        known = [value for value in values if value]
        more = f" and {len(known) - MOST_VALUES} more" if len(known) > MOST_VALUES else ""
        if known:
            found.append(f"{name} {', '.join(known[:MOST_VALUES])}{more}")
    return "; ".join(found)


def shortened(word: object) -> str:
    """A word of a command with absolute paths, which hold users' names, cut to the last part."""
    return ABSOLUTE.sub(lambda match: f"…/{match[1]}", str(word))


def _facts(provenance: dict) -> list[str]:
    known = [name for name in FACTS if provenance.get(name) not in (None, "")]
    return [f"{name} {provenance[name]}" for name in known]
