"""Scores and attacks against SciPy, scikit-learn, loops, closed forms, and many draws of chance."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from helpers import flat, within_chance
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedShuffleSplit

from evaluation.attacks import (
    auc,
    auc_null_sd,
    best_threshold,
    class_weights,
    effective_size,
    entropy_member_rate,
    lr_entropy_attack,
    lr_loss_attack,
    roc,
    roc_summary,
    threshold_attack,
    tpr_at_fpr,
    with_shares,
)
from evaluation.intervals import chances_of, clopper_pearson, intervals_of, values_of
from evaluation.membership import attack_features
from evaluation.scores import MEMBER_SIGN, margin, member_scores, sample_scores
from evaluation.suites import basic

few = settings(max_examples=40, deadline=None, derandomize=True)
small = st.lists(st.integers(-4, 4), min_size=1, max_size=12).map(
    lambda values: np.array(values) / 2
)


def random_outputs(n, k=4, seed=0, scale=3.0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (n, k)).astype(np.float32), rng.integers(0, k, n)


def gaussian_pair(shift, n=4000):
    """Exact quantiles of N(shift, 1) and of N(0, 1)."""
    quantiles = scipy.stats.norm.ppf((np.arange(n) + 0.5) / n)
    return quantiles + shift, quantiles


def chance_pairs(count, n1=60, n2=80):
    """Pairs of samples of one distribution."""
    for seed in range(count):
        rng = np.random.default_rng(seed)
        yield rng.normal(size=n1), rng.normal(size=n2)


# ------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize(("k", "scale"), [(2, 1), (4, 3), (10, 30)])
def test_scores_equal_scipy_row_by_row(k, scale):
    logits, labels = random_outputs(60, k, scale=scale)
    got = sample_scores(logits, labels)
    assert set(got) == set(MEMBER_SIGN)
    for i, (row, y) in enumerate(zip(logits.astype(np.float64), labels, strict=True)):
        phi = row[y] - scipy.special.logsumexp(np.delete(row, y))
        expected = {
            "margin": phi,
            "log_probability": scipy.special.log_expit(phi),
            "loss": -scipy.special.log_expit(phi),
        }
        expected |= {
            "confidence": scipy.special.softmax(row)[y],
            "entropy": scipy.stats.entropy(scipy.special.softmax(row)),
        }
        assert {name: got[name][i] for name in expected} == pytest.approx(
            expected, rel=1e-10, abs=1e-13
        )


def test_scores_share_the_definitions_of_the_support_vector_attack():
    logits, labels = random_outputs(50, 6)
    got, features = sample_scores(logits, labels), attack_features(logits, labels)
    for name in ("confidence", "entropy", "m_entropy"):
        np.testing.assert_allclose(got[name], features[name][:, 0], rtol=1e-12, atol=1e-15)


def test_loss_keeps_its_order_where_the_probability_rounds_to_one():
    """From a margin of 37 on p_y = 1 in float64; the losses, 1e-16 to 1e-43, still fall."""
    logits = np.stack([np.arange(30, 100.0), np.zeros(70)], 1)
    got = sample_scores(logits, np.zeros(70, int))
    assert (got["confidence"][10:] == 1).all()
    assert (np.diff(got["loss"]) < 0).all()
    np.testing.assert_allclose(got["loss"], np.exp(-np.arange(30, 100.0)), rtol=1e-10)


def test_member_scores_rise_with_the_true_logit():
    """The predicted class grows ever surer: each score, signed, must call it ever more
    member-like.
    """
    logits = np.stack([np.linspace(0.5, 8, 20), np.zeros(20), np.zeros(20)], 1)
    got = member_scores(logits, np.zeros(20, int))
    assert all((np.diff(score) > 0).all() for score in got.values())


def test_a_score_does_not_depend_on_the_batch():
    logits, labels = random_outputs(30, 10)
    whole = sample_scores(logits, labels)
    for rows in ([7], [3, 7, 21], np.flatnonzero(labels == labels[7])):
        part = sample_scores(logits[rows], labels[rows])
        assert all((part[name] == whole[name][rows]).all() for name in whole)


def test_margin_leaves_its_input_alone():
    logits = np.random.default_rng(0).normal(size=(4, 3))
    before = logits.copy()
    margin(logits, np.zeros(4, int))
    assert (logits == before).all()


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 3)), [], "n >= 1"),
        (np.zeros((2, 1)), [0, 0], "k >= 2"),
        (np.zeros((2, 3)), [0], "n >= 1"),
        ([[0, np.nan]], [0], "finite"),
        ([[0, 1.0]], [2], "Labels"),
        ([[0, 1.0]], [-1], "Labels"),
    ],
)
def test_margin_of_what_has_none_is_an_error(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        margin(np.array(logits), np.array(labels, int))


# ------------------------------------------------------------------------------- the ROC, with ties


@few
@given(small, small)
def test_auc_equals_mann_whitney_and_scikit_learn(members, others):
    value = auc(members, others)
    u = scipy.stats.mannwhitneyu(
        members, others, method="asymptotic" if len(np.unique([*members, *others])) > 1 else "exact"
    ).statistic
    assert value == pytest.approx(u / (len(members) * len(others)), abs=1e-12)
    sides = np.repeat([1, 0], [len(members), len(others)])
    assert value == pytest.approx(
        roc_auc_score(sides, np.concatenate([members, others])), abs=1e-12
    )


@few
@given(small, small, st.integers(0, 10**6))
def test_weighted_roc_and_auc_equal_scikit_learn(members, others, seed):
    weights = np.random.default_rng(seed).uniform(0.1, 3, len(others))
    sides, joined = (
        np.repeat([1, 0], [len(members), len(others)]),
        np.concatenate([members, others]),
    )
    all_weights = np.concatenate([np.ones(len(members)), weights])
    assert auc(members, others, weights) == pytest.approx(
        roc_auc_score(sides, joined, sample_weight=all_weights), abs=1e-12
    )
    fpr, tpr, _ = roc_curve(sides, joined, sample_weight=all_weights, drop_intermediate=False)
    _, hits, alarms = roc(members, others, weights)
    np.testing.assert_allclose(alarms / alarms[-1], fpr, atol=1e-12)
    np.testing.assert_allclose(hits / hits[-1], tpr)
    for target in (0.1, 0.25, 0.5):
        rate, low, high = tpr_at_fpr(members, others, target, weights)
        assert rate == pytest.approx(tpr[fpr <= target + 1e-9].max())
        assert 0 <= low <= rate <= high <= 1


def test_class_weights_give_the_shares_of_the_members():
    """By hand: three of four members are of class 0, which two of six others are."""
    labels, others = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1, 1, 1])
    weights = class_weights(labels, others)
    assert weights.tolist() == [2.25, 2.25, 0.375, 0.375, 0.375, 0.375]
    assert weights[others == 0].sum() / weights.sum() == 0.75
    assert effective_size(weights) == pytest.approx(36 / (2 * 2.25**2 + 4 * 0.375**2))
    assert effective_size(np.full(7, 3.0)) == 7
    with pytest.raises(ValueError, match="of class 2"):
        class_weights(np.array([0, 2]), others)


def test_equal_shares_leave_every_number_as_it_was():
    members, others = np.random.default_rng(0).normal(size=(2, 400)).round(1)
    labels = np.arange(400) % 4
    weights = class_weights(labels[:200], labels)
    assert flat(roc_summary("x", members[:200], others, weights)) == pytest.approx(
        flat(roc_summary("x", members[:200], others)), abs=1e-12
    )
    sides = labelled(members[:200], labels[:200]), labelled(others, labels)
    assert flat(threshold_attack("x", *sides, *sides, weights)) == pytest.approx(
        flat(threshold_attack("x", *sides, *sides)), abs=1e-12
    )
    np.testing.assert_array_equal(
        np.sort(with_shares(others, labels, labels[:200])), np.sort(others)
    )


@pytest.mark.parametrize("of_class", [0.0, 2.0], ids=["classes alike", "classes unlike"])
def test_a_list_of_mostly_one_class_is_at_chance_under_the_null(of_class):
    """82 % of one class against held-out images of all: alarms in at most 5 % of the trials, where
    unweighted it is all of them.

    Where all classes score alike the interval by the effective size is exact: nearly 5 %.
    """
    shares = np.full(10, 0.02)
    shares[3] = 0.82
    trials, alarms, unweighted, threshold = 600, 0, 0, 0
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        labels, others = rng.choice(10, 300, p=shares), np.repeat(np.arange(10), 50)
        members, held_out = (rng.normal(of_class * (each == 3), 1) for each in (labels, others))
        weights = class_weights(labels, others)
        got, plain = (
            roc_summary("x", members, held_out, weights),
            roc_summary("x", members, held_out),
        )
        alarms += not within_chance(got["x_auc"])
        unweighted += not within_chance(plain["x_auc"])
        pair = (members, labels), (held_out, others)
        got = threshold_attack(
            "x",
            *pair,
            *((rng.normal(of_class * (each == 3), 1), each) for each in (labels, others)),
            weights,
        )
        threshold += not within_chance(got["x_threshold_balanced_accuracy"])
    room = 3 * (0.05 * 0.95 / trials) ** 0.5
    assert alarms / trials <= 0.05 + room
    assert threshold / trials <= 0.05 + room
    if of_class:
        assert unweighted == trials
    else:
        assert alarms / trials >= 0.05 - room


def test_weighted_rates_hold_their_bounds():
    """TPR at 10 % FPR of a shift, with weights: the true rate lies within the bounds in at least 95
    % of the trials.
    """
    truth, missed = scipy.stats.norm.sf(scipy.stats.norm.isf(0.1) - 1), 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        labels, others = rng.choice(2, 200, p=[0.8, 0.2]), np.arange(300) % 2
        _, low, high = tpr_at_fpr(
            rng.normal(1, 1, 200), rng.normal(size=300), 0.1, class_weights(labels, others)
        )
        missed += not low <= truth <= high
    assert missed / 300 <= 0.05


def test_with_shares_keeps_the_largest_part_and_its_distribution():
    """Two to one of 30 and 100 values: 30 and 15, the 15 spread evenly; nothing where a class is
    missing.
    """
    values, others = np.concatenate([np.zeros(30), np.arange(1, 101)]), np.repeat([0, 1], [30, 100])
    kept = with_shares(values, others, np.array([0, 0, 1]))
    assert np.sum(kept == 0) == 30
    assert len(kept) == 45
    assert np.mean(kept[kept > 0]) == pytest.approx(50.5, abs=1)
    assert len(with_shares(values, others, np.array([0, 2]))) == 0


@few
@given(small, small)
def test_auc_is_antisymmetric(members, others):
    assert auc(members, others) + auc(-members, -others) == 1
    assert auc(members, others) + auc(others, members) == 1


@few
@given(small, small)
def test_roc_equals_scikit_learn(members, others):
    sides = np.repeat([1, 0], [len(members), len(others)])
    fpr, tpr, limits = roc_curve(sides, np.concatenate([members, others]), drop_intermediate=False)
    thresholds, hits, alarms = roc(members, others)
    np.testing.assert_array_equal(thresholds, limits)
    np.testing.assert_allclose(hits / len(members), tpr)
    np.testing.assert_allclose(alarms / len(others), fpr)


@few
@given(small, small, st.sampled_from([0, 0.05, 0.1, 0.25, 0.29, 0.5, 1]))
def test_tpr_at_fpr_equals_scikit_learn(members, others, target):
    fpr, tpr, _ = roc_curve(
        np.repeat([1, 0], [len(members), len(others)]),
        np.concatenate([members, others]),
        drop_intermediate=False,
    )
    rate, low, high = tpr_at_fpr(members, others, target)
    assert rate == tpr[fpr <= target + 1e-12].max()
    assert 0 <= low <= rate <= high <= 1


def test_tpr_at_fpr_takes_a_share_as_it_is_written():
    """0.29 * 100 is 28.999...96: 29 of 100 may be called members."""
    assert tpr_at_fpr(np.array([70.5]), np.arange(100.0), 0.29)[0] == 1
    assert tpr_at_fpr(np.array([69.5]), np.arange(100.0), 0.29)[0] == 0


@few
@given(small, small)
def test_rising_functions_of_the_scores_change_nothing(members, others):
    assert roc_summary("x", members, others) == roc_summary(
        "x", np.expm1(members), np.expm1(others)
    )


@pytest.mark.parametrize(
    ("shift", "area", "at_1", "at_01"),
    [(0.5, 0.638, 0.034, 0.0048), (1, 0.760, 0.092, 0.018), (1.5, 0.856, 0.204, 0.056)],
)
def test_shifted_gaussians_have_their_theoretical_roc(shift, area, at_1, at_01):
    got = values_of(roc_summary("g", *gaussian_pair(shift, 20_000)))
    assert got["g_auc"] == pytest.approx(scipy.stats.norm.cdf(shift / math.sqrt(2)), abs=1e-4)
    assert got["g_auc"] == pytest.approx(area, abs=6e-4)
    assert got["g_tpr_at_fpr_1"] == pytest.approx(
        scipy.stats.norm.sf(scipy.stats.norm.isf(0.01) - shift), abs=2e-3
    )
    assert got["g_tpr_at_fpr_1"] == pytest.approx(at_1, abs=2e-3)
    assert got["g_tpr_at_fpr_0.1"] == pytest.approx(at_01, abs=2e-3)


def test_summary_of_a_reversed_attack_leaks_as_much():
    got = roc_summary("loss", *gaussian_pair(-1))
    area, _, (low, _) = got["loss_auc"]
    assert area == pytest.approx(0.24, abs=1e-3)
    assert got["loss_auc_two_sided"].value == 1 - area
    assert area < low


def test_summary_names_what_it_reports_with_its_interval_or_where_chance_puts_it():
    got = roc_summary("loss", [1.0, 2], [0.0, 1])
    rates = {"loss_tpr_at_fpr_1", "loss_tpr_at_fpr_0.1"}
    assert set(got) == {"loss_auc", "loss_auc_two_sided", "loss_auc_two_sided_floor", *rates}
    assert intervals_of(got).keys() == rates
    assert chances_of(got).keys() == {"loss_auc"}


@pytest.mark.parametrize("bad", [[], [np.nan], [np.inf], [[1.0]]])
def test_scores_that_cannot_be_ranked_are_an_error(bad):
    for pair in ((bad, [1.0]), ([1.0], bad)):
        with pytest.raises(ValueError, match="finite scores"):
            auc(*pair)


# ---------------------------------------------------------------------------------------- intervals


def test_null_sd_is_the_one_of_all_permutations():
    """All 252 ways to take 5 of 10 scores as members, with ties and without."""
    from itertools import combinations

    for scores in (np.arange(10.0), np.array([0, 0, 0, 1, 2, 2, 3, 4, 4, 4.0])):
        areas = [
            auc(scores[list(chosen)], np.delete(scores, chosen))
            for chosen in combinations(range(10), 5)
        ]
        assert np.mean(areas) == pytest.approx(0.5)
        assert auc_null_sd(scores[:5], scores[5:]) == pytest.approx(np.std(areas), rel=1e-12)
    assert auc_null_sd(np.ones(3), np.ones(4)) == 0


def test_auc_of_chance_is_inside_its_interval_as_often_as_said():
    """2,000 draws: all but a few in 1,000 within the interval of 1e-3; about 5 % outside that of 5
    %; the floor is the mean.
    """
    pairs = list(chance_pairs(2000, 30, 40))
    areas = np.array([auc(*pair) for pair in pairs])
    for alpha in (1e-3, 0.05):
        got = roc_summary("x", *pairs[0], alpha=alpha)
        low, high = got["x_auc"].chance
        outside = int(np.sum((areas < low) | (areas > high)))
        assert scipy.stats.binomtest(outside, 2000, alpha).pvalue > 1e-3
    assert np.maximum(areas, 1 - areas).mean() == pytest.approx(
        got["x_auc_two_sided_floor"].value, abs=3e-3
    )


def test_bounds_of_tpr_at_low_fpr_cover_the_true_rate():
    """Also the error of a threshold set by 5 of 500 samples: Clopper-Pearson at that threshold
    alone covers far too little.
    """
    truth = scipy.stats.norm.sf(scipy.stats.norm.isf(0.01) - 1.5)
    covered, alone = 0, 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        rate, low, high = tpr_at_fpr(rng.normal(1.5, 1, 2000), rng.normal(size=500), 0.01)
        covered += low <= truth <= high
        at_threshold = clopper_pearson(rate * 2000, 2000)
        alone += at_threshold[0] <= truth <= at_threshold[1]
    assert covered >= 285
    assert alone < 200


def test_bounds_of_tpr_at_fpr_shrink_with_the_samples_and_know_of_copies():
    """A hundred copies of each score are no new evidence."""
    members, others = gaussian_pair(1, 300)
    one = tpr_at_fpr(members, others, 0.01)
    copies = tpr_at_fpr(np.repeat(members, 100), np.repeat(others, 100), 0.01, independent=300)
    assert copies == pytest.approx(one)
    _, low, high = tpr_at_fpr(*gaussian_pair(1, 30_000), 0.01)
    assert high - low < (one[2] - one[1]) / 5


def test_bounds_of_tpr_at_fpr_by_hand():
    """Ten others and no false alarm allowed: binomial quantiles 0 and 1 at 0.1 %, so from nothing
    to what one alarm gives.
    """
    members, others = np.array([5.0, 8.5, 9.5, 20]), np.arange(10.0)
    assert (scipy.stats.binom.ppf([0.0125, 0.9875], 10, 0.001) == [0, 0]).all()
    rate, low, high = tpr_at_fpr(members, others, 0.001)
    assert (rate, low) == (0.5, 0)
    assert high == pytest.approx(
        scipy.stats.binomtest(2, 4).proportion_ci(0.975, method="exact").high
    )


# --------------------------------------------------------------------------------- threshold attack


@few
@given(small, small)
def test_best_threshold_equals_a_loop(members, others):
    """No other threshold is better, and no larger one as good."""
    best, tops = -1, []
    for t in [*np.unique([*members, *others]), np.inf]:
        balanced = np.sum(members >= t) * len(others) + np.sum(others < t) * len(members)
        tops = [t] if balanced > best else [*tops, t] if balanced == best else tops
        best = max(best, balanced)
    assert best_threshold(members, others) == max(tops)


def labelled(scores, labels=None):
    return np.asarray(scores, float), (
        np.zeros(len(scores), int) if labels is None else np.asarray(labels)
    )


def test_threshold_attack_by_hand():
    """Fitted at 2: 3 of 4 audited members and 1 of 5 others reach it."""
    got = threshold_attack(
        "loss",
        labelled([2, 3, 4]),
        labelled([0, 1, 1]),
        labelled([1, 2, 2, 9]),
        labelled([0, 0, 1, 1.9, 2]),
    )
    assert got["loss_threshold_tpr"].value == 0.75
    assert got["loss_threshold_fpr"].value == 0.2
    assert got["loss_threshold_balanced_accuracy"].value == pytest.approx(0.775)
    for name, interval in intervals_of(got).items():
        count, n = {"loss_threshold_tpr": (3, 4), "loss_threshold_fpr": (1, 5)}[name]
        expected = scipy.stats.binomtest(count, n).proportion_ci(method="exact")
        assert interval == pytest.approx(expected)


def test_threshold_per_class_sees_what_a_global_one_cannot():
    """Class 1 lies 10 higher than class 0, members 1 above the others in each."""
    labels = np.repeat([0, 1], 50)
    others = np.tile(np.linspace(0, 0.9, 50), 2) + 10 * labels
    pair = labelled(others + 1, labels), labelled(others, labels)
    got = threshold_attack("m", *pair, *pair, per_class=True)
    assert got["m_class_threshold_balanced_accuracy"].value == 1
    assert threshold_attack("m", *pair, *pair)["m_threshold_balanced_accuracy"].value < 0.8


def test_a_class_missing_from_the_fit_takes_the_threshold_of_all():
    fit = labelled([5, 6, 5, 6, 1], [0, 0, 0, 0, 1]), labelled([0, 1, 0, 0], [0, 0, 1, 2])
    assert best_threshold(fit[0][0], fit[1][0]) == 5
    got = threshold_attack(
        "m", *fit, labelled([3, 3, 6, 1], [2, 7, 2, 1]), labelled([0], [0]), per_class=True
    )
    assert got["m_class_threshold_tpr"].value == 0.5  # the 6 of class 2 and the 1 of class 1


@pytest.mark.parametrize("per_class", [False, True])
def test_threshold_attack_is_at_chance_on_what_was_never_trained(per_class):
    """Fitted on a real leak, judged where there is none: over 300 draws the interval of 1e-3 holds,
    and is no wider than it need be.
    """
    deviations = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        labels = np.arange(100) % 4
        fit = labelled(rng.normal(1, 1, 100), labels), labelled(rng.normal(0, 1, 100), labels)
        got = threshold_attack(
            "m",
            *fit,
            labelled(rng.normal(size=100), labels),
            labelled(rng.normal(size=100), labels),
            per_class=per_class,
            alpha=1e-3,
        )
        name = (
            "m_class_threshold_balanced_accuracy" if per_class else "m_threshold_balanced_accuracy"
        )
        half = got[name].chance[1] - 0.5
        deviations.append((got[name].value - 0.5) / half)
    assert np.abs(deviations).max() < 1.05
    assert np.std(deviations) > 0.8 / scipy.stats.norm.isf(5e-4)


# ----------------------------------------------------------------------------- logistic regressions


def test_lr_loss_equals_a_loop_over_scikit_learn():
    rng = np.random.default_rng(0)
    forget, others = rng.exponential(1, 60), rng.exponential(2, 60)
    x, y = np.concatenate([np.sort(forget), np.sort(others)])[:, None], np.repeat([1, 0], 60)
    splits = StratifiedShuffleSplit(n_splits=10, test_size=0.1, random_state=5).split(x, y)
    expected = np.mean(
        [(LogisticRegression().fit(x[a], y[a]).predict(x[b]) == y[b]).mean() for a, b in splits]
    )
    got = lr_loss_attack(forget, others, seed=5)
    assert got["lr_loss_accuracy"].value == pytest.approx(expected, abs=1e-12)
    assert 0.55 < expected < 0.9


def test_lr_loss_takes_as_many_of_each_side_and_ignores_order():
    """Nine times as many on one side: 0.9 if it were not thinned."""
    rng = np.random.default_rng(1)
    forget, others = rng.exponential(1, 40), rng.exponential(1, 360)
    got = lr_loss_attack(forget, others, seed=2)
    assert got["lr_loss_accuracy"].value < 0.7
    assert got == lr_loss_attack(rng.permutation(forget), rng.permutation(others), seed=2)
    assert got != lr_loss_attack(forget, others, seed=3)


def test_lr_loss_is_one_for_memorised_and_needs_ten():
    assert lr_loss_attack(np.zeros(20), np.full(20, 5.0))["lr_loss_accuracy"].value == 1
    with pytest.raises(ValueError, match="10 losses"):
        lr_loss_attack(np.zeros(9), np.zeros(20))


def test_lr_loss_is_at_chance_on_what_was_never_trained():
    """Thirty draws inside the interval of 1e-3, whose SD is theirs."""
    got = [
        lr_loss_attack(*(np.exp(side) for side in pair), alpha=1e-3)["lr_loss_accuracy"]
        for pair in chance_pairs(30, 100, 100)
    ]
    values = np.array([[each.value, *each.chance] for each in got])
    assert ((values[:, 1] < values[:, 0]) & (values[:, 0] < values[:, 2])).all()
    sd = (values[0, 2] - 0.5) / scipy.stats.norm.isf(5e-4)
    assert 0.65 < values[:, 0].std() / sd < 1.4


def test_lr_entropy_equals_scikit_learn_and_says_member():
    """Members have low entropy; a forget set like them has rate 1, one like test the held-out
    rate.
    """
    rng = np.random.default_rng(0)
    retain, test, held_out = (
        rng.exponential(0.05, 900),
        rng.exponential(1, 100),
        rng.exponential(1, 300),
    )
    got = lr_entropy_attack(retain, test, np.full(50, 1e-3), held_out)
    assert set(got) == {"lr_entropy_member_rate", "lr_entropy_member_rate_held_out"}
    attack = LogisticRegression(class_weight="balanced").fit(
        np.concatenate([retain, test])[:, None], [1] * 900 + [0] * 100
    )
    assert got["lr_entropy_member_rate"].value == 1
    rate = got["lr_entropy_member_rate_held_out"].value
    assert rate == pytest.approx(attack.predict(held_out[:, None]).mean())
    assert 0 < rate < 0.5


def test_entropy_member_rate_is_scikit_learn_on_scipys_entropy():
    """From logits: entropies in nats, all retain against all test, balanced weights, C = 1, share
    of forget called member.
    """
    rng = np.random.default_rng(1)
    sizes, sharpness = (
        {"retain": 700, "test": 150, "forget": 130},
        {"retain": 4.0, "test": 2.5, "forget": 3.0},
    )
    logits = {
        name: (sharpness[name] * rng.normal(size=(count, 6))).astype(np.float32)
        for name, count in sizes.items()
    }
    entropies = {
        name: scipy.stats.entropy(scipy.special.softmax(each.astype(np.float64), 1), axis=1)
        for name, each in logits.items()
    }
    taught = np.concatenate([entropies["retain"], entropies["test"]])[:, None]
    weights = np.repeat([850 / (2 * 700), 850 / (2 * 150)], [700, 150])
    attack = LogisticRegression(C=1.0).fit(
        taught, np.repeat([1, 0], [700, 150]), sample_weight=weights
    )
    wanted = attack.predict(entropies["forget"][:, None]).mean()
    assert entropy_member_rate(*logits.values()) == pytest.approx(wanted, abs=1e-12)
    assert 0.2 < wanted < 0.95
    assert np.isnan(entropy_member_rate(logits["retain"], logits["test"], logits["forget"][:0]))


def test_entropy_rate_of_an_audit_is_that_of_the_logits():
    """The class-wise case too: test without the class is what the split holds, and of test's other
    images there are none here.
    """
    rng = np.random.default_rng(2)
    splits = {
        name: (rng.normal(0, 2, (count, 4)), np.arange(count) % 3)
        for name, count in (("retain", 90), ("test", 60), ("val", 30))
    }
    splits |= {
        name: (rng.normal(0, 2, (30, 4)), np.full(30, 3)) for name in ("forget", "test_forgotten")
    }
    wanted = entropy_member_rate(*(splits[name][0] for name in ("retain", "test", "forget")))
    assert basic(splits)["lr_entropy_member_rate"].value == wanted


# ----------------------------------------------------------- networks, and the same in another form


def nearest_neighbour_logits(train, train_labels, images, k):
    """-20 x the distance to the nearest training image of each class: a network that memorises."""
    distances = np.linalg.norm(images[:, None] - train[None], axis=2)
    return np.stack([-20 * distances[:, train_labels == c].min(1) for c in range(k)], 1)


def test_a_memorising_model_is_caught_by_every_score_and_a_blind_one_by_none():
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(120, 30)), np.arange(120) % 3
    held_out, own = rng.normal(size=(120, 30)), np.arange(120) % 3
    seen = member_scores(nearest_neighbour_logits(images, labels, images, 3), labels)
    unseen = member_scores(nearest_neighbour_logits(images, labels, held_out, 3), own)
    net = rng.normal(size=(30, 3))
    blind, blind_too = member_scores(images @ net, labels), member_scores(held_out @ net, own)
    for name in seen:
        got = roc_summary(name, seen[name], unseen[name])
        assert (got[f"{name}_auc"].value, got[f"{name}_tpr_at_fpr_1"].value) == (1, 1)
        chance = roc_summary(name, blind[name], blind_too[name], alpha=1e-3)
        assert within_chance(chance[f"{name}_auc"])
    fit = (seen["loss"], labels), (unseen["loss"], own)
    assert threshold_attack("loss", *fit, *fit)["loss_threshold_balanced_accuracy"].value == 1


def all_attacks(forget, held_out):
    ours, theirs = member_scores(*forget), member_scores(*held_out)
    results = {}
    for name in ours:
        results |= roc_summary(name, ours[name], theirs[name])
    pair = (ours["margin"], forget[1]), (theirs["margin"], held_out[1])
    results |= threshold_attack("margin", *pair, *pair) | threshold_attack(
        "margin", *pair, *pair, per_class=True
    )
    results |= lr_entropy_attack(
        ours["entropy"], theirs["entropy"], ours["entropy"], theirs["entropy"]
    )
    return flat(results | lr_loss_attack(-ours["loss"], -theirs["loss"]))


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(-3000, 3000))
def test_order_names_of_classes_and_a_constant_change_nothing(seed, shift):
    forget, held_out = random_outputs(30, 5, seed), random_outputs(40, 5, seed + 1)
    expected = all_attacks(forget, held_out)
    rng = np.random.default_rng(seed)
    order, names = rng.permutation(30), rng.permutation(5)
    (logits, labels), columns = forget, np.argsort(names)
    assert all_attacks((logits[order], labels[order]), held_out) == pytest.approx(
        expected, abs=1e-9
    )
    renamed = [(pair[0][:, columns], names[pair[1]]) for pair in (forget, held_out)]
    assert all_attacks(*renamed) == pytest.approx(expected, abs=1e-9)
    shifted = [(pair[0].astype(np.float64) + shift / 32, pair[1]) for pair in (forget, held_out)]
    assert all_attacks(*shifted) == pytest.approx(expected, abs=1e-9)
