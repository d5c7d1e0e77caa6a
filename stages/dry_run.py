"""What --dry_run prints last: the files of the run, its updates, and roughly how long they take."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from datasets.loaders import Data, Loader
from engine import Loop, Updater, count_updates, train_epoch
from recipe import Recipe
from runtime.clock import Stopwatch
from unlearn.base import Iterative, Method, cross_entropy_steps

TIMED = 3  # steps, after one that warms up


def say_files(files: Iterable[Path]) -> None:
    """The folder and the files that the run would write."""
    folders = {file.parent for file in files}
    names = ", ".join(file.name for file in files)
    print(f"--dry_run: nothing is written; the run writes to {min(folders)}: {names}")


def say_work(model: nn.Module, method: Method, data: Data, recipe: Recipe) -> None:
    """How many updates the run makes, and roughly how long they take on this machine.

    The model changes as the method prepares it, and so do its BatchNorm statistics. A step is timed
    as plain training of a batch: what a method adds to it, such as a teacher's forward pass, is not
    counted.
    """
    method.prepare(model, data, None)  # may refuse its flags, and knows the batches
    if not isinstance(method, Iterative):
        print(f"no updates: the weights are edited once; sample gradients: {method.cost}")
        return
    counts = count_updates(method, data, recipe.accumulate)
    updates = method.unlearn_steps or sum(map(sum, counts))
    loader = max(method.loaders(data), key=len)
    seconds = seconds_of_step(model, loader, recipe.precision) * recipe.accumulate
    print(
        f"{updates} updates in {len(counts)} epochs: roughly {in_words(seconds * updates)}, at"
        f" {seconds:.3g} s for an update of plain training; evaluation comes on top"
    )


def seconds_of_step(model: nn.Module, loader: Loader, precision: str) -> float:
    """Mean time of a training step on a batch of ``loader``, at a learning rate of 0."""
    descent = torch.optim.SGD(model.parameters(), lr=0.0)
    loop = Loop(precision, one_image=loader.batch_size == 1)

    def steps(limit: int) -> float:
        with Stopwatch(loader.images.device) as clock:
            train_epoch(
                cross_entropy_steps(model, loader), Updater(model, descent), loop, limit=limit
            )
        return clock.seconds

    steps(1)
    few = min(TIMED, len(loader))
    return steps(few) / few


def in_words(seconds: float) -> str:
    """A duration in its natural unit."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.2g} s"
