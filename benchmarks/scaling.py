"""Seconds of evaluate.py's suites once logits exist, by number of images: results/scaling.md.

    python benchmarks/scaling.py

Outputs are made up: margins like those of a trained network (retain far from the boundary, test
nearer), ten classes, in CIFAR-10's proportions: per 60,000 images 40,500 retain, 4,500 forget,
5,000 validation, 10,000 test. Three Retrain models are the references.
"""

import statistics
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.hardware import describe, hardware_line
from evaluation.accuracy import accuracies
from evaluation.gaps import IN_AUDIT
from evaluation.intervals import Metric
from evaluation.suites import basic, curves, standard
from runtime.files import save_text

SHARES = {"retain": 40_500, "forget": 4_500, "val": 5_000, "test": 10_000}
REACH = {"retain": 9.0, "forget": 6.0, "val": 5.0, "test": 5.0}


def outputs(images: int, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Splits of a model that is surer of what it was trained on."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, share in SHARES.items():
        count = images * share // 60_000
        labels = np.arange(count) % 10
        logits = rng.normal(0, 1, (count, 10))
        logits[np.arange(count), labels] += rng.gamma(3, REACH[name] / 3, count)
        found[name] = logits.astype(np.float32), labels
    return found


def seconds(images: int) -> tuple[float, float]:
    """Of basic alone, and of all that standard adds on the arrays."""
    splits, *references = (outputs(images, seed) for seed in range(4))
    theirs = []  # what standard reads of them
    for each in references:
        percent = {**accuracies(each), IN_AUDIT["MIA"]: 10.0}
        theirs.append({name: Metric(value) for name, value in percent.items()})
    start = time.perf_counter()
    mine = basic(splits)
    middle = time.perf_counter()
    standard(splits, mine, references, theirs)
    curves(splits, references)
    return middle - start, time.perf_counter() - middle


def main() -> None:
    lines = ["| images | basic | standard adds | per 1,000 images |", "|---:|---:|---:|---:|"]
    for images in (7_500, 15_000, 30_000, 60_000, 120_000):
        basics, more = zip(*(seconds(images) for _ in range(3)), strict=True)
        both = statistics.median(basics), statistics.median(more)
        lines.append(
            f"| {images:,} | {both[0]:.2f} s | {both[1]:.2f} s |"
            f" {1000 * sum(both) / images * 1000:.0f} ms |"
        )
        print(lines[-1], flush=True)
    taken = describe()
    text = (
        "# Evaluation of one model once its logits exist\n\nMade by `python benchmarks/scaling.py`,"
        " medians of 3. "
    )
    machine = hardware_line(taken).rstrip(":")
    text += (
        f"{machine}, beside other work; {taken['time'][:10]}, {taken['git'][:9]}.\n\n"
        + "\n".join(lines)
        + "\n"
    )
    save_text(text, ROOT / "benchmarks" / "results" / "scaling.md")


if __name__ == "__main__":
    main()
