"""UA, RA, TA, VA: accuracies of un-augmented splits."""

from collections.abc import Mapping

import numpy as np


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Percent of the rows of ``logits`` (n, k) whose largest entry is at ``labels`` (n,); NaN for
    an empty split.
    """
    if not len(labels):
        return float("nan")
    return float(100 * np.mean(np.asarray(logits).argmax(1) == labels))


def accuracies(outputs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """The percentages that the field reports, from (logits, labels) of forget, retain, val and
    test.

    UA = 100 - accuracy on forget; RA, TA and VA are the accuracies on retain, test and validation.
    """
    percent = {split: accuracy(*outputs[split]) for split in ("forget", "retain", "val", "test")}
    return {
        "UA": 100 - percent["forget"],
        "RA": percent["retain"],
        "TA": percent["test"],
        "VA": percent["val"],
    }
