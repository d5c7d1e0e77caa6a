"""The numbers of one row of a table: means, gaps to Retrain, bands of Retrain's own noise."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence

from evaluation.gaps import (
    AVERAGED,
    AVERAGES,
    ENTROPY,
    FEWEST,
    AverageGap,
    average_gap,
    gap_floor,
    inside_noise,
    noise_band,
    widened,
)
from evaluation.intervals import mean_interval
from evaluation.membership import draw_noise, rule_of
from evaluation.verdicts import DESTROYED, verdict_of
from reporting.notes import warnings_of

METRICS = AVERAGED

Noise = Mapping[str, tuple[float, int]]  # of the attack's draws and their number, by metric
NO_NOISE = (0.0, 1)


def row_of(name: str, group: list[dict], retrain: list[dict]) -> dict:
    """Every number of one row, in percentage points and seconds; None where it is not known.

    Args:
        group, retrain: the result records of the row and of the reference; the same list object
            for the reference's own row, [] without one.
    """
    row = {"name": name, "runs": len(group), "is_retrain": bool(retrain) and group is retrain}
    for metric in (*METRICS, ENTROPY, "RTE"):
        row |= _spread(metric, values_of(group, metric))
    noise = _draw_noise(group, retrain)
    for metric in (*METRICS, ENTROPY):
        row |= _gap(metric, group, retrain, noise)
    for end, metrics in AVERAGES.items():
        row |= _average(end, metrics, group, retrain, noise)
    if retrain and rule_of(group[0]) != rule_of(retrain[0]):
        row |= dict.fromkeys(("MIA_band", "MIA_inside_noise", "MIA_draw_noise"))
        row |= {"avg_gap_band": None, "inside_noise": None, "other_draw": True}
    else:
        row |= {"other_draw": False, "MIA_draw_noise": noise["MIA"][0] if noise else None}
    warnings = warnings_of(group, retrain)
    row["warnings"] = sum(map(bool, warnings))
    if any(verdict_of(line) == DESTROYED for lines in warnings for line in lines):
        # A metric in which Retrains differ widely makes the mean band wide enough for anything.
        row |= {f"inside_noise{end}": False for end in AVERAGES if row[f"inside_noise{end}"]}
    return row


def values_of(group: Sequence[dict], metric: str) -> list[float]:
    """A number for each run; [] where a run does not record the metric."""
    if metric == "RTE":
        return [run["RTE"]["total"] for run in group]
    values = [run["metrics"].get(metric) for run in group]
    return [] if None in values else values


def floor_of(retrain: Sequence[dict], metrics: Sequence[str], runs: int) -> float | None:
    """Expected mean absolute gap of ``runs`` other Retrain runs; None with fewer than two."""
    values = _finite_columns(retrain, metrics)
    return gap_floor(values, runs, len(retrain)) if values and len(retrain) > 1 else None


def _spread(metric: str, values: list[float]) -> dict:
    """Mean, sample SD and interval of the mean; the last two need several finite values."""
    several = len(values) > 1 and all(map(math.isfinite, values))
    within = (0.0, math.inf if metric == "RTE" else 100.0)
    low, high = mean_interval(values, within=within) if several else (None, None)
    return {
        metric: statistics.fmean(values) if values else None,
        f"{metric}_std": statistics.stdev(values) if several else None,
        f"{metric}_low": low,
        f"{metric}_high": high,
    }


def _draw_noise(group: Sequence[dict], retrain: Sequence[dict]) -> Noise:
    """MIA's noise from two or more draws; {} unless all runs share forget set and rule."""
    runs = (*group, *retrain)
    asked = {(run["data"]["forget"]["sha256"], json.dumps(rule_of(run))) for run in runs}
    if not retrain or len(asked) > 1:
        return {}
    sides = [[(run.get("attack") or {}).get("MIA") for run in side] for side in (group, retrain)]
    draws = [values if isinstance(values, list) else [] for side in sides for values in side]
    count = len(draws[0])
    if count < 2 or any(len(values) != count or None in values for values in draws):
        return {}
    return {"MIA": (draw_noise(*sides), count)}


def _gap(metric: str, group: list[dict], retrain: list[dict], noise: Noise) -> dict:
    """The signed gap, the half-width of the band of Retrain's noise, and whether the gap is in it.
    The last two need three Retrain runs and finite values, and are not given for Retrain itself.
    """
    ours, target = values_of(group, metric), values_of(retrain, metric)
    gap = band = inside = None
    if ours and target:
        gap = statistics.fmean(ours) - statistics.fmean(target)
        is_finite = all(map(math.isfinite, ours + target))
        if group is not retrain and len(retrain) >= FEWEST and is_finite:
            added = noise.get(metric, NO_NOISE)
            band = widened(noise_band(target, len(ours)), *added)
            inside = inside_noise(ours, target, *added)
    return {f"{metric}_gap": gap, f"{metric}_band": band, f"{metric}_inside_noise": inside}


def _average(
    end: str, metrics: Sequence[str], group: list[dict], retrain: list[dict], noise: Noise
) -> dict:
    """An average gap: of means, paired, its floor and band of Retrain, and whether it is inside."""
    ours, target = _finite_columns(group, metrics), _finite_columns(retrain, metrics)
    gap = AverageGap()
    if ours and target:
        keys = [pair_key(run) for run in group], [pair_key(run) for run in retrain]
        gap = average_gap(ours, target, keys, noise, is_retrain=group is retrain)
    return {
        f"avg_gap{end}": gap.of_means,
        f"mean_paired_gap{end}": gap.paired,
        f"avg_gap{end}_floor": floor_of(retrain, metrics, len(group)),
        f"avg_gap{end}_band": gap.band,
        f"inside_noise{end}": gap.inside,
    }


def _finite_columns(group: Sequence[dict], metrics: Sequence[str]) -> dict[str, list[float]] | None:
    """The runs' values of each metric; None where one is missing or not finite."""
    columns = {metric: values_of(group, metric) for metric in metrics}
    for column in columns.values():
        if not column or not all(map(math.isfinite, column)):
            return None
    return columns


def pair_key(run: dict) -> tuple:
    """What a run shares with the Retrain run that it is paired with: forget set and seed."""
    return run["data"]["forget"]["sha256"], run["provenance"]["seed"]
