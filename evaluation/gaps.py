"""Average gaps to Retrain, and how large a gap would be between Retrain and itself.

A gap on a few accuracies lets the error of a weak attack trade against an accuracy, so no ranking
should rest on it alone; and a method inside the floor is indistinguishable from Retrain on these
numbers, which proves little else.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import multimode
from typing import NamedTuple

import numpy as np

Values = Sequence[float] | np.ndarray
Runs = Mapping[str, Values]
Keys = tuple[Sequence[Hashable], Sequence[Hashable]]

# What "Avg. Gap" is taken over, all in percent, by the names of a result: the SalUn paper's four,
# and with the attack that papers of 2025 report in MIA's place. An average gap's own name ends with
# the key.
ENTROPY = "MIA_entropy"
AVERAGED = ("UA", "RA", "TA", "MIA")
AVERAGED_ENTROPY = (*AVERAGED[:3], ENTROPY)
AVERAGES = {"": AVERAGED, "_entropy": AVERAGED_ENTROPY}
IN_AUDIT = {"MIA": "svc_confidence_tnr", ENTROPY: "lr_entropy_member_rate"}  # their names there
FEWEST = 3  # Retrain runs; with two a band has one degree of freedom, and everything is inside


def signed_gaps(method: Runs, retrain: Runs) -> dict[str, float]:
    """mean(method) - mean(retrain) of each metric, in the metric's unit; 0 is best.

    The sign tells too little forgetting from too much: a UA or an MIA above Retrain's also gives
    the forget set away.

    Args:
        method, retrain: for each metric the values (runs,) of one configuration's runs; the numbers
            of runs may differ.
    """
    method, retrain = _checked(method), _checked(retrain)
    _check_names(method, retrain)
    return {name: float(method[name].mean() - retrain[name].mean()) for name in method}


def gap_of_means(method: Runs, retrain: Runs) -> float:
    """SalUn's "Avg. Gap", lower is better: mean over metrics of |mean(method) - mean(retrain)|.

    Never above :func:`mean_paired_gap`, since averaging over seeds comes before the absolute value
    and noise cancels.
    """
    return float(np.mean(np.abs(list(signed_gaps(method, retrain).values()))))


def mean_paired_gap(method: Runs, retrain: Runs) -> float:
    """Mean over metrics and seeds of |method - retrain|, run i against run i; lower is better.

    Keeps the noise of single runs, so that two Retrains are apart too: compare with
    ``gap_floor(retrain, 1, 1)``.

    Args:
        method, retrain: for each metric the values (runs,), the same seeds in the same order.
    """
    method, retrain = _checked(method), _checked(retrain)
    _check_names(method, retrain)
    if any(len(method[name]) != len(retrain[name]) for name in method):
        raise ValueError("a paired gap needs as many runs of the method as of Retrain")
    return float(np.mean([np.abs(method[name] - retrain[name]).mean() for name in method]))


def paired_gap(method: Runs, retrain: Runs, keys: Keys) -> float | None:
    """:func:`mean_paired_gap` of the runs whose key a Retrain run has too; None where none has.

    Args:
        keys: for each run of the method, and of Retrain, what pairs them (seed, forget set); of
            equal keys the last Retrain counts.
    """
    partners = {key: i for i, key in enumerate(keys[1])}
    pairs = [(i, partners[key]) for i, key in enumerate(keys[0]) if key in partners]
    if not pairs:
        return None
    chosen = [list(side) for side in zip(*pairs, strict=True)]
    ours, theirs = (
        {name: np.asarray(values)[positions] for name, values in runs.items()}
        for runs, positions in zip((method, retrain), chosen, strict=True)
    )
    return mean_paired_gap(ours, theirs)


# ------------------------------------------------------------------------------------------- floors


def noise_floor(values: Values) -> float:
    """Mean absolute difference over all pairs of one metric's Retrain ``values`` (m,), m >= 2.

    Unbiased for E|A - A'| of two new runs however few there are, which the standard deviation is
    not (20 % low at two runs); for a Gaussian metric it estimates 2 sigma / sqrt(pi). Cost O(m log
    m).
    """
    ordered = np.sort(_values("Retrain", values))
    count = len(ordered)
    if count < 2:
        raise ValueError(f"a floor between Retrain runs needs at least two of them, not {count}")
    # The i-th smallest is the larger one of a pair i times and the smaller one count - 1 - i times.
    weights = 2 * np.arange(count) - count + 1
    return float(max(weights @ (ordered - ordered[0]), 0) / math.comb(count, 2))


def gap_floor(retrain: Runs, method_runs: int, retrain_runs: int) -> float:
    """The :func:`gap_of_means` to expect of ``method_runs`` against ``retrain_runs`` Retrain runs.

    Mean over metrics of noise_floor * sqrt((1 / method_runs + 1 / retrain_runs) / 2). Exact for one
    run against one, where it is the floor of :func:`mean_paired_gap` for any number of seeds;
    beyond that for Gaussian metrics.

    Args:
        retrain: for each metric two or more Retrain values, whose number need not be
            ``retrain_runs``.
    """
    if method_runs < 1 or retrain_runs < 1:
        raise ValueError(f"a gap needs runs on both sides, not {method_runs} and {retrain_runs}")
    shrink = math.sqrt((1 / method_runs + 1 / retrain_runs) / 2)
    return shrink * float(np.mean([noise_floor(values) for values in _checked(retrain).values()]))


def usual_runs(counts: Sequence[int]) -> int:
    """Runs that Retrain's floor is of: the most frequent count, the smaller of two; 1 of none."""
    return min(multimode(counts), default=1)


# -------------------------------------------------------------------------------------------- marks


def noise_band(retrain: Values, method_runs: int, level: float = 0.95) -> float:
    """Half-width of the band that a true Retrain's mean gap is in with probability ``level``.

    t * s * sqrt(1 / method_runs + 1 / m) with s the standard deviation of the m Retrain values and
    t the two-sided quantile of Student's t with m - 1 degrees of freedom: exact for Gaussian
    metrics. s is Retrain's alone: a method's own scatter must not widen the band in which it
    passes. At m = 2 the band is wide, as it has to be.

    Args:
        retrain: m >= 2 values (m,) of one metric.
    """
    from scipy.special import stdtrit

    retrain = _values("Retrain", retrain)
    if len(retrain) < 2 or method_runs < 1:
        raise ValueError(
            f"a band needs two Retrain runs and one of the method, not {len(retrain)} and"
            f" {method_runs}"
        )
    if not 0 < level < 1:
        raise ValueError(f"level must be within (0, 1), not {level}")
    quantile = stdtrit(len(retrain) - 1, (1 + level) / 2)
    return float(quantile * retrain.std(ddof=1) * math.sqrt(1 / method_runs + 1 / len(retrain)))


def average_band(
    retrain: Runs, method_runs: int, noise: Mapping[str, tuple[float, int]] | None = None
) -> float:
    """What a Retrain's :func:`gap_of_means` stays below with probability 95 % or more.

    The mean of the metrics' bands: exact where all metrics move as one, the worst case, so that no
    covariance is needed. benchmarks/null.py simulates it. For ``noise`` see :func:`inside_average`.
    """
    added = noise or {}
    bands = [
        widened(noise_band(values, method_runs), *added.get(name, (0.0, 1)))
        for name, values in _checked(retrain).items()
    ]
    return float(np.mean(bands))


def distance_band(retrain: Values, method_runs: int, level: float = 0.95) -> float:
    """:func:`noise_band` for a symmetric distance between models.

    d(i, j) = c + a_i + a_j + noise of the pair, with a_i how far out model i lies. Retrain i's mean
    distance to the other m - 1 moves by (m - 2) / (m - 1) of its a_i against the mean of all, so
    that factor is taken out; noise of pairs makes the band wider than need be.

    Args:
        retrain: (m,), m >= 3, each Retrain model's mean distance to the others. Their mean is the
            floor.
    """
    retrain = _values("Retrain", retrain)
    if len(retrain) < FEWEST:
        raise ValueError(f"a band of distances needs {FEWEST} Retrain models, not {len(retrain)}")
    return noise_band(retrain, method_runs, level) * (len(retrain) - 1) / (len(retrain) - 2)


def widened(band: float, noise: float, draws: int) -> float:
    """Half-width of a 95 % band that also holds the independent noise of ``draws`` draws."""
    from scipy.special import stdtrit

    return math.hypot(band, float(stdtrit(draws - 1, 0.975)) * noise) if draws > 1 else band


def inside_noise(
    method: Values, retrain: Values, noise: float = 0.0, draws: int = 1
) -> bool | None:
    """Whether one metric's mean gap is within :func:`noise_band`; None below three Retrains.

    A Retrain metric that never varies (RA at 100) has a band of 0, outside of which everything else
    lies.

    Args:
        noise, draws: see :func:`widened`.
    """
    return _inside(
        method, retrain, lambda values, runs: widened(noise_band(values, runs), noise, draws)
    )


def inside_distance(method: Values, retrain: Values) -> bool | None:
    """The same for a symmetric distance, by :func:`distance_band`.

    Args:
        method: (k,), the mean distance of each run to all m Retrain models.
        retrain: (m,), the mean distance of each Retrain model to the other m - 1.
    """
    return _inside(method, retrain, distance_band)


def inside_average(
    method: Runs, retrain: Runs, noise: Mapping[str, tuple[float, int]] | None = None
) -> bool | None:
    """Whether the gap of means is within :func:`average_band`; None below three Retrains.

    Args:
        noise: for a metric that is a mean over draws the arguments of :func:`widened`.
    """
    if min(map(len, retrain.values())) < FEWEST:
        return None
    band = average_band(retrain, min(map(len, method.values())), noise)
    rounding = _rounding(*method.values(), *retrain.values())
    return bool(gap_of_means(method, retrain) <= band + rounding)


class AverageGap(NamedTuple):
    """An average gap of one configuration: of means, of paired runs, what the first stays below if
    the method is Retrain, and whether it does; None where it is not known.
    """

    of_means: float | None = None
    paired: float | None = None
    band: float | None = None
    inside: bool | None = None


def average_gap(
    method: Runs,
    retrain: Runs,
    keys: Keys,
    noise: Mapping[str, tuple[float, int]] | None = None,
    *,
    is_retrain: bool = False,
) -> AverageGap:
    """All that is said of one average gap; the arguments are those of :func:`paired_gap` and of
    :func:`inside_average`. Retrain's own row, and one beside fewer than three Retrain runs, has no
    band.
    """
    of_means, paired = gap_of_means(method, retrain), paired_gap(method, retrain, keys)
    if is_retrain or min(map(len, retrain.values())) < FEWEST:
        return AverageGap(of_means, paired)
    band = average_band(retrain, min(map(len, method.values())), noise)
    return AverageGap(of_means, paired, band, inside_average(method, retrain, noise))


def _inside(
    method: Values, retrain: Values, band: Callable[[np.ndarray, int], float]
) -> bool | None:
    method, retrain = _values("method", method), _values("Retrain", retrain)
    if len(retrain) < FEWEST:
        return None
    gap = abs(method.mean() - retrain.mean())
    return bool(gap <= band(retrain, len(method)) + _rounding(method, retrain))


def _rounding(*columns: Values) -> float:
    """What a mean of equal numbers may be off by: no gap."""
    return 1e-12 * max(1.0, *(float(np.abs(column).max()) for column in columns))


def too_few(retrain_runs: int) -> str | None:
    """A line saying that gaps cannot be marked, for one or two Retrain runs; else None."""
    if not 0 < retrain_runs < FEWEST:
        return None
    here = "one Retrain model" if retrain_runs == 1 else f"{retrain_runs} Retrain models"
    return (
        f"{here}: telling gaps from noise needs {FEWEST} Retrain runs; nothing is marked; run it"
        " with another --seed and the --forget_seed of these runs (by default their --seed)"
    )


def trained_unlike(original: float, retrain: Values) -> str | None:
    """A line on an original that fits retain unlike Retrain, as by another recipe; else None.

    Its accuracy is outside of the band in which one more Retrain run falls, and more than half a
    point from their mean. Never said of fewer than three Retrain runs.

    Args:
        original, retrain: accuracies on the retain set in percent, of one model and of m others
            (m,).
    """
    if len(retrain) < FEWEST:
        return None
    mean = np.mean(retrain)
    if abs(original - mean) <= max(noise_band(retrain, 1), 0.5):
        return None
    return (
        f"the original has {original:.1f} % accuracy on the retain set, Retrain {mean:.1f} %: they"
        " were trained unlike each other, and every gap holds that difference; train both by one"
        " recipe"
    )


def _checked(runs: Runs) -> dict[str, np.ndarray]:
    if not runs:
        raise ValueError("a gap needs at least one metric")
    return {name: _values(name, values) for name, values in runs.items()}


def _values(name: str, values: Values) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"{name}: need the values (runs,) of at least one run, and finite ones")
    return values


def _check_names(method: Runs, retrain: Runs) -> None:
    if method.keys() != retrain.keys():
        raise ValueError(
            f"the method has {sorted(method)} and Retrain {sorted(retrain)}: a gap needs the same"
            " metrics"
        )
