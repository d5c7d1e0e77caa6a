"""Scores (n,) of single samples from a model's logits, float64, which attacks rank samples by."""

import numpy as np

from evaluation.entropy import entropy, modified_entropy, softmax

# +1 where a larger score looks more like a sample that was trained on, -1 where a smaller one does.
MEMBER_SIGN = {
    "log_probability": 1,
    "loss": -1,
    "confidence": 1,
    "entropy": -1,
    "m_entropy": -1,
    "margin": 1,
}


def margin(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """phi = z_y - log sum_{j != y} exp z_j = log(p_y / (1 - p_y)); larger is more member-like.

    It grows without bound where p_y rounds to 1, and over models it is close to Gaussian (Carlini
    et al., "Membership inference attacks from first principles", 2022). One pass over ``logits``
    (n, k), k >= 2; ``labels`` (n,).
    """
    others = np.array(logits, np.float64)
    labels = np.asarray(labels)
    are_logits = others.ndim == 2 and len(others) and others.shape[1] > 1
    if not are_logits or labels.shape != others.shape[:1]:
        raise ValueError(
            "Margins need logits (n, k) with n >= 1 and k >= 2, and labels (n,); got"
            f" {others.shape} and {labels.shape}."
        )
    if not np.isfinite(others).all():
        raise ValueError("Margins need finite logits.")
    if labels.min() < 0 or labels.max() >= others.shape[1]:
        raise ValueError(
            f"Labels go from 0 to {others.shape[1] - 1}, the logits' last column; got"
            f" {labels.min()} to {labels.max()}."
        )
    rows = np.arange(len(labels))
    own = others[rows, labels]
    others[rows, labels] = -np.inf
    largest = others.max(1)
    others -= largest[:, None]
    return own - largest - np.log(np.exp(others, out=others).sum(1))


def sample_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Six scores (n,) from ``logits`` (n, k) and ``labels`` (n,), each row by itself.

    margin: see :func:`margin`. log_probability = log p_y <= 0 and loss = -log p_y, in nats, both
    from the margin, so that they keep their relative accuracy, hence their order, where p_y is 1 to
    rounding. confidence = p_y. entropy and m_entropy: see :mod:`evaluation.entropy`.
    ``MEMBER_SIGN`` says which way a score looks like a member.
    """
    phi = margin(logits, labels)
    probabilities = softmax(logits)
    log_probability = -np.logaddexp(0, -phi)
    return {
        "log_probability": log_probability,
        "loss": -log_probability,
        "confidence": np.exp(log_probability),
        "entropy": entropy(probabilities),
        "m_entropy": modified_entropy(probabilities, labels),
        "margin": phi,
    }


def member_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """:func:`sample_scores` with signs such that larger is more member-like."""
    return {
        name: MEMBER_SIGN[name] * score for name, score in sample_scores(logits, labels).items()
    }
