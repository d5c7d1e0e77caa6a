"""The support-vector membership attack of the Sparse and SalUn papers, on five features of a model's outputs.

It learns to tell retain (members) from test (non-members) and is then asked about the forget set. The published
"MIA" is the share of the forget set that it calls non-member, from the confidence feature. Close to Retrain is good;
neither high nor low is.
"""

from typing import Literal

import numpy as np

from evaluation.entropy import entropy, modified_entropy, softmax

Outputs = tuple[np.ndarray, np.ndarray]
FEATURES = ("correctness", "confidence", "entropy", "m_entropy", "prob")


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
    """The fraction of ``forget`` that the attack calls non-member, in [0, 1], for each of the five features.

    scikit-learn's SVC with C = 3, gamma = 1 / number of features, RBF kernel, unscaled features, as published.
    An empty or unbalanceable training set gives NaN.

    Args:
        retain, test, forget: (logits (n, k), labels (n,)) of un-augmented splits.
        how, seed: see :func:`draw_members`.
    """
    members, non_members = draw_members(retain[1], test[1], how=how, seed=seed)
    if not len(members) or not len(non_members) or not len(forget[1]):
        return dict.fromkeys(FEATURES, float("nan"))
    train_in = attack_features(retain[0][members], retain[1][members])
    train_out = attack_features(test[0][non_members], test[1][non_members])
    audited = attack_features(*forget)
    return {name: _non_member_share(train_in[name], train_out[name], audited[name]) for name in FEATURES}


def _non_member_share(members: np.ndarray, non_members: np.ndarray, audited: np.ndarray) -> float:
    from sklearn.svm import SVC  # half a second to import; only the evaluation needs it

    is_member = np.concatenate([np.ones(len(members)), np.zeros(len(non_members))])
    attack = SVC(C=3, gamma="auto", kernel="rbf").fit(np.concatenate([members, non_members]), is_member)
    return float(1 - attack.predict(audited).mean())
