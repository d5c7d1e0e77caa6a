"""What a reader must know before trusting an audit: of each row, and of all of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.gaps import FEWEST, noise_band, too_few, trained_unlike
from evaluation.rows import Judged
from evaluation.verdicts import (
    Standing,
    at_chance,
    changed_nothing,
    judge,
    judge_alone,
    mean_standing,
    once_each,
    say_at_chance,
    standing,
)


def row_alarms(row: Mapping[str, Any], models: Sequence[Judged]) -> list[str]:
    """The warnings of one row; the original is judged by no rule."""
    group = [models[position] for position in row["models"]]
    if row["role"] == "retrain":
        return once_each([judge_alone(_standing(model), model.label) for model in group])
    if row["role"] != "models":
        return []
    judged = [model for model in group if not model.raw]
    original = next((model for model in models if model.role == "original"), None)
    retrain = [model for model in models if model.role == "retrain"]
    start = _standing(original) if original else None
    target = mean_standing([_standing(model) for model in retrain])
    found = [judge(_standing(model), start, target) for model in judged]
    if start and not at_chance(start):
        found = [
            lines
            + changed_nothing(model.splits, original.splits, weights_moved=model.weights_moved)
            for lines, model in zip(found, judged, strict=True)
        ]
    return once_each(found) + _forget_alarms(row, group, retrain)


def _standing(model: Judged) -> Standing:
    known = standing(*model.splits["retain"]) if "retain" in model.splits else Standing(math.nan)
    return known._replace(accuracy=model.metrics["RA"].value)


def _forget_alarms(
    row: Mapping[str, Any], group: Sequence[Judged], retrain: Sequence[Judged]
) -> list[str]:
    """Whether forget images stand out among unseen ones: still known, or conspicuously wrong."""
    if "loss_auc" not in row["mean"]:
        return []
    area = row["mean"]["loss_auc"]
    low, high = np.mean([model.metrics["loss_auc"].chance for model in group], axis=0)
    below = above = 0.0
    if retrain:
        # Retrain's own areas may lie off 0.5 for the images at hand.
        areas = np.array([model.metrics["loss_auc"].value for model in retrain])
        band = noise_band(areas, len(group)) if len(areas) >= FEWEST else 0.0
        below = min(areas.mean() - band - 0.5, 0)
        above = max(areas.mean() + band - 0.5, 0)
    numbers = f"(AUC {area:.3f}, chance {low:.3f} to {high:.3f})"
    if area < low + below:
        return [f"over-forgetting: losses on forget stand out as too high {numbers}"]
    if area > high + above:
        return [f"under-forgetting: losses on forget stand out as too low {numbers}"]
    return []


def audit_alarms(models: Sequence[Judged]) -> list[str]:
    """The warnings of all rows: no Retrain, an odd original, attacks without power."""
    retrain = [model for model in models if model.role == "retrain"]
    found = []
    if not retrain:
        found.append("no Retrain model: how close a method came is not known; give --retrain")
    elif message := too_few(len(retrain)):
        found.append(message)
    theirs = [model.metrics["RA"].value for model in retrain]
    originals = [model for model in models if model.role == "original"]
    for model in originals:
        if at_chance(start := _standing(model)):
            found.append(say_at_chance("the original", start))
        if message := trained_unlike(model.metrics["RA"].value, theirs):
            found.append(message)
    judged = originals or [model for model in models if model.role == "models"]
    if judged and all(_attacks_at_chance(model) for model in judged):
        who = "the original" if originals else "any model"
        found.append(
            f"every attack is at chance on {who}: these attacks have no power here, and passing"
            " them proves nothing"
        )
    return found


def _attacks_at_chance(model: Judged) -> bool:
    areas = [
        metric
        for name, metric in model.metrics.items()
        if name.endswith("_auc") and metric.chance is not None
    ]
    return bool(areas) and all(low <= area <= high for area, _, (low, high) in areas)
