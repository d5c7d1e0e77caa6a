"""Probabilities and entropies from logits, in float64: what the membership attacks look at."""

import numpy as np

# Smallest probability that a logarithm sees; -log of it is 69, far beyond any finite fp32 logit gap
# of interest.
FLOOR = 1e-30


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows of ``logits`` (n, k) as probabilities (n, k), float64."""
    shifted = np.asarray(logits, np.float64)
    shifted = np.exp(shifted - shifted.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """H(p) = -sum_i p_i log p_i per row, in nats, within [0, log k]; 0 log 0 counts as 0."""
    return -(probabilities * np.log(np.maximum(probabilities, FLOOR))).sum(1)


def modified_entropy(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mentr(p, y) = -(1 - p_y) log p_y - sum_{i != y} p_i log(1 - p_i) per row (Song & Mittal,
    USENIX Security 2021).

    0 where p_y = 1 and growing without bound (here to 138, twice -log FLOOR) as p_y goes to 0;
    lower looks more like a member. A row's value depends on that row alone.
    """
    rows = np.arange(len(labels))
    log_p = np.log(np.maximum(probabilities, FLOOR))
    log_rest = np.log(np.maximum(_complement(probabilities), FLOOR))
    others = probabilities * log_rest
    others[rows, labels] = 0
    return -(1 - probabilities[rows, labels]) * log_p[rows, labels] - others.sum(1)


def _complement(probabilities: np.ndarray) -> np.ndarray:
    """1 - p, for the largest p of a row the sum of the others, which keeps small differences."""
    largest = np.arange(probabilities.shape[1]) == probabilities.argmax(1)[:, None]
    others = np.where(largest, 0, probabilities).sum(1, keepdims=True)
    return np.where(largest, others, 1 - probabilities)
