"""Membership attacks on one score per sample, and what their receiver operating characteristic
(ROC) says.

Throughout, a larger score is more member-like, ``members`` (n1,) are the scores of the samples
under suspicion (the forget set) and ``others`` (n2,) those of samples that no ancestor of the model
was trained on. Both sides must have the same mix of classes, or the classes are told apart and not
the members: ``weights`` (n2,), from :func:`class_weights`, give the others the members' shares.
Their intervals count n2 as :func:`effective_size`. Forgotten perfectly means that the two cannot be
told apart: good is the value at chance of :mod:`evaluation.metrics`; an AUC below 0.5 is not better
than one above it.
"""

import numpy as np

from evaluation.entropy import entropy, softmax
from evaluation.intervals import Metric, chance_interval, clopper_pearson

Scored = tuple[np.ndarray, np.ndarray]  # scores (n,), labels (n,)
FPRS = {"tpr_at_fpr_1": 0.01, "tpr_at_fpr_0.1": 0.001}


def class_weights(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Weights (n2,), mean 1, that give classes ``others`` (n2,) the shares in ``labels`` (n1,).

    Raises:
        ValueError: a class of ``labels`` has no sample among the others.
    """
    labels, others = np.asarray(labels), np.asarray(others)
    if len(absent := np.setdiff1d(labels, others)):
        raise ValueError(
            f"No other sample is of class {', '.join(map(str, absent))}: its share cannot be given"
            " to any."
        )
    classes, where, counts = np.unique(others, return_inverse=True, return_counts=True)
    wanted = np.array([np.sum(labels == c) for c in classes])
    return (wanted * len(others) / (counts * len(labels)))[where]


def effective_size(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2: equally weighted samples whose mean is as uncertain (Kish 1965)."""
    weights = np.asarray(weights, np.float64)
    return float(weights.sum() ** 2 / (weights**2).sum())


def with_shares(values: np.ndarray, others: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The most ``values`` (m,) whose classes, of ``others`` (n2,), have the shares of ``labels``.

    A class with more than its share keeps evenly spaced ones of its sorted values. Nothing is left
    where a class of ``labels`` has no value.
    """
    classes, counts = np.unique(labels, return_counts=True)
    size = min(np.sum(others == c) / count for c, count in zip(classes, counts, strict=True))
    parts = []
    for c, count in zip(classes, counts, strict=True):
        own = np.sort(values[others == c])
        keep = int(size * count + 1e-9)
        parts.append(own[((np.arange(keep) + 0.5) * len(own) / max(keep, 1)).astype(int)])
    return np.concatenate(parts)


# ------------------------------------------------------------------------------------------ the ROC


def roc(
    members: np.ndarray, others: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds, true positives, false positives (m,) of the rule "member if score >= threshold".

    The thresholds are +inf, which calls nobody a member, and every distinct score, falling; so
    equal scores are never told apart. The counts are integers, but for false positives that are
    summed ``weights`` (n2,); a rate is a count over the last one. O(n log n).
    """
    members, others = _finite(members), _finite(others)
    values, where = np.unique(np.concatenate([members, others]), return_inverse=True)
    sides = (where[: len(members)], where[len(members) :])
    hits, alarms = (
        np.bincount(side, w, minlength=len(values))[::-1].cumsum()
        for side, w in zip(sides, (None, weights), strict=True)
    )
    return np.append(np.inf, values[::-1]), np.append(0, hits), np.append(0, alarms)


def auc(members: np.ndarray, others: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Probability, in [0, 1], that a member scores above another, ties counting half: U / (n1 n2).

    With ``weights`` (n2,) the other one is drawn in proportion to them. 0.5 is no leak; below 0.5
    leaks too (samples made conspicuous by being forgotten too hard). Exact up to one division.
    """
    _, hits, alarms = roc(members, others, weights)
    return float((np.diff(alarms) * (hits[1:] + hits[:-1])).sum() / (2 * hits[-1] * alarms[-1]))


def auc_null_sd(
    members: np.ndarray, others: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Mann-Whitney's SD, corrected for ties, of the AUC of two sides of one distribution.

    sqrt((n + 1 - sum (t^3 - t) / (n (n - 1))) / (12 n1 n2)) with n = n1 + n2 and t the numbers of
    equal scores. Without ties it is 0.0059 for 4,500 against 5,000 and 0.024 for 300 against 300.
    With ``weights`` n2 is their effective size.
    """
    _, hits, alarms = roc(members, others, weights)
    if weights is not None:
        alarms = alarms * (effective_size(weights) / alarms[-1])
    n, ties = hits[-1] + alarms[-1], np.diff(hits + alarms).astype(np.float64)
    spread = n + 1 - (ties**3 - ties).sum() / (n * (n - 1))
    return float(np.sqrt(max(spread, 0) / (12.0 * hits[-1] * alarms[-1])))


def tpr_at_fpr(
    members: np.ndarray,
    others: np.ndarray,
    fpr: float,
    weights: np.ndarray | None = None,
    *,
    alpha: float = 0.05,
    independent: int | None = None,
) -> tuple[float, float, float]:
    """Largest share of members found at a false positive rate of at most ``fpr``; its bounds.

    The bounds hold together with probability at least 1 - ``alpha``, for the rate at the *true*
    false positive rate: binomial bounds on how many of the others lie above the true threshold (4.5
    of 4,500 at 0.1 %, so anything from 0 to 11), and Clopper-Pearson on the members above the two
    thresholds that these allow, alpha / 4 for each of the four. Good is ``fpr``.

    Args:
        independent: how many independent samples stand behind each side, where several scores are
            of one sample.
    """
    from scipy.stats import binom

    _, hits, alarms = roc(members, others, weights)
    n1, n2 = int(hits[-1]), float(alarms[-1])
    trials = min(independent or n1, n1)
    draws = int(min(independent or n2, n2 if weights is None else effective_size(weights)))
    few, many = (int(binom.ppf(q, draws, fpr)) for q in (alpha / 4, 1 - alpha / 4))
    # At most, fewer than and at most these false positives, with room for rounding: 0.29 * 100 is
    # below 29.
    allowed = (fpr * n2 + 1e-9, few * n2 / draws - 1e-9, many * n2 / draws + 1e-9)
    rate, rate_low, rate_high = (_hits_within(hits, alarms, count) / n1 for count in allowed)
    low, _ = clopper_pearson(rate_low * trials, trials, 1 - alpha / 2)
    _, high = clopper_pearson(rate_high * trials, trials, 1 - alpha / 2)
    return rate, low, high


def _hits_within(hits: np.ndarray, alarms: np.ndarray, count: float) -> int:
    """Most true positives with at most ``count`` false ones; 0 for a negative count."""
    return 0 if count < 0 else int(hits[np.searchsorted(alarms, count, side="right") - 1])


def roc_summary(
    name: str,
    members: np.ndarray,
    others: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    alpha: float = 0.05,
    null_sd: float | None = None,
    independent: int | None = None,
) -> dict[str, Metric]:
    """AUC and true positive rates of one score, under names that start with ``name``.

    NAME_auc, in [0, 1], with where chance puts it, 0.5 -+ z SD. NAME_auc_two_sided = max(AUC, 1 -
    AUC), in [0.5, 1], and its mean at chance, NAME_auc_two_sided_floor = 0.5 + SD sqrt(2 / pi),
    since it is never below 0.5. NAME_tpr_at_fpr_1 and NAME_tpr_at_fpr_0.1 (percent), with the
    intervals of :func:`tpr_at_fpr`.

    Args:
        null_sd, independent: for scores that are not independent, the SD of their AUC and the
            number of samples behind them.
    """
    area = auc(members, others, weights)
    sd = auc_null_sd(members, others, weights) if null_sd is None else null_sd
    summary = {
        f"{name}_auc": Metric(area, chance=chance_interval(sd, alpha)),
        f"{name}_auc_two_sided": Metric(max(area, 1 - area)),
        f"{name}_auc_two_sided_floor": Metric(min(0.5 + sd * float(np.sqrt(2 / np.pi)), 1.0)),
    }
    for at, fpr in FPRS.items():
        rate, low, high = tpr_at_fpr(
            members, others, fpr, weights, alpha=alpha, independent=independent
        )
        summary[f"{name}_{at}"] = Metric(rate, interval=(low, high))
    return summary


def _finite(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(
            f"An attack needs a non-empty vector of finite scores; got shape {scores.shape}."
        )
    return scores


# --------------------------------------------------------------------------------- threshold attack


def best_threshold(members: np.ndarray, others: np.ndarray) -> float:
    """The t whose rule "member if score >= t" has the largest (TPR + 1 - FPR) / 2.

    The largest such t; +inf where no score does better than calling nobody a member. An observed
    score, so that the attack is the same for any strictly increasing function of the scores.
    """
    thresholds, hits, alarms = roc(members, others)
    best = np.argmax(hits * alarms[-1] - alarms * hits[-1])  # integers: equals stay equal
    return float(thresholds[best])


def threshold_attack(
    name: str,
    fit_members: Scored,
    fit_others: Scored,
    members: Scored,
    others: Scored,
    weights: np.ndarray | None = None,
    *,
    per_class: bool = False,
    alpha: float = 0.05,
) -> dict[str, Metric]:
    """The threshold best for (retain, test) on (forget, held out); each (scores, labels).

    ``per_class`` fits one threshold per label (Song & Mittal, USENIX Security 2021), and takes that
    of all classes for a label that is missing on either side of the fitting pair, as a forgotten
    class is. Returns NAME_threshold_balanced_accuracy in [0, 1], good at 0.5, and where chance puts
    it with probability 1 - ``alpha`` or more (SD at most sqrt(1/n1 + 1/n2) / 4), and
    NAME_threshold_tpr and _fpr with their Clopper-Pearson intervals. NAME_class_threshold_... for
    ``per_class``. O(n log n), and O(n) per class.
    """
    name = f"{name}_class_threshold" if per_class else f"{name}_threshold"
    n1, n2 = len(members[0]), len(others[0]) if weights is None else effective_size(weights)
    called, falsely = (
        _finite(scores) >= _thresholds(fit_members, fit_others, labels, per_class)
        for scores, labels in (members, others)
    )
    found, false = int(called.sum()), n2 * float(np.average(falsely, weights=weights))
    balanced, sd = (found / n1 + 1 - false / n2) / 2, float(np.sqrt(1 / n1 + 1 / n2)) / 4
    return {
        f"{name}_balanced_accuracy": Metric(balanced, chance=chance_interval(sd, alpha)),
        f"{name}_tpr": Metric(found / n1, interval=clopper_pearson(found, n1, 1 - alpha)),
        f"{name}_fpr": Metric(false / n2, interval=clopper_pearson(false, n2, 1 - alpha)),
    }


def _thresholds(
    fit_members: Scored, fit_others: Scored, labels: np.ndarray, per_class: bool
) -> np.ndarray:
    """The threshold of each of ``labels`` (n,)."""
    limits = np.full(len(labels), best_threshold(fit_members[0], fit_others[0]))
    both = np.intersect1d(fit_members[1], fit_others[1]) if per_class else ()
    for label in both:
        inside, outside = (scores[own == label] for scores, own in (fit_members, fit_others))
        limits[labels == label] = best_threshold(inside, outside)
    return limits


# ----------------------------------------------------------------------------- logistic regressions


def lr_loss_attack(
    forget_losses: np.ndarray, other_losses: np.ndarray, *, seed: int = 0, alpha: float = 0.05
) -> dict[str, Metric]:
    """The NeurIPS 2023 challenge's attack: logistic regression on loss, forget against unseen.

    ``lr_loss_accuracy``: mean accuracy over 10 seeded stratified splits, each fitted on 90 % and
    judged on 10 %, of as many samples on one side as on the other (the larger is thinned by
    ``seed``); in [0, 1], good at 0.5. The order of the samples does not matter.
    Chance puts it at 0.5 -+ z SD with the SD of overlapping splits, sqrt((1/10 + 1/9) / (4 test
    samples)) (Nadeau & Bengio, Machine Learning 2003). Ten fits, milliseconds each.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

    sides = [np.sort(_finite(losses)) for losses in (forget_losses, other_losses)]
    n = min(map(len, sides))
    if n < 10:
        raise ValueError(
            f"Ten stratified splits need 10 losses on each side; got {len(sides[0])} and"
            f" {len(sides[1])}."
        )
    rng = np.random.default_rng(seed)
    sides = [side if len(side) == n else rng.permutation(side)[:n] for side in sides]
    splits = StratifiedShuffleSplit(10, random_state=seed)
    losses, labels = np.concatenate(sides)[:, None], np.repeat([1, 0], n)
    attack = LogisticRegression()
    accuracy = cross_val_score(attack, losses, labels, cv=splits, scoring="accuracy").mean()
    sd = float(np.sqrt((1 / 10 + 1 / 9) / (4 * np.ceil(0.2 * n))))
    return {"lr_loss_accuracy": Metric(float(accuracy), chance=chance_interval(sd, alpha))}


def lr_entropy_attack(
    members: np.ndarray,
    others: np.ndarray,
    forget: np.ndarray,
    held_out: np.ndarray,
    weights: np.ndarray | None = None,
) -> dict[str, Metric]:
    """Share of forget called member by logistic regression on entropy, bad teaching's "MIA".

    ``lr_entropy_member_rate`` in [0, 1]: low is how those papers want it, the opposite of the
    support-vector attack's share of non-members; but good is what samples that were never trained
    on get, ``lr_entropy_member_rate_held_out``, a mean with ``weights`` over ``held_out``.

    Args:
        members, others, forget, held_out: entropies (n,), in nats, of retain, test, forget and
            unseen images.
    """
    called, held_out_called = _called_members(members, others, forget, held_out)
    held_out_rate = float(np.average(held_out_called, weights=weights))
    return {
        "lr_entropy_member_rate": Metric(float(called.mean())),
        "lr_entropy_member_rate_held_out": Metric(held_out_rate),
    }


def entropy_member_rate(retain: np.ndarray, test: np.ndarray, forget: np.ndarray) -> float:
    """``lr_entropy_member_rate`` from un-augmented logits (n, k); NaN where a split is empty."""
    if not all(map(len, (retain, test, forget))):
        return float("nan")
    (called,) = _called_members(*(entropy(softmax(logits)) for logits in (retain, test, forget)))
    return float(called.mean())


def _called_members(
    members: np.ndarray, others: np.ndarray, *audited: np.ndarray
) -> list[np.ndarray]:
    """1 where a sample of a split is called member, else 0; C = 1, both sides weigh the same."""
    from sklearn.linear_model import LogisticRegression

    members, others, *audited = map(_finite, (members, others, *audited))
    is_member = np.repeat([1, 0], [len(members), len(others)])
    attack = LogisticRegression(class_weight="balanced", C=1)
    attack.fit(np.concatenate([members, others])[:, None], is_member)
    return [attack.predict(split[:, None]) for split in audited]
