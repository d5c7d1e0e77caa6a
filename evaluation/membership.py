"""The support-vector membership attack of the Sparse and SalUn papers, on five features of a model's outputs.

It learns to tell retain (members) from test (non-members) and is then asked about the forget set. The published
"MIA" is the share of the forget set that it calls non-member, from the confidence feature. Close to Retrain is good;
neither high nor low is.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch

from evaluation.entropy import entropy, modified_entropy, softmax
from evaluation.scores import margin

Outputs = tuple[np.ndarray, np.ndarray]
# The side of the grid cells in which many points of a feature become one; checked against all points in tests and benchmarks.
GRIDS = {"correctness": 1e-3, "confidence": 1e-3, "entropy": 1e-3, "m_entropy": 2e-3, "prob": 5e-3}
FEATURES = tuple(GRIDS)
GRIDS["margin"] = 1e-3  # of :func:`svc_margin_attack`, in standard deviations
MIN_SD = 1e-12  # of the margins, where all are equal
CROWD = 20  # distinct points of one column that may share a cell: confidences crowd at 1, where the margin may run through them
ROUND_FROM = 5_000  # fewer points are left as they are
COARSE_FROM, COARSE_GRID, NEAR_MARGIN = 8_000, 0.1, 0.4
# Of the merged machine: scikit-learn's default, 1e-3, alone moves the share by up to 0.2 points.
TOLERANCE = 1e-4
GRAM_LIMIT = 10_000  # points whose kernel matrix (0.8 GB) is held; more are left to libsvm's cache


def attack_features(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The five features of the attack, each (n, 1) but ``prob`` (n, k), float64.

    correctness: 1 where the prediction is right. confidence: the true label's probability. entropy and m_entropy:
    see :mod:`evaluation.entropy`. prob: the whole probability vector.
    """
    p = softmax(logits)
    columns = {
        "correctness": (p.argmax(1) == labels).astype(np.float64),
        "confidence": p[np.arange(len(labels)), labels],
        "entropy": entropy(p),
        "m_entropy": modified_entropy(p, labels),
    }
    return {name: column[:, None] for name, column in columns.items()} | {"prob": p}


def draw_members(
    retain_labels: np.ndarray, test_labels: np.ndarray, *, how: Literal["balanced", "first"] = "balanced", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Positions in retain and in test that the attack trains on.

    ``balanced``: of each class as many members as non-members, the smaller of the two counts, drawn by ``seed``. So
    the two sides are equal in number and in classes whatever the sizes of retain and test.
    ``first``: the first len(test) retain samples against all of test: the reference's draw, which follows file order.
    """
    if how == "first":
        return np.arange(min(len(test_labels), len(retain_labels))), np.arange(len(test_labels))
    if not len(retain_labels) or not len(test_labels):
        return np.arange(0), np.arange(0)
    rng = np.random.default_rng(seed)
    members, non_members = [], []
    for c in np.union1d(retain_labels, test_labels):
        inside, outside = np.flatnonzero(retain_labels == c), np.flatnonzero(test_labels == c)
        count = min(len(inside), len(outside))
        members.append(rng.permutation(inside)[:count])
        non_members.append(rng.permutation(outside)[:count])
    return np.sort(np.concatenate(members)), np.sort(np.concatenate(non_members))


def svc_attack(retain: Outputs, test: Outputs, forget: Outputs, *, how: str = "balanced", seed: int = 0) -> dict[str, float]:
    """:func:`svc_shares` of the forget set alone."""
    return svc_shares(retain, test, {"forget": forget}, how=how, seed=seed)["forget"]


def svc_shares(
    retain: Outputs, test: Outputs, audited: Mapping[str, Outputs], *, how: str = "balanced", seed: int = 0
) -> dict[str, dict[str, float]]:
    """The fraction of each audited split that the attack calls non-member, in [0, 1], for each of the five features.

    scikit-learn's SVC with C = 3, gamma = 1 / number of features, RBF kernel, unscaled features, as published. From
    5,000 points on, close ones are merged and the machine is solved to a tighter tolerance (see :func:`_fit`): the
    shares stay within 0.05 points of those of all points once both are converged.
    An empty or unbalanceable training set, or an empty split, gives NaN.

    Args:
        retain, test, audited: (logits (n, k), labels (n,)) of un-augmented splits.
        how, seed: see :func:`draw_members`.
    """
    return _shares(attack_features, retain, test, audited, draw_members(retain[1], test[1], how=how, seed=seed))


def svc_margin_attack(retain: Outputs, test: Outputs, audited: Mapping[str, Outputs], *, seed: int = 0) -> dict[str, float]:
    """The same fractions by the same machine on one feature that does not crowd at 1: the standardised margin.

    Mean and standard deviation are those of the attack's training points. See :func:`evaluation.scores.margin`.
    """
    draw = draw_members(retain[1], test[1], seed=seed)
    sides = zip((retain, test), draw, strict=True)
    known = np.concatenate([margin(logits[at], labels[at]) for (logits, labels), at in sides if len(at)] or [[0.0]])
    center, sd = known.mean(), max(known.std(), MIN_SD)
    shares = _shares(lambda *outputs: {"margin": (margin(*outputs)[:, None] - center) / sd}, retain, test, audited, draw)
    return {name: share["margin"] for name, share in shares.items()}


def _shares(
    features: Callable[..., dict[str, np.ndarray]], retain: Outputs, test: Outputs, audited: Mapping[str, Outputs],
    draw: tuple[np.ndarray, np.ndarray],
) -> dict[str, dict[str, float]]:  # fmt: skip
    members, non_members = draw
    usable = len(members) and len(non_members)
    seen = {name: features(*outputs) for name, outputs in audited.items() if len(outputs[1])} if usable else {}
    shares = {name: dict.fromkeys(next(iter(seen.values()), FEATURES), float("nan")) for name in audited}
    if not seen:
        return shares
    inside, outside = features(retain[0][members], retain[1][members]), features(test[0][non_members], test[1][non_members])
    is_member = np.repeat([1, 0], [len(members), len(non_members)])
    # One after the other: side by side, their matrix products took a third longer on two cores.
    for feature in inside:
        decide = _fit(np.concatenate([inside[feature], outside[feature]]), is_member, feature)
        for name, of_split in seen.items():
            shares[name][feature] = float(1 - np.mean(decide(of_split[feature]) > 0))
    return shares


def _fit(points: np.ndarray, is_member: np.ndarray, feature: str) -> Callable[[np.ndarray], np.ndarray]:
    """The machine's decision function, positive for members, from collapsed points.

    Equal points of one side are one point with their number as its weight: the same machine. Points in the same cell of
    a fine grid also become one, their mean. Where even these are many, a machine on a coarse grid comes first: a point
    far from its margin is a support vector at its bound or none at all, so that only its cell's sum matters, and the
    fine grid is kept for those near the margin.
    """
    from sklearn.svm import SVC  # half a second to import; only the evaluation needs it

    if len(points) < ROUND_FROM:
        return SVC(C=3, gamma="auto").fit(points, is_member).decision_function
    fine = _cells(points, GRIDS[feature])
    collapsed = _collapse(points, fine, is_member)
    if points.shape[1] == 1 or len(collapsed[0]) < COARSE_FROM:
        return _machine(*collapsed)
    coarse = np.round(points / COARSE_GRID)
    first = _machine(*_collapse(points, coarse, is_member))
    near = np.abs((2 * is_member - 1) * first(points) - 1) < NEAR_MARGIN
    return _machine(*_collapse(points, np.column_stack([near, np.where(near[:, None], fine, coarse)]), is_member))


def _cells(points: np.ndarray, grid: float) -> np.ndarray:
    """The cell of each point; in one dimension a crowded cell of the grid is divided further, by rank."""
    cells = np.round(points / grid)
    if points.shape[1] > 1:
        return cells
    rank = np.unique(points[:, 0], return_inverse=True)[1]
    return np.column_stack([cells, rank // CROWD])


def _collapse(points: np.ndarray, cells: np.ndarray, is_member: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One point per side for each distinct row of ``cells``: the mean, the side, the number of points."""
    rows, where, count = np.unique(np.column_stack([is_member, cells]), axis=0, return_inverse=True, return_counts=True)
    where = where.reshape(-1)
    means = [np.bincount(where, column) / count for column in points.T]
    return np.stack(means, 1), rows[:, 0].astype(np.int64), count


def _machine(points: np.ndarray, is_member: np.ndarray, weight: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.svm import SVC

    gamma = 1 / points.shape[1]
    # libsvm fills its kernel point by point; one matrix product and one exponential over it are several times faster.
    ready = len(points) <= GRAM_LIMIT
    machine = SVC(C=3, gamma=gamma, kernel="precomputed" if ready else "rbf", cache_size=1000, tol=TOLERANCE)
    machine.fit(_gram(points, points, gamma) if ready else points, is_member, sample_weight=weight)
    support, dual = points[machine.support_], machine.dual_coef_[0]
    return lambda audited: _gram(audited, support, gamma) @ dual + machine.intercept_


def _gram(a: np.ndarray, b: np.ndarray, gamma: float) -> np.ndarray:
    """exp(-gamma ||a_i - b_j||^2), float64, in one buffer."""
    a, b = torch.from_numpy(a), torch.from_numpy(b)
    distances = torch.addmm(b.square().sum(1), a, b.T, alpha=-2).add_(a.square().sum(1)[:, None])
    return distances.mul_(-gamma).exp_().numpy()
