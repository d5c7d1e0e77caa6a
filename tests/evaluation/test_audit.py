"""Audits with many models against privacy curves, loops, SciPy, closed forms and simulation."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import audit
from evaluation.audit import (
    CAP,
    DELTA,
    epsilon,
    epsilon_of_rates,
    final_score,
    forgetting_quality,
    gaussian_kl,
    gaussian_kl_floor,
    klom,
    simulated_floor,
)

properties = settings(max_examples=50, deadline=None, derandomize=True)
# Of the Gaussian mechanism with sensitivity mu and noise 1, at delta = 1e-5.
CURVE = {0.5: 1.993, 1: 4.377, 2: 9.997, 3: 16.675}


def gaussian_epsilon(mu, delta=DELTA):
    """The epsilon of N(0, 1) against N(mu, 1) at ``delta``, by root finding on the
    analytic curve.
    """

    def excess(e):
        cdf = scipy.stats.norm.logcdf
        return math.exp(cdf(-e / mu + mu / 2)) - math.exp(e + cdf(-e / mu - mu / 2)) - delta

    return scipy.optimize.brentq(excess, 0, 40)


def loop_epsilon(unlearned, retrained, delta=DELTA):
    """One sample's epsilon by trying a threshold in each gap between different values."""
    spans = sorted([max(unlearned) - min(unlearned), max(retrained) - min(retrained)])
    if spans[0] < 0.01 * spans[1]:
        return 50.0
    high, low = (
        (unlearned, retrained)
        if np.median(unlearned) >= np.median(retrained)
        else (retrained, unlearned)
    )
    values, best = sorted({*unlearned, *retrained}), 0.0
    for left, right in pairwise(values):
        t = (left + right) / 2
        fpr, fnr = sum(v >= t for v in low) / len(low), sum(v < t for v in high) / len(high)
        if fpr == fnr == 0:
            return 50.0
        if fpr and fnr:
            best = max(
                [
                    best,
                    *(
                        math.log(1 - delta - a) - math.log(b)
                        for a, b in ((fpr, fnr), (fnr, fpr))
                        if 1 - delta - a > 0
                    ),
                ]
            )
    return best


def margins(models, n, seed=0, shift=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(shift, scale, (models, n))


# -------------------------------------------------------------------- epsilon against exact answers


@pytest.mark.parametrize(("mu", "documented"), CURVE.items())
def test_epsilon_of_exact_rates_is_the_gaussian_mechanisms(mu, documented):
    """The best threshold between N(0, 1) and N(mu, 1), on a grid of 4e-4 with exact distribution
    functions.
    """
    t = np.linspace(-8, 8, 40_001)
    found = epsilon_of_rates(scipy.stats.norm.sf(t), scipy.stats.norm.cdf(t - mu)).max()
    assert found == pytest.approx(gaussian_epsilon(mu), abs=1e-3)
    assert found == pytest.approx(documented, abs=1e-3)


@pytest.mark.parametrize(("mu", "delta"), [(0.5, 0.01), (1, 0.05), (2, 0.2)])
def test_epsilon_of_many_models_is_the_gaussian_mechanisms(mu, delta):
    """Evenly spaced quantiles of the two, 100,000 a side, in either order and direction, at a delta
    that these resolve.

    At 1e-5 the best threshold lies where even 400,000 models a side have one beyond it.
    """
    q = scipy.stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)[:, None]
    wanted = pytest.approx(gaussian_epsilon(mu, delta), abs=0.02)
    assert epsilon(q, q + mu, delta, intervals=False).item() == wanted
    assert epsilon(q + mu, q, delta, intervals=False).item() == wanted
    assert epsilon(q, q - mu, delta, intervals=False).item() == wanted


@pytest.mark.parametrize("delta", [1e-5, 0.1])
@pytest.mark.parametrize("shape", [(2, 2), (5, 9), (20, 20)])
def test_epsilon_equals_a_loop_over_thresholds(shape, delta):
    unlearned, retrained = margins(shape[0], 60, 1, 0.7), margins(shape[1], 60, 2)
    wanted = [
        loop_epsilon(u, r, delta)
        for u, r in zip(unlearned.T.tolist(), retrained.T.tolist(), strict=True)
    ]
    np.testing.assert_allclose(
        epsilon(unlearned, retrained, delta, intervals=False), wanted, rtol=1e-12, atol=1e-12
    )


@properties
@given(st.integers(2, 7), st.integers(2, 7), st.integers(0, 10**6))
def test_epsilon_equals_a_loop_where_margins_are_tied(first, second, seed):
    rng = np.random.default_rng(seed)
    unlearned, retrained = (
        rng.integers(0, 5, (first, 8)).astype(float),
        rng.integers(0, 6, (second, 8)).astype(float),
    )
    wanted = [
        loop_epsilon(u, r) for u, r in zip(unlearned.T.tolist(), retrained.T.tolist(), strict=True)
    ]
    np.testing.assert_allclose(
        epsilon(unlearned, retrained, intervals=False), wanted, rtol=1e-12, atol=1e-12
    )


def interval_epsilon(unlearned, retrained, intervals, delta=DELTA):
    """One sample's epsilon by trying both families: every threshold, and each of the closed
    ``intervals`` (l, r) in turn.
    """
    best, median = loop_epsilon(unlearned, retrained, delta), np.median
    spans = np.ptp(unlearned), np.ptp(retrained)
    unlearned_is_peaked = spans[0] < spans[1] or (
        spans[0] == spans[1] and median(unlearned) < median(retrained)
    )
    peaked, other = (unlearned, retrained) if unlearned_is_peaked else (retrained, unlearned)
    for left, right in intervals(min(peaked), max(peaked)):
        fnr, fpr = (
            sum(not left <= v <= right for v in peaked) / len(peaked),
            sum(left <= v <= right for v in other) / len(other),
        )
        if fpr == fnr == 0:
            return 50.0
        if fpr and fnr:
            best = max(
                [
                    best,
                    *(
                        math.log(1 - delta - a) - math.log(b)
                        for a, b in ((fpr, fnr), (fnr, fpr))
                        if 1 - delta - a > 0
                    ),
                ]
            )
    return best


@properties
@given(st.integers(2, 7), st.integers(2, 7), st.integers(0, 10**6))
def test_epsilon_equals_a_loop_over_all_intervals(first, second, seed):
    """Margins within 1 of each other, with ties: then every interval is around the peak. Each one
    between two margins is tried.
    """
    rng = np.random.default_rng(seed)
    unlearned, retrained = rng.integers(0, 9, (first, 8)) / 8, rng.integers(0, 7, (second, 8)) / 8

    def every(low, high):
        return [
            (left / 8 - 1 / 16, right / 8 + 1 / 16) for left in range(9) for right in range(left, 9)
        ]

    wanted = [interval_epsilon(u, r, every) for u, r in zip(unlearned.T, retrained.T, strict=True)]
    np.testing.assert_allclose(epsilon(unlearned, retrained), wanted, rtol=1e-12, atol=1e-12)
    assert (epsilon(unlearned, retrained) >= epsilon(unlearned, retrained, intervals=False)).all()


@properties
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 10**6))
def test_epsilon_equals_a_loop_over_the_challenges_grid_of_intervals(first, second, seed):
    """Margins on multiples of 1/4 that span more than an interval may reach; the grid of ends has a
    step of 1/8.
    """
    rng = np.random.default_rng(seed)
    unlearned, retrained = (
        rng.integers(-16, 17, (first, 6)) / 4,
        rng.integers(-24, 25, (second, 6)) / 4,
    )

    def around(low, high):
        steps = np.arange(-16, 17) / 8
        return [
            (high + right - (high - low) + length, high + right)
            for right in steps
            for length in steps
        ]

    wanted = [interval_epsilon(u, r, around) for u, r in zip(unlearned.T, retrained.T, strict=True)]
    np.testing.assert_allclose(epsilon(unlearned, retrained), wanted, rtol=1e-12, atol=1e-12)


def test_equal_arrays_give_zero_and_a_full_score():
    same = margins(20, 30)
    np.testing.assert_array_equal(epsilon(same, same), 0)
    assert forgetting_quality(epsilon(same, same[::-1]), 20) == 1


def test_perfect_separation_gives_the_cap_and_no_score():
    near, far = margins(20, 30), margins(20, 30, 1, 100)
    np.testing.assert_array_equal(epsilon(near, far), CAP)
    np.testing.assert_array_equal(epsilon(far, near), CAP)
    assert forgetting_quality(epsilon(near, far), 20) == 0


def test_a_side_without_spread_gives_the_cap():
    """Constant margins in the middle of Retrain's: no threshold shows more than the models' number
    allows.
    """
    retrained = margins(50, 4)
    constant = np.median(retrained, 0) + 1e-3 * margins(50, 4, 1)
    assert (np.ptp(constant, 0) < 0.01 * np.ptp(retrained, 0)).all()
    np.testing.assert_array_equal(epsilon(constant, retrained), CAP)
    np.testing.assert_array_equal(epsilon(retrained, constant), CAP)
    wider = np.median(retrained, 0) + 0.05 * margins(50, 4, 1)
    assert (epsilon(wider, retrained) < CAP).all()


def test_conventions_for_rates_of_zero():
    """Both zero: told apart. One zero: too few models to say. Both small: the larger of the two
    bounds.
    """
    np.testing.assert_array_equal(
        epsilon_of_rates(np.array([0, 0, 0.3, 1, 0]), np.array([0, 0.5, 0, 0, 1])),
        [CAP, 0, 0, 0, 0],
    )
    assert epsilon_of_rates(0.2, 0.1, 0.05) == pytest.approx(math.log(0.75 / 0.1))
    assert epsilon_of_rates(0.1, 0.2, 0.05) == pytest.approx(math.log(0.75 / 0.1))
    assert epsilon_of_rates(0.9, 0.9) == 0


def test_no_epsilon_but_the_cap_is_beyond_the_number_of_models():
    found = epsilon(margins(20, 3000, 0, 1.5), margins(20, 3000, 1))
    assert found[found < CAP].max() == pytest.approx(math.log(19), abs=1e-3)
    found = epsilon(margins(20, 3000, 0, 1.5), margins(6, 3000, 1))
    assert found[found < CAP].max() <= math.log(19)


def test_intervals_find_the_exact_epsilon_of_a_change_of_spread():
    """N(0, .7) against N(0, 1): inside |x| <= r the exact rates are known; thresholds alone see
    less.
    """
    q = scipy.stats.norm.ppf((np.arange(6000) + 0.5) / 6000)[:, None]
    r = np.linspace(1e-4, 5, 20_001)
    wanted = epsilon_of_rates(
        1 - 2 * scipy.stats.norm.sf(r), 2 * scipy.stats.norm.sf(r / 0.7), 0.05
    ).max()
    for sides in ((0.7 * q, q), (q, 0.7 * q)):
        assert epsilon(*sides, 0.05).item() == pytest.approx(wanted, abs=0.02)
        assert epsilon(*sides, 0.05, intervals=False).item() < wanted - 0.3


@properties
@given(st.integers(3, 9), st.integers(3, 9), st.booleans(), st.integers(0, 10**6))
def test_order_of_models_and_samples_does_not_matter(first, second, intervals, seed):
    rng = np.random.default_rng(seed)
    unlearned, retrained = rng.normal(1, 1, (first, 6)), rng.normal(0, 1.5, (second, 6))
    rows, others, columns = rng.permutation(first), rng.permutation(second), rng.permutation(6)
    for statistic in (
        partial(epsilon, intervals=intervals),
        klom,
        gaussian_kl,
        partial(gaussian_kl, pooled=False),
    ):
        wanted = statistic(unlearned, retrained)[columns]
        np.testing.assert_allclose(
            statistic(unlearned[rows][:, columns], retrained[others][:, columns]),
            wanted,
            rtol=1e-9,
            atol=1e-12,
        )
        alone = [statistic(unlearned[:, [i]], retrained[:, [i]]).item() for i in columns]
        np.testing.assert_allclose(alone, wanted, rtol=1e-9, atol=1e-12)


def test_thresholds_depend_on_ranks_alone():
    """With odd numbers of models, whose medians are margins themselves."""
    unlearned, retrained = margins(21, 200, 0, 0.5), margins(21, 200, 1)
    threshold = partial(epsilon, intervals=False)
    np.testing.assert_allclose(
        threshold(np.exp(unlearned), np.exp(retrained)), threshold(unlearned, retrained), rtol=1e-12
    )


@pytest.mark.parametrize("statistic", [epsilon, klom, gaussian_kl])
def test_blocks_of_samples_are_put_together_again(statistic, monkeypatch):
    unlearned, retrained = margins(5, 37, 0, 0.5), margins(7, 37, 1)
    whole = statistic(unlearned, retrained)
    monkeypatch.setattr(audit, "BLOCK", 60)  # five columns at a time
    np.testing.assert_array_equal(statistic(unlearned, retrained), whole)
    assert whole.shape == (37,)


# -------------------------------------------------------------------------------------------- score


@pytest.mark.parametrize(
    ("found", "score"),
    [(0, 1), (0.49, 1), (0.5, 0.5), (0.99, 0.5), (1.0, 0.25), (6.9, 2.0**-13), (7.0, 0), (50, 0)],
)
def test_bins_of_the_score_at_512_models(found, score):
    assert forgetting_quality([found], 512) == score


@pytest.mark.parametrize(("models", "last"), [(3, 1), (4, 2), (20, 3), (64, 5), (512, 7)])
def test_bins_stop_where_no_finite_epsilon_is(models, last):
    assert forgetting_quality([last - 1e-9], models) == 2 / 2 ** (2 * last)
    assert forgetting_quality([last], models) == 0
    assert math.log(models - 1) <= last


def test_score_is_the_mean_over_samples():
    assert forgetting_quality([0.1, 0.6, 1.2, 50], 20) == (1 + 0.5 + 0.25) / 4


def test_final_score_multiplies_relative_utilities():
    retrained = {"RA": 100.0, "TA": 94.0}
    assert final_score(0.3, retrained, retrained) == pytest.approx(0.3)
    assert final_score(0.3, {"RA": 90.0, "TA": 47.0}, retrained) == pytest.approx(0.3 * 0.9 * 0.5)


def test_scores_refuse_what_they_cannot_score():
    with pytest.raises(ValueError, match="three models"):
        forgetting_quality([0.1], 2)
    for bad in ([], [math.nan], [-0.1]):
        with pytest.raises(ValueError, match="at least one epsilon"):
            forgetting_quality(bad, 20)
    for bad in ({"RA": 0.0, "TA": 94.0}, {"RA": math.nan, "TA": 94.0}):
        with pytest.raises(ValueError, match="RA and TA"):
            final_score(0.3, {"RA": 90.0, "TA": 47.0}, bad)


# --------------------------------------------------------------------------------------------- KLOM


def numpy_klom(unlearned, retrained):
    """One sample's, by numpy's histogram and SciPy's relative entropy."""
    both = np.clip(np.concatenate([unlearned, retrained]), -100, 100)
    edges = np.linspace(both.min(), both.max(), 21)
    p, q = (
        np.histogram(np.clip(side, -100, 100), edges)[0] / len(side)
        for side in (unlearned, retrained)
    )
    return scipy.stats.entropy(p, np.where(p > 0, np.maximum(q, 1e-5), q))


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (0.5, 1), (3, 0.2), (0, 80)])
def test_klom_equals_numpy_and_scipy(shift, scale):
    unlearned, retrained = margins(30, 40, 1, shift, scale), margins(50, 40, 2, 0, scale)
    wanted = [numpy_klom(u, r) for u, r in zip(unlearned.T, retrained.T, strict=True)]
    np.testing.assert_allclose(klom(unlearned, retrained), wanted, rtol=1e-9, atol=1e-12)


def test_klom_is_zero_for_equal_arrays_and_not_symmetric():
    one, other = margins(40, 10), margins(40, 10, 1, 0.5, 2)
    np.testing.assert_allclose(klom(one, one[::-1]), 0, atol=1e-15)
    assert (np.abs(klom(one, other) - klom(other, one)) > 0.01).all()
    constant = np.full((5, 3), 2.5)
    np.testing.assert_array_equal(klom(constant, constant), 0)


@properties
@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 10**6))
def test_klom_drops_no_model(first, second, seed):
    """Every margin is in a bin, the largest and the clipped ones too; so KL stays within its
    bounds.
    """
    unlearned, retrained = margins(first, 9, seed, 0, 90), margins(second, 9, seed + 1, 20, 90)
    p, q = audit._histograms(unlearned, retrained)
    assert (p.sum(1) == first).all()
    assert (q.sum(1) == second).all()
    top = np.where(
        np.clip(unlearned, -100, 100).max(0) >= np.clip(retrained, -100, 100).max(0),
        p[:, -1],
        q[:, -1],
    )
    assert (top > 0).all()
    assert (klom(unlearned, retrained) <= math.log(1e5) + 1e-3).all()


def test_klom_of_separated_sides_is_the_largest_value():
    """All of the mass where Retrain has the floor of 1e-5: log(1e5), and a little for the shares
    that sum to 1.
    """
    assert klom(margins(30, 5, 0, 0, 1e-3), margins(30, 5, 1, 50, 1e-3)) == pytest.approx(
        math.log(1e5 + 1)
    )


# -------------------------------------------------------------------------------------- Gaussian KL


def test_gaussian_kl_is_the_closed_form_and_its_integral():
    unlearned, retrained = margins(12, 1, 0, 0.8, 1.3), margins(17, 1, 1)
    (m1, m2), (s1, s2) = (
        [f(side) for side in (unlearned, retrained)] for f in (np.mean, partial(np.std, ddof=1))
    )
    closed = math.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5
    p, q = scipy.stats.norm(m1, s1), scipy.stats.norm(m2, s2)
    x = np.linspace(m1 - 10 * s1, m1 + 10 * s1, 20_001)
    integral = (
        np.trapezoid(p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), x)
        if hasattr(np, "trapezoid")
        else closed
    )
    assert gaussian_kl(unlearned, retrained, pooled=False).item() == pytest.approx(
        closed, rel=1e-10
    )
    assert closed == pytest.approx(integral, rel=1e-6)


def test_pooled_gaussian_kl_is_half_of_the_shift_squared_over_the_pooled_variance():
    """(m1 - m2)^2 / (2 s^2): the t statistic of SciPy, squared, times (1 / N + 1 / M) / 2."""
    unlearned, retrained = margins(12, 8, 0, 0.8), margins(17, 8, 1)
    t = scipy.stats.ttest_ind(unlearned, retrained).statistic
    np.testing.assert_allclose(
        gaussian_kl(unlearned, retrained), t**2 * (1 / 12 + 1 / 17) / 2, rtol=1e-10
    )
    np.testing.assert_allclose(
        gaussian_kl(retrained, unlearned), gaussian_kl(unlearned, retrained), rtol=1e-12
    )


def test_gaussian_kl_of_models_that_all_agree():
    """No spread: 0 against itself, infinite against anything else, and never NaN."""
    constant, other = np.full((5, 2), 2.5), margins(5, 2)
    for pooled in (True, False):
        np.testing.assert_array_equal(gaussian_kl(constant, constant, pooled=pooled), 0)
        np.testing.assert_array_equal(gaussian_kl(constant, constant + 1, pooled=pooled), np.inf)
    assert np.isinf(gaussian_kl(constant, other, pooled=False)).all()
    assert np.isinf(gaussian_kl(other, constant, pooled=False)).all()
    assert np.isfinite(gaussian_kl(constant, other)).all()


@properties
@given(st.floats(-50, 50), st.floats(0.01, 50), st.booleans(), st.integers(0, 10**6))
def test_divergences_do_not_depend_on_the_margins_unit(shift, scale, pooled, seed):
    unlearned, retrained = margins(8, 5, seed, 0.5), margins(9, 5, seed + 1)
    wanted = gaussian_kl(unlearned, retrained, pooled=pooled)
    assert (wanted >= 0).all()
    moved = gaussian_kl(scale * unlearned + shift, scale * retrained + shift, pooled=pooled)
    np.testing.assert_allclose(moved, wanted, rtol=1e-6, atol=1e-9)


# ------------------------------------------------------------------------------------------- floors


@pytest.mark.parametrize(
    ("models", "mean", "quality"), [(20, 1.21, 0.32), (64, 1.18, 0.34), (512, 1.13, 0.37)]
)
def test_floor_of_the_thresholds_is_as_documented(models, mean, quality):
    """For Gaussians, and for a skewed distribution the same, within four standard errors and the
    digits printed.
    """
    columns = {20: 6000, 64: 4000, 512: 800}[models]
    threshold = partial(epsilon, intervals=False)
    assert simulated_floor(threshold, models, models, samples=columns) == pytest.approx(
        mean, abs=4 * 0.5 / math.sqrt(columns) + 0.005
    )
    rng = np.random.default_rng(5)
    found = threshold(
        rng.exponential(size=(models, columns)), rng.exponential(size=(models, columns))
    )
    assert found.std() < 0.52
    assert found.mean() == pytest.approx(mean, abs=4 * 0.5 / math.sqrt(columns) + 0.005)
    assert forgetting_quality(found, models) == pytest.approx(
        quality, abs=4 * 0.25 / math.sqrt(columns) + 0.005
    )


@pytest.mark.parametrize(("models", "scale"), [(20, 1.0), (20, 4.0), (64, 2.0)])
def test_floor_of_both_families_is_what_two_samples_of_one_gaussian_get(models, scale):
    """Epsilon above that of the thresholds alone, and F below; on margins of that scale."""
    ours, theirs = margins(models, 3000, 7, 5, scale), margins(models, 3000, 8, 5, scale)
    found, floor = epsilon(ours, theirs), simulated_floor(epsilon, models, models, scale=scale)
    assert found.mean() == pytest.approx(floor, abs=5 * found.std() / math.sqrt(1200))
    assert floor > simulated_floor(partial(epsilon, intervals=False), models, models) + 0.2
    quality = simulated_floor(
        lambda a, b: np.array([forgetting_quality(epsilon(a, b), models)]),
        models,
        models,
        scale=scale,
    )
    assert forgetting_quality(found, models) == pytest.approx(quality, rel=0.1)


@pytest.mark.parametrize(("models", "mean"), [(20, 3.05), (50, 0.875), (100, 0.345), (200, 0.147)])
def test_floor_of_klom_is_as_documented(models, mean):
    assert simulated_floor(klom, models, models, samples=4000) == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize(("first", "second"), [(5, 5), (8, 20), (20, 8), (100, 100)])
@pytest.mark.parametrize("pooled", [True, False])
def test_floor_of_the_gaussian_kl_is_its_mean_between_equal_gaussians(first, second, pooled):
    if not pooled and second == 5:
        second = 12  # at five models the mean is finite and its standard error is not
    found = gaussian_kl(
        margins(first, 40_000, 0, 3, 2), margins(second, 40_000, 1, 3, 2), pooled=pooled
    )
    assert (
        abs(found.mean() - gaussian_kl_floor(first, second, pooled=pooled)) < 4 * found.std() / 200
    )
    if pooled and first == 100:
        assert gaussian_kl_floor(100, 100) == pytest.approx(
            1 / 100, rel=0.02
        )  # (1 / N + 1 / M) / 2 for many models


def test_a_score_over_its_floor_is_near_one_for_retrain_and_near_zero_for_another_model():
    def quality(a, b):
        return forgetting_quality(epsilon(a, b), 24)

    pool, fresh = margins(48, 1500, 0, 4), margins(24, 1500, 1, 4)
    floor = quality(pool[24:], pool[:24])
    assert quality(fresh, pool[:24]) / floor == pytest.approx(1, abs=0.1)
    assert quality(fresh + 3, pool[:24]) / floor < 0.1


# ------------------------------------------------------------------------------------------- checks


@pytest.mark.parametrize("statistic", [epsilon, klom, gaussian_kl])
@pytest.mark.parametrize(
    ("unlearned", "retrained", "message"),
    [
        (np.zeros((3, 0)), np.zeros((3, 0)), "n > 0"),
        (np.zeros((3, 4)), np.zeros((3, 5)), "n > 0"),
        (np.zeros(3), np.zeros(3), "margins"),
        (np.zeros((1, 4)), np.zeros((3, 4)), "two models"),
        (np.zeros((3, 4)), np.full((3, 4), np.nan), "finite"),
    ],
)
def test_audits_refuse_margins_that_say_nothing(statistic, unlearned, retrained, message):
    with pytest.raises(ValueError, match=message):
        statistic(unlearned, retrained)


def test_floors_refuse_too_few_models():
    with pytest.raises(ValueError, match="no finite mean"):
        gaussian_kl_floor(2, 2)
    with pytest.raises(ValueError, match="no finite mean"):
        gaussian_kl_floor(20, 3, pooled=False)
    with pytest.raises(ValueError, match="delta"):
        epsilon(np.zeros((2, 2)), np.zeros((2, 2)), 1)
