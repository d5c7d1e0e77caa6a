"""Models -> rows: one per configuration, averaged over its seeds, with gaps to Retrain, noise
floors and alarms.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

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
from evaluation.distances import is_agreement, is_distance
from evaluation.gaps import (
    FEWEST,
    gap_floor,
    gap_of_means,
    inside_average,
    inside_distance,
    inside_noise,
    noise_band,
    paired_gap,
    too_few,
    trained_unlike,
    usual_runs,
)
from evaluation.intervals import mean_interval
from evaluation.membership import draw_noise
from evaluation.metrics import define
from evaluation.scores import margin
from evaluation.suites import Splits, held_out
from evaluation.verdicts import (
    Standing,
    at_chance,
    changed_nothing,
    judge,
    judge_alone,
    mean_standing,
    once_each,
    say_at_chance,
    standing,
)
from unlearn.raw import Raw

# What "Avg. Gap" is taken over, as an audit names it: evaluation.gaps.AVERAGED and, with the ending
# _entropy, AVERAGED_ENTROPY.
FRONT_PAGES = {
    "": ("UA", "RA", "TA", "svc_confidence_tnr"),
    "_entropy": ("UA", "RA", "TA", "lr_entropy_member_rate"),
}
FEWEST_FOR_EPSILON = 3  # models a side


@dataclasses.dataclass(frozen=True)
class Judged:
    """A model and what the suites say of it.

    ``role`` is models, retrain, unlike (a Retrain of another kind than the one that gaps are to) or
    original; ``key`` is the same for all seeds of one configuration. ``chance`` holds the intervals
    in which chance puts an attack's number, ``by_draw`` the percentages (draws,) of the attacks
    that are means over draws, ``weights_moved`` how far the weights are from the original's
    (:func:`evaluation.verdicts.relative_change`; 1 where that is not known).
    """

    label: str
    role: str
    key: str
    seed: int
    splits: Splits
    metrics: Mapping[str, float]
    chance: Mapping[str, Sequence[float]]
    by_draw: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    weights_moved: float = 1.0


def make_rows(models: Sequence[Judged]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows in the order of their first model, and the floors: what Retrain's own seeds differ by,
    {} with fewer than two.

    A row: label, role, models (positions), mean, sd, ci, gap, inside_noise, and for each of
    FRONT_PAGES that it has gap_of_means and mean_paired_gap; see :mod:`evaluation.gaps`. A metric
    that a model lacks, or that is not finite, is left out of its row. ``floors`` are the gaps to
    expect of ``runs`` more Retrain runs, of a distance what two Retrain models have.
    """
    groups: dict[tuple, list[int]] = {}
    for position, model in enumerate(models):
        groups.setdefault((model.role, model.key), []).append(position)
    retrain = [model for model in models if model.role == "retrain"]
    runs = usual_runs(
        [len(positions) for (role, _), positions in groups.items() if role != "retrain"]
    )
    return [_row(positions, models, retrain) for positions in groups.values()], _floors(
        retrain, runs
    )


def _row(positions: list[int], models: Sequence[Judged], retrain: list[Judged]) -> dict[str, Any]:
    group = [models[position] for position in positions]
    values, theirs = _columns(group), _columns(retrain)
    both = [name for name in values if name in theirs]
    row = {
        "label": group[0].label,
        "role": group[0].role,
        "models": positions,
        "mean": {name: float(np.mean(column)) for name, column in values.items()},
        "sd": {
            name: float(np.std(column, ddof=1)) if len(group) > 1 else None
            for name, column in values.items()
        },
        "ci": {
            name: mean_interval(column, within=define(name).ends) for name, column in values.items()
        },
        "gap": {name: float(np.mean(values[name]) - np.mean(theirs[name])) for name in both},
    }
    for end in FRONT_PAGES:
        ours, wanted = _front_page(values, end), _front_page(theirs, end)
        if ours and wanted:
            row[f"gap_of_means{end}"] = gap_of_means(ours, wanted)
            row[f"mean_paired_gap{end}"] = paired_gap(
                *(_by_seed(side, end) for side in (group, retrain))
            )
    marks = {} if group[0].role == "retrain" else _marks(group, retrain)
    return row | {"inside_noise": {name: mark for name, mark in marks.items() if mark is not None}}


def _marks(group: list[Judged], retrain: list[Judged]) -> dict[str, bool | None]:
    """For each metric and average gap, whether Retrain's seeds and the attack's draws explain the
    difference.
    """
    values, theirs = _columns(group), _columns(retrain)
    noise = {name: _draw_noise(name, group, retrain) for name in values if name in theirs}
    marks = {name: inside(name, values[name], theirs[name], *noise[name]) for name in noise}
    for end, names in FRONT_PAGES.items():
        ours, wanted = _front_page(values, end), _front_page(theirs, end)
        if ours and wanted:
            marks[f"gap_of_means{end}"] = inside_average(
                ours, wanted, {name: noise[name] for name in names}
            )
    return marks


def _draw_noise(name: str, group: list[Judged], retrain: list[Judged]) -> tuple[float, int]:
    """What the attack's draws add to a metric's gap, and their number; (0, 1) for a metric that no
    draw is in.
    """
    sides = [[model.by_draw.get(name) for model in side] for side in (group, retrain)]
    if not retrain or any(draws is None for side in sides for draws in side):
        return 0.0, 1
    return draw_noise(*sides), len(sides[0][0])


def inside(
    name: str, method: np.ndarray, retrain: np.ndarray, noise: float = 0.0, draws: int = 1
) -> bool | None:
    """Whether Retrain's own seeds explain a metric's difference; None with fewer than three Retrain
    models.

    Args:
        method, retrain: the values (k,) and (m,) of the runs. A distance, or ToW, of a Retrain
            model is to the m - 1 others. KL is not symmetric, but between models as close as two
            Retrains it is to second order, and is judged as if it were.
        noise, draws: :func:`evaluation.membership.draw_noise` of a metric that is a mean over
            draws.
    """
    if is_agreement(name):  # a product of three shares: its logarithm is a sum, as a distance is
        with np.errstate(divide="ignore"):
            method, retrain = -np.log(method), -np.log(retrain)
        if not np.isfinite(retrain).all():
            return None
        if not np.isfinite(method).all():
            return False if len(retrain) >= FEWEST else None
    if is_agreement(name) or is_distance(name):
        return inside_distance(method, retrain)
    return inside_noise(method, retrain, noise, draws)


def _columns(group: Sequence[Judged]) -> dict[str, np.ndarray]:
    """The values (models,) of every metric that all models of a group have, finite ones only."""
    columns = {
        name: np.array([model.metrics.get(name, np.nan) for model in group])
        for name in (group[0].metrics if group else ())
    }
    return {name: column for name, column in columns.items() if np.isfinite(column).all()}


def _front_page(columns: Mapping[str, Any], end: str) -> dict[str, Any]:
    """The four that an average gap is taken over, in percent; {} where one is missing."""
    names = FRONT_PAGES[end]
    return (
        {name: columns[name] * _to_percent(name) for name in names}
        if all(name in columns for name in names)
        else {}
    )


def _to_percent(name: str) -> float:
    return 1.0 if define(name).unit == "percent" else 100.0


def _by_seed(group: Sequence[Judged], end: str) -> list[tuple[int, list[float]]]:
    return [(model.seed, list(_front_page(model.metrics, end).values())) for model in group]


def _floors(retrain: list[Judged], runs: int) -> dict[str, float]:
    """The expected gap of ``runs`` more Retrain runs, metric by metric and averaged; Retrain's own
    distances.
    """
    if len(retrain) < 2:
        return {}
    columns, sides = _columns(retrain), (runs, len(retrain))
    floors = {name: _floor(name, column, sides) for name, column in columns.items()}
    for end in FRONT_PAGES:
        if front := _front_page(columns, end):
            floors |= {
                f"gap_of_means{end}": gap_floor(front, *sides),
                f"mean_paired_gap{end}": gap_floor(front, 1, 1),
            }
    return floors | {"runs": runs}


def _floor(name: str, values: np.ndarray, sides: tuple[int, int]) -> float:
    if is_agreement(name):
        with np.errstate(divide="ignore"):
            return float(np.exp(np.log(values).mean()))
    return float(values.mean()) if is_distance(name) else gap_floor({name: values}, *sides)


def margins(models: Sequence[Judged], split: str) -> np.ndarray:
    """Margins (models, n) of forget or held_out."""
    outputs = [
        held_out(model.splits) if split == "held_out" else model.splits[split] for model in models
    ]
    return np.stack([margin(*each) for each in outputs])


def distribution_gaps(
    group: Sequence[Judged], retrain: Sequence[Judged], *, audit: bool = False
) -> dict[str, float]:
    """How differently margins of a row's models and of Retrain models are distributed, sample by
    sample; each with its floor.

    The Gaussian divergence needs two models a side and five in all, else nothing is found.
    ``audit`` adds KLOM and, from three models a side on, the challenge's epsilon and F. All of them
    are biased upwards with few models: read each beside NAME_floor.
    """
    sides = len(group), len(retrain)
    if min(sides) < 2 or sum(sides) < 5:
        return {}
    found = {"gaussian_kl_floor": gaussian_kl_floor(*sides)}
    for split in ("forget", "held_out"):
        ours, theirs = margins(group, split), margins(retrain, split)
        if not ours.shape[1]:
            continue
        found |= _spread(f"gaussian_kl_{split}", gaussian_kl(ours, theirs))
        if audit:
            found |= _spread(f"klom_{split}", klom(ours, theirs))
    if audit:
        found["klom_floor"] = simulated_floor(klom, *sides)
        if min(sides) >= FEWEST_FOR_EPSILON:
            found |= _challenge(group, retrain)
    return found


def _spread(name: str, values: np.ndarray) -> dict[str, float]:
    """Mean, median and 95th percentile over samples: the mean alone hides the few that leak."""
    return {
        name: float(values.mean()),
        f"{name}_median": float(np.median(values)),
        f"{name}_p95": float(np.quantile(values, 0.95)),
    }


def _challenge(group: Sequence[Judged], retrain: Sequence[Judged]) -> dict[str, float]:
    sides = len(group), len(retrain)
    most = max(sides)
    theirs = margins(retrain, "forget")
    epsilons = epsilon(margins(group, "forget"), theirs)
    quality = forgetting_quality(epsilons, most)
    utility = (
        {name: float(np.mean([model.metrics[name] for model in side])) for name in ("RA", "TA")}
        for side in (group, retrain)
    )
    scale = float(np.median(theirs.std(0, ddof=1))) or 1.0
    floor = simulated_floor(
        lambda ours, theirs: np.array([forgetting_quality(epsilon(ours, theirs), most)]),
        *sides,
        scale=scale,
    )
    return {
        **_spread("epsilon", epsilons),
        "epsilon_floor": simulated_floor(epsilon, *sides, scale=scale),
        "forgetting_quality": quality,
        "forgetting_quality_floor": floor,
        "challenge_score": final_score(quality, *utility),
    }


# ------------------------------------------------------------------------------------------- alarms


def row_alarms(row: Mapping[str, Any], models: Sequence[Judged]) -> list[str]:
    """What a reader must know before trusting a row, one line each; the original is judged by no
    rule.
    """
    group = [models[position] for position in row["models"]]
    if row["role"] == "retrain":
        return once_each([judge_alone(_standing(model), model.label) for model in group])
    if row["role"] != "models":
        return []
    # The original evaluated as if it had forgotten, "raw", is judged by no rule either.
    judged = [] if row["label"] == Raw.label else group
    original = next((model for model in models if model.role == "original"), None)
    retrain = [model for model in models if model.role == "retrain"]
    start = _standing(original) if original else None
    target = mean_standing([_standing(model) for model in retrain])
    found = [judge(_standing(model), start, target) for model in judged]
    if start and not at_chance(start):
        found = [
            lines
            + changed_nothing(model.splits, original.splits, weights_moved=model.weights_moved)
            for lines, model in zip(found, judged, strict=True)
        ]
    return once_each(found) + _forget_alarms(row, group, retrain)


def _standing(model: Judged) -> Standing:
    known = standing(*model.splits["retain"]) if "retain" in model.splits else Standing(math.nan)
    return known._replace(accuracy=model.metrics["RA"])


def _forget_alarms(
    row: Mapping[str, Any], group: Sequence[Judged], retrain: Sequence[Judged]
) -> list[str]:
    """Forget images that stand out among unseen ones: too well known still, or conspicuously
    wrong.
    """
    if "loss_auc" not in row["mean"]:
        return []
    area = row["mean"]["loss_auc"]
    low, high = np.mean([model.chance["loss_auc"] for model in group], axis=0)
    allowance = [0.0, 0.0]
    if retrain:
        # Retrain is the yardstick where there is one: its own areas may lie off 0.5 for the images
        # at hand.
        areas = np.array([model.metrics["loss_auc"] for model in retrain])
        band = noise_band(areas, len(group)) if len(areas) >= FEWEST else 0.0
        allowance = [min(areas.mean() - band - 0.5, 0), max(areas.mean() + band - 0.5, 0)]
    if area < low + allowance[0]:
        return [
            f"over-forgetting: losses on forget stand out as too high (AUC {area:.3f}, chance"
            f" {low:.3f} to {high:.3f})"
        ]
    if area > high + allowance[1]:
        return [
            f"under-forgetting: losses on forget stand out as too low (AUC {area:.3f}, chance"
            f" {low:.3f} to {high:.3f})"
        ]
    return []


def unlike_retrain(original: float, retrain: Sequence[float]) -> str:
    """In words, that :func:`evaluation.gaps.trained_unlike` holds."""
    fits = (
        f"the original has {original:.1f} % accuracy on the retain set, Retrain"
        f" {np.mean(retrain):.1f} %"
    )
    return (
        f"{fits}: they were trained unlike each other, and every gap holds that difference; train"
        " both by one recipe"
    )


def audit_alarms(models: Sequence[Judged]) -> list[str]:
    """What concerns all rows: no Retrain, or attacks that find nothing even where there is all to
    be found.
    """
    retrain = [model for model in models if model.role == "retrain"]
    found = []
    if not retrain:
        found.append("no Retrain model: how close a method came is not known; give --retrain")
    elif message := too_few(len(retrain)):
        found.append(message)
    theirs = [model.metrics["RA"] for model in retrain]
    found += [
        say_at_chance("the original", start)
        for start in (_standing(model) for model in models if model.role == "original")
        if at_chance(start)
    ]
    for model in models:
        if model.role == "original" and trained_unlike(model.metrics["RA"], theirs):
            found.append(unlike_retrain(model.metrics["RA"], theirs))
    judged = [model for model in models if model.role == "original"] or [
        model for model in models if model.role == "models"
    ]
    if judged and all(_at_chance(model) for model in judged):
        who = "the original" if judged[0].role == "original" else "any model"
        found.append(
            f"every attack is at chance on {who}: these attacks have no power here, and passing"
            " them proves nothing"
        )
    return found


def _at_chance(model: Judged) -> bool:
    areas = [name for name in model.chance if name.endswith("_auc")]
    return bool(areas) and all(
        model.chance[name][0] <= model.metrics[name] <= model.chance[name][1] for name in areas
    )
