"""Exact intervals of rates, and Student's or resampled ones of means over seeds."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Interval = tuple[float, float]
FEWEST_TO_RESAMPLE = 10


class Metric(NamedTuple):
    """One number of an audit, in its definition's unit (:mod:`evaluation.metrics`).

    ``interval`` holds the ends of its 95 % interval, ``chance`` the ends between which it falls by
    chance with a probability of 95 %; None where there is none.
    """

    value: float
    interval: Interval | None = None
    chance: Interval | None = None


def values_of(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """The numbers alone."""
    return {name: metric.value for name, metric in metrics.items()}


def intervals_of(metrics: Mapping[str, Metric]) -> dict[str, Interval]:
    """The intervals of those that have one."""
    return {name: each.interval for name, each in metrics.items() if each.interval is not None}


def chances_of(metrics: Mapping[str, Metric]) -> dict[str, Interval]:
    """Where chance puts those of which that is known."""
    return {name: each.chance for name, each in metrics.items() if each.chance is not None}


def chance_interval(sd: float, alpha: float = 0.05) -> Interval:
    """0.5 -+ z ``sd`` within [0, 1], which holds chance's values with probability 1 - ``alpha``."""
    from scipy.special import ndtri

    reach = float(-ndtri(alpha / 2) * sd)
    return max(0.5 - reach, 0.0), min(0.5 + reach, 1.0)


def clopper_pearson(
    successes: float | np.ndarray, trials: float | np.ndarray, level: float = 0.95
) -> tuple[float | np.ndarray, float | np.ndarray]:
    """Exact binomial interval (low, high), within [0, 1], of the rate behind ``successes``.

    Covers the true rate in at least ``level`` of all experiments, whatever the rate and the number
    of trials: also for TPR at a small FPR, where a handful of samples decides. The ends are Beta
    quantiles, low the (1 - level) / 2 quantile of Beta(s, t - s + 1), 0 at s = 0, and high the (1 +
    level) / 2 quantile of Beta(s + 1, t - s), 1 at s = t. (Clopper & Pearson, Biometrika 1934.)
    Arrays are treated entry by entry.
    """
    from scipy.special import betaincinv

    successes, trials = np.broadcast_arrays(
        np.asarray(successes, np.float64), np.asarray(trials, np.float64)
    )
    _check_level(level)
    if not ((trials > 0) & (successes >= 0) & (successes <= trials)).all():
        raise ValueError(
            "a rate needs at least one trial and between 0 and all of them as successes"
        )
    tail, failures = (1 - level) / 2, trials - successes
    # The inverse is asked for harmless parameters where the end is fixed, since 0 is none of a Beta
    # distribution.
    low = np.where(successes > 0, betaincinv(np.maximum(successes, 1e-9), failures + 1, tail), 0.0)
    upper = betaincinv(successes + 1, np.maximum(failures, 1e-9), 1 - tail)
    high = np.where(failures > 0, upper, 1.0)
    return (float(low), float(high)) if low.ndim == 0 else (low, high)


def mean_interval(
    values: np.ndarray, *, level: float = 0.95, within: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[float, float] | None:
    """Interval (low, high) of the mean of ``values`` (n,), one per seed; None for n = 1.

    Below ten values Student's, mean -+ t sd / sqrt(n), exact for Gaussian ones; there a bootstrap
    covers too little (of 95 %: 48 % with two, 76 % with three, 82 % with five values). From ten on
    :func:`bootstrap_mean`. ``within`` are the ends that the values cannot pass, such as 0 and 100
    of a percentage.
    """
    from scipy.special import stdtrit

    values = np.asarray(values, np.float64)
    if not 1 < len(values) < FEWEST_TO_RESAMPLE:
        return bootstrap_mean(values, level=level)
    _check_values(values, level)
    half = stdtrit(len(values) - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(len(values))
    low, high = np.clip([values.mean() - half, values.mean() + half], *within)
    return float(low), float(high)


def bootstrap_mean(
    values: np.ndarray, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile bootstrap interval (low, high) of the mean of ``values`` (n,); None for n = 1.

    ``draws`` times n values are drawn with replacement; the ends are quantiles of their means.
    Independent of the order of ``values``. For few seeds it is too narrow: see
    :func:`mean_interval`. Cost O(draws n). (Efron & Tibshirani 1993, chapter 13.)
    """
    values = np.sort(np.asarray(values, np.float64))
    _check_values(values, level)
    if len(values) == 1:
        return None
    picks = _picks(len(values), draws, seed)
    low, high = np.quantile(values[picks].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@functools.lru_cache(maxsize=1)
def _picks(count: int, draws: int, seed: int) -> np.ndarray:
    """Positions (draws, count) of resampled values. A table asks for the same ones for each of its
    columns and, mostly, rows.
    """
    picks = np.random.default_rng(seed).integers(0, count, (draws, count))
    picks.flags.writeable = False
    return picks


def _check_values(values: np.ndarray, level: float) -> None:
    _check_level(level)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError("a mean needs at least one value, and finite ones")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be within (0, 1), not {level}")
