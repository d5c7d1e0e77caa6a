"""Models -> rows: one per configuration, averaged over seeds, with gaps and noise floors."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.accuracy import Splits
from evaluation.distances import is_agreement, is_distance
from evaluation.gaps import (
    AVERAGES,
    FEWEST,
    IN_AUDIT,
    AverageGap,
    average_gap,
    gap_floor,
    inside_distance,
    inside_noise,
    usual_runs,
)
from evaluation.intervals import Metric, mean_interval
from evaluation.membership import draw_noise
from evaluation.metrics import define

# What the average gaps are taken over, as an audit names it.
AVERAGED = {
    end: tuple(IN_AUDIT.get(name, name) for name in names) for end, names in AVERAGES.items()
}


@dataclasses.dataclass(frozen=True)
class Judged:
    """A model and what the suites say of it.

    ``role`` is models, retrain, unlike (a Retrain of another kind than the one that gaps are to) or
    original; ``key`` is the same for all seeds of one configuration. ``by_draw`` holds the
    percentages (draws,) of the attacks that are means over draws, ``weights_moved`` how far the
    weights are from the original's (:func:`evaluation.verdicts.relative_change`; 1 where that is
    not known). ``raw`` is the original evaluated as if it had forgotten: no rule judges it.
    """

    label: str
    role: str
    key: str
    seed: int
    splits: Splits
    metrics: Mapping[str, Metric]
    by_draw: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    weights_moved: float = 1.0
    raw: bool = False


def make_rows(models: Sequence[Judged]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows in the order of their first model, and Retrain's floors, {} with fewer than two.

    A row: label, role, models (positions), mean, sd, ci, gap, inside_noise, and for each of
    AVERAGES that it has gap_of_means and mean_paired_gap; see :mod:`evaluation.gaps`. A metric
    that a model lacks, or that is not finite, is left out of its row. ``floors`` are the gaps to
    expect of ``runs`` more Retrain runs, of a distance what two Retrain models have.
    """
    groups: dict[tuple, list[int]] = {}
    for position, model in enumerate(models):
        groups.setdefault((model.role, model.key), []).append(position)
    retrain = [model for model in models if model.role == "retrain"]
    counts = [len(positions) for (role, _), positions in groups.items() if role != "retrain"]
    rows = [_row(positions, models, retrain) for positions in groups.values()]
    return rows, _floors(retrain, usual_runs(counts))


def _row(positions: list[int], models: Sequence[Judged], retrain: list[Judged]) -> dict[str, Any]:
    group = [models[position] for position in positions]
    values, theirs = _columns(group), _columns(retrain)
    row = {"label": group[0].label, "role": group[0].role, "models": positions}
    row |= {"mean": {}, "sd": {}, "ci": {}, "gap": {}}
    for name, column in values.items():
        row["mean"][name] = float(np.mean(column))
        row["sd"][name] = float(np.std(column, ddof=1)) if len(group) > 1 else None
        row["ci"][name] = mean_interval(column, within=define(name).scale.ends)
        if name in theirs:
            row["gap"][name] = float(np.mean(column) - np.mean(theirs[name]))
    noise = {name: _draw_noise(name, group, retrain) for name in row["gap"]}
    marks = {}
    if group[0].role != "retrain":
        marks = {name: inside(name, values[name], theirs[name], *noise[name]) for name in noise}
    for end, average in _averages(group, retrain, noise).items():
        row[f"gap_of_means{end}"] = average.of_means
        row[f"mean_paired_gap{end}"] = average.paired
        marks[f"gap_of_means{end}"] = average.inside
    return row | {"inside_noise": {name: mark for name, mark in marks.items() if mark is not None}}


def _averages(
    group: list[Judged], retrain: list[Judged], noise: Mapping[str, tuple[float, int]]
) -> dict[str, AverageGap]:
    """The average gaps, by the ending of their names, whose metrics both sides have."""
    found, is_retrain = {}, group[0].role == "retrain"
    keys = [model.seed for model in group], [model.seed for model in retrain]
    for end in AVERAGES:
        ours, theirs = (_in_percent(_columns(side), end) for side in (group, retrain))
        if ours and theirs:
            found[end] = average_gap(ours, theirs, keys, noise, is_retrain=is_retrain)
    return found


def _draw_noise(name: str, group: list[Judged], retrain: list[Judged]) -> tuple[float, int]:
    """Noise of the attack's draws in a metric's gap, and their number; (0, 1) without draws."""
    sides = [[model.by_draw.get(name) for model in side] for side in (group, retrain)]
    if not retrain or any(draws is None for side in sides for draws in side):
        return 0.0, 1
    return draw_noise(*sides), len(sides[0][0])


def inside(
    name: str, method: np.ndarray, retrain: np.ndarray, noise: float = 0.0, draws: int = 1
) -> bool | None:
    """Whether Retrain's own seeds explain a metric's difference; None below three Retrains.

    Args:
        method, retrain: the values (k,) and (m,) of the runs. A distance, or ToW, of a Retrain
            model is to the m - 1 others. KL is not symmetric, but between models as close as two
            Retrains it is to second order, and is judged as if it were.
        noise, draws: :func:`evaluation.membership.draw_noise` of a metric that is a mean over
            draws.
    """
    if is_distance(name):
        return inside_distance(method, retrain)
    if not is_agreement(name):
        return inside_noise(method, _beside_all(name, retrain), noise, draws)
    # A product of three shares: its logarithm is a sum, as a distance is.
    with np.errstate(divide="ignore"):
        method, retrain = -np.log(method), -np.log(retrain)
    if not np.isfinite(retrain).all():
        return None
    if not np.isfinite(method).all():
        return False if len(retrain) >= FEWEST else None
    return inside_distance(method, retrain)


def _beside_all(name: str, retrain: np.ndarray) -> np.ndarray:
    """Retrain's values (m,) of an attack by references, with the spread of values beside all m.

    Model i is beside the m - 1 others: x_i less their mean is m / (m - 1) times as far from 0 as
    x_i less the mean of all.
    """
    if not name.startswith(("rmia_", "lira_")):
        return retrain
    mean = retrain.mean()
    return mean + (retrain - mean) * (len(retrain) - 1) / len(retrain)


def _columns(group: Sequence[Judged]) -> dict[str, np.ndarray]:
    """The values (models,) of every metric that all models of a group have, finite ones only."""
    missing, found = Metric(np.nan), {}
    for name in group[0].metrics if group else ():
        column = np.array([model.metrics.get(name, missing).value for model in group])
        if np.isfinite(column).all():
            found[name] = column
    return found


def _in_percent(columns: Mapping[str, np.ndarray], end: str) -> dict[str, np.ndarray]:
    """The four that an average gap is taken over, in percent; {} where one is missing."""
    if not all(name in columns for name in AVERAGED[end]):
        return {}
    return {
        name: columns[name] * (1.0 if define(name).scale.unit == "percent" else 100.0)
        for name in AVERAGED[end]
    }


def _floors(retrain: list[Judged], runs: int) -> dict[str, float]:
    """Expected gaps of ``runs`` more Retrain runs and their averages; Retrain's own distances."""
    if len(retrain) < 2:
        return {}
    columns, sides = _columns(retrain), (runs, len(retrain))
    floors = {name: _floor(name, column, sides) for name, column in columns.items()}
    for end in AVERAGES:
        if averaged := _in_percent(columns, end):
            floors[f"gap_of_means{end}"] = gap_floor(averaged, *sides)
            floors[f"mean_paired_gap{end}"] = gap_floor(averaged, 1, 1)
    return floors | {"runs": runs}


def _floor(name: str, values: np.ndarray, sides: tuple[int, int]) -> float:
    if is_agreement(name):
        with np.errstate(divide="ignore"):
            return float(np.exp(np.log(values).mean()))
    if is_distance(name):
        return float(values.mean())
    return gap_floor({name: _beside_all(name, values)}, *sides)
