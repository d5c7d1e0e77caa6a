"""Is a mean over our seeds a published one? The difference in standard errors, and a verdict."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evaluation.gaps import FEWEST

LAST_DIGIT = 0.005  # half of the last digit that papers print, in percentage points


class Error(NamedTuple):
    """The standard error of a difference of means, in the unit of the values, and its degrees of
    freedom.
    """

    size: float
    freedom: float


def mean_error(values: Sequence[float]) -> Error:
    """The standard error of the mean of k >= 2 values (k,)."""
    return Error(float(np.std(values, ddof=1)) / math.sqrt(len(values)), len(values) - 1)


def difference_error(ours: Sequence[float], sd: float | None, trials: int | None) -> Error:
    """The standard error of mean(ours) - a published mean.

    Welch's: sqrt(s^2 / k + sd^2 / n) with the SD s of our k values and Welch and Satterthwaite's
    degrees of freedom. Without a published SD the trials are taken to scatter as ours do,
    s sqrt(1 / k + 1 / n) with k - 1 degrees. An unknown number of trials counts as one.

    Args:
        ours: k >= 2 values (k,) of one metric.
        sd: sample SD of the published trials, in the unit of ``ours``.
        trials: n.
    """
    count, others = len(ours), trials or 1
    variance = float(np.var(ours, ddof=1))
    if sd is None:
        return Error(math.sqrt(variance * (1 / count + 1 / others)), count - 1)
    mine, theirs = variance / count, sd**2 / others
    total = mine + theirs
    if others < 2 or total == 0:
        return Error(math.sqrt(total), count - 1)
    freedom = total**2 / (mine**2 / (count - 1) + theirs**2 / (others - 1))
    return Error(math.sqrt(total), freedom)


def average_error(errors: Sequence[tuple[Error, Error]]) -> Error:
    """A bound on the standard error of an average gap, or of the difference of two.

    The mean over metrics of the method's error and Retrain's together: exact where all metrics
    move as one, the worst case, as in :func:`evaluation.gaps.average_band`. Its degrees of freedom
    are the fewest of all.

    Args:
        errors: for each metric the method's and Retrain's.
    """
    sizes = [math.hypot(method.size, retrain.size) for method, retrain in errors]
    return Error(float(np.mean(sizes)), min(error.freedom for pair in errors for error in pair))


def half_width(error: Error, level: float = 0.95) -> float:
    """How far Student's interval reaches to either side."""
    from scipy.special import stdtrit

    return float(stdtrit(error.freedom, (1 + level) / 2) * error.size)


def verdict(difference: float, error: Error) -> str:
    """``reproduced`` where seeds and the last printed digit explain the difference, else by how
    many standard errors it differs.
    """
    if abs(difference) <= half_width(error) + LAST_DIGIT:
        return "reproduced"
    if error.size == 0:
        return "differs, and no run does from another"
    return f"differs by {abs(difference) / error.size:.1f} standard errors"


def too_few_runs(runs: int) -> str | None:
    """Why so few runs have no verdict; None where there are enough."""
    return None if runs >= FEWEST else f"{runs} of the {FEWEST} seeds that a verdict needs"
