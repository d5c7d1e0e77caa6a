"""Audits with many models: are the margins of unlearned models distributed like those of Retrain
models, sample by sample?

A margin is z_y - logsumexp_{j != y} z_j, and an array of margins (models, n) has a row per model.
Every estimate here is biased upwards when models are few: two sets of Retrain models do not get 0
either. So each has a floor, the value of the same estimate where nothing is to be found
(:func:`simulated_floor`, :func:`gaussian_kl_floor`), and is read against it.

``unlearned`` are margins (N, n) of N >= 2 unlearned models, ``retrained`` (M, n) of M >= 2 Retrain
models; a divergence costs O(n (N + M)).
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray | float]

DELTA = 1e-5
CAP = 50.0  # epsilon of two distributions that a rule tells apart without error
# A range below this share of the other's gives a sample away whatever the rules find.
DEGENERATE = 0.01
REACH = 2.0  # of a margin: how far from the peak's range the ends of an interval may lie
BIN = 0.5  # of epsilon; each further bin halves a sample's score
KLOM_BINS, KLOM_CLIP, KLOM_LEAST = 20, 100.0, 1e-5
# Margins that are worked on at a time: 1 MB and its copies stay in cache, 16 MB takes up to three
# times as long.
BLOCK = 2**17


# ------------------------------------------------------------------------------------------ epsilon


def epsilon_of_rates(fpr: np.ndarray, fnr: np.ndarray, delta: float = DELTA) -> np.ndarray:
    """The least epsilon, of (epsilon, delta)-indistinguishability, that error rates allow.

    max(log(1 - delta - FPR) - log FNR, log(1 - delta - FNR) - log FPR), within [0, 50], entry by
    entry. A rule with one rate of exactly 0 is taken for too few models and gives 0; with both 0 it
    gives 50. (Kairouz et al., ICML 2015, for the bound; the NeurIPS 2023 unlearning challenge,
    arXiv 2406.09073, for its use and the two conventions.)
    """
    return _epsilon_of_odds(_odds(np.asarray(fpr, np.float64), np.asarray(fnr, np.float64), delta))


def _odds(fpr: np.ndarray, fnr: np.ndarray, delta: float) -> np.ndarray:
    """exp(epsilon) before any limit: 0 for a rule with one rate of 0, infinite with both."""
    with np.errstate(divide="ignore", invalid="ignore"):  # rates of 0, replaced below
        odds = np.maximum((1 - delta - fpr) / fnr, (1 - delta - fnr) / fpr)
    usable = (fpr > 0) & (fnr > 0)
    return np.where(usable, odds, np.where(fpr == fnr, np.inf, 0))


def _epsilon_of_odds(odds: np.ndarray) -> np.ndarray:
    return np.minimum(np.log(np.maximum(odds, 1)), CAP)


def epsilon(
    unlearned: np.ndarray, retrained: np.ndarray, delta: float = DELTA, *, intervals: bool = True
) -> np.ndarray:
    """Largest :func:`epsilon_of_rates` (n,) of the rules that tell both sides' margins apart.

    Two families of rules, and the maximum over both: a margin at or above a threshold is of the
    side with the larger median (the unlearned one, of equal ones), for all thresholds; a margin
    within an interval is of the side that spans less, for all intervals around that peak, whose
    right end is within 2 of the peak's largest margin and whose length is within 2 of what the peak
    spans. A sample whose one side spans less than 1 % of the other's range gets 50. Otherwise at
    most log(models - 1) of the larger side, or 50 for sides without overlap. (arXiv 2406.09073; its
    code tries both families on a grid of .01, here every rule that parts the margins otherwise is
    tried.)

    Two sets of models of one distribution do not get 0: :func:`simulated_floor`. More models hardly
    lower it, since the extremes decide. Equal arrays, unlike equal distributions, give 0.
    Cost O(n (N + M)^2), without intervals O(n (N + M) log(N + M)).

    Args:
        intervals: False leaves the thresholds alone. These depend on ranks only (but for the rule
            of the 1 % and for medians between two margins), so that their floor is one number per
            (N, M) for all distributions: 1.21 for 20 models a side, 1.18 for 64, 1.13 for 512.
    """

    def of_block(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
        spans = np.ptp(unlearned, axis=0), np.ptp(retrained, axis=0)
        unlearned_is_high = np.median(unlearned, axis=0) >= np.median(retrained, axis=0)
        best = _best_threshold(unlearned, retrained, unlearned_is_high, delta)
        if intervals:
            tied = spans[0] == spans[1]
            peak_is_unlearned = np.where(tied, ~unlearned_is_high, spans[0] < spans[1])
            best = np.maximum(best, _best_interval(unlearned, retrained, peak_is_unlearned, delta))
        return np.where(np.minimum(*spans) < DEGENERATE * np.maximum(*spans), CAP, best)

    if not 0 <= delta < 1:
        raise ValueError(f"delta must be within [0, 1), not {delta}")
    return _in_blocks(of_block, unlearned, retrained)


def _best_threshold(
    unlearned: np.ndarray, retrained: np.ndarray, unlearned_is_high: np.ndarray, delta: float
) -> np.ndarray:
    """Largest epsilon (n,) of the rules "the high side is at or above t", over all t."""
    joined = np.concatenate([unlearned, retrained])
    order = joined.argsort(0)
    values = np.take_along_axis(joined, order, 0)
    below_unlearned = np.cumsum(order < len(unlearned), 0)[:-1]
    below_retrained = np.arange(1, len(joined))[:, None] - below_unlearned
    # The share of each side below t.
    under_unlearned = below_unlearned / len(unlearned)
    under_retrained = below_retrained / len(retrained)
    low = np.where(unlearned_is_high, under_retrained, under_unlearned)
    high = np.where(unlearned_is_high, under_unlearned, under_retrained)
    odds = _odds(fpr=1 - low, fnr=high, delta=delta)
    # No threshold lies between two equal values.
    return _epsilon_of_odds(np.where(values[:-1] < values[1:], odds, 0).max(0))


def _best_interval(
    unlearned: np.ndarray, retrained: np.ndarray, peak_is_unlearned: np.ndarray, delta: float
) -> np.ndarray:
    """Largest epsilon (n,) of "the peaked side is within [l, r]", see :func:`epsilon`."""
    joined = np.concatenate([unlearned, retrained])
    order = joined.argsort(0)
    values = np.take_along_axis(joined, order, 0)
    none, endless = np.zeros((1, values.shape[1])), np.full((1, values.shape[1]), np.inf)
    before, after = np.concatenate([-endless, values[:-1]]), np.concatenate([values[1:], endless])
    in_peak = (order < len(unlearned)) == peak_is_unlearned
    # How many margins of the peaked side, and of the other one, come before each position.
    peak, other = (np.concatenate([none, side.cumsum(0)]) for side in (in_peak, ~in_peak))
    high = np.where(peak_is_unlearned, unlearned.max(0), retrained.max(0))
    span = high - np.where(peak_is_unlearned, unlearned.min(0), retrained.min(0))
    best = np.zeros(values.shape[1])
    for last, (value, following) in enumerate(zip(values, after, strict=True)):
        # r lies in [value, following), and l, for each margin up to this one, between the one
        # before it and itself.
        least, most = np.maximum(value, high - REACH), np.minimum(following, high + REACH)
        margins, preceding = values[: last + 1], before[: last + 1]
        around = (margins >= least - span - REACH) & (preceding < most - span + REACH)
        around &= (least < following) & (least <= high + REACH)
        # No end lies between two equal values.
        around &= (preceding < margins) & (value < following)
        fpr = (other[last + 1] - other[: last + 1]) / other[-1]
        fnr = (peak[-1] - peak[last + 1] + peak[: last + 1]) / peak[-1]
        best = np.maximum(best, np.where(around, _odds(fpr, fnr, delta), 0).max(0))
    return _epsilon_of_odds(best)


def forgetting_quality(epsilons: np.ndarray, models: int) -> float:
    """F, in [0, 1]: mean of 2 / 2^b, b = 1 for an epsilon in [0, .5), 2 in [.5, 1), ...

    0 from ceil(log(models - 1)) on, which only a perfect separation or a degenerate side reaches.
    Retrain against Retrain gets not 1 but about .2, and by thresholds alone .37 at 512 models a
    side, .34 at 64 and .32 at 20: report F beside, or over, that. (arXiv 2406.09073.)

    Args:
        epsilons: (n,), of :func:`epsilon`.
        models: the number of models on a side, the larger one if they differ; at least 3, or there
            is no bin.
    """
    epsilons = np.asarray(epsilons, np.float64)
    if models < 3:
        raise ValueError(f"a score needs at least three models a side, not {models}")
    if not epsilons.size or not (epsilons >= 0).all():  # False for NaN too
        raise ValueError("a score needs at least one epsilon, and none below 0")
    scored = epsilons < math.ceil(math.log(models - 1))
    return float(np.where(scored, 0.5 ** np.floor(epsilons / BIN), 0).mean())


def final_score(
    quality: float, unlearned: Mapping[str, float], retrained: Mapping[str, float]
) -> float:
    """F * RA(unlearned) / RA(retrained) * TA(unlearned) / TA(retrained); higher is better.

    Above 1 only where a utility is above Retrain's. (arXiv 2406.09073.)

    Args:
        quality: of :func:`forgetting_quality`.
        unlearned, retrained: RA and TA, means over the models, in one unit.
    """
    values = [side[name] for side in (unlearned, retrained) for name in ("RA", "TA")]
    if not all(0 <= value < math.inf for value in values) or not retrained["RA"] * retrained["TA"]:
        raise ValueError(f"RA and TA must be finite, and Retrain's above 0, not {values}")
    return quality * unlearned["RA"] / retrained["RA"] * unlearned["TA"] / retrained["TA"]


# --------------------------------------------------------------------------- divergences of margins


def klom(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """KL (n,) in nats from histograms of unlearned margins to Retrain's, 20 bins.

    The margins are clipped to +-100, and the bins divide a sample's joint range into 20 equal
    parts, the last one closed so that the largest margin counts (published code drops it). Where
    Retrain's share is below 1e-5 and the unlearned one is not 0, it is set to 1e-5, and the shares
    are then made to sum to 1. In [0, about 11.5], 0 for equal histograms, not symmetric. Identical
    distributions get about 3 at 20 models a side, .34 at 100 and .15 at 200: with fewer than 100
    prefer :func:`gaussian_kl`. (Georgiev et al., "Attribute-to-delete", arXiv 2410.23232.)
    """

    def of_block(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
        sides = _histograms(unlearned, retrained)
        p, q = (counts / counts.sum(1, keepdims=True) for counts in sides)
        q = np.where(p > 0, np.maximum(q, KLOM_LEAST), q)
        q /= q.sum(1, keepdims=True)
        ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
        return np.maximum((p * np.log(ratio)).sum(1), 0)

    return _in_blocks(of_block, unlearned, retrained)


def _histograms(unlearned: np.ndarray, retrained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts (n, 20) of both sides in equal bins of each column's joint range."""
    unlearned = np.clip(unlearned, -KLOM_CLIP, KLOM_CLIP)
    retrained = np.clip(retrained, -KLOM_CLIP, KLOM_CLIP)
    low = np.minimum(unlearned.min(0), retrained.min(0))
    width = np.maximum(unlearned.max(0), retrained.max(0)) - low
    width = np.where(width > 0, width, 1)
    columns = KLOM_BINS * np.arange(len(low))

    def count(margins: np.ndarray) -> np.ndarray:
        bins = np.minimum(((margins - low) / width * KLOM_BINS).astype(np.int64), KLOM_BINS - 1)
        counts = np.bincount((bins + columns).ravel(), minlength=KLOM_BINS * len(low))
        return counts.reshape(-1, KLOM_BINS)

    return count(unlearned), count(retrained)


def gaussian_kl(unlearned: np.ndarray, retrained: np.ndarray, *, pooled: bool = True) -> np.ndarray:
    """KL (n,) in nats from a Gaussian of unlearned margins to one of Retrain's.

    log(s_r / s_u) + (s_u^2 + (m_u - m_r)^2) / (2 s_r^2) - 1/2 with unbiased variances. ``pooled``
    gives both sides one variance, (N - 1) s_u^2 and (M - 1) s_r^2 over N + M - 2, so that only (m_u
    - m_r)^2 / (2 s^2) is left: blind to a change of spread, symmetric, and with the lower floor,
    which decides at ten or twenty models. In [0, infinity]: infinite where the variance that
    divides is 0 and the sides differ, or where only the unlearned one is 0. Its floor:
    :func:`gaussian_kl_floor`.
    """

    def of_block(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
        shift = (unlearned.mean(0) - retrained.mean(0)) ** 2
        var_u, var_r = unlearned.var(0, ddof=1), retrained.var(0, ddof=1)
        if pooled:
            free = len(unlearned) - 1, len(retrained) - 1
            var_u = var_r = (free[0] * var_u + free[1] * var_r) / sum(free)
        # Models that all agree have a variance of 0.
        with np.errstate(divide="ignore", invalid="ignore"):
            kl = (np.log(var_r / var_u) + (var_u + shift) / var_r - 1) / 2
        kl = np.where(var_r == 0, np.inf, kl)
        return np.where((var_u == var_r) & (shift == 0), 0, np.maximum(kl, 0))

    return _in_blocks(of_block, unlearned, retrained)


# ------------------------------------------------------------------------------------------- floors


def gaussian_kl_floor(
    unlearned_models: int, retrained_models: int, *, pooled: bool = True
) -> float:
    """The exact mean of :func:`gaussian_kl` between samples of one Gaussian.

    Pooled: (1 / N + 1 / M) / 2 * v / (v - 2) with v = N + M - 2, the mean of an F variable.
    Otherwise (psi(a) - log a - psi(b) + log b + v (1 + 1 / N + 1 / M) / (v - 2) - 1) / 2 with b =
    (N - 1) / 2, v = M - 1, a = v / 2 and psi the digamma function. Infinite means (v <= 2) are
    refused.
    """
    from scipy.special import digamma

    free = unlearned_models + retrained_models - 2 if pooled else retrained_models - 1
    if free <= 2 or min(unlearned_models, retrained_models) < 2:
        raise ValueError(
            f"with {unlearned_models} and {retrained_models} models the divergence has no finite"
            " mean"
        )
    noise = 1 / unlearned_models + 1 / retrained_models
    if pooled:
        return noise / 2 * free / (free - 2)
    bias = [digamma(half) - math.log(half) for half in (free / 2, (unlearned_models - 1) / 2)]
    return float((bias[0] - bias[1] + free * (1 + noise) / (free - 2) - 1) / 2)


def simulated_floor(
    statistic: Statistic,
    unlearned_models: int,
    retrained_models: int,
    *,
    scale: float = 1.0,
    samples: int = 2000,
    seed: int = 0,
) -> float:
    """Mean of ``statistic`` between samples of one Gaussian of standard deviation ``scale``.

    For the thresholds of :func:`epsilon` the Gaussian stands for every distribution; for its
    intervals, whose reach is in units of the margin, the scale counts a little, and for
    :func:`klom` the shape. Standard error: the statistic's standard deviation over sqrt(samples).
    Cost: one call on ``samples`` columns.
    """
    rng = np.random.default_rng(seed)
    unlearned = scale * rng.standard_normal((unlearned_models, samples))
    retrained = scale * rng.standard_normal((retrained_models, samples))
    return float(np.mean(statistic(unlearned, retrained)))


def _in_blocks(function: Statistic, unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """``function`` (n,) of checked float64 margins, some columns at a time."""
    unlearned, retrained = np.asarray(unlearned), np.asarray(retrained)
    if unlearned.ndim != 2 or unlearned.shape[1:] != retrained.shape[1:] or not unlearned.shape[1]:
        raise ValueError(
            f"need margins (models, n) of the same n > 0 samples, not {unlearned.shape} and"
            f" {retrained.shape}"
        )
    if min(len(unlearned), len(retrained)) < 2:
        raise ValueError(
            f"need at least two models a side, not {len(unlearned)} and {len(retrained)}"
        )
    if not (np.isfinite(unlearned).all() and np.isfinite(retrained).all()):
        raise ValueError("margins are not finite: a model has diverged")
    width = max(1, BLOCK // (len(unlearned) + len(retrained)))
    blocks = [np.s_[:, start : start + width] for start in range(0, unlearned.shape[1], width)]
    return np.concatenate(
        [function(unlearned[b].astype(np.float64), retrained[b].astype(np.float64)) for b in blocks]
    )
