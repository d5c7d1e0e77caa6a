"""The page: one HTML file with tables, plots and the origin of every row, readable from disk
without a network.

Whatever comes from a file is escaped as it enters the markup: plain strings by :func:`tag`, and
only :class:`Html` is let through. A content security policy allows the page's own script by its
hash and nothing else.
"""

import base64
import hashlib
import html
import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from evaluation.distances import is_agreement, is_distance
from reporting.audits import attack_numbers, named_rows
from reporting.formats import AGAIN, RMIA, average_cell, legend
from reporting.plots import Plot, as_svg, plots_of
from reporting.tables import AVERAGES, METRICS, Scenario

HERE = Path(__file__).parent
TEXTS = {
    "UA": "100 - accuracy on the forget set, in percent",
    "RA": "accuracy on the retain set, in percent",
    "TA": "accuracy on the test set, in percent",
    "MIA": "share of the forget set that a weak membership attack calls non-member, in percent",
    "Avg. Gap": (
        "mean absolute gap to Retrain over UA, RA, TA and MIA, in percentage points; lower is"
        " better"
    ),
    "Gap (entropy)": (
        "the same with the share of the forget set that the entropy attack calls member in the"
        " place of MIA"
    ),
    "RTE (s)": "seconds of unlearning, the mask included, data loading and evaluation excluded",
    "runs": "how many seeds the row averages over",
}
TEXT_OF_RMIA = (
    "area under the ROC of the RMIA attack with Retrain models as references, below it where chance"
    " puts it"
)
INTRODUCTION = (
    "Retrain is the target, not 0 and not 100: it never saw the forget set. A method has unlearned"
    " as far as its numbers are Retrain's. Below each mean stands the signed gap to Retrain. A"
    " method that is no closer than Original, which did nothing, has not unlearned."
)
GROUPS = {
    "Accuracy and loss": r"^[A-Z]A(_|$)|accuracy|^loss_",
    "Classic attacks: support-vector machine and logistic regression": r"^(svc|lr)_",
    "Threshold attacks on the loss": r"^loss_(auc|tpr|threshold|class)",
    "Threshold attacks on the entropies": r"^(m_)?entropy_",
    "Attacks with reference models": r"^(rmia|lira)_",
    "U-LiRA: attack on shadow models that the method was run on": r"^ulira_",
    "Distances to Retrain": (
        r"^(activation|js|kl|gaussian_kl|klom|disagreement|epsilon|forgetting_quality)"
    ),
    "Averages over metrics": r"^(gap_of|mean_paired|tow)",
    "Relearning": r"^relearn",
}  # a metric belongs to the last kind whose pattern its name holds
OTHER = "Further metrics"
ABSOLUTE = re.compile(r"(?<![^=@,])(?:[A-Za-z]:)?[/\\\\](?:[^/\\\\=,]*[/\\\\])*([^/\\\\=,]*)")
AVERAGES_OF_AUDIT = {
    "gap_of_means": (
        "mean over metrics of the absolute gap between means: Avg. Gap; lower is better"
    ),
    "gap_of_means_entropy": (
        "the same with the share that the entropy attack calls member in the place of the"
        " support-vector one"
    ),
    "mean_paired_gap": (
        "mean over metrics and seeds of the absolute gap, seed by seed; lower is better, never"
        " below the gap of means"
    ),
}
BY_CLASS = {
    "forget": "forget set",
    "test": "test images",
    "test_forgotten": "test images of the forgotten class",
}
TARGETS = {
    "retrain": "target: Retrain's value",
    "floor": "target: as low as between two Retrain runs",
    "high": "higher is better",
}


class Html(str):
    """Finished markup, which :func:`tag` does not escape again."""


def tag(name: str, *content: str | None, **attributes: object) -> Html:
    """``<name attributes>content</name>``; None is left out, ``class_`` is class, ``data_value`` is
    data-value.
    """
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    words = "".join(
        f' {names[key]}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(
        f"<{name}{words}>{''.join(markup(part) for part in content if part is not None)}</{name}>"
    )


def markup(part: str) -> Html:
    """Finished markup as it is, other text escaped."""
    return part if isinstance(part, Html) else Html(escape(part))


def escape(text: str) -> str:
    """Text for markup and attributes: the five characters that HTML reads, and those that no page
    may hold.
    """
    return html.escape("".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text))


def page(scenarios: Sequence[Scenario]) -> str:
    """The whole file. The same inputs give the same text."""
    plots = [plots_of(scenario) for scenario in scenarios]
    sections = [
        _section(f"s{i}", scenario, mine)
        for i, (scenario, mine) in enumerate(zip(scenarios, plots, strict=True), 1)
    ]
    script, style = Html((HERE / "page.js").read_text()), Html((HERE / "page.css").read_text())
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # The plots carry style attributes, which no hash covers: styles cannot run anything.
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; base-uri"
        " 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", "How close to Retrain?"),
        tag("style", style),
    )
    contents = tag(
        "nav",
        tag(
            "ul",
            *(_entry(scenario, parts) for scenario, parts in zip(scenarios, sections, strict=True)),
        ),
        aria_label="Contents",
    )
    main = tag("main", *(part for parts in sections for _, _, part in parts))
    body = tag(
        "body",
        tag("header", tag("h1", "How close to Retrain?"), tag("p", INTRODUCTION), contents),
        main,
        tag("script", script),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def _entry(scenario: Scenario, parts: list[tuple[str, str, Html]]) -> Html:
    links = [tag("li", tag("a", title, href=f"#{anchor}")) for anchor, title, _ in parts[1:]]
    return tag("li", tag("a", scenario.table["title"], href=f"#{parts[0][0]}"), tag("ul", *links))


def _section(anchor: str, scenario: Scenario, plots: list[Plot]) -> list[tuple[str, str, Html]]:
    """The parts of one scenario: (anchor, title, markup) each, the first one with the scenario's
    heading.
    """
    table = scenario.table
    parts = [
        (
            anchor,
            table["title"],
            Html(
                tag("h2", table["title"], id=anchor)
                + (_results(scenario) if table["rows"] else _no_results())
            ),
        )
    ]
    parts += [
        (f"{anchor}-{plot.name}", plot.title, _figure(f"{anchor}-{plot.name}", plot))
        for plot in plots[:2]
    ]
    for number, audit in enumerate(scenario.audits, 1):
        parts.append(
            (
                f"{anchor}-audit-{number}",
                "Audit",
                _audit(f"{anchor}-audit-{number}", audit, scenario.groups),
            )
        )
    parts += [
        (f"{anchor}-{plot.name}", plot.title, _figure(f"{anchor}-{plot.name}", plot))
        for plot in plots[2:]
    ]
    if scenario.groups:
        parts.append(
            (
                f"{anchor}-origin",
                "Commands and hardware",
                _origin(f"{anchor}-origin", scenario.groups),
            )
        )
    return parts


def _no_results() -> Html:
    return tag("p", "An audit of models whose result files are not below the given folders.")


# ------------------------------------------------------------------------------------------- tables


def _results(scenario: Scenario) -> Html:
    """The table of the four metrics, with RMIA's AUC where an audit has it, and its legend and
    notes.
    """
    table = scenario.table
    floor, rows = table["floor"], table["rows"]
    attacks = attack_numbers(scenario.audits, scenario.groups)
    attacked = any("rmia_auc" in mine for mine in attacks.values())
    header = [_header("method", "text", None)]
    header += [
        _header(name, "number", text, "ascending" if name == "Avg. Gap" else "none")
        for name, text in TEXTS.items()
    ]
    header += [_header(RMIA, "number", TEXT_OF_RMIA)] * attacked

    def line(row: dict) -> Html:
        return _result_row(row, [_rmia_cell(attacks.get(row["name"], {}))] * attacked)

    fixed = [line(row) for row in rows if row["is_retrain"]]
    fixed += [_floor_row(floor, attacked)] if floor else []
    body = [line(row) for row in rows if not row["is_retrain"]]
    caption = (
        "Mean ± standard deviation over seeds, below it the gap to Retrain. Press a column's name"
        " to sort by it."
    )
    marks = legend(table, "Green and ~", bold=True)
    marks += ["⚠: a run of this row gave a warning, repeated below."] * any(
        row["warnings"] for row in rows
    )
    notes = [tag("li", note) for note in table["notes"]]
    return Html(
        _table(caption, header, fixed, body)
        + tag("p", " ".join(marks), class_="note")
        + (tag("ul", *notes, class_="note") if notes else "")
    )


def _floor_row(floor: dict, attacked: bool) -> Html:
    """What more Retrain runs would score; a dash for the time, and for RMIA where there is that
    column.
    """
    numbers = [tag("td", f"±{floor[metric]:.2f}") for metric in METRICS]
    averages = [tag("td", average_cell(floor[f"avg_gap{end}"])) for end in AVERAGES]
    cells = [
        *numbers,
        *averages,
        tag("td", "-"),
        tag("td", str(floor["runs"])),
        *[tag("td", "-")] * attacked,
    ]
    return tag("tr", tag("th", AGAIN, scope="row"), *cells)


def _rmia_cell(numbers: dict) -> Html:
    if (area := numbers.get("rmia_auc")) is None:
        return tag("td", "-")
    ends = f"({numbers['rmia_auc_chance_low']:.3f} to {numbers['rmia_auc_chance_high']:.3f})"
    return tag("td", f"{area:.3f}", tag("span", ends, class_="gap"), data_value=_value(area))


def _result_row(row: dict, more: Sequence[Html]) -> Html:
    kinds = ["best"] * row["is_best"] + ["warned"] * bool(row["warnings"])
    return tag(
        "tr",
        tag("th", row["name"], scope="row", data_value=row["name"]),
        *(_metric_cell(row, metric) for metric in METRICS),
        *(_average_cell(row, end) for end in AVERAGES),
        tag(
            "td", f"{row['RTE']:.1f}", _deviation(row["RTE_std"], 1), data_value=_value(row["RTE"])
        ),
        tag("td", str(row["runs"]), data_value=row["runs"]),
        *more,
        class_=" ".join(kinds) or None,
    )


def _average_cell(row: dict, end: str) -> Html:
    gap, inside = row[f"avg_gap{end}"], row[f"inside_noise{end}"]
    why = (
        None
        if inside is None
        else f"At least 95 % of true Retrains stay below {row[f'avg_gap{end}_band']:.2f}."
    )
    kind = " ".join(["average"] * (not end) + ["noise"] * bool(inside)) or None
    return tag(
        "td",
        average_cell(gap) + " ~" * bool(inside),
        class_=kind,
        title=why,
        data_value=_value(gap),
    )


def _metric_cell(row: dict, metric: str) -> Html:
    gap, inside = row[f"{metric}_gap"], row[f"{metric}_inside_noise"]
    below = (
        None
        if gap is None or row["is_retrain"]
        else tag("span", f"({gap:+.2f}){' ~' if inside else ''}", class_="gap")
    )
    why = []
    if row[f"{metric}_low"] is not None:
        ends = f"{row[f'{metric}_low']:.2f} to {row[f'{metric}_high']:.2f}"
        why.append(f"95 % interval of the mean over {row['runs']} seeds: {ends}.")
    if inside is not None:
        where, band = "inside" if inside else "outside", row[f"{metric}_band"]
        what = (
            "seeds alone explain"
            if not row.get(f"{metric}_draw_noise")
            else "seeds and the attack's draws explain"
        )
        why.append(f"The gap is {where} Retrain's noise: {what} up to ±{band:.2f}.")
    return tag(
        "td",
        f"{row[metric]:.2f}",
        _deviation(row[f"{metric}_std"], 2),
        below,
        class_="noise" if inside else None,
        title=" ".join(why) or None,
        data_value=_value(row[metric]),
    )


def _deviation(deviation: float | None, digits: int) -> Html | None:
    return None if deviation is None else tag("span", f" ±{deviation:.{digits}f}", class_="sd")


def _value(number: float | None) -> str | None:
    """What a column is sorted by; nothing for an unknown number, which stays last."""
    return None if number is None or not math.isfinite(number) else repr(number)


def _header(name: str, kind: str, text: str | None, order: str = "none") -> Html:
    words = Html(
        "_<wbr>".join(escape(word) for word in name.split("_"))
    )  # a long name may be broken there
    return tag(
        "th",
        tag("button", words, type="button", title=text),
        scope="col",
        aria_sort=order,
        data_kind=kind,
    )


def _table(caption: str, header: list[Html], fixed: list[Html], body: list[Html]) -> Html:
    """A sortable table in a box of its own that scrolls sideways; the rows of ``fixed`` stay on
    top.
    """
    above = tag("tbody", *fixed, class_="fixed") if fixed else None
    table = tag(
        "table",
        tag("caption", tag("span", caption)),
        tag("thead", tag("tr", *header)),
        above,
        tag("tbody", *body),
        class_="sortable",
    )
    return tag("div", table, class_="box", tabindex="0", role="region", aria_label=caption)


# ------------------------------------------------------------------------------------------- audits


def _audit(anchor: str, audit: dict, groups: dict[str, list[dict]]) -> Html:
    """The audit's metrics in a table per kind of metric, what each means, and where the audit comes
    from.
    """
    rows = named_rows(audit, groups)
    present = [
        metric
        for metric in _metrics_of(audit)
        if any(row["mean"].get(metric) is not None for row in audit["rows"])
    ]
    kinds = {
        title: [metric for metric in present if _group(metric) == title]
        for title in [*GROUPS, OTHER]
    }
    parts = [
        tag("h3", "Audit", id=anchor),
        tag(
            "p",
            "What evaluate.py measured on the saved models: means over seeds, below them the gap to"
            " Retrain. Green and ~: a gap that Retrain's own seeds explain, beside an average one"
            " that at least 95 % of true Retrains stay below; marked from three Retrains on."
            " Pointing at a column's name says what it means, and so does the list below the"
            " tables.",
        ),
    ]
    tables = [
        (title, _audit_table(title, metrics, audit, rows))
        for title, metrics in kinds.items()
        if metrics
    ]
    tables += [
        (f"Accuracy by class, {words}", table)
        for split, words in BY_CLASS.items()
        if (table := _class_table(split, words, rows))
    ]
    parts += [
        tag("details", tag("summary", title), table, open="" if i == 0 else None)
        for i, (title, table) in enumerate(tables)
    ]
    warnings = [
        *audit["warnings"],
        *(f"{name}: {line}" for name, row in rows.items() for line in row["warnings"]),
    ]
    if warnings:
        parts.append(tag("ul", *(tag("li", line) for line in warnings), class_="note"))
    definitions = [
        item
        for metric in present
        for item in (tag("dt", metric), tag("dd", _definition(audit, metric)))
    ]
    parts.append(tag("details", tag("summary", "What each metric means"), tag("dl", *definitions)))
    parts.append(
        tag(
            "details",
            tag("summary", "Where this audit comes from"),
            _run_origin(audit["provenance"]),
        )
    )
    return Html("".join(parts))


def _class_table(split: str, words: str, rows: dict[str, dict]) -> Html | None:
    """Accuracy of each class in percent, mean over a row's models; None where no audit says."""
    found = {
        name: [model["per_class"].get(split, {}) for model in row["models"]]
        for name, row in rows.items()
    }
    classes = list(
        dict.fromkeys(label for models in found.values() for model in models for label in model)
    )
    if not classes:
        return None

    def cell(models: list[dict], label: str) -> Html:
        known = [value for model in models if (value := model.get(label)) is not None]
        mean = sum(known) / len(known) if known else None
        return tag("td", "-" if mean is None else f"{mean:.1f}", data_value=_value(mean))

    lines = {
        name: tag(
            "tr",
            tag("th", name, scope="row", data_value=name),
            *(cell(models, label) for label in classes),
        )
        for name, models in found.items()
    }
    header = [
        _header("method", "text", None),
        *(_header(label, "number", f"class {label}") for label in classes),
    ]
    fixed = [line for name, line in lines.items() if rows[name]["role"] == "retrain"]
    body = [line for name, line in lines.items() if rows[name]["role"] != "retrain"]
    return _table(f"Accuracy by class in percent, {words}, mean over seeds", header, fixed, body)


def _metrics_of(audit: dict) -> list[str]:
    """Defined metrics in their order, then those that only the rows have."""
    return list(
        dict.fromkeys(
            [*audit["metrics"], *(metric for row in audit["rows"] for metric in row["mean"])]
        )
    )


def _group(metric: str) -> str:
    return next(
        (title for title, pattern in reversed(GROUPS.items()) if re.search(pattern, metric)), OTHER
    )


def _definition(audit: dict, metric: str) -> str:
    entry = audit["metrics"].get(metric)
    if entry is None:
        return AVERAGES_OF_AUDIT.get(metric, "not described by this audit")
    good = entry["good"]
    target = TARGETS.get(good) or (
        f"target: {good:g}" if isinstance(good, float) else good and f"target: {good}"
    )
    return f"{entry['text']} ({', '.join(word for word in (entry['unit'], target) if word)})"


def _audit_table(title: str, metrics: list[str], audit: dict, rows: dict[str, dict]) -> Html:
    header = [
        _header("method", "text", None),
        *(_header(metric, "number", _definition(audit, metric)) for metric in metrics),
    ]
    digits = {
        metric: 2 if audit["metrics"].get(metric, {}).get("unit") == "percent" else 3
        for metric in metrics
    }
    fixed = [
        _audit_row(name, row, digits) for name, row in rows.items() if row["role"] == "retrain"
    ]
    floors = {metric: audit["floors"].get(metric) for metric in metrics}
    if any(floor is not None for floor in floors.values()):
        numbers = [
            tag("td", "-" if floor is None else _floor_words(metric, floor, digits[metric]))
            for metric, floor in floors.items()
        ]
        fixed.append(tag("tr", tag("th", _floor_name(audit), scope="row"), *numbers))
    body = [_audit_row(name, row, digits) for name, row in rows.items() if row["role"] != "retrain"]
    return _table(title, header, fixed, body)


def _floor_name(audit: dict) -> str:
    """Older audits do not say of how many runs their floors speak: of one against one."""
    runs = audit["floors"].get("runs")
    return (
        "Two Retrain runs differ by"
        if runs is None
        else f"{AGAIN} ({runs:.0f} run{'s' * (runs > 1)})"
    )


def _floor_words(metric: str, floor: float, digits: int) -> str:
    """A difference, or for what is itself a distance between models its value."""
    whole = (
        is_distance(metric) or is_agreement(metric) or metric.startswith(tuple(AVERAGES_OF_AUDIT))
    )
    return f"{'' if whole else '±'}{_fixed(floor, digits)}"


def _audit_row(name: str, row: dict, digits: dict[str, int]) -> Html:
    return tag(
        "tr",
        tag("th", name, scope="row", data_value=name),
        *(_audit_cell(row, metric, places) for metric, places in digits.items()),
    )


def _audit_cell(row: dict, metric: str, digits: int) -> Html:
    mean, deviation, gap, ends = (row[kind].get(metric) for kind in ("mean", "sd", "gap", "ci"))
    if mean is None:
        return tag("td", "-")
    is_retrain = row["role"] == "retrain"
    inside = bool(row["inside_noise"].get(metric)) and not is_retrain
    spread = (
        None if deviation is None else tag("span", f" ±{_fixed(deviation, digits)}", class_="sd")
    )
    below = (
        None
        if gap is None or is_retrain
        else tag("span", f"({_fixed(gap, digits, '+')}){' ~' if inside else ''}", class_="gap")
    )
    alone = " ~" if inside and below is None else None  # an average of gaps has none of its own
    kind = (
        "interval of its uncertainty"
        if metric.startswith("ulira_")
        else "interval of the mean over seeds"
    )
    why = (
        None
        if ends is None
        else f"95 % {kind}: {_fixed(ends[0], digits)} to {_fixed(ends[1], digits)}"
    )
    chance = row["chance"].get(metric)
    words = chance and tag(
        "span", f"(chance {_fixed(chance[0], digits)} to {_fixed(chance[1], digits)})", class_="gap"
    )
    shown = (_fixed(mean, digits), alone, spread, below, words)
    return tag("td", *shown, class_="noise" if inside else None, title=why, data_value=_value(mean))


def _fixed(number: float, digits: int, sign: str = "") -> str:
    """``digits`` after the point, unless that would show a small number as nothing."""
    return (
        f"{number:{sign}.{digits}f}"
        if abs(number) < 1e-12 or abs(number) >= 0.5 * 10**-digits
        else f"{number:{sign}.1e}"
    )


# --------------------------------------------------------------------------------- plots and origin


def _figure(anchor: str, plot: Plot) -> Html:
    drawing = tag("div", Html(as_svg(plot.figure(), anchor)), role="img", aria_label=plot.alt)
    box = tag("div", drawing, class_="box", tabindex="0", role="region", aria_label=plot.title)
    return Html(tag("h3", plot.title, id=anchor) + tag("figure", tag("figcaption", plot.read), box))


def _origin(anchor: str, groups: dict[str, list[dict]]) -> Html:
    """The command, machine and versions of every run, folded up by row; what all share is said
    first.
    """
    everywhere = [_facts(run["provenance"]) for runs in groups.values() for run in runs]
    shared = ", ".join(fact for fact in everywhere[0] if all(fact in facts for facts in everywhere))
    rows = [
        tag(
            "details",
            tag("summary", f"{name} ({len(runs)} run{'s' * (len(runs) > 1)})"),
            *(_run_origin(run["provenance"]) for run in runs),
        )
        for name, runs in groups.items()
    ]
    words = "What made each row, run by run." + (
        f" The same in all runs: {shared}." if shared else ""
    )
    return Html(
        tag("h3", "Commands and hardware", id=anchor)
        + tag("p", words)
        + tag("div", *rows, class_="origins")
    )


def _run_origin(provenance: dict) -> Html:
    command = provenance.get("command")
    words = (
        shlex.join(["python", *map(shortened, command)])
        if isinstance(command, list) and command
        else "no command recorded"
    )
    return Html(tag("pre", words) + tag("p", ", ".join(_facts(provenance)), class_="note"))


def shortened(word: object) -> str:
    """A word of a command with absolute paths cut to their last part: a page is published, and
    names of users are in paths.
    """
    return ABSOLUTE.sub(lambda match: f"…/{match[1]}", str(word))


def _facts(provenance: dict) -> list[str]:
    names = (
        "seed",
        "forget_seed",
        "device",
        "threads",
        "precision",
        "torch",
        "python",
        "git",
        "time",
    )
    return [
        f"{name} {provenance[name]}" for name in names if provenance.get(name) not in (None, "")
    ]
