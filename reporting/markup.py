"""HTML without a template: elements whose text is escaped, and the page's sortable tables."""

import html
import math
from collections.abc import Callable, Sequence


class Html(str):
    """Finished markup, which :func:`tag` does not escape again."""


def tag(name: str, *content: str | None, **attributes: object) -> Html:
    """``<name attributes>content</name>`` without None; ``class_`` is class, ``a_b`` a-b."""
    words = ""
    for key, value in attributes.items():
        if value is not None:
            words += f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
    inside = joined(*(part for part in content if part is not None))
    return Html(f"<{name}{words}>{inside}</{name}>")


def joined(*parts: str) -> Html:
    """Finished markup as it is, other text escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def escape(text: str) -> str:
    """Text with HTML's five characters escaped and unprintable ones replaced."""
    return html.escape("".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text))


# ------------------------------------------------------------------------------------------- tables


def sortable(caption: str, header: Sequence[Html], fixed: Sequence[Html], body: list[Html]) -> Html:
    """A sortable table in a sideways scrolling box; the rows of ``fixed`` stay on top."""
    table = tag(
        "table",
        tag("caption", tag("span", caption)),
        tag("thead", tag("tr", column("method", None, kind="text"), *header)),
        tag("tbody", *fixed, class_="fixed") if fixed else None,
        tag("tbody", *body),
        class_="sortable",
    )
    return scrolling(table, caption)


def scrolling(content: Html, label: str) -> Html:
    """A box that scrolls sideways, also by the keyboard."""
    return tag("div", content, class_="box", tabindex="0", role="region", aria_label=label)


def column(name: str, text: str | None, order: str = "none", kind: str = "number") -> Html:
    """The header of a column, a button that sorts by it; ``text`` says what it means."""
    words = Html("_<wbr>".join(escape(word) for word in name.split("_")))  # may be broken there
    button = tag("button", words, type="button", title=text)
    return tag("th", button, scope="col", aria_sort=order, data_kind=kind)


def row_name(name: str) -> Html:
    """The first cell of a row that is sorted."""
    return tag("th", name, scope="row", data_value=name)


def sort_value(number: float | None) -> str | None:
    """What a cell is sorted by; nothing for an unknown number, which stays last."""
    return None if number is None or not math.isfinite(number) else repr(number)


def by_role(
    rows: dict[str, dict], cells_of: Callable[[dict], Sequence[Html]]
) -> tuple[list[Html], list[Html]]:
    """The table rows of audited rows: Retrain's, which stay on top, and the others."""
    fixed, body = [], []
    for name, row in rows.items():
        line = tag("tr", row_name(name), *cells_of(row))
        (fixed if row["role"] == "retrain" else body).append(line)
    return fixed, body
