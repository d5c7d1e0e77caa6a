"""Relearn time: how soon fine-tuning on the forget set brings back what the original knew of it.

A model that only hides the forget set relearns it in fewer steps than Retrain, which has to learn
it. The curve (value after 0, 1, 2, 4, 8, ... steps) says more than its one crossing, and should
stand beside it.
"""

import math
from collections.abc import Sequence

import numpy as np


def steps_to_reach(
    curve_steps: Sequence[float],
    curve_values: Sequence[float],
    target: float,
    *,
    rising: bool = True,
) -> float:
    """The first recorded step at which the curve reaches ``target``; infinity if none does.

    No interpolation: the answer is as fine as the recording, and never too early.

    Args:
        curve_steps: the steps (or epochs) that were recorded, increasing; start at 0, where a model
            that needs none is found.
        curve_values: the forget set's accuracy or loss there, in the unit of ``target``.
        target: the original model's value, less what it may miss (one or two points of accuracy).
        rising: True for an accuracy (>= target counts), False for a loss (<= target counts).
    """
    steps, values = np.asarray(curve_steps, np.float64), np.asarray(curve_values, np.float64)
    if steps.shape != values.shape or steps.ndim != 1 or not len(steps):
        raise ValueError(
            f"a curve needs as many values as steps, at least one, not {values.shape} and"
            f" {steps.shape}"
        )
    if (np.diff(steps) <= 0).any():
        raise ValueError("the steps of a curve must increase")
    if not np.isfinite(values).all() or not math.isfinite(target):
        raise ValueError("a curve and its target must be finite")
    reached = np.flatnonzero(values >= target if rising else values <= target)
    return float(steps[reached[0]]) if len(reached) else math.inf


def relearn_ratio(unlearned_steps: float, retrain_steps: float) -> float:
    """Steps over Retrain's, in [0, infinity]; below 1 something was left behind.

    Infinite where the unlearned model did not get there: over-forgetting, or a curve that is too
    short.

    Args:
        unlearned_steps, retrain_steps: of :func:`steps_to_reach`, on the same forget set, learning
            rate and batches.
    """
    if unlearned_steps < 0 or not 0 < retrain_steps < math.inf:
        raise ValueError(
            f"no ratio to Retrain's {retrain_steps:g} steps: lengthen the curve, or choose a target"
            " it does not start at"
        )
    return unlearned_steps / retrain_steps
