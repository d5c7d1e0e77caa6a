"""What is said of a metric: the columns of the table in :mod:`evaluation.metrics`."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from evaluation.accuracy import Splits
from evaluation.intervals import Interval, Metric

RETRAIN, FLOOR = "retrain", "floor"


class Scale(NamedTuple):
    """A unit, the least and the largest value in it, and these two in words."""

    unit: str
    low: float
    high: float
    range: str

    @property
    def ends(self) -> Interval:
        return self.low, self.high


PERCENT = Scale("percent", 0.0, 100.0, "0 to 100")
SHARE = Scale("share", 0.0, 1.0, "0 to 1")
FROM_HALF = Scale("share", 0.5, 1.0, "0.5 to 1")
UTILITY = Scale("share", 0.0, math.inf, "0 to about 1")
PROBABILITY = Scale("probability", 0.0, math.sqrt(2), "0 to sqrt 2")
NATS = Scale("nats", 0.0, math.inf, "0 to infinity")
JS_NATS = Scale("nats", 0.0, math.log(2), "0 to ln 2")
KLOM_NATS = Scale("nats", 0.0, 11.5, "0 to 11.5")
EPSILON = Scale("epsilon", 0.0, 50.0, "0 to 50")
UPDATES = Scale("updates", 0.0, math.inf, "0 to infinity")
RATIO = Scale("ratio", 0.0, math.inf, "0 to infinity")


@dataclasses.dataclass(frozen=True)
class Definition:
    """One metric, or a family of them; ``text`` says what it is.

    ``good`` is a number, ``retrain`` (Retrain's own value), ``floor`` (what Retrain models have
    among themselves: 0 where there is no noise), another metric's name, or ``high``. ``cost`` is
    beyond the one forward pass over all splits, ``source`` a paper or a formula. ``chance`` ends
    the name of the metric beside this one that holds its value at chance, where ``good`` does not
    say it. ``measure`` computes the metric from a model's splits, None where these lack an image
    set; a metric without it comes from a suite that computes several at once.
    """

    scale: Scale
    good: str | float = RETRAIN
    cost: str = "none"
    source: str = "-"
    text: str = ""
    group: str = ""
    chance: str | None = None
    measure: Callable[[Splits], Metric | None] | None = None

    def means(self, text: str) -> "Definition":
        """The same of a metric that is ``text``."""
        return dataclasses.replace(self, text=text)


def markdown_table(definitions: Mapping[str, Definition]) -> str:
    """Definitions by name, or by patterns of names between bars."""
    head = ["group", "name", "what it is", "unit, range", "good is"]
    head += ["at chance", "cost beyond the forward pass", "source"]
    lines = [markdown_line(head), "|---" * len(head) + "|"]
    for pattern, each in definitions.items():
        names = ", ".join(f"`{part}`" for part in pattern.split("|"))
        scale = f"{each.scale.unit}, {each.scale.range}"
        chance = f"its `*{each.chance}`" if each.chance else "-"
        cells = [each.group, names, each.text, scale, str(each.good), chance, each.cost]
        lines.append(markdown_line([*cells, each.source]))
    return "\n".join(lines)


def markdown_line(cells: Sequence[str]) -> str:
    """One row of a Markdown table; a bar inside a cell is escaped."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
