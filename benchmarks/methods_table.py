"""Which methods come nearer to Retrain than the long budget, and which lie inside Retrain's noise:
results/methods_2026.md, from the runs of benchmarks/methods.py.

    python benchmarks/methods_table.py                  # of runs/methods_2026
    python benchmarks/methods_table.py --folder FOLDER

A gap is that of one run to the Retrain of its seed: random images have a Retrain of each of five
sets, a class has five Retrains of one set. Differences are paired by seed.
"""

import argparse
import dataclasses
import math
import statistics
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import sweep
from benchmarks.hardware import describe, hardware_line
from benchmarks.instrument import Gaps, cell, difference, gap, read, spread, table
from evaluation.gaps import AVERAGED, AVERAGED_ENTROPY, average_band
from runtime.files import load_json, save_text
from sweeping.expansion import Run, expand
from sweeping.plan import Plan, make_plan

RESULTS = ROOT / "benchmarks" / "results"
BASELINE, NOTHING = "FT, long budget", "Original"
TITLES = {"random": "10 % random images, five forget sets", "class": "A whole class, five seeds"}
HEAD = ("method", "UA", "RA", "TA", "MIA", "Avg. Gap", "Gap (entropy)", f"beside {BASELINE}")
HEAD += ("beside doing nothing", "searched values")
PAGE = """# The methods after an equal search

`python benchmarks/methods.py`, then `python benchmarks/methods_table.py`; {taken}.
fashion_mini at 12x12, ResNet-20s, 12 epochs of training; four trials of each method by
`val_proxy` on another forget set than the tables'. UA, RA, TA, MIA in percent, gaps in points:
means over five runs. Avg. Gap is the mean over seeds of a run's distance to the Retrain of its
seed, with its SD. Differences are paired by seed, with Student's 95 % interval (four degrees of
freedom); **bold** excludes 0. No correction for the number of rows: of forty true zeros two are
bold. `~`: the mean over the four of |mean signed gap| is inside what at least 95 % of five Retrains
in the method's place have ({bounds}).

{tables}"""


@dataclasses.dataclass
class Entry:
    """One row: a name, the searched values, and each seed's metrics and gaps to Retrain."""

    name: str
    values: str
    metrics: dict[int, dict]
    gaps: Gaps
    entropy: Gaps


class Results:
    """The results of one request's plan."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.runs = [run for run in expand(plan, sweep.check) if run.script != "report"]
        self.one_class = plan.base["forget"].startswith("class")

    def file(self, run: Run) -> Path:
        return self.plan.folder / run.name / run.result

    def of(self, run: Run) -> dict:
        return read(self.file(run))

    def commits(self) -> set[str]:
        """Those that the runs record."""
        made = [self.of(run) for run in self.runs if run.stage == "retrain"]
        return {result["provenance"]["git"][:9] for result in made}

    def retrains(self) -> dict[int, dict]:
        """Of each seed the metrics of the Retrain that its rows are beside."""
        return {run.seed: self.of(run)["metrics"] for run in self.runs if run.stage == "retrain"}

    def bound(self, metrics: Sequence[str], count: int) -> float:
        """What the mean over metrics of |mean signed gap| of ``count`` true Retrains, each beside
        its own, stays below with probability 95 % or more (evaluation/gaps.py).

        Each metric's band is t s sqrt(2 / count), s the standard deviation of the Retrains of one
        forget set; the mean of the bands is exact where all metrics move as one, the worst case.
        """
        retrains = self.retrains()
        if self.one_class:
            runs = list(retrains.values())
        else:
            alone = [self.of(run)["metrics"] for run in self.runs if run.stage == "one_set"]
            runs = [retrains[2], *alone]
        values = {name: [run[name] for run in runs] for name in metrics}
        scale = math.sqrt((2 / count) / (1 / count + 1 / len(runs)))
        return average_band(values, count) * scale

    def entries(self) -> Iterator[Entry]:
        """Every row that is compared, in the order of the plan."""
        retrains, groups = self.retrains(), {}
        for run in self.runs:
            if run.script in ("main_forget", "main_random") and run.stage != "one_set":
                groups.setdefault((run.stage, str(run.settings["unlearn"])), []).append(run)
        for (stage, method), runs in groups.items():
            if method == "retrain":
                continue
            found = {run.seed: self.of(run) for run in runs if self.file(run).is_file()}
            if not found:
                print(f"{stage}/{method} has no result")
                continue
            of = lambda names, found=found: {  # noqa: E731
                seed: gap([result["metrics"]], [retrains[seed]], names)
                for seed, result in found.items()
            }
            metrics = {seed: result["metrics"] for seed, result in found.items()}
            name = name_of(stage, next(iter(found.values()))["label"])
            name += f" ({len(found)} of {len(runs)} runs)" * (len(found) < len(runs))
            yield Entry(name, values_of(runs[0]), metrics, of(AVERAGED), of(AVERAGED_ENTROPY))


def name_of(stage: str, label: str) -> str:
    if stage.startswith("long_"):
        return f"{label}, long budget"
    return f"{label} + DualOptim" if stage.startswith("dualoptim") else label


def values_of(run: Run) -> str:
    """The flags that are the method's own, as they are typed."""
    skipped = {"unlearn", "save_dir", "model_path", "mask_path", "seed", "forget", "forget_seed"}
    skipped |= {"dataset", "arch", "input_size", "batch_size", "preset"}
    kept = {name: value for name, value in run.settings.items() if name not in skipped}
    words = [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in kept.items()
    ]
    return ", ".join(words)


def rows(results: Results) -> Iterator[Sequence[str]]:
    """Rows of the table, nearest to Retrain first; Retrain itself above them."""
    entries = sorted(results.entries(), key=lambda entry: statistics.fmean(entry.gaps.values()))
    by_name = {entry.name: entry for entry in entries}
    if missing := {BASELINE, NOTHING} - by_name.keys():
        sys.exit(
            f"{results.plan.folder}: no result of {missing.pop()}: benchmarks/methods.py goes on"
        )
    yield ("Retrain", *means_of(results.retrains().values()), "", "", "", "", "")
    for entry in entries:
        beside = [
            "" if other is entry else cell(difference(entry.gaps, other.gaps))
            for other in (by_name[BASELINE], by_name[NOTHING])
        ]
        gaps = (
            spread(entry.gaps) + mark(results, entry, AVERAGED),
            f"{statistics.fmean(entry.entropy.values()):.2f}"
            + mark(results, entry, AVERAGED_ENTROPY),
        )
        yield (entry.name, *means_of(entry.metrics.values()), *gaps, *beside, entry.values)


def mark(results: Results, entry: Entry, metrics: Sequence[str]) -> str:
    """``~`` where Retrains in the row's place would be as far from those that it is beside."""
    retrains = results.retrains()
    signed = [
        statistics.fmean(run[name] - retrains[seed][name] for seed, run in entry.metrics.items())
        for name in metrics
    ]
    near = statistics.fmean(map(abs, signed)) <= results.bound(metrics, len(entry.metrics))
    return "~" * near


def means_of(metrics: Collection[dict]) -> list[str]:
    return [f"{statistics.fmean(each[name] for each in metrics):.2f}" for name in AVERAGED]


def page(results: dict[str, Results]) -> str:
    here = describe()
    bounds = [
        f"{kind}: {each.bound(AVERAGED, 5):.2f} and, under the entropy attack,"
        f" {each.bound(AVERAGED_ENTROPY, 5):.2f}"
        for kind, each in results.items()
    ]
    tables = [f"## {TITLES[kind]}\n\n{table(HEAD, rows(each))}\n" for kind, each in results.items()]
    commits = {commit for each in results.values() for commit in each.commits()}
    taken = f"{here['time'][:10]}, commit {', '.join(sorted(commits))}, {hardware_line(here)[:-1]}"
    return PAGE.format(taken=taken, bounds="; ".join(bounds), tables="\n".join(tables))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "runs" / "methods_2026"
    parser.add_argument("--folder", type=Path, default=default, help="default: %(default)s")
    folder = parser.parse_args(argv).folder
    results = {
        kind: Results(make_plan(load_json(folder / f"{kind}.json", "plan"))) for kind in TITLES
    }
    text = page(results)
    save_text(text, RESULTS / "methods_2026.md")
    print(text)


if __name__ == "__main__":
    main()
