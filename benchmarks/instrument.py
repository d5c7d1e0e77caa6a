"""Which choices of protocol move SalUn's gap, whether saliency matters, what beats doing nothing:
results/instrument.md and instrument.svg.

    python sweep.py recipes/instrument.toml   # the runs; goes on where it stopped
    python benchmarks/instrument.py           # the leaking runs, the tables, the plot

A gap is that of means over the runs on one forget set, to three Retrains of that set. Differences
are paired by forget set: the mean over five sets, with Student's 95 % interval.
"""

import dataclasses
import functools
import math
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch

import main_random
import sweep
from benchmarks.hardware import describe, hardware_line
from evaluation.gaps import AVERAGED, AVERAGED_ENTROPY, gap_floor, gap_of_means
from evaluation.intervals import mean_interval
from evaluation.membership import draw_rule, means, svc_draws
from masks.gate import SaliencyGate
from reporting.drawing import BLUE, GREY, INK, ORANGE, new_figure, style
from runtime.files import load_json, save_json, save_text
from stages.outputs import Subject
from stages.results import measured
from stages.saved import read_saved
from sweeping.expansion import Run, expand
from sweeping.plan import read_plan

PLAN = ROOT / "recipes" / "instrument.toml"
RESULTS = ROOT / "benchmarks" / "results"
# SalUn's Avg. Gap on CIFAR-10, 10 % random images, ResNet-18, as seven papers and a rerun print it:
# under the share called non-member, and under the entropy attack's share of members.
PUBLISHED = {
    "MIA": {
        "CoUn": 0.59,
        "SalUn": 1.15,
        "MUNBa": 1.24,
        "AMUN": 1.56,
        "a rerun of ten seeds": 1.60,
        "ReGUn": 2.48,
    },
    "entropy": {"DualOptim": 3.47, "AGR": 5.38},
}
BASE = "as in the demo"
# Rows of the first table, by what differs from the base in the settings of a run of the plan.
CHOICES = {
    BASE: {"unlearn_epochs": 5, "exclude_true": True, "tail": "spread"},
    "2 epochs instead of 5": {"unlearn_epochs": 2},
    "10 epochs instead of 5": {"unlearn_epochs": 10},
    "the true label may be drawn": {"exclude_true": False},
    "a last batch of what is left over": {"tail": "keep"},
}
LEAK = "frozen weights decay and keep their momentum"
MISMATCH = "Retrains of another forget set"
ENTROPY = "the entropy attack as MIA"
SCORES = ("saliency", "random", "magnitude", "retain_gradient")
METHODS = {
    "Original, which does nothing": ("raw", {}),
    "GA": ("GA", {}),
    "IU": ("wfisher", {}),
    "FT, 3 epochs": ("FT", {"unlearn_epochs": 3}),
    "l1-sparse, 3 epochs": ("FT_prune", {}),
    "FT, long budget: 50 epochs": ("FT", {"unlearn_epochs": 50}),
}
PAGE = """# What moves a gap

`python sweep.py recipes/instrument.toml`, then `python benchmarks/instrument.py`; {taken}.
fashion_mini at 16x16, ResNet-20s, 4,500 training images, 450 of them forgotten; five forget sets,
two runs of each row on each, gaps to three Retrains of the set. Avg. Gap: mean and SD over the
forget sets, in points. Differences are paired by forget set, with Student's 95 % interval (four
degrees of freedom); **bold** excludes 0. No correction for the number of rows: of twenty true
zeros one is bold. Two more Retrain runs would be {floor} from the three, by their mean gap.

## One choice of protocol at a time

![differences and published gaps](instrument.svg)

Seven papers and a rerun print {lowest} to {highest} for SalUn under the one attack, {entropy}
under the other (CIFAR-10, 10 %, ResNet-18; their protocols differ in more than is varied here).

{first}

## Does saliency matter

{second}

## What beats doing nothing

{third}
"""
Gaps = dict[int, float]  # by forget set


@dataclasses.dataclass
class Found:
    """The results of the plan's runs, and of those that this script makes besides."""

    folder: Path
    runs: list[Run]

    @classmethod
    def of_plan(cls) -> "Found":
        plan = read_plan(PLAN)
        runs = expand(plan, sweep.check)
        missing = [run.name for run in runs if not (plan.folder / run.name / run.result).is_file()]
        if missing:
            sys.exit(
                f"{len(missing)} runs are not done, {missing[0]} first: python sweep.py {PLAN}"
            )
        return cls(plan.folder, runs)

    def of(self, stage: str, **settings: object) -> list[Run]:
        """The runs of a stage with these settings; a method's own field is read from its
        result.
        """
        return [
            run
            for run in self.runs
            if run.stage == stage
            and all(self.setting(run, name) == value for name, value in settings.items())
        ]

    def setting(self, run: Run, name: str) -> object:
        result = self.result(run)
        own = {**result["hyperparameters"], **result["recipe"]}
        return own[name] if name in own else run.settings.get(name)

    def result(self, run: Run) -> dict:
        return read(self.folder / run.name / run.result)

    def sets(self) -> list[int]:
        return sorted({run.settings["forget_seed"] for run in self.runs if run.stage == "retrain"})

    def gaps(self, ours: Callable[[int], list[dict]], metrics: Sequence[str] = AVERAGED) -> Gaps:
        """The gap on each forget set of the metrics that ``ours`` has of the runs on it."""
        return {each: gap(ours(each), self.retrains(each), metrics) for each in self.sets()}

    def metrics(self, runs: Iterable[Run]) -> list[dict]:
        return [self.result(run)["metrics"] for run in runs]

    def retrains(self, forget_set: int) -> list[dict]:
        return self.metrics(self.of("retrain", forget_seed=forget_set))


@functools.cache
def read(file: Path) -> dict:
    return load_json(file, "result")


def gap(ours: list[dict], retrains: list[dict], metrics: Sequence[str]) -> float:
    sides = [{name: [run[name] for run in runs] for name in metrics} for runs in (ours, retrains)]
    return gap_of_means(*sides)


# ------------------------------------------------------------------------------- other runs


@contextmanager
def leaking() -> Iterator[None]:
    """A mask that only zeroes gradients, as in the reference: weight decay moves frozen weights."""
    made = SaliencyGate.__init__

    def make(gate: SaliencyGate, *args: object) -> None:
        made(gate, *args)
        for parameter, frozen in gate.frozen_grads:
            parameter.register_hook(lambda grad, frozen=frozen: grad.masked_fill(frozen, 0))

    with (
        mock.patch.object(SaliencyGate, "__init__", make),
        mock.patch.object(SaliencyGate, "restore"),
    ):
        yield


def leaked(found: Found, base: list[Run]) -> list[dict]:
    """The metrics of each base run made again with a mask that leaks."""
    metrics = []
    for run in base:
        folder = found.folder / "leak" / Path(run.name).name
        if not (folder / run.result).is_file():
            words = [word for word in run.words if not word.startswith("--save_dir")]
            with leaking():
                if code := main_random.main([*words, f"--save_dir={folder}", "--overwrite"]):
                    sys.exit(code)
        metrics.append(load_json(folder / run.result, "result")["metrics"])
    return metrics


def mismatched(found: Found, forget_set: int) -> list[dict]:
    """Metrics on a forget set of the Retrains of the next one, which saw most of its images."""
    sets = found.sets()
    other = sets[(sets.index(forget_set) + 1) % len(sets)]
    file = found.folder / "mismatch" / f"{forget_set}.json"
    if file.is_file():
        return load_json(file, "result")["metrics"]
    path = lambda run: found.folder / run.name / run.checkpoint  # noqa: E731
    own = read_saved(path(found.of("retrain", forget_seed=forget_set)[0]), "retrain")
    subject = Subject(own, data=None, device=torch.device("cpu"), batch_size=256)
    of = (subject.split.split_seed, subject.data_sha256, subject.chosen.sha256())
    rule = draw_rule("balanced", *of)
    metrics = []
    for run in found.of("retrain", forget_seed=other):
        outputs = subject.outputs(read_saved(path(run), "retrain"))
        parts = (outputs["retain"], outputs["test"], {"forget": outputs["forget"]})
        metrics.append(measured(outputs, means(svc_draws(*parts, rule))["forget"]))
    file.parent.mkdir(exist_ok=True)
    save_json({"metrics": metrics}, file)
    return metrics


# ------------------------------------------------------------------------------------- tables


def choices(found: Found) -> dict[str, Gaps]:
    """The gaps of SalUn under each choice of protocol."""

    def of_plan(name: str) -> Callable[[int], list[dict]]:
        settings = CHOICES[BASE] | CHOICES[name]
        return lambda each: found.metrics(found.of("salun", forget_seed=each, **settings))

    rows = {name: found.gaps(of_plan(name)) for name in CHOICES}
    base = {each: found.of("salun", forget_seed=each, **CHOICES[BASE]) for each in found.sets()}
    rows[LEAK] = found.gaps(lambda each: leaked(found, base[each]))
    rows[MISMATCH] = {
        each: gap(found.metrics(base[each]), mismatched(found, each), AVERAGED)
        for each in found.sets()
    }
    rows[ENTROPY] = found.gaps(of_plan(BASE), AVERAGED_ENTROPY)
    return rows


def of_masks(found: Found) -> dict[tuple[str, float], Gaps]:
    """The gaps by what the mask keeps and its density."""

    def under(score: str, density: float) -> Callable[[int], list[dict]]:
        base = score == "saliency" and density == 0.5
        settings = CHOICES[BASE] if base else {}
        path = f"{{{score}}}/with_{density}.pt"

        def runs(each: int) -> list[dict]:
            stage = "salun" if base else "masked"
            return found.metrics(found.of(stage, forget_seed=each, mask_path=path, **settings))

        return runs

    rows = {
        (score, density): found.gaps(under(score, density))
        for density in (0.5, 0.1)
        for score in SCORES
    }
    whole = lambda each: found.metrics(  # noqa: E731
        found.of("masked", forget_seed=each, mask_path=None)
    )
    return rows | {("no mask: RL", 1.0): found.gaps(whole)}


def of_methods(found: Found) -> dict[str, Gaps]:
    def of_one(name: str) -> Callable[[int], list[dict]]:
        key, settings = METHODS[name]
        return lambda each: found.metrics(
            found.of("methods", forget_seed=each, unlearn=key, **settings)
        )

    return {name: found.gaps(of_one(name)) for name in METHODS}


def difference(ours: Gaps, base: Gaps) -> tuple[float, float, float]:
    """Mean over forget sets of ours - base, and its 95 % interval; endless for one set."""
    values = [ours[each] - base[each] for each in base if each in ours]
    mean = statistics.fmean(values)
    return mean, *(mean_interval(values) or (-math.inf, math.inf))


def cell(found: tuple[float, float, float]) -> str:
    mean, low, high = found
    clear = "**" * (low > 0 or high < 0)
    return f"{clear}{mean:+.2f}{clear} ({low:+.2f} to {high:+.2f})"


def spread(gaps: Gaps) -> str:
    mean = f"{statistics.fmean(gaps.values()):.2f}"
    return f"{mean}±{statistics.stdev(gaps.values()):.2f}" if len(gaps) > 1 else mean


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(protocol: dict, masks: dict, methods: dict, floor: str) -> str:
    here = describe()
    salun = protocol[BASE]
    first = table(
        ("SalUn", "Avg. Gap", "beside the demo's"),
        [
            (name, spread(gaps), "" if name == BASE else cell(difference(gaps, salun)))
            for name, gaps in protocol.items()
        ],
    )
    second = table(
        ("mask keeps", "density", "Avg. Gap", "beside a random mask"),
        [
            (
                score,
                f"{density:g}",
                spread(gaps),
                ""
                if score == "random" or density == 1
                else cell(difference(gaps, masks["random", density])),
            )
            for (score, density), gaps in masks.items()
        ],
    )
    nothing, long = methods["Original, which does nothing"], methods["FT, long budget: 50 epochs"]
    third = table(
        ("method", "Avg. Gap", "beside doing nothing", "beside FT's long budget"),
        [
            (
                name,
                spread(gaps),
                "" if gaps is nothing else cell(difference(gaps, nothing)),
                "" if gaps is long else cell(difference(gaps, long)),
            )
            for name, gaps in {**methods, "SalUn, 5 epochs": salun}.items()
        ],
    )
    taken = f"{here['time'][:10]}, commit {here['git'][:9]}, {hardware_line(here)[:-1]}"
    return PAGE.format(
        taken=taken,
        floor=floor,
        lowest=min(PUBLISHED["MIA"].values()),
        highest=max(PUBLISHED["MIA"].values()),
        entropy=" and ".join(str(value) for value in PUBLISHED["entropy"].values()),
        first=first,
        second=second,
        third=third,
    )


def draw(protocol: dict[str, Gaps]) -> object:
    """Differences with intervals above, the published gaps below."""
    figure = new_figure(7.2, 4.2)
    above, below = figure.subplots(2, 1, gridspec_kw={"height_ratios": [4, 1.3]})
    names = [name for name in protocol if name != BASE]
    for row, name in enumerate(reversed(names)):
        mean, low, high = difference(protocol[name], protocol[BASE])
        clear = low > 0 or high < 0
        above.plot([low, high], [row, row], color=BLUE if clear else GREY)
        above.plot([mean], [row], "o", color=BLUE if clear else GREY, markersize=5)
    above.axvline(0, color=INK, linewidth=0.7)
    above.set_yticks(range(len(names)), list(reversed(names)))
    above.set_xlabel("points of Avg. Gap beside the demo's protocol (95 %)")
    for colour, (kind, papers) in zip((BLUE, ORANGE), PUBLISHED.items(), strict=True):
        words = "called non-member" if kind == "MIA" else "entropy attack"
        below.plot(list(papers.values()), [0] * len(papers), "o", color=colour, label=words)
    below.set_yticks([])
    below.set_xlim(left=0)
    below.set_xlabel("SalUn's Avg. Gap on CIFAR-10 in seven papers and a rerun")
    below.legend(loc="upper left", ncols=2)
    return figure


def main() -> None:
    os.chdir(ROOT)  # the folder of the plan is relative
    found = Found.of_plan()
    protocol, masks, methods = choices(found), of_masks(found), of_methods(found)
    floors = []
    for each in found.sets():
        runs = found.retrains(each)
        columns = {name: [run[name] for run in runs] for name in AVERAGED}
        floors.append(gap_floor(columns, 2, len(runs)))
    text = page(protocol, masks, methods, f"{statistics.fmean(floors):.2f}")
    save_text(text, RESULTS / "instrument.md")
    with style():
        draw(protocol).savefig(RESULTS / "instrument.svg", metadata={"Date": None})
    print(text)


if __name__ == "__main__":
    main()
