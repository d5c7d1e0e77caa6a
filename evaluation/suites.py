"""What ``evaluate.py`` says of one model: every metric by name, from the logits of its splits and
those of Retrain models.

Splits are ``{name: (logits (n, k), labels (n,))}`` with forget, retain, val and test and, where a
class was forgotten, its test images as ``test_forgotten``. No function here needs a model, a device
or a file.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from evaluation.accuracy import Outputs, Splits, accuracy
from evaluation.attacks import (
    class_weights,
    entropy_member_rate,
    lr_entropy_attack,
    lr_loss_attack,
    roc,
    roc_summary,
    threshold_attack,
    with_shares,
)
from evaluation.distances import distances, tow, tow_mia
from evaluation.gaps import IN_AUDIT
from evaluation.intervals import Metric, values_of
from evaluation.membership import PLAIN, DrawRule, svc_draws, svc_margin_draws
from evaluation.metrics import DEFINITIONS, measured
from evaluation.references import lira_offline, rmia_offline_ratio
from evaluation.scores import member_scores, sample_scores

# One score for each order of samples: the loss, the confidence and the margin rank samples alike.
RANKED_BY = ("loss", "entropy", "m_entropy")
COMPARED_ON = ("forget", "retain", "test")
FEWEST = 10  # samples that an attack needs to be taught or judged on
MOST_NAMED = 12  # classes that a warning lists
ROC_POINTS, BINS = 200, 30


def held_out(splits: Splits) -> Outputs:
    """Images of the forgotten classes that no model was trained on, to compare forget with.

    The forgotten class's test images where a whole class was forgotten, else the validation images
    of the forget set's classes; test is kept to teach the attacks.
    """
    if "test_forgotten" in splits:
        return splits["test_forgotten"]
    logits, labels = splits["val"]
    same = np.isin(labels, splits["forget"][1])
    return logits[same], labels[same]


def absent_classes(splits: Splits) -> np.ndarray:
    """The forgotten classes without held-out images: there forget has no counterpart."""
    return np.setdiff1d(splits["forget"][1], held_out(splits)[1])


def left_out(splits: Splits, classes: Sequence[str]) -> list[str]:
    """A warning naming :func:`absent_classes`, or too few images, or []; ``classes`` are the names
    of all.
    """
    absent, count = [classes[c] for c in absent_classes(splits)], len(held_out(splits)[1])
    if not absent and count < FEWEST:
        return [
            f"{count} held-out images are of the forget set's classes, fewer than {FEWEST}: what"
            " compares forget with such images is left out"
        ]
    if not absent:
        return []
    shown = ", ".join(absent[:MOST_NAMED]) + (", ..." if len(absent) > MOST_NAMED else "")
    of = f"of the forgotten class {shown}" if count else "there"
    return [f"no held-out image is {of}: what compares forget with such images is left out"]


def can_compare(splits: Splits) -> bool:
    """Whether forget can be compared with held-out images of its own mix of classes."""
    enough = can_attack(splits) and len(held_out(splits)[1]) >= FEWEST
    return enough and not len(absent_classes(splits))


def can_attack(splits: Splits) -> bool:
    """Whether there are samples enough of forget, and to teach an attack."""
    parts = [splits[name] for name in ("forget", "retain", "test")]
    in_both = np.intersect1d(splits["retain"][1], splits["test"][1])
    return all(len(labels) >= FEWEST for _, labels in parts) and len(in_both) > 0


def basic(
    splits: Splits, rule: DrawRule = PLAIN, by_draw: Mapping[str, np.ndarray] | None = None
) -> dict[str, Metric]:
    """Accuracies, losses and the attacks that need no other model.

    ``by_draw`` is what :func:`attack_by_draw` found, where the caller has it. Cost: O(n log n) in
    the samples, but for the support-vector machines, which see at most 2 n_test points in each
    draw.
    """
    found = _measure_each(splits) | _losses(splits)
    if can_attack(splits):
        by_draw = attack_by_draw(splits, rule) if by_draw is None else by_draw
        found |= {name: Metric(100 * float(shares.mean())) for name, shares in by_draw.items()}
        found |= _attacks(splits, rule)
    return measured(found)


def attack_by_draw(splits: Splits, rule: DrawRule) -> dict[str, np.ndarray]:
    """Shares (draws,) called non-member, in [0, 1]: svc_FEATURE_tnr, svc_FEATURE_tnr_held_out.

    {} without images enough.
    """
    if not can_attack(splits):
        return {}
    audited, weights = {"tnr": splits["forget"]}, {}
    if can_compare(splits):
        audited["tnr_held_out"] = held_out(splits)
        labels = audited["tnr_held_out"][1]
        weights["tnr_held_out"] = class_weights(splits["forget"][1], labels)
    five = svc_draws(splits["retain"], splits["test"], audited, rule, weights)
    margins = svc_margin_draws(splits["retain"], splits["test"], audited, rule, weights)
    return {
        f"svc_{feature}_{end}": shares
        for end in audited
        for feature, shares in {**five[end], "margin": margins[end]}.items()
    }


def _measure_each(splits: Splits) -> dict[str, Metric]:
    """The metrics that a function of their own computes from the splits."""
    found = {}
    for name, definition in DEFINITIONS.items():
        metric = definition.measure(splits) if definition.measure else None
        if metric is not None:
            found[name] = metric
    return found


def _losses(splits: Splits) -> dict[str, Metric]:
    return {
        f"loss_{name}": Metric(float(sample_scores(*outputs)["loss"].mean()))
        for name, outputs in splits.items()
        if len(outputs[1])
    }


def _attacks(splits: Splits, rule: DrawRule) -> dict[str, Metric]:
    four = {name: splits[name] for name in ("retain", "test", "forget")}
    if not can_compare(splits):
        rate = entropy_member_rate(*(logits for logits, _ in four.values()))
        return {"lr_entropy_member_rate": Metric(rate)}
    four["held_out"] = held_out(splits)
    scores = {name: member_scores(*outputs) for name, outputs in four.items()}
    weights = class_weights(splits["forget"][1], four["held_out"][1])
    found = lr_entropy_attack(*(-scores[name]["entropy"] for name in four), weights)
    return found | _against_held_out(four, scores, weights, rule.seed)


def _against_held_out(
    four: Splits, scores: Mapping[str, Mapping[str, np.ndarray]], weights: np.ndarray, seed: int
) -> dict[str, Metric]:
    """The attacks of forget against held-out images with ``weights`` (:func:`class_weights`)."""
    found = {}
    # Test images teach no attack here; there are none of its classes where a whole class is
    # forgotten.
    for name in ("test", "held_out"):
        unseen_losses = with_shares(-scores[name]["loss"], four[name][1], four["forget"][1])
        if len(unseen_losses) >= FEWEST:
            found |= lr_loss_attack(-scores["forget"]["loss"], unseen_losses, seed=seed)
            break
    for name in RANKED_BY:
        scored = [(scores[split][name], labels) for split, (_, labels) in four.items()]
        found |= roc_summary(name, scores["forget"][name], scores["held_out"][name], weights)
        found |= threshold_attack(name, *scored, weights)
        found |= threshold_attack(name, *scored, weights, per_class=True)
    return found


def standard(
    splits: Splits,
    mine: Mapping[str, Metric],
    references: Sequence[Splits],
    theirs: Sequence[Mapping[str, Metric]],
) -> dict[str, Metric]:
    """What other Retrain models add: distances, tug of war, attacks with them as references.

    ``references`` are Retrain models that are not the audited one; ``mine`` and ``theirs`` are what
    :func:`basic` found. Distances are means over them and ToW geometric ones, since its logarithm
    is what is judged as a distance; for Retrain models their mean is the floor that other models'
    values are read against. RMIA needs one reference, LiRA two.
    """
    if not references:
        return {}
    found = {}
    for split in COMPARED_ON:
        pairs = [distances(splits[split][0], other[split][0]) for other in references]
        for name in pairs[0]:
            found[f"{name}_{split}"] = Metric(float(np.mean([pair[name] for pair in pairs])))
    percent, *others = (values_of(metrics) for metrics in (mine, *theirs))
    found["tow"] = _geometric_mean([tow(percent, other) for other in others])
    if can_attack(splits):
        for metrics in (percent, *others):
            metrics["MIA"] = metrics[IN_AUDIT["MIA"]]
        found["tow_mia"] = _geometric_mean([tow_mia(percent, other) for other in others])
    if can_compare(splits):
        weights = class_weights(splits["forget"][1], held_out(splits)[1])
        for name, (members, unseen) in reference_scores(splits, references).items():
            found |= roc_summary(name, members, unseen, weights)
    return measured(found)


def _geometric_mean(factors: Sequence[float]) -> Metric:
    return Metric(float(np.prod(factors) ** (1 / len(factors))))


def reference_scores(
    splits: Splits, references: Sequence[Splits]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores of (forget, held out): RMIA's ratio, and LiRA's z from two references on."""
    mine, *theirs = map(_scores_of_parts, (splits, *references))

    def of_sides(score: str, compare: Callable[..., np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return tuple(
            compare(scores[score], np.stack([other[side][score] for other in theirs]))
            for side, scores in mine.items()
        )

    found = {"rmia": of_sides("log_probability", rmia_offline_ratio)}
    if len(references) > 1:
        found["lira"] = of_sides("margin", lira_offline)
    return found


def _scores_of_parts(splits: Splits) -> dict[str, dict[str, np.ndarray]]:
    parts = {"forget": splits["forget"], "held_out": held_out(splits)}
    return {name: sample_scores(*part) for name, part in parts.items()}


def class_accuracies(splits: Splits, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Accuracy in percent of each class that a split has images of, by name."""
    return {
        name: {
            classes[c]: accuracy(logits[labels == c], labels[labels == c])
            for c in np.unique(labels)
        }
        for name, (logits, labels) in splits.items()
    }


def curves(splits: Splits, references: Sequence[Splits]) -> dict[str, dict]:
    """The report's curves: histograms of loss and confidence, ROC of loss, RMIA and LiRA."""
    if not can_compare(splits):
        return {}
    weights = {"forget": None, "held_out": class_weights(splits["forget"][1], held_out(splits)[1])}
    sides = {"forget": splits["forget"], "held_out": held_out(splits)}
    parts = {name: sample_scores(*outputs) for name, outputs in sides.items()}
    # A loss is cut at the 99th percentile, so that one lost sample does not flatten the rest.
    losses = np.concatenate([part["loss"] for part in parts.values()])
    tops = {"loss": max(float(np.quantile(losses, 0.99)), 1e-6), "confidence": 1.0}
    histograms = {
        name: _histogram({split: part[name] for split, part in parts.items()}, weights, top)
        for name, top in tops.items()
    }
    pairs = {"loss": (-parts["forget"]["loss"], -parts["held_out"]["loss"])}
    pairs |= reference_scores(splits, references) if references else {}
    return {
        "histograms": histograms,
        "roc": {name: _thinned_roc(*pair, weights["held_out"]) for name, pair in pairs.items()},
    }


def _histogram(
    sides: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray | None], top: float
) -> dict[str, list[float]]:
    """Shares of each side in equal bins of [0, top]; what is above is in the last one."""
    edges = np.linspace(0, top, BINS + 1)
    shares = {
        name: np.histogram(np.minimum(values, top), edges, weights=weights[name])[0] / len(values)
        for name, values in sides.items()
    }
    return {"edges": edges.tolist(), **{name: share.tolist() for name, share in shares.items()}}


def _thinned_roc(
    members: np.ndarray, others: np.ndarray, weights: np.ndarray
) -> dict[str, list[float]]:
    """At most 200 points of the ROC, evenly spread over log FPR, with both ends."""
    _, hits, alarms = roc(members, others, weights)
    between = np.geomspace(1, alarms[-1], ROC_POINTS - 2).round()
    wanted = np.unique(np.concatenate([[0], between, [alarms[-1]]]))
    at = np.unique(np.append(np.searchsorted(alarms, wanted, side="right") - 1, len(alarms) - 1))
    return {"fpr": (alarms[at] / alarms[-1]).tolist(), "tpr": (hits[at] / hits[-1]).tolist()}
