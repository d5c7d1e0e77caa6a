"""Verdicts on published numbers against SciPy's Welch test and under the null."""

import math

import numpy as np
import pytest
from scipy import stats

from evaluation.reproduction import (
    Error,
    average_error,
    difference_error,
    half_width,
    mean_error,
    too_few_runs,
    verdict,
)

OURS = [5.2, 5.6, 4.9, 5.3]


@pytest.mark.parametrize("mean", [4.0, 4.9, 5.3, 5.9, 7.0])
@pytest.mark.parametrize("sd", [0.1, 0.7])
def test_the_verdict_is_welchs_test(mean, sd):
    """SciPy rejects at 5 % exactly what is not reproduced, but for the last printed digit."""
    summary = np.mean(OURS), np.std(OURS, ddof=1), len(OURS), mean, sd, 10
    test = stats.ttest_ind_from_stats(*summary, equal_var=False)
    difference, error = np.mean(OURS) - mean, difference_error(OURS, sd, 10)
    assert difference / error.size == pytest.approx(test.statistic)
    assert (verdict(difference, error) == "reproduced") == (test.pvalue >= 0.05)


def test_a_difference_is_said_in_standard_errors():
    assert verdict(-3.0, Error(0.25, 5)) == "differs by 12.0 standard errors"


def test_without_an_sd_their_trials_scatter_as_ours():
    """Of 4,000 pairs of four and ten runs of one Gaussian 95 % are reproduced."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(50, 3, (4000, 4)), rng.normal(50, 3, (4000, 10)).mean(1)
    words = [
        verdict(run.mean() - mean, difference_error(run, None, 10))
        for run, mean in zip(ours, theirs, strict=True)
    ]
    assert words.count("reproduced") / len(words) == pytest.approx(0.95, abs=0.012)


def test_an_unknown_number_of_trials_counts_as_one():
    assert difference_error([5, 5, 5], 0.4, None) == Error(0.4, 2)
    half = difference_error(OURS, None, None).size / difference_error(OURS, None, 10**9).size
    assert half == pytest.approx(math.sqrt(1 / 4 + 1) * 2)


def test_equal_runs_on_both_sides_are_compared_by_the_last_digit():
    error = difference_error([100.0] * 3, 0.0, 10)
    assert verdict(0.005, error) == "reproduced"
    assert verdict(0.006, error).startswith("differs, and no run")


def test_the_bound_on_an_average_gap_is_reached_where_all_metrics_move_as_one():
    """Then the gaps are four times one gap, whose error is the two errors' root of squares."""
    pair = Error(0.3, 4), Error(0.4, 2)
    assert average_error([pair] * 4) == Error(pytest.approx(0.5), 2)
    assert half_width(Error(0.5, 2)) == pytest.approx(stats.t.ppf(0.975, 2) * 0.5)


def test_the_error_of_a_mean():
    assert mean_error(OURS) == Error(pytest.approx(stats.sem(OURS)), 3)


def test_a_verdict_needs_three_seeds():
    assert too_few_runs(3) is None
    assert too_few_runs(1) == "1 of the 3 seeds that a verdict needs"
