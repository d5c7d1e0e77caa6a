"""How often a true Retrain is marked as inside Retrain's noise, by simulation: results/null.md.

    python benchmarks/null.py [--trials 1000] [--seed 0]

Under the null the audited runs are Retrains themselves: k of them against m others, drawn alike.
The marks are those of the reports (evaluation/gaps.py, and evaluation/rows.py for distances and
ToW); the numbers are made up, no model is trained.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from evaluation.distances import DISTANCES, tow
from evaluation.gaps import AVERAGED, inside_average, inside_noise
from evaluation.rows import inside
from runtime.files import save_text

RETRAINS, RUNS = (3, 5, 10), (1, 3, 5)
CELLS = [(retrains, runs) for retrains in RETRAINS for runs in RUNS]
MODELS = max(RETRAINS) + max(
    RUNS
)  # of one trial, which serves all cells: the first k are the method's, the last m Retrain's
IMAGES, CLASSES = 40, 5
SPREADS = {"one metric dominating": (1.0, 0.05, 0.05, 0.05), "four equal": (1.0, 1.0, 1.0, 1.0)}
CORRELATIONS = (0.0, 0.9)


# -------------------------------------------------------------------------------------- percentages


def gaussian(
    rng: np.random.Generator, count: int, spread: Sequence[float], correlation: float
) -> np.ndarray:
    """UA, RA, TA and MIA of ``count`` Retrains (count, 4): equally correlated, of the standard
    deviations ``spread``.
    """
    common, own = rng.standard_normal((count, 1)), rng.standard_normal((count, 4))
    return 50 + (np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own) * spread


def at_ceiling(rng: np.random.Generator, count: int) -> np.ndarray:
    """The same, uncorrelated, with RA at 100: of 40,500 images a Poisson number of mean 1 is wrong,
    so that values tie.
    """
    values = gaussian(rng, count, (0.42, 0.0, 0.15, 0.68), 0.0)
    values[:, 1] = 100 * (1 - rng.poisson(1, count) / 40_500)
    return values


def percentages() -> dict[str, Callable[[np.random.Generator, int], np.ndarray]]:
    """The settings by name."""
    found = {
        f"{name}, correlation {correlation:g}": lambda rng, count, s=spread, c=correlation: (
            gaussian(rng, count, s, c)
        )
        for name, spread in SPREADS.items()
        for correlation in CORRELATIONS
    }
    return found | {"RA at its ceiling (ties)": at_ceiling}


def percentage_marks(ours: np.ndarray, theirs: np.ndarray) -> tuple[list[bool | None], bool | None]:
    """The marks of the metrics, those that tie left out, and that of Avg. Gap, for values (k, 4)
    and (m, 4).
    """
    sides = [dict(zip(AVERAGED, side.T, strict=True)) for side in (ours, theirs)]
    varied = [name for name in AVERAGED if len(set(sides[1][name])) == len(theirs)]
    return [inside_noise(sides[0][name], sides[1][name]) for name in varied], inside_average(*sides)


# ---------------------------------------------------------------------------------------- distances


def points(dimensions: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Models as Gaussian points, and their distances (count, count) with noise of 5 % of its mean
    on every pair.
    """

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        places = rng.standard_normal((count, dimensions))
        apart = np.linalg.norm(places[:, None] - places, axis=2)
        noise = np.triu(rng.standard_normal((count, count)), 1) * 0.05 * np.sqrt(2 * dimensions)
        return apart + noise + noise.T

    return draw


def of_outputs(name: str) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Models that share the mean logits of 40 images and scatter around them by as much; one of
    evaluation.distances.
    """

    def draw(rng: np.random.Generator, count: int) -> np.ndarray:
        logits = rng.normal(0, 3, (IMAGES, CLASSES)) + rng.normal(0, 1, (count, IMAGES, CLASSES))
        return np.array([[DISTANCES[name](one, other) for other in logits] for one in logits])

    return draw


def tugs_of_war(rng: np.random.Generator, count: int) -> np.ndarray:
    """ToW (count, count) of the accuracies that :func:`gaussian` draws, with the published standard
    deviations.
    """
    models = [
        dict(zip(AVERAGED, row, strict=True))
        for row in gaussian(rng, count, (0.42, 0.05, 0.15, 0.68), 0.0)
    ]
    return np.array([[tow(one, other) for other in models] for one in models])


def pairwise() -> dict[str, tuple[str, Callable[[np.random.Generator, int], np.ndarray]]]:
    """The settings by name: what the audit calls such a metric, and the draw."""
    found = {
        f"distances of points in {n} dimensions": ("js_forget", points(n)) for n in (2, 10, 100)
    }
    words = {"js": "JS of outputs", "kl_retrain_unlearned": "KL of outputs (not symmetric)"}
    found |= {text: (f"{name}_forget", of_outputs(name)) for name, text in words.items()}
    return found | {"ToW": ("tow", tugs_of_war)}


def pairwise_mark(name: str, apart: np.ndarray, retrains: int, runs: int) -> bool | None:
    """The mark of the first models of a matrix ``apart`` [unlearned, Retrain] against the last
    ones.
    """
    mean = (
        (lambda each: np.exp(np.log(each).mean(1)))
        if name == "tow"
        else (lambda each: each.mean(1))
    )
    theirs = apart[-retrains:, -retrains:]
    others = theirs[~np.eye(retrains, dtype=bool)].reshape(retrains, -1)
    return inside(name, mean(apart[:runs, -retrains:]), mean(others))


# -------------------------------------------------------------------------------------------- table


Shares = dict[
    tuple[int, int], tuple[float, ...]
]  # by (m, k): of metrics and, where there is one, of Avg. Gaps that are inside


def coverage(trials: int, seed: int) -> Iterator[tuple[str, Shares]]:
    """Each setting and its shares."""
    for name, draw in percentages().items():
        rng = np.random.default_rng(seed)
        drawn = [draw(rng, MODELS) for _ in range(trials)]
        found = {}
        for retrains, runs in CELLS:
            marks = [percentage_marks(each[:runs], each[-retrains:]) for each in drawn]
            found[retrains, runs] = (
                _share([mark for metrics, _ in marks for mark in metrics]),
                _share([mark for _, mark in marks]),
            )
        yield name, found
    for name, (metric, draw) in pairwise().items():
        rng = np.random.default_rng(seed)
        drawn = [draw(rng, MODELS) for _ in range(trials)]
        yield (
            name,
            {
                cell: (_share([pairwise_mark(metric, each, *cell) for each in drawn]),)
                for cell in CELLS
            },
        )


def _share(marks: Sequence[bool | None]) -> float:
    return sum(mark is True for mark in marks) / len(marks)


def table(found: Sequence[tuple[str, Shares]]) -> str:
    """Markdown: a row for each setting, a column for each (m, k), the metrics' share and Avg. Gap's
    in a cell.
    """
    head = [
        f"| setting | {' | '.join(f'm {m}, k {k}' for m, k in CELLS)} |",
        "|---" + "|---:" * len(CELLS) + "|",
    ]
    return "\n".join(
        head
        + [
            f"| {name} | {' | '.join(_cell(shares[cell]) for cell in CELLS)} |"
            for name, shares in found
        ]
    )


def _cell(shares: Sequence[float]) -> str:
    return " / ".join(f"{share:.3f}".removeprefix("0") for share in shares)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trials", type=int, default=1000, help="of each cell; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "benchmarks" / "results" / "null.md",
        help="default: %(default)s",
    )
    args = parser.parse_args(argv)
    found = []
    for name, shares in coverage(args.trials, args.seed):
        found.append((name, shares))
        print(f"{name}: {', '.join(map(_cell, shares.values()))}", flush=True)
    error = np.sqrt(0.95 * 0.05 / args.trials)
    text = (
        "# How often a true Retrain is marked\n\nMade by `python benchmarks/null.py --trials"
        f" {args.trials} --seed {args.seed}`: {args.trials} trials a cell, standard error"
        f" {error:.3f} for a share of .95 of single numbers.\n\nm Retrains are the reference, k"
        " further ones the method. A cell holds the share of metrics that get the mark `~` and,"
        " after the stroke, the share of Avg. Gaps that do. For one metric the mark is to hold for"
        " .95, for Avg. Gap for .95 or more, whatever the correlation. A metric is left out where"
        " two of its Retrains tie; Avg. Gap's mark has it. For distances, noise of single pairs"
        " makes the band wider than need be; where few directions make up the distance, as one"
        " accuracy does most of ToW, Retrain's own mean distances are skewed and several runs"
        " against few Retrains are marked somewhat less often.\n\n"
    )
    save_text(text + table(found) + "\n", args.out)


if __name__ == "__main__":
    main()
