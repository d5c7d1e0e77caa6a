"""Average gaps to Retrain, and how large a gap would be between Retrain and itself.

A gap on a few accuracies lets the error of a weak attack trade against an accuracy, so no ranking should rest on it
alone; and a method inside the floor is indistinguishable from Retrain on these numbers, which proves little else.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

Runs = Mapping[str, Sequence[float] | np.ndarray]


def signed_gaps(method: Runs, retrain: Runs) -> dict[str, float]:
    """mean(method) - mean(retrain) of each metric, in the metric's unit; 0 is best.

    The sign tells too little forgetting from too much: a UA or an MIA above Retrain's also gives the forget set away.

    Args:
        method, retrain: for each metric the values (runs,) of one configuration's runs; the numbers of runs may differ.
    """
    method, retrain = _checked(method), _checked(retrain)
    _check_names(method, retrain)
    return {name: float(method[name].mean() - retrain[name].mean()) for name in method}


def gap_of_means(method: Runs, retrain: Runs) -> float:
    """The "Avg. Gap" of the SalUn paper's tables: mean over metrics of |mean(method) - mean(retrain)|; lower is better.

    Never above :func:`mean_paired_gap`, since averaging over seeds comes before the absolute value and noise cancels.
    """
    return float(np.mean(np.abs(list(signed_gaps(method, retrain).values()))))


def mean_paired_gap(method: Runs, retrain: Runs) -> float:
    """Mean over metrics and seeds of |method - retrain|, run i against run i; lower is better.

    Keeps the noise of single runs, so that two Retrains are apart too: compare with ``gap_floor(retrain, 1, 1)``.

    Args:
        method, retrain: for each metric the values (runs,), the same seeds in the same order.
    """
    method, retrain = _checked(method), _checked(retrain)
    _check_names(method, retrain)
    if any(len(method[name]) != len(retrain[name]) for name in method):
        raise ValueError("a paired gap needs as many runs of the method as of Retrain")
    return float(np.mean([np.abs(method[name] - retrain[name]).mean() for name in method]))


# -------------------------------------------------------------------------------------------------------------- floors


def between_oracles(distance: Callable[[Any, Any], float], oracles: Sequence[Any]) -> float:
    """What ``distance(unlearned, retrain)`` is between Retrain and Retrain: its mean over all ordered pairs of two.

    The row that each distance is read against. Both orders count, since the distance need not be symmetric.

    Args:
        oracles: two or more Retrain models' outputs, as ``distance`` takes them. Cost: m (m - 1) distances.
    """
    if len(oracles) < 2:
        raise ValueError(f"a floor between Retrain models needs at least two of them, not {len(oracles)}")
    return float(np.mean([distance(one, other) for one, other in permutations(oracles, 2)]))


def noise_floor(values: Sequence[float] | np.ndarray) -> float:
    """Mean absolute difference between two Retrain runs, over all pairs of ``values`` (m,), m >= 2, of any one metric.

    Unbiased for E|A - A'| of two new runs however few there are, which the standard deviation is not (20 % low at two
    runs); for a Gaussian metric it estimates 2 sigma / sqrt(pi). Cost O(m log m).
    """
    ordered = np.sort(_values("Retrain", values))
    count = len(ordered)
    if count < 2:
        raise ValueError(f"a floor between Retrain runs needs at least two of them, not {count}")
    # The i-th smallest is the larger one of a pair i times and the smaller one count - 1 - i times.
    weights = 2 * np.arange(count) - count + 1
    return float(max(weights @ (ordered - ordered[0]), 0) / math.comb(count, 2))


def gap_floor(retrain: Runs, method_runs: int, retrain_runs: int) -> float:
    """The gap_of_means to expect of a method that is Retrain itself, from ``method_runs`` against ``retrain_runs`` runs.

    Mean over metrics of noise_floor * sqrt((1 / method_runs + 1 / retrain_runs) / 2). Exact for one run against one,
    where it is the floor of :func:`mean_paired_gap` for any number of seeds; beyond that for Gaussian metrics.

    Args:
        retrain: for each metric two or more Retrain values; at how many runs the floor is taken is told apart from it.
    """
    if method_runs < 1 or retrain_runs < 1:
        raise ValueError(f"a gap needs runs on both sides, not {method_runs} and {retrain_runs}")
    shrink = math.sqrt((1 / method_runs + 1 / retrain_runs) / 2)
    return shrink * float(np.mean([noise_floor(values) for values in _checked(retrain).values()]))


def noise_band(retrain: Sequence[float] | np.ndarray, method_runs: int, level: float = 0.95) -> float:
    """Half-width of the band in which mean(method) - mean(retrain) falls with probability ``level`` if the method is Retrain.

    t * s * sqrt(1 / method_runs + 1 / m) with s the standard deviation of the m Retrain values and t the two-sided quantile
    of Student's t with m - 1 degrees of freedom: exact for Gaussian metrics. s is Retrain's alone: a method's own
    scatter must not widen the band in which it passes. At m = 2 the band is wide, as it has to be.

    Args:
        retrain: m >= 2 values (m,) of one metric.
    """
    from scipy.special import stdtrit

    retrain = _values("Retrain", retrain)
    if len(retrain) < 2 or method_runs < 1:
        raise ValueError(f"a band needs two Retrain runs and one of the method, not {len(retrain)} and {method_runs}")
    if not 0 < level < 1:
        raise ValueError(f"level must be within (0, 1), not {level}")
    quantile = stdtrit(len(retrain) - 1, (1 + level) / 2)
    return float(quantile * retrain.std(ddof=1) * math.sqrt(1 / method_runs + 1 / len(retrain)))


def inside_noise(method: Sequence[float] | np.ndarray, retrain: Sequence[float] | np.ndarray, level: float = 0.95) -> bool:
    """Whether |mean(method) - mean(retrain)| of one metric is within :func:`noise_band`: what Retrain's seeds explain.

    A Retrain metric that never varies (RA at 100) has a band of 0, outside of which everything else lies.
    """
    method = _values("method", method)
    return bool(abs(method.mean() - np.mean(retrain)) <= noise_band(retrain, len(method), level))


def trained_unlike(original: float, retrain: Sequence[float] | np.ndarray) -> bool:
    """Whether the original fits the retain set unlike Retrain does: what a wrong recipe, or a crippled run, looks like.

    Its accuracy is outside of the band in which one more Retrain run falls, and more than half a point from their mean. Never said
    of fewer than three Retrain runs.

    Args:
        original, retrain: accuracies on the retain set in percent, of one model and of m others (m,).
    """
    if len(retrain) < 3:
        return False
    return bool(abs(original - np.mean(retrain)) > max(noise_band(retrain, 1), 0.5))


def _checked(runs: Runs) -> dict[str, np.ndarray]:
    if not runs:
        raise ValueError("a gap needs at least one metric")
    return {name: _values(name, values) for name, values in runs.items()}


def _values(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"{name}: need the values (runs,) of at least one run, and finite ones")
    return values


def _check_names(method: Runs, retrain: Runs) -> None:
    if method.keys() != retrain.keys():
        raise ValueError(f"the method has {sorted(method)} and Retrain {sorted(retrain)}: a gap needs the same metrics")
