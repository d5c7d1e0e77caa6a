"""Membership attacks that compare a model with others: RMIA, LiRA and U-LiRA, and memorisation from
the same models.

``references`` (R, n) and ``margins`` (S, n) hold one row per model and one column per sample;
``member`` is a bool array of that shape, True where the model was trained on the sample (for
U-LiRA: trained on it and then made to forget it). Margins and log-probabilities are those of
:mod:`evaluation.scores`. Larger scores are more member-like everywhere.
"""

import numpy as np

from evaluation.attacks import auc, roc_summary
from evaluation.intervals import Metric, chance_interval

# Models; of fewer, one standard deviation is estimated for all samples (Carlini et al. 2022)
POOLED_BELOW = 64
MIN_SD = 1e-6  # of a margin: models that agree to the last digit would divide by zero

# --------------------------------------------------------------------------------------------- RMIA


def rmia_offline_ratio(log_p: np.ndarray, references: np.ndarray, *, a: float = 0.3) -> np.ndarray:
    """log p_theta(x) - log p(x), p(x) = ((1 + a) mean_out + 1 - a) / 2, from models not trained on
    x; (n,), any real number.

    The in-models' mean, which is missing, is taken to be a mean_out + 1 - a, closer to 1 than the
    out-models' (Zarifzadeh et al., "Low-cost high-power membership inference attacks", 2024). One
    to four references are useful; models retrained without the forget set are out-models of it. a =
    1 is the plain mean, as for a population that all references were trained on.

    RMIA's score, the share of a population z with ratio(x) / ratio(z) >= gamma, ranks samples as
    the ratio itself does; a finite population only adds ties, and where a whole class is audited
    beside others' images every score is 1.

    Args:
        log_p: (n,) log-probabilities of the labels under the audited model.
        references: (R, n) the same under the others.
    """
    log_p, references = _model_and_references(log_p, references)
    largest = references.max(0)
    log_out = largest + np.log(np.exp(references - largest).sum(0) / len(references))
    with np.errstate(divide="ignore"):  # log 0 for a = 1
        return log_p - np.logaddexp(np.log1p(a) + log_out, np.log(1 - a)) + np.log(2)


# --------------------------------------------------------------------------------------------- LiRA


def lira_offline(margins: np.ndarray, references: np.ndarray) -> np.ndarray:
    """z = (phi - mu_out) / s_out (n,): how far a margin is above models not trained on the sample.

    LiRA's score is the one-sided Lambda = 1 - Pr[N(mu_out, s_out^2) > phi] = Phi(z). Returned is z
    itself: in the same order, but Phi(z) rounds to 1 from z = 8.3 on, just where low false positive
    rates are read. mu_out is the median over the out-models; s_out is pooled over all samples below
    64 models (Carlini et al. 2022).

    Args:
        margins: (n,) of the audited model. references: (R, n).
    """
    margins, references = _model_and_references(margins, references)
    use, pooled = np.ones(references.shape, bool), len(references) < POOLED_BELOW
    center, sd = _gaussians(references, use, pooled=pooled)
    return (margins - center) / sd


def gaussian_log_ratio(
    phi: np.ndarray,
    mu_in: np.ndarray | float,
    sd_in: np.ndarray | float,
    mu_out: np.ndarray | float,
    sd_out: np.ndarray | float,
) -> np.ndarray:
    """log N(phi; mu_in, sd_in^2) - log N(phi; mu_out, sd_out^2), in nats.

    For equal SDs a shift of mu SDs has an AUC of Phi(mu / sqrt 2): 0.638, 0.760, 0.856 for 0.5, 1,
    1.5.
    """
    squares = ((phi - mu_out) / sd_out) ** 2 - ((phi - mu_in) / sd_in) ** 2
    return np.log(sd_out) - np.log(sd_in) + squares / 2


def _gaussians(
    models: np.ndarray, use: np.ndarray, *, pooled: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Median (n,) of the entries to use of each column of ``models`` (R, n); SD, (n,) or one.

    Both variances are about each column's own mean: the spread between samples is no part of it.
    """
    count, columns = _count(use), np.arange(models.shape[1])
    ordered = np.sort(np.where(use, models, np.inf), axis=0)
    median = (ordered[(count - 1) // 2, columns] + ordered[count // 2, columns]) / 2
    mean = np.where(use, models, 0).sum(0) / count
    squares = (np.where(use, models - mean, 0) ** 2).sum(0)
    squares, freedom = (squares.sum(), (count - 1).sum()) if pooled else (squares, count - 1)
    if not np.all(freedom):
        raise ValueError(
            "A standard deviation needs two models, in or out, of at least one sample; of each,"
            " from 64 models on."
        )
    return median, np.sqrt(np.maximum(squares / freedom, MIN_SD**2))


# ------------------------------------------------------------------------------------------- U-LiRA


def ulira_scores(margins: np.ndarray, member: np.ndarray) -> np.ndarray:
    """LiRA's log ratio (S, n) by Gaussians of the other shadows (Hayes et al. 2024).

    ``member`` is True where a shadow was trained on the sample and unlearned it, False where it
    never saw it; a pool in which each sample is in half of the shadows serves all samples at once.
    Score (i, x) leaves shadow i out and takes from each side the same number, one less than the
    smaller side has, the next ones in cyclic order. Were all others taken, the side that i is of
    would have lost one: its mean is then the noisier, and the AUC at chance 0.46 with 8 shadows and
    0.484 with 16. O(S^2 n log S).
    """
    margins, member = _pool(margins, member)
    shadows, each = len(margins), np.minimum(_count(member), _count(~member)) - 1
    if not each.all():
        raise ValueError(
            f"U-LiRA needs 2 shadows in and 2 out of each sample; {np.sum(each < 1)} samples have"
            " fewer: leave them out."
        )
    scores = np.empty(margins.shape)
    for i in range(shadows):
        rest = np.arange(i + 1, i + shadows) % shadows
        fitted = []
        for side in (member[rest], ~member[rest]):
            use = side & (side.cumsum(0) <= each)
            fitted += _gaussians(margins[rest], use, pooled=shadows < POOLED_BELOW)
        scores[i] = gaussian_log_ratio(margins[i], *fitted)
    return scores


def ulira_summary(
    scores: np.ndarray,
    margins: np.ndarray,
    member: np.ndarray,
    *,
    alpha: float = 0.05,
    seed: int = 0,
) -> dict[str, Metric]:
    """The ROC of all (shadow, sample) pairs, and the samples that leak most; named ``ulira...``.

    As :func:`evaluation.attacks.roc_summary` of :func:`ulira_scores`, but one sample's scores under
    the S shadows hang together, and so do a shadow's: the AUC's interval is of samples and shadows
    as clusters, the rates' intervals count samples only. ulira_sample_auc_median and
    ulira_worst_1_percent_auc: the median and the 99th percentile over samples of max(A, 1 - A), A
    from :func:`per_sample_auc`. With few shadows they are far above 0.5 by chance: NAME_floor is
    the same with each sample's membership shuffled by ``seed``, 0.61 and 0.86 for 8 in and 8 out. A
    method that gives every forgotten sample the same margin passes this; read it beside the
    accuracies.
    """
    scores, member = _pool(scores, member)
    shuffled = np.random.default_rng(seed).permuted(member, axis=0)
    inside, outside, sd = scores[member], scores[~member], clustered_auc_sd(scores, member)
    count = scores.shape[1]
    found = roc_summary("ulira", inside, outside, alpha=alpha, null_sd=sd, independent=count)
    for end, membership in (("", member), ("_floor", shuffled)):
        areas = per_sample_auc(margins, membership)
        two_sided = np.maximum(areas, 1 - areas)
        worst = float(np.quantile(two_sided, 0.99))
        found[f"ulira_sample_auc_median{end}"] = Metric(float(np.median(two_sided)))
        found[f"ulira_worst_1_percent_auc{end}"] = Metric(worst)
    return found


def ulira_by_memorisation(
    scores: np.ndarray, member: np.ndarray, memorisation: np.ndarray
) -> dict[str, Metric]:
    """U-LiRA's AUC, with its chance, on each third of the samples by memorisation (n,).

    Low is the negative control: there is next to nothing to forget. High is the stress test. (Zhao
    et al., NeurIPS 2024.) Ties go by position. {} where a third would have fewer than two samples.
    """
    scores, member = _pool(scores, member)
    if len(memorisation) < 6:
        return {}
    found = {}
    thirds = np.array_split(np.argsort(memorisation, kind="stable"), 3)
    for group, chosen in zip(("low", "middle", "high"), thirds, strict=True):
        part, inside = scores[:, chosen], member[:, chosen]
        chance = chance_interval(clustered_auc_sd(part, inside))
        area = auc(part[inside], part[~inside])
        found[f"ulira_{group}_memorisation_auc"] = Metric(area, chance=chance)
    return found


def clustered_auc_sd(scores: np.ndarray, member: np.ndarray) -> float:
    """SE of the AUC of scores[member] against scores[~member], (S, n), shadows by samples.

    The deviations of the pairs' placements from the AUC, summed within samples before they are
    squared (Obuchowski, Biometrics 1997); with one score per sample it is DeLong's. A shadow's
    scores hang together too: the squares of its sums are added, and those of single scores, which
    both have, are taken away (Cameron, Gelbach & Miller, J. Bus. Econ. Stat. 2011). Never below
    the first. O(S n log(S n)).
    """
    scores, member = _pool(scores, member)
    if scores.shape[1] < 2:
        raise ValueError("The spread over samples needs two samples.")
    inside, outside = scores[member], scores[~member]
    placements = np.empty(scores.shape)
    placements[member] = _share_below(inside, outside)
    placements[~member] = 1 - _share_below(outside, inside)
    means = np.where(member, placements[member].mean(), placements[~member].mean())
    counts = np.where(member, len(inside), len(outside))
    parts = (placements - means) / counts
    by_sample, by_shadow = (_scaled_squares(parts.sum(axis)) for axis in (0, 1))
    return float(np.sqrt(by_sample + max(by_shadow - (parts**2).sum(), 0)))


def _scaled_squares(sums: np.ndarray) -> float:
    """The sum of squares of the clusters' ``sums`` (k,), times k / (k - 1); 0 for one cluster."""
    count = len(sums)
    return float((sums**2).sum() * count / (count - 1)) if count > 1 else 0.0


def _share_below(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of ``others`` below each score, equals counting half."""
    others = np.sort(others)
    below, up_to = (np.searchsorted(others, scores, side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(others))


def per_sample_auc(margins: np.ndarray, member: np.ndarray) -> np.ndarray:
    """AUC (n,) in [0, 1] of each sample's margins, shadows with it against those without.

    Of the margin itself, not of :func:`ulira_scores`: for one sample and equal SDs the two have one
    order, and no fit is left out here that would bias it. Good is 0.5, and both ends leak. It moves
    in steps of 1 / (in x out) and has an SD of 0.15 by chance for 8 and 8. O(n S log S).
    """
    from scipy.stats import rankdata

    margins, member = _pool(margins, member)
    inside, outside = _count(member), _count(~member)
    ranks = np.where(member, rankdata(margins, axis=0), 0).sum(0)
    return (ranks - inside * (inside + 1) / 2) / (inside * outside)


def memorisation_scores(correct: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pr[correct | in] - Pr[correct | out] (n,) and its standard error, from bool (S, n).

    High: predicted right only if trained on (Feldman & Zhang 2020); low: there is nothing to
    forget. The standard error takes (k + 1) / (m + 2) for a probability, so that 8 of 8 right is
    not certainty: 0.15 to 0.25 for 8 models in and 8 out, up to a quarter too large near the ends.
    """
    correct, member = _pool(correct, member)
    shares, variances = zip(*(_share(correct, side) for side in (member, ~member)), strict=True)
    return shares[0] - shares[1], np.sqrt(variances[0] + variances[1])


def _share(correct: np.ndarray, use: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = _count(use)
    right = np.where(use, correct, 0).sum(0)
    p = (right + 1) / (count + 2)
    return right / count, p * (1 - p) / count


# ---------------------------------------------------------------------------------- checks of input


def _model_and_references(own: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    own, references = np.asarray(own, np.float64), np.asarray(references, np.float64)
    if references.ndim != 2 or not references.size or own.shape != references.shape[1:]:
        raise ValueError(
            "References have shape (models, n), the audited model (n,), neither empty; got"
            f" {references.shape}, {own.shape}."
        )
    if not np.isfinite(own).all() or not np.isfinite(references).all():
        raise ValueError("The audited model's values and the references' must be finite.")
    return own, references


def _pool(values: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(
            "A pool of shadows is a non-empty array (models, n) of finite values; got shape"
            f" {values.shape}."
        )
    return values, _flags(member, values)


def _flags(member: np.ndarray, values: np.ndarray) -> np.ndarray:
    member = np.asarray(member)
    if member.shape != values.shape or member.dtype != bool:
        raise ValueError(
            f"Membership is a bool array of shape {values.shape}; got {member.dtype} of shape"
            f" {member.shape}."
        )
    return member


def _count(use: np.ndarray) -> np.ndarray:
    """How many models each sample has on one side; none is an error."""
    count = use.sum(0)
    if not count.all():
        raise ValueError(
            f"Each sample needs a model that saw it, or one that did not; {np.sum(count == 0)}"
            " samples have none: leave them out."
        )
    return count
