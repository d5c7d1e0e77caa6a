"""Attacks with reference models against SciPy, loops, identities, theory, and pools in which
nothing was learned.
"""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from helpers import within_chance
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from evaluation.attacks import auc, roc_summary
from evaluation.intervals import values_of
from evaluation.references import (
    clustered_auc_sd,
    gaussian_log_ratio,
    lira_offline,
    memorisation_scores,
    per_sample_auc,
    rmia_offline_ratio,
    ulira_by_memorisation,
    ulira_scores,
    ulira_summary,
)

seeds = st.integers(0, 10**6)
few = settings(max_examples=25, deadline=None, derandomize=True)


def make_pool(shadows, n, seed=0, *, shift=0.0, balanced=True):
    """Margins (S, n) with a location and a spread of each sample's own, ``shift`` SDs higher where
    it is in; membership.
    """
    rng = np.random.default_rng(seed)
    if balanced:
        member = rng.permuted(np.tile(np.arange(shadows)[:, None] % 2 == 0, n), axis=0)
    else:
        member = rng.random((shadows, n)) < 0.5
        member = member[:, (member.sum(0) >= 2) & (member.sum(0) <= shadows - 2)]
        n = member.shape[1]
    noise = rng.normal(size=(shadows, n)) + shift * member
    return rng.normal(0, 3, n) + noise, member


def log_probabilities(shape, seed=0):
    return scipy.special.log_expit(np.random.default_rng(seed).normal(1, 2, shape))


# --------------------------------------------------------------------------------------------- RMIA


def loop_rmia(p, references, population, population_references, a, gamma):
    """The definition, with probabilities and two loops."""
    mean = lambda column: 0.5 * ((1 + a) * column.mean() + (1 - a))  # noqa: E731
    ratios = [value / mean(references[:, i]) for i, value in enumerate(p)]
    others = [value / mean(population_references[:, i]) for i, value in enumerate(population)]
    return np.array([np.mean([x / z >= gamma for z in others]) for x in ratios])


@pytest.mark.parametrize("models", [1, 4])
@pytest.mark.parametrize(("a", "gamma"), [(0.3, 1), (0.4, 2), (1, 1)])
def test_rmia_equals_two_loops(models, a, gamma):
    own, references, population, theirs = (
        log_probabilities(shape, i) for i, shape in enumerate([30, (models, 30), 50, (models, 50)])
    )
    ratios = rmia_offline_ratio(own, references, a=a)
    others = rmia_offline_ratio(population, theirs, a=a)
    got = np.mean(ratios[:, None] - others >= math.log(gamma), 1)
    expected = loop_rmia(
        np.exp(own), np.exp(references), np.exp(population), np.exp(theirs), a, gamma
    )
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert len(np.unique(got)) > 5


def test_rmia_of_one_reference_is_a_ratio_test():
    """a = 1 and one reference: x scores above z where p(x) / p_ref(x) >= p(z) / p_ref(z)."""
    own, reference = log_probabilities(20, 1), log_probabilities((1, 20), 2)
    np.testing.assert_allclose(
        rmia_offline_ratio(own, reference, a=1), own - reference[0], atol=1e-12
    )


def test_rmia_of_constant_references_is_the_rank_of_the_probability():
    own, population = log_probabilities(40, 1), log_probabilities(60, 2)
    constant = np.full((3, 100), math.log(0.4))
    ratios = rmia_offline_ratio(own, constant[:, :40])
    others = rmia_offline_ratio(population, constant[:, 40:])
    np.testing.assert_array_equal(
        np.mean(ratios[:, None] >= others, 1), [np.mean(population <= value) for value in own]
    )


@few
@given(seeds, st.floats(-3, 3))
def test_scaling_both_probabilities_changes_nothing(seed, scale):
    """With a = 1, and with no other."""
    own, references = log_probabilities(12, seed), log_probabilities((6, 12), seed + 1)
    np.testing.assert_allclose(
        rmia_offline_ratio(own + scale, references + scale, a=1),
        rmia_offline_ratio(own, references, a=1),
        atol=1e-12,
    )
    assert (
        np.abs(
            rmia_offline_ratio(own + 1, references + 1) - rmia_offline_ratio(own, references)
        ).max()
        > 1e-3
    )


def test_rmia_takes_the_missing_in_models_to_be_closer_to_one():
    references, own = np.log([[0.2, 0.9], [0.4, 0.8]]), np.log([0.6, 0.6])
    np.testing.assert_allclose(
        np.exp(own - rmia_offline_ratio(own, references)),
        [(1.3 * 0.3 + 0.7) / 2, (1.3 * 0.85 + 0.7) / 2],
    )


def test_rmia_survives_probabilities_that_underflow():
    """Margins of -2,000: p is 0 in float64, its ratio to references as sure is not."""
    got = rmia_offline_ratio(np.array([-2000.0]), np.array([[-2001.0], [-3000.0]]), a=1)
    assert got == pytest.approx(1 + math.log(2))


@few
@given(seeds, st.sampled_from([0.5, 1, 2]))
def test_the_published_score_ranks_like_the_ratio(seed, gamma):
    """The share of a population that it is gamma times above turns no pair round; it only ties."""
    members, population = (log_probabilities(30, seed + i) for i in range(2))
    references, theirs = (log_probabilities((3, 30), seed + i) for i in (2, 3))
    scores = loop_rmia(*map(np.exp, (members, references, population, theirs)), 0.3, gamma)
    order = np.argsort(rmia_offline_ratio(members, references))
    assert (np.diff(scores[order]) >= 0).all()


def test_rmia_of_a_model_that_never_saw_the_forget_set_is_at_chance():
    """Two hundred audits of a model like its references; of a model that raises the forget set's
    margins, none passes.
    """
    outside, caught = 0, 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        location = rng.normal(1, 2, 300)
        margins = location + rng.normal(0, 0.7, (4, 300))
        for trained in (False, True):
            logs = scipy.special.log_expit(
                margins + trained * np.array([[2], [0], [0], [0]]) * (np.arange(300) < 100)
            )
            ratios = rmia_offline_ratio(logs[0], logs[1:])
            got = roc_summary("rmia", ratios[:100], ratios[100:200], alpha=1e-3)
            inside = within_chance(got["rmia_auc"])
            outside, caught = (
                outside + (not trained and not inside),
                caught + (trained and not inside),
            )
    assert outside <= 3
    assert caught == 200


# --------------------------------------------------------------------------------------------- LiRA


def test_gaussian_log_ratio_equals_scipy():
    rng = np.random.default_rng(0)
    phi, mu_in, mu_out = rng.normal(size=(3, 50))
    sd_in, sd_out = rng.uniform(0.5, 2, (2, 50))
    expected = scipy.stats.norm.logpdf(phi, mu_in, sd_in) - scipy.stats.norm.logpdf(
        phi, mu_out, sd_out
    )
    np.testing.assert_allclose(
        gaussian_log_ratio(phi, mu_in, sd_in, mu_out, sd_out), expected, atol=1e-12
    )


@pytest.mark.parametrize("shift", [0.5, 1, 1.5])
def test_known_gaussians_give_the_theoretical_auc(shift):
    quantiles = scipy.stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    scores = [gaussian_log_ratio(quantiles + mean, shift, 1, 0, 1) for mean in (shift, 0)]
    assert auc(*scores) == pytest.approx(scipy.stats.norm.cdf(shift / math.sqrt(2)), abs=1e-4)


def loop_gaussian(columns, pooled):
    """Medians and SDs of a list of arrays, one per sample."""
    medians = np.array([np.median(column) for column in columns])
    if pooled:
        freedom = sum(len(column) - 1 for column in columns)
        return medians, np.full(
            len(columns), math.sqrt(sum(((c - c.mean()) ** 2).sum() for c in columns) / freedom)
        )
    return medians, np.array([np.std(column, ddof=1) for column in columns])


@pytest.mark.parametrize("models", [7, 63, 64])
def test_lira_equals_loops_over_samples(models):
    """Below 64 models one SD for all samples, from 64 on one for each."""
    references = make_pool(models, 20, shift=2, balanced=False)[0]
    margins = references[0] + 1
    center, sd = loop_gaussian(list(references.T), models < 64)
    tail = scipy.special.ndtr(lira_offline(margins, references))
    np.testing.assert_allclose(
        tail, 1 - scipy.stats.norm.sf(margins, center, sd), rtol=1e-9, atol=1e-12
    )


def test_offline_lira_is_one_sided():
    """0.5 at the median of the out-models, rising with the margin without end."""
    references = make_pool(9, 30)[0]
    assert (lira_offline(np.median(references, 0), references) == 0).all()
    steps = np.array(
        [lira_offline(np.full(30, margin), references) for margin in (-50, -1, 0, 1, 50, 60)]
    )
    assert (np.diff(steps, axis=0) > 0).all()


def test_pooled_sd_is_the_spread_of_models_not_of_samples():
    """Samples 100 apart, models 1 apart: the SD is near 1."""
    rng = np.random.default_rng(0)
    references = 100 * np.arange(200) + rng.normal(size=(8, 200))
    center = np.median(references, 0)
    np.testing.assert_allclose(lira_offline(center + 1, references), 1, rtol=0.1)


@few
@given(seeds)
def test_order_of_samples_and_of_models_changes_nothing(seed):
    references, member = make_pool(6, 15, seed)
    own = references[0] + np.random.default_rng(seed).normal(size=15)
    columns, rows = (
        np.random.default_rng(seed).permutation(15),
        np.random.default_rng(seed).permutation(6),
    )
    expected = lira_offline(own, references)[columns]
    np.testing.assert_allclose(
        lira_offline(own[columns], references[:, columns]), expected, rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(
        lira_offline(own, references[rows])[columns], expected, rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(
        ulira_scores(references[:, columns], member[:, columns]),
        ulira_scores(references, member)[:, columns],
        rtol=1e-9,
        atol=1e-9,
    )


# ------------------------------------------------------------------------------------------- U-LiRA


def loop_ulira(margins, member):
    """Each shadow and sample on its own: the next shadows in cyclic order, equally many of each
    side.
    """
    shadows, n = margins.shape
    fits = {}
    for i in range(shadows):
        for j in range(n):
            each = min(member[:, j].sum(), (~member[:, j]).sum()) - 1
            rest = [(i + step) % shadows for step in range(1, shadows)]
            fits[i, j] = [
                margins[[s for s in rest if member[s, j] == side][:each], j]
                for side in (True, False)
            ]
    scores = np.empty(margins.shape)
    for i in range(shadows):
        (mu_in, sd_in), (mu_out, sd_out) = (
            loop_gaussian([fits[i, j][side] for j in range(n)], shadows < 64) for side in (0, 1)
        )
        scores[i] = scipy.stats.norm.logpdf(margins[i], mu_in, sd_in) - scipy.stats.norm.logpdf(
            margins[i], mu_out, sd_out
        )
    return scores


@pytest.mark.parametrize(("shadows", "balanced"), [(8, True), (9, False), (64, False)])
def test_ulira_equals_loops(shadows, balanced):
    margins, member = make_pool(shadows, 7, shift=1, balanced=balanced)
    got = ulira_scores(margins, member)
    assert got.shape == margins.shape
    np.testing.assert_allclose(got, loop_ulira(margins, member), rtol=1e-9, atol=1e-9)


def test_ulira_leaves_the_audited_shadow_out():
    """An outlier of shadow 3 on one sample does not touch its scores on the others: its margins are
    in no fit that judges it.
    """
    margins, member = make_pool(8, 40)
    moved = margins.copy()
    moved[3, 5] += 1e3
    one, other = ulira_scores(margins, member), ulira_scores(moved, member)
    rest = np.delete(np.arange(40), 5)
    assert (one[3, rest] == other[3, rest]).all()


@pytest.mark.parametrize("shift", [1, 2])
def test_ulira_finds_what_a_likelihood_ratio_can(shift):
    """With 64 shadows within 0.03 of Phi(mu / sqrt 2), which no attack exceeds."""
    margins, member = make_pool(64, 150, shift=shift)
    got = ulira_summary(ulira_scores(margins, member), margins, member)
    best = scipy.stats.norm.cdf(shift / math.sqrt(2))
    assert best - 0.03 < got["ulira_auc"].value < best + 0.01
    assert got["ulira_auc"].value > got["ulira_auc"].chance[1]


@pytest.mark.parametrize(("shadows", "balanced"), [(8, True), (8, False), (16, True)])
def test_ulira_of_shadows_that_forgot_is_at_chance(shadows, balanced):
    """Mean AUC 0.5 (0.46 and 0.484 if the audited shadow's side were one short), and spread as the
    interval says.
    """
    areas, reach = [], []
    for seed in range(100):
        margins, member = make_pool(shadows, 100, seed, balanced=balanced)
        got = ulira_summary(ulira_scores(margins, member), margins, member, alpha=1e-3)
        areas.append(got["ulira_auc"].value)
        reach.append(got["ulira_auc"].chance[1] - 0.5)
    sd = np.mean(reach) / scipy.stats.norm.isf(5e-4)
    assert abs(np.mean(areas) - 0.5) < 4 * sd / 10
    assert 0.8 < np.std(areas) / sd < 1.25
    assert np.sum(np.abs(np.array(areas) - 0.5) > reach) <= 2


def test_ulira_of_memorising_shadows_is_one_and_of_constant_margins_one_half():
    margins, member = make_pool(8, 60, shift=40)
    got = values_of(ulira_summary(ulira_scores(margins, member), margins, member))
    assert (got["ulira_auc"], got["ulira_tpr_at_fpr_1"], got["ulira_worst_1_percent_auc"]) == (
        1,
        1,
        1,
    )
    flat = np.zeros_like(margins)
    got = values_of(ulira_summary(ulira_scores(flat, member), flat, member))
    assert (got["ulira_auc"], got["ulira_tpr_at_fpr_1"]) == (0.5, 0)


def exact_two_sided_tail(area):
    """Pr[max(A, 1 - A) >= area] for 8 against 8, by counting the ways to reach each rank sum."""
    ways = {(0, 0): 1}
    for rank in range(1, 17):
        more = {
            (taken + 1, total + rank): count for (taken, total), count in ways.items() if taken < 8
        }
        ways = {key: ways.get(key, 0) + more.get(key, 0) for key in ways | more}
    areas = {(total - 36) / 64: count for (taken, total), count in ways.items() if taken == 8}
    return sum(count for a, count in areas.items() if max(a, 1 - a) >= area - 1e-9) / math.comb(
        16, 8
    )


def test_worst_samples_have_the_floor_of_chance():
    """8 in and 8 out: the 99 % point of Mann-Whitney's exact distribution, whose AUCs go in steps
    of 1/64; a sample in twenty that leaks is far above it, and does not move it.
    """
    margins, member = make_pool(16, 2000)
    got = values_of(ulira_summary(np.zeros_like(margins), margins, member))
    floor = got["ulira_worst_1_percent_auc_floor"]
    assert exact_two_sided_tail(floor) <= 0.014
    assert exact_two_sided_tail(floor - 1 / 64) > 0.01
    assert abs(got["ulira_worst_1_percent_auc"] - floor) <= 1 / 64
    leaking = margins + 8 * member * (np.arange(2000) % 20 == 0)
    caught = values_of(ulira_summary(np.zeros_like(margins), leaking, member))
    assert caught["ulira_worst_1_percent_auc"] == 1
    assert abs(caught["ulira_worst_1_percent_auc_floor"] - floor) <= 1 / 64


def test_the_median_sample_has_the_floor_of_chance():
    """The median of Mann-Whitney's exact distribution, 8 in and 8 out; images that all leak do not
    move it.
    """
    margins, member = make_pool(16, 2000)
    got = values_of(ulira_summary(np.zeros_like(margins), margins, member))
    floor = got["ulira_sample_auc_median_floor"]
    assert exact_two_sided_tail(floor) > 0.47
    assert exact_two_sided_tail(floor + 1 / 64) < 0.53
    assert abs(got["ulira_sample_auc_median"] - floor) <= 1 / 64
    leaking = values_of(ulira_summary(np.zeros_like(margins), margins + 8 * member, member))
    assert leaking["ulira_sample_auc_median"] == 1
    assert abs(leaking["ulira_sample_auc_median_floor"] - floor) <= 1 / 32


def test_ulira_by_memorisation_finds_the_third_that_leaks():
    """Only the images of the highest scores leak: 1 there, chance elsewhere; five images have no
    thirds of two.
    """
    margins, member = make_pool(8, 300)
    memorisation = np.random.default_rng(1).permutation(300) / 300
    margins = margins + 40 * member * (memorisation >= 2 / 3)
    got = ulira_by_memorisation(margins, member, memorisation)
    assert got["ulira_high_memorisation_auc"].value > 0.99
    for group in ("low", "middle"):
        name = f"ulira_{group}_memorisation_auc"
        chosen = (memorisation >= {"low": 0, "middle": 1 / 3}[group]) & (
            memorisation < {"low": 1 / 3, "middle": 2 / 3}[group]
        )
        truth = roc_auc_score(member[:, chosen].ravel(), margins[:, chosen].ravel())
        assert got[name].value == pytest.approx(truth, abs=1e-12)
        assert within_chance(got[name], 3.29 / 1.96)
    assert ulira_by_memorisation(margins[:, :5], member[:, :5], memorisation[:5]) == {}


def two_way_sd(scores, member):
    """By sample, plus by shadow, less by score, from the win matrix."""
    inside, outside = scores[member], scores[~member]
    wins = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
    parts = np.empty(scores.shape)
    parts[member] = (wins.mean(1) - wins.mean()) / len(inside)
    parts[~member] = (wins.mean(0) - wins.mean()) / len(outside)
    shadows, samples = scores.shape
    by_sample = sum(column.sum() ** 2 for column in parts.T) * samples / (samples - 1)
    by_shadow = sum(row.sum() ** 2 for row in parts) * shadows / (shadows - 1)
    return math.sqrt(by_sample + by_shadow - (parts**2).sum())


@pytest.mark.parametrize("level", [0, 1])
def test_shadows_of_unlike_levels_are_at_chance_as_often_as_claimed(level):
    """Nothing was learned, and each shadow's margins lie higher or lower as a whole: of a stated
    95 % .72 were inside where only samples were clusters.
    """
    inside = []
    for seed in range(120):
        margins, member = make_pool(16, 300, seed)
        margins = margins + level * np.random.default_rng(seed).normal(size=(16, 1))
        scores = ulira_scores(margins, member)
        got = ulira_summary(scores, margins, member)["ulira_auc"]
        inside.append(within_chance(got))
    assert np.mean(inside) > 0.88


def test_clustered_sd_equals_loops_and_delong():
    margins, member = make_pool(6, 25, shift=1, balanced=False)
    margins = np.round(margins)  # with ties
    inside, outside = margins[member], margins[~member]
    wins = lambda x, y: (x > y) + 0.5 * (x == y)  # noqa: E731
    area = np.mean([wins(x, y) for x in inside for y in outside])
    total = 0.0
    for j in range(margins.shape[1]):
        part = sum(
            np.mean([wins(x, y) for y in outside]) - area for x in margins[member[:, j], j]
        ) / len(inside)
        part += sum(
            np.mean([wins(x, y) for x in inside]) - area for y in margins[~member[:, j], j]
        ) / len(outside)
        total += part**2
    n = margins.shape[1]
    by_sample = math.sqrt(total * n / (n - 1))
    assert clustered_auc_sd(margins, member) == pytest.approx(
        max(by_sample, two_way_sd(margins, member)), rel=1e-9
    )
    lifted = margins + 5 * np.arange(6)[:, None]
    assert clustered_auc_sd(lifted, member) == pytest.approx(two_way_sd(lifted, member), rel=1e-9)
    scores, own = margins.reshape(1, -1), member.reshape(1, -1)
    placed = [
        [np.mean([wins(x, y) for y in outside]) for x in inside],
        [np.mean([wins(x, y) for x in inside]) for y in outside],
    ]
    delong = math.sqrt(sum(np.var(side, ddof=1) / len(side) for side in placed))
    assert clustered_auc_sd(scores, own) == pytest.approx(delong, rel=0.01)


@few
@given(seeds)
def test_per_sample_auc_equals_scikit_learn(seed):
    margins, member = make_pool(7, 10, seed, balanced=False)
    margins = np.round(margins)  # with ties
    expected = [roc_auc_score(member[:, j], margins[:, j]) for j in range(margins.shape[1])]
    np.testing.assert_allclose(per_sample_auc(margins, member), expected, atol=1e-12)


# ------------------------------------------------------------------------------------- memorisation


def test_memorisation_by_hand():
    """4 of 4 right with it and 1 of 4 without; 2 of 4 on both sides; 0 of 2 and 6 of 6."""
    member = np.repeat([[True] * 3, [False] * 3], 4, axis=0)
    member[[2, 3], 2] = False
    correct = np.array([[1] * 4 + [1, 0, 0, 0], [1, 1, 0, 0] * 2, [0, 0] + [1] * 6], bool).T
    scores, errors = memorisation_scores(correct, member)
    assert scores == pytest.approx([0.75, 0, -1])
    shares = [(5 / 6, 4, 2 / 6, 4), (0.5, 4, 0.5, 4), (0.25, 2, 7 / 8, 6)]
    assert errors == pytest.approx(
        [math.sqrt(p * (1 - p) / m + q * (1 - q) / k) for p, m, q, k in shares]
    )


def test_memorisation_tells_memorised_from_easy_and_from_impossible():
    member = make_pool(16, 90)[1]
    kind = np.arange(90) % 3
    correct = np.select(
        [kind == 0, kind == 1], [member, np.ones_like(member)], np.zeros_like(member)
    )
    assert (memorisation_scores(correct, member)[0] == (kind == 0)).all()


def test_memorisation_error_is_the_spread_of_the_score():
    """8 in and 8 out, p = 0.9 and 0.5: 0.15 and 0.25."""
    member = make_pool(16, 20_000)[1]
    for p, expected in ((0.9, 0.15), (0.5, 0.25)):
        scores, errors = memorisation_scores(
            np.random.default_rng(1).random(member.shape) < p, member
        )
        assert scores.std() == pytest.approx(expected, abs=0.005)
        assert abs(scores.mean()) < 0.005
        assert 0.95 < np.sqrt(np.mean(errors**2)) / scores.std() < 1.26


# ------------------------------------------------------------------------------------------- errors


def test_models_that_are_missing_are_an_error():
    margins, member = make_pool(8, 5)
    one_in = member.copy()
    one_in[:, 2] = np.arange(8) == 0
    none_in = member & (np.arange(5) != 2)
    with pytest.raises(ValueError, match="1 samples have fewer"):
        ulira_scores(margins, one_in)
    for call in (
        ulira_scores,
        per_sample_auc,
        memorisation_scores,
    ):
        with pytest.raises(ValueError, match="1 samples have none"):
            call(margins, none_in)
    with pytest.raises(ValueError, match="two models"):
        lira_offline(margins[0], margins[:1])


def test_arrays_that_do_not_fit_are_an_error():
    margins, member = make_pool(4, 5)
    broken = np.where(np.arange(5) == 1, np.nan, margins)
    for own, references in (
        (margins[0], margins[:, :4]),
        (margins[0], margins[:0]),
        (margins[0, :0], margins[:, :0]),
    ):
        with pytest.raises(ValueError, match="References have shape"):
            lira_offline(own, references)
    for call in (
        lambda: lira_offline(margins[0], broken),
        lambda: ulira_scores(broken, member),
    ):
        with pytest.raises(ValueError, match="finite"):
            call()
    for flags in (member[:2], member.astype(int)):
        with pytest.raises(ValueError, match="bool array"):
            ulira_scores(margins, flags)
    with pytest.raises(ValueError, match="two samples"):
        clustered_auc_sd(margins[:, :1], member[:, :1])
