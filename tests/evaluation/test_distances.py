"""Distances to Retrain against SciPy, brute force and the identities that they owe."""

import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.distances import (
    DISTANCES,
    activation_distance,
    disagreement,
    distances,
    jensen_shannon,
    kl_divergence,
    tow,
    tow_mia,
)

properties = settings(max_examples=40, deadline=None, derandomize=True)
SYMMETRIC = ("activation_distance", "js", "disagreement")


def logits(n=60, k=5, seed=0, scale=3.0):
    return np.random.default_rng(seed).normal(0, scale, (n, k)).astype(np.float32)


def probabilities(values):
    return scipy.special.softmax(values.astype(np.float64), axis=1)


sizes = st.fixed_dictionaries(
    {
        "n": st.integers(1, 30),
        "k": st.integers(2, 7),
        "scale": st.sampled_from([0.01, 1.0, 30.0, 1000.0]),
    }
)
pairs = st.tuples(sizes, st.integers(0, 10**6)).map(
    lambda case: (logits(**case[0], seed=case[1]), logits(**case[0], seed=case[1] + 1))
)


# ----------------------------------------------------------------- against independent computations


@pytest.mark.parametrize("scale", [0.01, 3, 20])
def test_js_is_scipys_distance_squared(scale):
    a, b = logits(scale=scale), logits(seed=1, scale=scale)
    wanted = scipy.spatial.distance.jensenshannon(probabilities(a), probabilities(b), axis=1) ** 2
    assert jensen_shannon(a, b) == pytest.approx(wanted.mean(), rel=1e-9)


@pytest.mark.parametrize("scale", [0.01, 3, 20])
def test_kl_is_scipys_relative_entropy_of_retrain_from_unlearned(scale):
    retrain, unlearned = logits(scale=scale), logits(seed=1, scale=scale)
    wanted = scipy.stats.entropy(probabilities(retrain), probabilities(unlearned), axis=1).mean()
    assert kl_divergence(retrain, unlearned) == pytest.approx(wanted, rel=1e-9)
    assert distances(unlearned, retrain)["kl_retrain_unlearned"] == pytest.approx(wanted, rel=1e-9)


def test_kl_and_js_survive_probabilities_of_zero():
    """Gaps of 2,000 between logits: KL is the gap itself, JS its upper end."""
    a, b = np.array([[1000.0, -1000, -1000]]), np.array([[-1000.0, 1000, -1000]])
    assert kl_divergence(a, b) == pytest.approx(2000)
    assert jensen_shannon(a, b) == pytest.approx(math.log(2), rel=1e-15)


def test_activation_distance_and_disagreement_equal_a_loop():
    a, b = logits(), logits(seed=1)
    rows = [(p, q) for p, q in zip(probabilities(a), probabilities(b), strict=True)]
    wanted = sum(
        math.sqrt(sum((x - y) ** 2 for x, y in zip(p, q, strict=True))) for p, q in rows
    ) / len(rows)
    assert activation_distance(a, b) == pytest.approx(wanted, rel=1e-12)
    assert disagreement(a, b) == sum(
        list(p).index(max(p)) != list(q).index(max(q)) for p, q in rows
    ) / len(rows)


def test_certain_and_opposite_predictions_are_at_the_far_ends():
    sure = 200 * np.eye(4, dtype=np.float32)
    got = distances(sure, np.roll(sure, 1, 1))
    assert got == pytest.approx(
        {
            "activation_distance": math.sqrt(2),
            "js": math.log(2),
            "kl_retrain_unlearned": 200,
            "disagreement": 1,
        }
    )


def test_two_samples_are_averaged_and_their_classes_are_summed():
    """The batchmean trap: dividing by samples and classes would halve this value."""
    a, b = np.log([[0.9, 0.1], [0.5, 0.5]]), np.log([[0.1, 0.9], [0.5, 0.5]])
    assert kl_divergence(a, b) == pytest.approx(0.8 * math.log(9) / 2)


# ----------------------------------------------------------------------- identities and invariances


@properties
@given(pairs)
def test_bounds_symmetry_and_zero(pair):
    a, b = pair
    got, swapped, same = distances(a, b), distances(b, a), distances(a, a)
    assert 0 <= got["js"] <= math.log(2)
    assert 0 <= got["activation_distance"] <= math.sqrt(2) + 1e-12
    assert 0 <= got["disagreement"] <= 1
    assert 0 <= got["kl_retrain_unlearned"] < math.inf
    assert all(got[name] == pytest.approx(swapped[name], rel=1e-12) for name in SYMMETRIC)
    assert same == pytest.approx(dict.fromkeys(DISTANCES, 0), abs=1e-15)


def test_kl_is_not_symmetric():
    a, b = logits(), logits(seed=1)
    assert abs(kl_divergence(a, b) - kl_divergence(b, a)) > 1e-3


@properties
@given(pairs, st.integers(0, 10**6))
def test_triangle_inequality(pair, seed):
    a, b = pair
    c = logits(*a.shape, seed=seed)
    for metric in (activation_distance, disagreement):
        assert metric(a, b) <= metric(a, c) + metric(c, b) + 1e-12


@properties
@given(pairs, st.integers(0, 10**6))
def test_order_of_samples_names_of_classes_and_constants_do_not_matter(pair, seed):
    a, b = pair
    rng = np.random.default_rng(seed)
    rows, classes = rng.permutation(a.shape[0]), rng.permutation(a.shape[1])
    shift = rng.integers(-64, 64, (a.shape[0], 1))
    wanted = pytest.approx(distances(a, b), rel=1e-9, abs=1e-12)
    assert distances(a[rows], b[rows]) == wanted
    assert distances(a[:, classes], b[:, classes]) == wanted
    assert distances(a.astype(np.float64) + shift, b) == wanted


def test_samples_must_be_paired():
    """Shuffling one side alone does change the distance: the rows are samples, not a
    distribution.
    """
    a = logits()
    assert distances(a, a[::-1])["js"] > 0.1


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize(
    "bad", [(np.zeros((0, 3)),) * 2, (np.zeros((2, 3)), np.zeros((3, 3))), (np.zeros(3),) * 2]
)
def test_empty_or_unequal_logits_are_refused(name, bad):
    with pytest.raises(ValueError, match="one shape"):
        DISTANCES[name](*bad)


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_of_a_diverged_model_are_refused(name, value):
    with pytest.raises(ValueError, match="diverged"):
        DISTANCES[name](np.zeros((2, 3)), np.array([[0, 0, 0], [0, value, 0]]))


# ---------------------------------------------------------------------------------------------- ToW

percents = st.fixed_dictionaries({name: st.floats(0, 100) for name in ("UA", "RA", "TA", "MIA")})


def test_tow_of_a_hand_made_case():
    retrain = {"UA": 5.0, "RA": 100.0, "TA": 94.0, "MIA": 13.0}
    method = {"UA": 15.0, "RA": 99.0, "TA": 92.0, "MIA": 33.0}
    assert tow(method, retrain) == pytest.approx(0.9 * 0.99 * 0.98)
    assert tow_mia(method, retrain) == pytest.approx(0.8 * 0.99 * 0.98)


@properties
@given(percents, percents)
def test_tow_is_symmetric_bounded_multiplicative_and_one_only_at_equality(method, retrain):
    for score, names in ((tow, ("UA", "RA", "TA")), (tow_mia, ("MIA", "RA", "TA"))):
        assert 0 <= score(method, retrain) <= 1
        assert score(retrain, retrain) == 1
        assert score(method, retrain) == pytest.approx(score(retrain, method))
        alone = [score(retrain | {name: method[name]}, retrain) for name in names]
        assert score(method, retrain) == pytest.approx(math.prod(alone))
        assert all(
            value < 1
            for value, name in zip(alone, names, strict=True)
            if abs(method[name] - retrain[name]) > 1e-9
        )


def test_tow_uses_forgetting_or_the_attack_but_not_both():
    retrain = {"UA": 5.0, "RA": 100.0, "TA": 94.0, "MIA": 13.0}
    assert tow(retrain | {"MIA": 50.0}, retrain) == 1
    assert tow_mia(retrain | {"UA": 50.0}, retrain) == 1


@pytest.mark.parametrize("value", [math.nan, -1.0, 101.0])
def test_tow_refuses_what_is_no_percentage(value):
    retrain = {"UA": 5.0, "RA": 100.0, "TA": 94.0}
    with pytest.raises(ValueError, match="percentages"):
        tow(retrain | {"RA": value}, retrain)
