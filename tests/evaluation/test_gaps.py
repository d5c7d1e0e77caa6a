"""Gaps and their floors, intervals, relearning and the search objective, against simulation, SciPy
and closed forms.
"""

import math
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.gaps import (
    average_band,
    average_gap,
    distance_band,
    gap_floor,
    gap_of_means,
    inside_average,
    inside_distance,
    inside_noise,
    mean_paired_gap,
    noise_band,
    noise_floor,
    paired_gap,
    signed_gaps,
    too_few,
    usual_runs,
)
from evaluation.intervals import bootstrap_mean, clopper_pearson, mean_interval
from evaluation.relearn import relearn_ratio, steps_to_reach
from evaluation.selection import val_proxy, val_proxy_class, val_proxy_noise

properties = settings(max_examples=50, deadline=None, derandomize=True)
values = st.lists(st.floats(0, 100), min_size=1, max_size=6)


@st.composite
def paired_runs(draw):
    count = draw(st.integers(1, 5))
    runs = st.lists(st.floats(0, 100), min_size=count, max_size=count)
    return tuple({name: draw(runs) for name in ("UA", "RA", "TA", "MIA")} for _ in range(2))


# --------------------------------------------------------------------------------------------- gaps


def test_published_average_gap_comes_out():
    """SalUn on 10 % of CIFAR-10: means apart by 2.39, .38, .33 and 1.51 give the table's 1.15."""
    retrain = {"UA": [5.24], "RA": [100.0], "TA": [94.26], "MIA": [12.88]}
    salun = {"UA": [5.24 - 2.39], "RA": [99.62], "TA": [93.93], "MIA": [12.88 + 1.51]}
    assert gap_of_means(salun, retrain) == pytest.approx(1.1525)
    assert signed_gaps(salun, retrain) == pytest.approx(
        {"UA": -2.39, "RA": -0.38, "TA": -0.33, "MIA": 1.51}
    )


@properties
@given(paired_runs())
def test_gap_of_means_is_never_above_the_paired_gap(pair):
    method, retrain = pair
    assert gap_of_means(method, retrain) <= mean_paired_gap(method, retrain) + 1e-9


@properties
@given(paired_runs())
def test_gaps_equal_loops_and_do_not_depend_on_order(pair):
    method, retrain = pair
    count, names = len(method["UA"]), list(method)
    wanted = (
        sum(abs(method[m][i] - retrain[m][i]) for m in names for i in range(count))
        / count
        / len(names)
    )
    means = sum(abs(sum(method[m]) - sum(retrain[m])) / count for m in names) / len(names)
    assert mean_paired_gap(method, retrain) == pytest.approx(wanted, abs=1e-9)
    assert gap_of_means(method, retrain) == pytest.approx(means, abs=1e-9)
    flipped = [{name: runs[name][::-1] for name in reversed(names)} for runs in (method, retrain)]
    assert mean_paired_gap(*flipped) == pytest.approx(wanted, abs=1e-9)
    assert signed_gaps(retrain, method) == pytest.approx(
        {m: -gap for m, gap in signed_gaps(method, retrain).items()}
    )


def test_the_paired_gap_keeps_the_noise_that_means_cancel():
    method, retrain = {"UA": [4.0, 6.0]}, {"UA": [6.0, 4.0]}
    assert (gap_of_means(method, retrain), mean_paired_gap(method, retrain)) == (0, 2)


def test_gaps_refuse_what_cannot_be_compared():
    for gap in (gap_of_means, mean_paired_gap, signed_gaps):
        with pytest.raises(ValueError, match="same metrics"):
            gap({"UA": [1.0]}, {"RA": [1.0]})
        with pytest.raises(ValueError, match="at least one run"):
            gap({"UA": []}, {"UA": [1.0]})
        with pytest.raises(ValueError, match="finite"):
            gap({"UA": [1.0]}, {"UA": [math.nan]})
        with pytest.raises(ValueError, match="at least one metric"):
            gap({}, {})
    with pytest.raises(ValueError, match="as many runs"):
        mean_paired_gap({"UA": [1.0, 2.0]}, {"UA": [1.0]})


# ------------------------------------------------------------------------------------------- floors


@properties
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=9))
def test_noise_floor_is_the_mean_over_pairs(runs):
    wanted = np.mean([abs(a - b) for a, b in combinations(runs, 2)])
    assert noise_floor(runs) == pytest.approx(wanted, abs=1e-9)
    assert noise_floor(runs[::-1]) == noise_floor(runs)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_noise_floor_is_unbiased_however_few_runs(count):
    rng = np.random.default_rng(0)
    found = [noise_floor(row) for row in rng.normal(0, 3, (4000, count))]
    wanted = 2 * 3 / math.sqrt(math.pi)
    assert abs(np.mean(found) - wanted) < 4 * np.std(found) / math.sqrt(len(found))


def test_noise_floor_of_equal_runs_is_exactly_zero():
    assert noise_floor([94.1] * 7) == 0


def test_gap_floors_of_the_published_standard_deviations():
    """Retrain's .42, 0, .15 and .68 (10 %) make a floor of .35 for single runs and .11 for ten
    against ten.
    """
    z = np.random.default_rng(0).standard_normal(20_000)
    retrain = {
        name: 50 + sd * z for name, sd in {"UA": 0.42, "RA": 0.0, "TA": 0.15, "MIA": 0.68}.items()
    }
    assert gap_floor(retrain, 1, 1) == pytest.approx(0.3526, rel=0.02)
    assert gap_floor(retrain, 10, 10) == pytest.approx(0.1115, rel=0.02)


@pytest.mark.parametrize(("method_runs", "retrain_runs"), [(1, 1), (3, 10), (10, 10)])
def test_gap_floor_is_what_retrain_scores_against_retrain(method_runs, retrain_runs):
    """Simulated: both sides are drawn alike, and their gap averages to the floor taken from a large
    pool.
    """
    rng, spread = np.random.default_rng(1), {"UA": 0.42, "TA": 0.15, "MIA": 0.68}
    pool = {name: rng.normal(50, sd, 20_000) for name, sd in spread.items()}

    def runs(count):
        return {name: rng.normal(50, sd, count) for name, sd in spread.items()}

    found = [gap_of_means(runs(method_runs), runs(retrain_runs)) for _ in range(2000)]
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - gap_floor(pool, method_runs, retrain_runs)) < 4 * error + 0.002


def test_floor_of_one_run_against_one_is_the_paired_gap_between_oracles():
    """Exact for any distribution: the mean over all pairings of different Retrain runs."""
    retrain = {"UA": [5.0, 5.5, 4.1], "MIA": [12.0, 13.5, 12.2]}
    paired = [
        mean_paired_gap(*({m: [retrain[m][i]] for m in retrain} for i in pair))
        for pair in combinations(range(3), 2)
    ]
    assert gap_floor(retrain, 1, 1) == pytest.approx(np.mean(paired))


@pytest.mark.parametrize(("method_runs", "retrain_runs"), [(1, 3), (3, 5), (10, 10)])
def test_noise_band_holds_a_second_retrain_as_often_as_it_says(method_runs, retrain_runs):
    """Binomial test at alpha 1e-3: the coverage of 4,000 experiments is the level."""
    rng = np.random.default_rng(2)
    inside = sum(
        inside_noise(rng.normal(5, 2, method_runs), rng.normal(5, 2, retrain_runs))
        for _ in range(4000)
    )
    assert scipy.stats.binomtest(inside, 4000, 0.95).pvalue > 1e-3


def test_noise_band_is_the_two_sample_interval_with_the_spread_of_retrain():
    """With as many method runs of the same spread it is SciPy's pooled t-test, but for the degrees
    of freedom.
    """
    retrain, shift = np.array([1.0, 2.0, 4.0, 5.0]), 1.5
    t = scipy.stats.ttest_ind(retrain + shift, retrain).statistic
    level = 1 - 2 * scipy.stats.t.sf(t, 3)
    assert noise_band(retrain, 4, level) == pytest.approx(shift)
    band = noise_band(retrain, 4)
    assert inside_noise(retrain + 0.999 * band, retrain)
    assert not inside_noise(retrain - 1.001 * band, retrain)
    assert inside_noise(retrain - 1.001 * band, retrain, noise=0.1 * band, draws=10)


def test_a_metric_that_never_varies_has_no_band():
    assert inside_noise([100.0], [100.0] * 3)
    assert not inside_noise([99.99], [100.0] * 3)
    assert inside_noise([94.1], [94.1] * 3)  # whose mean is not 94.1 to the last bit
    assert inside_average({"RA": [94.1]}, {"RA": [94.1] * 3})


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_is_marked_with_fewer_than_three_retrains(count):
    retrain = [5.0, 6.0][:count]
    assert (
        inside_noise([5.0], retrain)
        is inside_distance([5.0], retrain)
        is inside_average({"UA": [5.0]}, {"UA": retrain})
        is None
    )
    assert "needs 3 Retrain runs" in too_few(count)
    assert too_few(0) is too_few(3) is None


def test_band_of_an_average_is_the_mean_band():
    """Two metrics with standard deviations 1 and 3 against t = 4.303 at three Retrains: 4.303 x 2 x
    sqrt(1 + 1/3).
    """
    retrain = {"UA": [9.0, 10.0, 11.0], "TA": [47.0, 50.0, 53.0]}
    wanted = scipy.stats.t.ppf(0.975, 2) * 2 * math.sqrt(4 / 3)
    assert average_band(retrain, 1) == pytest.approx(wanted)
    assert inside_average(
        {"UA": [10.0], "TA": [50 + 1.999 * wanted]}, retrain
    )  # the gap is half of that
    assert not inside_average({"UA": [10.0], "TA": [50 + 2.001 * wanted]}, retrain)
    assert inside_average(
        {"UA": [10.0], "TA": [50 + 2.001 * wanted]}, retrain, {"TA": (0.1 * wanted, 10)}
    )


def test_band_of_distances_by_hand():
    """Models 0, 3 and 9 on a line: mean distances 6, 4.5 and 7.5 to the others, their standard
    deviation 1.5, the factor 2.
    """
    points = [0.0, 3.0, 9.0]
    own = [np.mean([abs(x - y) for y in points if y != x]) for x in points]
    assert own == [6.0, 4.5, 7.5]
    half = scipy.stats.t.ppf(0.975, 2) * math.sqrt(1 / 2 + 1 / 3) * 2 * 1.5
    assert distance_band(own, 2) == pytest.approx(half)
    assert inside_distance([6 + 0.999 * half] * 2, own)
    assert not inside_distance([6 + 1.001 * half] * 2, own)
    with pytest.raises(ValueError, match="needs 3"):
        distance_band(own[:2], 1)


def test_usual_runs_are_the_commonest():
    assert [usual_runs(counts) for counts in ([], [3, 1, 3], [1, 5], [5, 1, 5, 1])] == [1, 3, 1, 1]


def test_paired_gap_pairs_by_key():
    retrain = {"UA": [6.0, 8.0], "MIA": [10.0, 14.0]}
    method = {"UA": [3.0, 5.0, 0.0], "MIA": [10.0, 10.0, 0.0]}
    assert paired_gap(method, retrain, ([2, 3, 9], [3, 2])) == pytest.approx((5 + 4 + 1 + 0) / 4)
    assert paired_gap(method, retrain, ([7, 8, 9], [3, 2])) is None


def test_an_average_gap_has_a_band_beside_three_retrains_and_never_of_retrain_itself():
    retrain = {"UA": [5.0, 6.0, 7.0], "TA": [90.0, 90.0, 90.0]}
    method, keys = {"UA": [9.0], "TA": [90.0]}, ([1], [1, 2, 3])
    found = average_gap(method, retrain, keys)
    assert found.of_means == pytest.approx(3 / 2)
    assert found.paired == pytest.approx((9 - 5) / 2)
    assert found.band == average_band(retrain, 1)
    assert found.inside is inside_average(method, retrain) is True
    assert average_gap({"UA": [19.0], "TA": [90.0]}, retrain, keys).inside is False
    two = {name: values[:2] for name, values in retrain.items()}
    for unmarked in (
        average_gap(method, two, ([1], [1, 2])),
        average_gap(method, retrain, keys, is_retrain=True),
    ):
        assert (unmarked.band, unmarked.inside) == (None, None)
        assert unmarked.paired == found.paired


def test_floors_need_two_retrains():
    with pytest.raises(ValueError, match="at least two"):
        noise_floor([1.0])
    for call in (lambda: noise_band([1.0], 1), lambda: noise_band([1.0, 2.0], 0)):
        with pytest.raises(ValueError, match="two Retrain runs"):
            call()
    with pytest.raises(ValueError, match="both sides"):
        gap_floor({"UA": [1.0, 2.0]}, 0, 1)


# ---------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("level", [0.9, 0.95, 0.999])
@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 1), (1, 1), (0, 30), (30, 30), (4, 4500), (17, 40), (4499, 4500)]
)
def test_clopper_pearson_is_scipys_exact_interval(successes, trials, level):
    wanted = scipy.stats.binomtest(successes, trials).proportion_ci(level, method="exact")
    assert clopper_pearson(successes, trials, level) == pytest.approx(
        (wanted.low, wanted.high), rel=1e-7, abs=1e-12
    )


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.5])
def test_clopper_pearson_covers_at_least_its_level(rate):
    """Exactly, by summing the binomial probabilities of all outcomes whose interval holds the
    rate.
    """
    outcomes = np.arange(26)
    low, high = clopper_pearson(outcomes, 25, 0.9)
    assert low.shape == (26,)
    assert scipy.stats.binom.pmf(outcomes, 25, rate)[(low <= rate) & (rate <= high)].sum() >= 0.9


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5), (math.nan, 5)])
def test_clopper_pearson_refuses_what_is_no_rate(successes, trials):
    with pytest.raises(ValueError, match="at least one trial"):
        clopper_pearson(successes, trials)


def test_bootstrap_interval_is_near_the_normal_one_for_many_values_and_seeded():
    sample = np.random.default_rng(0).normal(3, 2, 400)
    half = 1.96 * sample.std() / 20
    assert bootstrap_mean(sample) == pytest.approx(
        (sample.mean() - half, sample.mean() + half), abs=0.03
    )
    assert bootstrap_mean(sample) == bootstrap_mean(sample[::-1]) != bootstrap_mean(sample, seed=1)


def test_bootstrap_of_two_values_has_their_exact_quantiles():
    """The mean is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4."""
    assert bootstrap_mean([0.0, 1.0], level=0.6) == (0, 1)
    assert bootstrap_mean([0.0, 1.0], level=0.4) == (0.5, 0.5)


def test_bootstrap_coverage_at_five_seeds_is_as_documented():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_mean(rng.normal(size=5), draws=1000) for _ in range(1000)]
    assert np.mean([low <= 0 <= high for low, high in intervals]) == pytest.approx(0.84, abs=0.04)


@pytest.mark.parametrize("count", [2, 5, 9])
def test_interval_of_few_seeds_is_students(count):
    sample = np.random.default_rng(count).normal(3, 2, count)
    wanted = scipy.stats.t.interval(0.95, count - 1, sample.mean(), scipy.stats.sem(sample))
    assert mean_interval(sample) == pytest.approx(wanted)


def test_interval_of_ten_seeds_is_resampled_and_of_one_is_none():
    sample = np.random.default_rng(0).normal(3, 2, 10)
    assert mean_interval(sample) == bootstrap_mean(sample)
    assert mean_interval([3.0]) is None
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="at least one value"):
            mean_interval(bad)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_interval_covers_the_mean_as_often_as_it_says(count):
    """Binomial test at alpha 1e-3 over 4,000 samples; a bootstrap of these sizes covers 48, 76 and
    82 %.
    """
    rng = np.random.default_rng(count)
    covered = sum(
        low <= 1 <= high
        for low, high in (mean_interval(row) for row in rng.normal(1, 2, (4000, count)))
    )
    assert scipy.stats.binomtest(covered, 4000, 0.95).pvalue > 1e-3


def test_bootstrap_of_one_value_is_no_interval_and_of_none_an_error():
    assert bootstrap_mean([3.0]) is None
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="at least one value"):
            bootstrap_mean(bad)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_levels_are_probabilities(level):
    for call in (
        lambda: clopper_pearson(1, 2, level),
        lambda: bootstrap_mean([1, 2], level=level),
        lambda: noise_band([1, 2], 1, level),
    ):
        with pytest.raises(ValueError, match="level"):
            call()


# --------------------------------------------------------------------------------------- relearning


def test_steps_to_reach_finds_the_first_recorded_step():
    steps, accuracy = [0, 1, 2, 4, 8], [60.0, 80.0, 99.0, 97.0, 99.5]
    assert steps_to_reach(steps, accuracy, 99) == 2  # and not 8, where it stays
    assert steps_to_reach(steps, accuracy, 60) == 0
    assert steps_to_reach(steps, accuracy, 99.6) == math.inf
    loss = [2.0, 1.0, 0.5, 0.6, 0.1]
    assert steps_to_reach(steps, loss, 0.5, rising=False) == 2
    assert steps_to_reach(steps, loss, 0.05, rising=False) == math.inf


@properties
@given(st.lists(st.floats(0, 100), min_size=1, max_size=12), st.floats(0, 100), st.floats(0, 100))
def test_a_higher_target_is_never_reached_sooner(curve, one, other):
    steps = np.arange(len(curve))
    low, high = sorted((one, other))
    assert steps_to_reach(steps, curve, low) <= steps_to_reach(steps, curve, high)
    mirrored = [-value for value in curve]
    assert steps_to_reach(steps, mirrored, -one, rising=False) == steps_to_reach(steps, curve, one)


def test_gradient_descent_on_a_quadratic_reaches_its_target_when_the_formula_says():
    """Loss (1 - r)^(2 t) from 1: below c first at the ceiling of log c / (2 log(1 - r)); a start
    nearer by is sooner.
    """
    steps = np.arange(200)
    far, near = 0.95 ** (2.0 * steps), 0.25 * 0.95 ** (2.0 * steps)
    needed = math.ceil(math.log(0.01) / (2 * math.log(0.95)))
    assert steps_to_reach(steps, far, 0.01, rising=False) == needed
    sooner = steps_to_reach(steps, near, 0.01, rising=False)
    assert relearn_ratio(sooner, needed) == sooner / needed < 1


def test_relearn_ratio_at_its_ends():
    assert relearn_ratio(0, 8) == 0  # the original model
    assert relearn_ratio(8, 8) == 1  # Retrain
    assert relearn_ratio(math.inf, 8) == math.inf
    for steps in (0, math.inf, math.nan):
        with pytest.raises(ValueError, match="lengthen the curve"):
            relearn_ratio(4, steps)


@pytest.mark.parametrize(
    ("steps", "curve", "target"),
    [
        ([], [], 1),
        ([0, 1], [1.0], 1),
        ([0, 0], [1.0, 2.0], 1),
        ([1, 0], [1.0, 2.0], 1),
        ([0, 1], [1.0, math.nan], 1),
        ([0], [1.0], math.nan),
    ],
)
def test_malformed_curves_are_refused(steps, curve, target):
    with pytest.raises(ValueError, match="curve"):
        steps_to_reach(steps, curve, target)


# ---------------------------------------------------------------------------------------- selection

ORIGINAL = {"RA": 100.0, "VA": 94.0}


def test_val_proxy_of_a_hand_made_case():
    unlearned = {
        "UA": 4.0,
        "RA": 99.0,
        "VA": 93.5,
    }  # forget accuracy 96, two above the target of 94
    assert val_proxy(unlearned, ORIGINAL, 0.46) == pytest.approx(2 + 0.5 + 1 + 4)
    assert val_proxy(unlearned, ORIGINAL, 0.54) == pytest.approx(7.5)


def test_val_proxy_is_zero_at_perfect_unlearning_and_grows_in_every_direction():
    perfect = {"UA": 6.0, "RA": 100.0, "VA": 94.0}
    assert val_proxy(perfect, ORIGINAL, 0.5) == 0
    for worse in ({"UA": 1.0}, {"UA": 12.0}, {"RA": 98.0}, {"VA": 90.0}, {"VA": 96.0}):
        assert val_proxy(perfect | worse, ORIGINAL, 0.5) > 0
    assert val_proxy(perfect, ORIGINAL, 0.25) == val_proxy(perfect, ORIGINAL, 0.75) == 25


def test_val_proxy_of_a_whole_class_wants_it_gone():
    assert val_proxy_class({"UA": 100.0, "RA": 100.0, "VA": 94.0}, ORIGINAL) == 0
    assert val_proxy_class({"UA": 90.0, "RA": 99.5, "VA": 95.0}, ORIGINAL) == pytest.approx(
        10 + 0.5 + 1
    )


@pytest.mark.parametrize(("forget", "val", "documented"), [(4500, 5000, 0.47), (300, 300, 1.88)])
def test_noise_of_the_proxy_is_as_documented(forget, val, documented):
    assert val_proxy_noise(forget, val) == pytest.approx(documented, abs=0.01)


def test_noise_of_the_proxy_is_what_equal_losses_give():
    """Simulated with SciPy's Mann-Whitney statistic at 60 against 90 images."""
    losses = np.random.default_rng(0).exponential(size=(4000, 150))
    found = 100 * np.abs(
        scipy.stats.mannwhitneyu(losses[:, :60], losses[:, 60:], axis=1).statistic / (60 * 90) - 0.5
    )
    assert abs(np.mean(found) - val_proxy_noise(60, 90)) < 4 * np.std(found) / math.sqrt(len(found))


def test_the_proxy_refuses_nan_and_empty_sets():
    good = {"UA": 4.0, "RA": 99.0, "VA": 93.5}
    for bad in (math.nan, 101.0):
        for name in good:
            with pytest.raises(ValueError, match="percentages"):
                val_proxy(good | {name: bad}, ORIGINAL, 0.5)
            with pytest.raises(ValueError, match="percentages"):
                val_proxy_class(good | {name: bad}, ORIGINAL)
    for auc in (math.nan, 50.0):
        with pytest.raises(ValueError, match="AUC"):
            val_proxy(good, ORIGINAL, auc)
    with pytest.raises(ValueError, match="both sides"):
        val_proxy_noise(0, 10)
