"""The machine of the attack against scikit-learn's, where it is solved another way: many points,
one column and several.
"""

import numpy as np
import pytest
from sklearn.svm import SVC

from evaluation import svm

N = 1300  # a side


def wanted_of(points, side, audited, **settings):
    return SVC(C=3, gamma="auto", **settings).fit(points, side).decision_function(audited)


def found_of(points, side, audited):
    ((found,),) = svm.decisions(
        points, [(np.flatnonzero(side == 1), np.flatnonzero(side == 0))], [audited]
    )
    return found


def problem(name, rng):
    """Members, others, audited; (m, columns)."""
    draw = {
        "uniform": lambda i, n: rng.random(n),
        "overfitted": lambda i, n: rng.beta(*((8, 1), (2, 2), (4, 1))[i], n),
        "at 1": lambda i, n: 1 - 10.0 ** -rng.uniform(0, 12, n),
        "separable": lambda i, n: rng.random(n) / 3 + (0.6, 0, 0.3)[i],
        "far": lambda i, n: rng.exponential((3, 5, 4)[i], n),
        "half of them 1": lambda i, n: np.maximum(
            rng.beta(9 - i, 1, n), 1.0 * (rng.random(n) < 0.5)
        ),
        "crowd at the boundary": lambda i, n: (
            rng.beta(*((8, 1), (2, 2))[i], n) if i < 2 else 0.745 + 1e-3 * rng.normal(size=n)
        ),
        "all within 1e-3": lambda i, n: 0.5 + 1e-3 * rng.normal(i * 0.2, 1, n),
        "all within 1e-6": lambda i, n: 0.5 + 1e-6 * rng.normal(i * 0.2, 1, n),
        "all within 1e-9": lambda i, n: 0.5 + 1e-9 * rng.normal(i * 0.2, 1, n),
        "probabilities": lambda i, n: rng.dirichlet(np.full(10, (0.1, 0.2, 0.15)[i]), n),
        "flat probabilities": lambda i, n: rng.dirichlet(np.full(10, 1 + 0.1 * i), n),
    }[name]
    return [
        part.reshape(len(part), -1) for part in (draw(i, n) for i, n in enumerate((N, N, 4000)))
    ]


NAMES = (
    "uniform",
    "overfitted",
    "at 1",
    "separable",
    "far",
    "half of them 1",
    "crowd at the boundary",
    "all within 1e-3",
    "all within 1e-6",
    "all within 1e-9",
    "probabilities",
    "flat probabilities",
)


@pytest.mark.parametrize("name", NAMES)
def test_shares_are_those_of_all_points_at_the_tightest_tolerance(name):
    """Within 0.05 points, adversarial crowds included; decisions of one column within 1e-4."""
    members, others, audited = problem(name, np.random.default_rng(1))
    points, side = np.concatenate([members, others]), np.repeat([1, 0], N)
    found, wanted = found_of(points, side, audited), wanted_of(points, side, audited, tol=1e-7)
    assert abs(np.mean(found < 0) - np.mean(wanted < 0)) <= 0.0005
    np.testing.assert_allclose(found, wanted, atol=1e-4 if points.shape[1] == 1 else 2.5e-4)


def test_sides_may_be_unequal():
    members, others, audited = problem("overfitted", np.random.default_rng(2))
    points, side = np.concatenate([members, others[:700]]), np.repeat([1, 0], [N, 700])
    np.testing.assert_allclose(
        found_of(points, side, audited), wanted_of(points, side, audited, tol=1e-7), atol=1e-4
    )


def test_few_points_are_left_to_scikit_learn_as_they_are():
    rng = np.random.default_rng(1)
    for columns in (1, 3):
        points, side, audited = (
            rng.random((400, columns)),
            np.repeat([1, 0], 200),
            rng.random((90, columns)),
        )
        np.testing.assert_array_equal(
            found_of(points, side, audited), wanted_of(points, side, audited)
        )


def test_equal_points_are_one_point_with_a_weight():
    rng = np.random.default_rng(0)
    points = rng.choice(np.linspace(0, 1, 11), (3000, 2))
    side = (points.sum(1) + rng.normal(0, 0.5, 3000) > 1).astype(int)
    audited = rng.random((200, 2))
    np.testing.assert_allclose(
        found_of(points, side, audited), wanted_of(points, side, audited, tol=1e-7), atol=1e-4
    )


def test_distinct_rows_are_numpys():
    rows = np.random.default_rng(0).choice([-1.0, 0.0, 0.25, 3e5], (400, 3))
    wanted = np.unique(rows, axis=0, return_counts=True)
    for found, given in zip(svm._distinct(rows), wanted, strict=True):
        np.testing.assert_array_equal(found, given)


@pytest.mark.parametrize("sharpness", [1.0, 2.0])
def test_probabilities_of_many_classes_are_solved_without_libsvm(monkeypatch, sharpness):
    """Shares within 0.05 points of scikit-learn's at its tightest."""
    rng, classes = np.random.default_rng(5), 220

    def probabilities(count, margin):
        logits = rng.normal(0, 1, (count, classes))
        own = rng.integers(0, classes, count)
        logits[np.arange(count), own] += margin + rng.normal(0, 2, count)
        values = np.exp(sharpness * logits)
        return values / values.sum(1, keepdims=True)

    sides, audited = [probabilities(1050, 5), probabilities(1050, 3)], probabilities(2000, 4)
    points, side = np.concatenate(sides), np.repeat([1, 0], 1050)
    wanted = wanted_of(points, side, audited, tol=1e-7)
    monkeypatch.setattr(svm, "_libsvm", None)
    found = found_of(points, side, audited)
    assert abs(np.mean(found < 0) - np.mean(wanted < 0)) <= 0.0005
    assert np.sqrt(np.mean((found - wanted) ** 2)) < 1e-5


def test_draws_share_their_kernel_and_nothing_else():
    """Each of three draws is what it is alone, but for landmarks that others suggested."""
    members, others, audited = problem("overfitted", np.random.default_rng(3))
    points = np.concatenate([members, others])
    rng = np.random.default_rng(0)
    drawn = [(rng.permutation(N)[:900], N + rng.permutation(N)[:900]) for _ in range(3)]
    for draw, (found,) in zip(drawn, svm.decisions(points, drawn, [audited]), strict=True):
        side = np.repeat([1, 0], 900)
        np.testing.assert_allclose(
            found, wanted_of(points[np.concatenate(draw)], side, audited, tol=1e-7), atol=1e-4
        )


def test_without_a_solution_libsvm_is_asked(monkeypatch):
    members, others, audited = problem("overfitted", np.random.default_rng(4))
    points, side = np.concatenate([members, others]), np.repeat([1, 0], N)
    wanted = wanted_of(points, side, audited, tol=1e-7)
    with monkeypatch.context() as patch:
        patch.setattr(svm, "MAX_STEPS", 3)
        np.testing.assert_array_equal(found_of(points, side, audited), wanted)
    monkeypatch.setattr(svm, "MAX_RANK", 2)
    np.testing.assert_array_equal(found_of(points, side, audited), wanted)
