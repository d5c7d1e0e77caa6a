"""UA, RA, TA, VA: accuracies of un-augmented splits."""

from collections.abc import Mapping

import numpy as np

from evaluation.intervals import Metric, clopper_pearson

Outputs = tuple[np.ndarray, np.ndarray]  # logits (n, k), labels (n,)
Splits = Mapping[str, Outputs]


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Percent of ``logits`` (n, k) whose largest entry is at ``labels`` (n,); NaN for n = 0."""
    if not len(labels):
        return float("nan")
    return float(100 * np.mean(np.asarray(logits).argmax(1) == labels))


def measured_accuracy(outputs: Outputs) -> Metric:
    """:func:`accuracy` with its Clopper-Pearson interval: all of [0, 100] for an empty split."""
    logits, labels = outputs
    if not len(labels):
        return Metric(float("nan"), (0.0, 100.0))
    low, high = clopper_pearson(np.sum(logits.argmax(1) == labels), len(labels))
    return Metric(accuracy(logits, labels), (100 * low, 100 * high))


def measured_error(outputs: Outputs) -> Metric:
    """100 - :func:`measured_accuracy`."""
    value, (low, high), _ = measured_accuracy(outputs)
    return Metric(100 - value, (100 - high, 100 - low))


# Training images that earlier requests made the model forget.
BEFORE = "forgotten_before"


def accuracies(outputs: Splits) -> dict[str, float]:
    """The reported percentages from (logits, labels) of forget, retain, val and test.

    UA = 100 - accuracy on forget; RA, TA and VA are the accuracies on retain, test and validation.
    """
    splits = ("forget", "retain", "test", "val")
    forget, retain, test, val = (accuracy(*outputs[split]) for split in splits)
    return {"UA": 100 - forget, "RA": retain, "TA": test, "VA": val}
