"""The audits of :mod:`evaluation.audit` on a row's and on Retrain's models, by metric names."""

from collections.abc import Sequence

import numpy as np

from evaluation.audit import (
    epsilon,
    final_score,
    forgetting_quality,
    gaussian_kl,
    gaussian_kl_floor,
    klom,
    simulated_floor,
)
from evaluation.intervals import Metric
from evaluation.metrics import measured
from evaluation.rows import Judged
from evaluation.scores import margin
from evaluation.suites import held_out

FEWEST_FOR_EPSILON = 3  # models a side


def margins(models: Sequence[Judged], split: str) -> np.ndarray:
    """Margins (models, n) of forget or held_out."""
    outputs = [
        held_out(model.splits) if split == "held_out" else model.splits[split] for model in models
    ]
    return np.stack([margin(*each) for each in outputs])


def distribution_gaps(
    group: Sequence[Judged], retrain: Sequence[Judged], *, audit: bool = False
) -> dict[str, Metric]:
    """How far margins of a row's models are from Retrain's by sample, each with its floor.

    The Gaussian divergence needs two models a side and five in all, else nothing is found.
    ``audit`` adds KLOM and, from three models a side on, the challenge's epsilon and F.
    """
    sides = len(group), len(retrain)
    if min(sides) < 2 or sum(sides) < 5:
        return {}
    found = {"gaussian_kl_floor": Metric(gaussian_kl_floor(*sides))}
    for split in ("forget", "held_out"):
        ours, theirs = margins(group, split), margins(retrain, split)
        if not ours.shape[1]:
            continue
        found |= _spread(f"gaussian_kl_{split}", gaussian_kl(ours, theirs))
        if audit:
            found |= _spread(f"klom_{split}", klom(ours, theirs))
    if audit:
        found["klom_floor"] = Metric(simulated_floor(klom, *sides))
        if min(sides) >= FEWEST_FOR_EPSILON:
            found |= _challenge(group, retrain)
    return measured(found)


def _spread(name: str, values: np.ndarray) -> dict[str, Metric]:
    """Mean, median and 95th percentile over samples: the mean alone hides the few that leak."""
    return {
        name: Metric(float(values.mean())),
        f"{name}_median": Metric(float(np.median(values))),
        f"{name}_p95": Metric(float(np.quantile(values, 0.95))),
    }


def _challenge(group: Sequence[Judged], retrain: Sequence[Judged]) -> dict[str, Metric]:
    sides = len(group), len(retrain)
    theirs = margins(retrain, "forget")
    epsilons = epsilon(margins(group, "forget"), theirs)
    scale = float(np.median(theirs.std(0, ddof=1))) or 1.0

    def quality_of(epsilons: np.ndarray) -> float:
        return forgetting_quality(epsilons, max(sides))

    quality = quality_of(epsilons)
    quality_floor = simulated_floor(
        lambda ours, theirs: quality_of(epsilon(ours, theirs)), *sides, scale=scale
    )
    return {
        **_spread("epsilon", epsilons),
        "epsilon_floor": Metric(simulated_floor(epsilon, *sides, scale=scale)),
        "forgetting_quality": Metric(quality),
        "forgetting_quality_floor": Metric(quality_floor),
        "challenge_score": Metric(final_score(quality, _utility(group), _utility(retrain))),
    }


def _utility(models: Sequence[Judged]) -> dict[str, float]:
    return {
        name: float(np.mean([model.metrics[name].value for model in models]))
        for name in ("RA", "TA")
    }
