"""The support-vector membership attack of the Sparse and SalUn papers, on five features of a
model's outputs.

It learns to tell retain (members) from test (non-members) and is then asked about the forget set.
The published "MIA" is the share of the forget set that it calls non-member, from the confidence
feature. Close to Retrain is good; neither high nor low is.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from evaluation.accuracy import Outputs
from evaluation.entropy import entropy, modified_entropy, softmax
from evaluation.scores import margin
from utils import stream

Drawn = tuple[np.ndarray, np.ndarray]
FEATURES = ("correctness", "confidence", "entropy", "m_entropy", "prob")
MIN_SD = 1e-12  # of the margins, where all are equal
# A side of the attack's training set is never more; from the second number on one draw decides
# nothing.
MOST, MANY, DRAWS = 10_000, 5_000, 10
SEEDED_BY = "split_seed, data, forget set"


def attack_features(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The five features of the attack, each (n, 1) but ``prob`` (n, k), float64.

    correctness: 1 where the prediction is right. confidence: the true label's probability. entropy
    and m_entropy: see :mod:`evaluation.entropy`. prob: the whole probability vector.
    """
    p = softmax(logits)
    columns = {
        "correctness": (p.argmax(1) == labels).astype(np.float64),
        "confidence": p[np.arange(len(labels)), labels],
        "entropy": entropy(p),
        "m_entropy": modified_entropy(p, labels),
    }
    return {name: column[:, None] for name, column in columns.items()} | {"prob": p}


# ----------------------------------------------------------------------------------- who teaches it


@dataclasses.dataclass(frozen=True)
class DrawRule:
    """Who teaches the attack: the same samples for every model that is asked about one forget set.

    ``balanced`` draws of each class as many members as non-members. One draw of few decides the
    MIA, so that several are averaged. ``first`` takes the first retain samples against the first
    test samples, up to len(test): the reference's.
    """

    members: Literal["balanced", "first"] = "balanced"
    seed: int = 0

    def draws(self, retain_labels: np.ndarray, test_labels: np.ndarray) -> list[Drawn]:
        """Positions (m,) in retain and in test, for 10 draws if m < 5,000 of more, else for 1."""
        first = draw_members(retain_labels, test_labels, how=self.members, seed=self.seed)
        count = len(first[0])
        all_taken = count == len(retain_labels) == len(test_labels)
        if self.members != "balanced" or all_taken or not 0 < count < MANY:
            return [first]
        seeds = [stream(self.seed, "draw", i) % 2**32 for i in range(1, DRAWS)]
        return [first, *(draw_members(retain_labels, test_labels, seed=seed) for seed in seeds)]

    def record(self, retain_labels: np.ndarray, test_labels: np.ndarray) -> dict[str, Any]:
        """The result's entry on its attack: on the same images, equal records mean equal draws."""
        draws = self.draws(retain_labels, test_labels)
        return {
            "members": self.members,
            "draws": len(draws),
            "seeded_by": SEEDED_BY if self.members == "balanced" else None,
            "points": [len(side) for side in draws[0]],
        }


PLAIN = DrawRule()


def draw_rule(
    members: Literal["balanced", "first"], split_seed: int, data_sha256: str, forget_sha256: str
) -> DrawRule:
    """The rule of a forget request, whatever the run's seed, model or order of files.

    Args:
        data_sha256: hash of the training images. ``forget_sha256``: of
            :meth:`datasets.splits.ForgetSplit.sha256`.
    """
    return DrawRule(members, attack_seed(split_seed, data_sha256, forget_sha256))


def attack_seed(seed: int, *names: object) -> int:
    """The seed, within [0, 2^32) as NumPy and scikit-learn want it, of an attack's random draws."""
    return stream(seed, "attack", *names) % 2**32


def rule_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The rule behind a result's MIA; one that only says ``members`` drew once, by forget seed.

    Nothing of a run or a forget set is in it: equal rules may stand in one row. {} where a result
    says nothing.
    """
    attack = result.get("attack") or {}
    if "members" not in attack:
        return {}
    if attack["members"] != "balanced":
        return {"members": attack["members"], "draws": 1}
    return {
        "members": "balanced",
        "draws": attack.get("draws", 1),
        "seeded_by": attack.get("seeded_by", "forget seed"),
    }


def same_draws(result: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether a result's attack had the draws of :meth:`DrawRule.record`."""
    attack = result.get("attack")
    return isinstance(attack, dict) and all(
        attack.get(name) == value for name, value in record.items()
    )


def draws_line(record: Mapping[str, Any]) -> str:
    """:meth:`DrawRule.record` for the terminal."""
    members, others = record["points"]
    capped = f", no more than {MOST} a side" if max(members, others) == MOST else ""
    drawn = f"{members} retain against {others} test images{capped}"
    draws = record["draws"]
    how = f"the mean of {draws} draws" if draws > 1 else f"one draw ({record['members']})"
    return f"MIA: {drawn}, {how}"


def draw_members(
    retain_labels: np.ndarray,
    test_labels: np.ndarray,
    *,
    how: Literal["balanced", "first"] = "balanced",
    seed: int = 0,
) -> Drawn:
    """Positions in retain and in test of one draw for the attack, at most 10,000 of each.

    ``balanced``: of each class as many members as non-members, the smaller of the two counts, drawn
    by ``seed``. So the two sides are equal in number and in classes whatever the sizes of retain
    and test. Where these would be too many, each class gives the same share of its own. ``first``:
    the first len(test) retain samples against all of test: the reference's draw, which follows file
    order.
    """
    if how == "first":
        most = min(len(test_labels), MOST)
        return np.arange(min(most, len(retain_labels))), np.arange(most)
    if not len(retain_labels) or not len(test_labels):
        return np.arange(0), np.arange(0)
    rng = np.random.default_rng(seed)
    classes = np.union1d(retain_labels, test_labels)
    both = (retain_labels, test_labels)
    sides = [[np.flatnonzero(labels == c) for labels in both] for c in classes]
    counts = _capped([min(len(inside), len(outside)) for inside, outside in sides])
    members, non_members = [], []
    for (inside, outside), count in zip(sides, counts, strict=True):
        members.append(rng.permutation(inside)[:count])
        non_members.append(rng.permutation(outside)[:count])
    return np.sort(np.concatenate(members)), np.sort(np.concatenate(non_members))


def _capped(counts: Sequence[int]) -> list[int]:
    """``counts`` in proportion, their sum at most MOST; the largest remainders are rounded up."""
    total = sum(counts)
    if total <= MOST:
        return list(counts)
    exact = np.array(counts) * (MOST / total)
    found = np.floor(exact).astype(int)
    found[np.argsort(found - exact, kind="stable")[: MOST - found.sum()]] += 1
    return found.tolist()


def draw_noise(method: Sequence[Sequence[float]], retrain: Sequence[Sequence[float]]) -> float:
    """The draws' noise in a gap in MIA: SD over draws of the gap, over the root of their number.

    A draw that moves both alike cancels. 0 for one draw, which leaves it unknown.

    Args:
        method, retrain: for each run its MIA in each draw (runs, draws), all by the same draws.
    """
    ours, theirs = (np.mean(np.asarray(runs, np.float64), 0) for runs in (method, retrain))
    if len(ours) < 2:
        return 0.0
    return float((ours - theirs).std(ddof=1) / math.sqrt(len(ours)))


# --------------------------------------------------------------------------------------- the attack


def svc_attack(
    retain: Outputs, test: Outputs, forget: Outputs, rule: DrawRule = PLAIN
) -> dict[str, float]:
    """The means over draws of :func:`svc_draws` on the forget set, for each feature."""
    return means(svc_draws(retain, test, {"forget": forget}, rule))["forget"]


def means(shares: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    """The means over draws, of each split and feature."""
    return {
        name: {feature: float(share.mean()) for feature, share in of_split.items()}
        for name, of_split in shares.items()
    }


def svc_draws(
    retain: Outputs,
    test: Outputs,
    audited: Mapping[str, Outputs],
    rule: DrawRule,
    weights: Mapping[str, np.ndarray] | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """By split and feature, the shares (draws,), in [0, 1], that the attack calls non-member.

    scikit-learn's SVC with C = 3, gamma = 1 / number of features, RBF kernel, unscaled features, as
    published, on all points; see :mod:`evaluation.svm`. A decision of exactly 0 is a member's. An
    empty or unbalanceable training set, or an empty split, gives NaN.

    Args:
        retain, test, audited: (logits (n, k), labels (n,)) of un-augmented splits.
        weights: of an audited split's samples (n,), where they do not count alike.
    """
    return _shares(
        attack_features, (retain, test), audited, rule.draws(retain[1], test[1]), weights
    )


def svc_margin_draws(
    retain: Outputs,
    test: Outputs,
    audited: Mapping[str, Outputs],
    rule: DrawRule,
    weights: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """The same shares (draws,) by one feature that does not crowd at 1: the standardised margin.

    Mean and standard deviation are those of the attack's training points. See
    :func:`evaluation.scores.margin`.
    """
    found = []
    for draw in rule.draws(retain[1], test[1]):
        sides = zip((retain, test), draw, strict=True)
        taught = [margin(logits[at], labels[at]) for (logits, labels), at in sides if len(at)]
        known = np.concatenate(taught or [[0.0]])
        sd = max(known.std(), MIN_SD)
        features = functools.partial(_standardised_margin, center=known.mean(), sd=sd)
        found.append(_shares(features, (retain, test), audited, [draw], weights, ("margin",)))
    return {name: np.concatenate([shares[name]["margin"] for shares in found]) for name in audited}


def _standardised_margin(
    logits: np.ndarray, labels: np.ndarray, *, center: float, sd: float
) -> dict[str, np.ndarray]:
    return {"margin": (margin(logits, labels)[:, None] - center) / sd}


def _shares(
    features: Callable[..., dict[str, np.ndarray]],
    taught: tuple[Outputs, Outputs],
    audited: Mapping[str, Outputs],
    draws: Sequence[Drawn],
    weights: Mapping[str, np.ndarray] | None,
    features_of: Sequence[str] = FEATURES,
) -> dict[str, dict[str, np.ndarray]]:
    # SciPy takes a tenth of a second to import; only the evaluation needs it.
    from evaluation.svm import decisions

    shares = {name: {each: np.full(len(draws), np.nan) for each in features_of} for name in audited}
    asked = [name for name, outputs in audited.items() if len(outputs[1])]
    if not asked or any(not len(side) for side in draws[0]):
        return shares
    # What several draws share is computed once.
    inside, outside = (np.unique(np.concatenate([draw[side] for draw in draws])) for side in (0, 1))
    sides = zip(taught, (inside, outside), strict=True)
    known = [features(logits[at], labels[at]) for (logits, labels), at in sides]
    seen = [features(*audited[name]) for name in asked]
    drawn = [
        (np.searchsorted(inside, members), len(inside) + np.searchsorted(outside, others))
        for members, others in draws
    ]
    for feature in features_of:
        points = np.concatenate([side[feature] for side in known])
        for i, found in enumerate(decisions(points, drawn, [each[feature] for each in seen])):
            for name, decided in zip(asked, found, strict=True):
                each = None if weights is None else weights.get(name)
                shares[name][feature][i] = np.average(decided < 0, weights=each)
    return shares
