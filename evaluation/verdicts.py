"""Verdicts on a model: destroyed, at chance, changed nothing. One home for the scripts, the audit
and the report.

A verdict compares with Retrain where there is one, else with the original, and never with a fixed
accuracy: twice chance is 100 % where there are two classes. A line begins with its verdict and a
colon. Forgetting all of a class, UA = 100, is never a verdict.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from evaluation.accuracy import Outputs
from evaluation.entropy import softmax

DESTROYED, AT_CHANCE, CHANGED_NOTHING = "destroyed", "at chance", "changed nothing"
LEAST_SKILL = 0.5  # of the reference's accuracy above chance; with less a model is destroyed
ONE_ANSWER = 99.0  # percent of the answers on retain in one class: a model that no longer looks
ERRORS = 2.0  # standard errors within which an accuracy is chance's, or the original's
LEAST_CHANGE = 0.005  # mean total variation of the probabilities
UNMOVED = 1e-5  # mean total variation that rounding and another batch size may make
LEAST_MOVE = 1e-6  # of the weights' norm: a few of fp32's own steps
ROWS = 2**14  # samples compared at a time, so that float64 copies stay small


class Standing(NamedTuple):
    """How a model does on a split, retain by default; None is what was not recorded.

    ``accuracy`` in percent; ``chance``, the share of the largest class of the split in percent,
    which answering that class always would reach; ``top_answer``, the share of the model's most
    frequent answer in percent; ``count`` of images.
    """

    accuracy: float
    chance: float | None = None
    top_answer: float | None = None
    count: int | None = None


def standing(logits: np.ndarray, labels: np.ndarray) -> Standing:
    """Of logits (n, k) and labels (n,), n > 0; chance is that of the classes in ``labels``."""
    answers = np.asarray(logits).argmax(1)
    accuracy = float(100 * np.mean(answers == labels))
    return Standing(accuracy, _largest_share(labels), _largest_share(answers), len(labels))


def _largest_share(classes: np.ndarray) -> float:
    """The share in percent of the most frequent of the class indices (n,)."""
    return float(100 * np.bincount(classes).max() / len(classes))


def skill(accuracy: float, reference: float, chance: float) -> float:
    """(accuracy - chance) / (reference - chance), in percent each: 1 is the reference, 0 chance."""
    return (accuracy - chance) / (reference - chance)


def at_chance(model: Standing) -> bool:
    """Whether an accuracy is no better than chance by more than two binomial standard errors,
    sqrt(chance (100 - chance) / n).

    One-sided: a model that always answers a rare class is below chance and knows nothing either. Of
    a single class, chance 100, no accuracy tells anything.
    """
    if not _has_chance(model):
        return False
    error = math.sqrt(model.chance * (100 - model.chance) / model.count) if model.count else 0.0
    return model.accuracy <= model.chance + ERRORS * error


def _has_chance(model: Standing) -> bool:
    return model.chance is not None and model.chance < 100


def say_at_chance(name: str, model: Standing, of: str = "RA") -> str:
    """The line about a reference, or a training, that learned nothing."""
    return (
        f"{AT_CHANCE}: {name} has {of} {model.accuracy:.1f} where chance is {model.chance:.1f}, so"
        " it has learned nothing; train it longer or at another learning rate"
    )


def judge(
    model: Standing,
    original: Standing | None = None,
    retrain: Standing | None = None,
    *,
    advice: str = "",
) -> list[str]:
    """``destroyed`` as a line, or [].

    Destroyed: an accuracy that is not finite, :func:`skill` below 0.5, or over 99 % of the answers
    on retain in one class while the reference's are not. The reference is Retrain, or the original
    where there is no Retrain or it is at chance. What was made from an original at chance gets no
    verdict: a method is not to blame for its original. Where no chance is known there is no skill;
    one that is known is that of all three, since they are on the same images.

    Args:
        retrain: the mean over Retrain's runs, of :func:`mean_standing`.
        advice: what to do about a destroyed model.
    """
    if not math.isfinite(model.accuracy):
        return _line(DESTROYED, "RA is not finite", advice)
    chance = next(
        (each.chance for each in (model, retrain, original) if each and each.chance is not None),
        None,
    )
    references = {"Retrain": retrain, "the original": original}
    known = {
        name: each._replace(chance=chance)
        for name, each in references.items()
        if each and math.isfinite(each.accuracy)
    }
    fit = [(name, each) for name, each in known.items() if not at_chance(each)]
    if not fit or ("the original" in known and at_chance(known["the original"])):
        return []
    return _line(DESTROYED, _fallen(model, *fit[0]) or _not_looking(model, *fit[0]), advice)


def needs_reference(model: Standing) -> bool:
    """Whether :func:`judge` with some reference could call the model destroyed."""
    if not _has_chance(model) or model.top_answer is None or model.top_answer > ONE_ANSWER:
        return True
    return skill(model.accuracy, 100.0, model.chance) < LEAST_SKILL


def judge_alone(model: Standing, name: str) -> list[str]:
    """``at chance`` or ``destroyed`` of a model without references, such as Retrain, or []."""
    if not math.isfinite(model.accuracy):
        return _line(DESTROYED, "RA is not finite", "")
    if at_chance(model):
        return [say_at_chance(name, model)]
    labels = Standing(100.0, model.chance, model.chance, model.count)
    return _line(DESTROYED, _not_looking(model, "the labels", labels), "")


def mean_standing(models: Sequence[Standing]) -> Standing | None:
    """The mean over models, None of none; what one of them lacks is left out."""
    if not models:
        return None
    known = {}
    for name in Standing._fields:
        known[name] = [getattr(each, name) for each in models if getattr(each, name) is not None]
    count = max(known.pop("count"), default=None)
    means = {name: float(np.mean(values)) for name, values in known.items() if values}
    return Standing(**means, count=count)


def _line(verdict: str, reason: str, advice: str) -> list[str]:
    return [f"{verdict}: {reason}" + (f"; {advice}" if advice else "")] if reason else []


def _fallen(model: Standing, name: str, reference: Standing) -> str:
    """The lack of skill beside a reference that is not at chance, in words; "" without one."""
    if not _has_chance(reference):
        return ""
    if skill(model.accuracy, reference.accuracy, reference.chance) >= LEAST_SKILL:
        return ""
    return (
        f"RA {model.accuracy:.1f} where {name} has {reference.accuracy:.1f} and chance is"
        f" {reference.chance:.1f}"
    )


def _not_looking(model: Standing, name: str, reference: Standing) -> str:
    if model.top_answer is None or reference.top_answer is None:
        return ""
    if not model.top_answer > ONE_ANSWER >= reference.top_answer:
        return ""
    return (
        f"{model.top_answer:.1f} % of the answers on retain are one class, of {name}"
        f" {reference.top_answer:.1f} %"
    )


# ---------------------------------------------------------------------------------- changed nothing


def changed_nothing(
    ours: Mapping[str, Outputs],
    original: Mapping[str, Outputs],
    *,
    weights_moved: float = 1.0,
    advice: str = "",
) -> list[str]:
    """``changed nothing`` as a line, from logits (n, k) and labels (n,) of the same splits.

    On every split the accuracy is the original's within two of :func:`paired_error`, and the mean
    total variation is below 0.005: the mean over splits of each split's, so that a small forget set
    counts as much as a large retain set. Empty splits are left out. Small splits are asked for
    first and the others only until it is decided, which spares an ``original`` that is yet to be
    evaluated.

    Args:
        weights_moved: :func:`relative_change` of the weights, where it is known. Below 1e-6 nothing
            was learned, though BatchNorm's statistics, which a pass over images in training mode
            renews, may have moved the outputs.
    """
    names = [name for name in ours if name in original and len(ours[name][1])]
    names.sort(key=lambda name: len(ours[name][1]))
    if weights_moved < LEAST_MOVE:
        weights = f"the weights moved by {weights_moved:.1g} of their norm"
        if not weights_moved:
            weights = "the weights are the original's"
        return _line(CHANGED_NOTHING, weights + _moved_else(ours, original, names[:1]), advice)
    moved = 0.0
    for name in names:
        moved += total_variation(ours[name][0], original[name][0]) / len(names)
        if not (moved < LEAST_CHANGE and same_accuracy(ours[name], original[name])):
            return []
    if not names:
        return []
    reason = (
        "no accuracy differs from the original's by more than chance, and the probabilities moved"
        f" by {moved:.2g} on average"
    )
    return _line(CHANGED_NOTHING, reason, advice)


def relative_change(now: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]) -> float:
    """l2 norm of the change of the arrays in ``before`` over theirs; infinite where that is 0."""
    change, norm = 0.0, 0.0
    for name, value in before.items():
        difference = np.subtract(now[name], value, dtype=np.float64)
        change += float(np.square(difference).sum())
        norm += float(np.square(value, dtype=np.float64).sum())
    return math.sqrt(change) / math.sqrt(norm) if norm else math.inf


def same_accuracy(ours: Outputs, theirs: Outputs) -> bool:
    """Whether accuracies on the same images differ by at most two paired standard errors."""
    differences = _correct(*ours) - _correct(*theirs)
    return bool(abs(differences.mean()) <= ERRORS * paired_error(differences))


def paired_error(differences: np.ndarray) -> float:
    """Standard error of the mean of differences (n,), sample SD / sqrt(n); 0 for n = 1.

    Of image-wise differences of correctness, 1, 0 or -1, it counts only the images on which two
    models disagree.
    """
    if len(differences) < 2:
        return 0.0
    return float(differences.std(ddof=1) / math.sqrt(len(differences)))


def _correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (np.asarray(logits).argmax(1) == labels).astype(np.float64)


def _moved_else(
    ours: Mapping[str, Outputs], original: Mapping[str, Outputs], names: Sequence[str]
) -> str:
    """What the outputs say of the statistics of a model whose weights did not move."""
    moved = max((total_variation(ours[name][0], original[name][0]) for name in names), default=None)
    if moved is None:
        return ""
    if moved < UNMOVED:
        return f"; the probabilities on {names[0]} did not move"
    return (
        f"; BatchNorm's statistics are others, and moved the probabilities on {names[0]} by"
        f" {moved:.2g} on average"
    )


def total_variation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean over samples of half the l1 distance of probabilities, in [0, 1]; logits (n, k)."""
    blocks = (slice(start, start + ROWS) for start in range(0, len(ours), ROWS))
    sums = (np.abs(softmax(ours[block]) - softmax(theirs[block])).sum() for block in blocks)
    return float(sum(sums) / (2 * len(ours)))


# -------------------------------------------------------------------------------------------- lines


def verdict_of(line: str) -> str | None:
    """The verdict that a line begins with, also in the words of older results, or None."""
    if line.startswith("accuracy fell to chance"):
        return DESTROYED
    for verdict in (DESTROYED, AT_CHANCE, CHANGED_NOTHING):
        if line.startswith(f"{verdict}:"):
            return verdict
    return None


def once_each(runs: Sequence[Sequence[str]]) -> list[str]:
    """A row's lines: each verdict once, in its first run's words, and each other line."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for lines in runs:
        kinds = [verdict_of(line) or line for line in lines]
        counts.update(set(kinds))
        for kind, line in zip(kinds, lines, strict=True):
            first.setdefault(kind, line)
    if len(runs) == 1:
        return list(first.values())
    return [f"{line} ({counts[kind]} of {len(runs)} runs)" for kind, line in first.items()]


def remedies(
    hyperparameters: Mapping[str, object], breaks: Sequence[str] | None = None
) -> tuple[str, str]:
    """What to do where a method destroyed a model, and where it changed nothing.

    ``breaks`` is the attribute of :class:`unlearn.base.Method`: such a method may not have had the
    steps that repair the model.
    """
    if "unlearn_lr" in hyperparameters:
        weaker, stronger = "try a lower learning rate", "try a higher learning rate or more epochs"
        if breaks is not None:
            smaller = "".join(f", a smaller --{name}" for name in breaks)
            weaker = (
                "it breaks the model first and has to repair it: try more epochs, another learning"
                f" rate{smaller}"
            )
        return weaker, stronger
    if not hyperparameters:
        return "", ""
    return (f"try other values of {', '.join('--' + name for name in hyperparameters)}",) * 2
