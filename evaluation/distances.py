"""How far a model's outputs are from Retrain's: on single samples (logits against logits) and on
accuracies (ToW).

Logits (n, k) are of the same samples in the same order; a distance costs O(nk), in float64.
Two trainings that differ in nothing but the seed are also apart, so a distance means little without
the same distance between Retrain models beside it: :func:`evaluation.gaps.inside_distance`.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from evaluation.entropy import softmax

LN2 = math.log(2)


def activation_distance(unlearned: np.ndarray, retrain: np.ndarray) -> float:
    """Mean over samples of ||softmax(unlearned) - softmax(retrain)||_2, in [0, sqrt 2].

    Symmetric, and a metric: the triangle inequality holds. (Golatkar et al., "Eternal Sunshine",
    CVPR 2020, and the bad-teaching paper, Chundawat et al., AAAI 2023.)
    """
    unlearned, retrain = _checked(unlearned, retrain)
    return float(np.linalg.norm(softmax(unlearned) - softmax(retrain), axis=1).mean())


def jensen_shannon(unlearned: np.ndarray, retrain: np.ndarray) -> float:
    """Mean over samples of (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in nats.

    In [0, ln 2] and symmetric; 0 only where all probabilities agree; lower is closer. Summed over
    classes and averaged over samples, which published code that divides by both does not do.
    """
    return float(_js(*map(_log_softmax, _checked(unlearned, retrain))).mean())


def kl_divergence(retrain: np.ndarray, unlearned: np.ndarray) -> float:
    """Mean over samples of KL(retrain || unlearned) = sum_i r_i (log r_i - log u_i), in nats.

    In [0, infinity), not symmetric: large where the unlearned model rules out what Retrain holds
    possible. Lower is closer. Taken from log-probabilities, so that it stays finite for all finite
    logits.
    """
    return float(_kl(*map(_log_softmax, _checked(retrain, unlearned))).mean())


def disagreement(unlearned: np.ndarray, retrain: np.ndarray) -> float:
    """Fraction of samples on which the two predict different classes, in [0, 1]; lower is closer.

    Of equal largest logits the first counts.
    """
    unlearned, retrain = _checked(unlearned, retrain)
    return float(np.mean(unlearned.argmax(1) != retrain.argmax(1)))


DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "activation_distance": activation_distance,
    "js": jensen_shannon,
    "kl_retrain_unlearned": lambda unlearned, retrain: kl_divergence(retrain, unlearned),
    "disagreement": disagreement,
}


def distances(unlearned: np.ndarray, retrain: np.ndarray) -> dict[str, float]:
    """All of ``DISTANCES`` between logits (n, k) of the same samples in the same order."""
    return {name: distance(unlearned, retrain) for name, distance in DISTANCES.items()}


def is_distance(name: str) -> bool:
    """Whether a metric is one of ``DISTANCES`` on a split, such as ``js_forget``."""
    return name.rpartition("_")[0] in DISTANCES


def is_agreement(name: str) -> bool:
    """Whether a metric of an audit is a tug of war."""
    return name in ("tow", "tow_mia")


def tow(unlearned: Mapping[str, float], retrain: Mapping[str, float]) -> float:
    """Tug of war: product over forget, retain, test of 1 - |accuracy - Retrain's| / 100.

    In [0, 1]; 1 means the same three accuracies, whatever the predictions. (Zhao et al., "What
    makes unlearning hard and what to do about it", NeurIPS 2024.)

    Args:
        unlearned, retrain: the percentages UA (100 - accuracy on forget), RA and TA.
    """
    return _agreement(("UA", "RA", "TA"), unlearned, retrain)


def tow_mia(unlearned: Mapping[str, float], retrain: Mapping[str, float]) -> float:
    """:func:`tow` with the percentage MIA of a membership attack in the place of UA."""
    return _agreement(("MIA", "RA", "TA"), unlearned, retrain)


def _agreement(
    names: tuple[str, ...], unlearned: Mapping[str, float], retrain: Mapping[str, float]
) -> float:
    sides = (unlearned, retrain)
    percent = np.array([[side[name] for name in names] for side in sides], np.float64)
    if not ((percent >= 0) & (percent <= 100)).all():  # False for NaN too
        raise ValueError(
            f"{', '.join(names)} must be percentages within [0, 100], not {percent.tolist()}"
        )
    return float(np.prod(1 - np.abs(percent[0] - percent[1]) / 100))


def _checked(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, after one check that they can be compared."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 2 or not first.size:
        raise ValueError(
            f"need two sets of logits of one shape (n, k) with n > 0, not {first.shape} and"
            f" {second.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("logits are not finite: a model has diverged")
    return first, second


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _kl(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """KL(p || q) per row from finite log-probabilities (n, k), rounding below 0 cut off."""
    return np.maximum((np.exp(log_p) * (log_p - log_q)).sum(1), 0)


def _js(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    log_mean = np.logaddexp(log_p, log_q) - LN2
    return np.minimum((_kl(log_p, log_mean) + _kl(log_q, log_mean)) / 2, LN2)
