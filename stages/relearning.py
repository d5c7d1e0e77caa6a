"""How fast a model learns again what it forgot."""

import itertools
from collections.abc import Iterator

from torch import Tensor, nn

from datasets.loaders import Loader
from engine import Loop, Updater, predict, train_epoch
from recipe import make_optimizer
from unlearn.base import cross_entropy_steps


def relearn_curve(
    model: nn.Module, loader: Loader, *, steps: int, lr: float
) -> tuple[list[int], list[float]]:
    """Accuracy on a loader's images, in percent, after 0, 1, 2, 4, ... up to ``steps`` updates on
    them; the model is changed.

    SGD with momentum 0.9, fp32, the loader's augmentation; the images are gone through as often as
    it takes.
    """
    marks = [0, *(2**i for i in range(steps.bit_length())), steps]
    marks = sorted({mark for mark in marks if mark <= steps})
    optimizer = make_optimizer(model.parameters(), lr, 0.9, 0.0)
    seen = loader.eval_view()
    batches = endless(loader)
    accuracy = []
    for before, mark in itertools.pairwise([0, *marks]):
        if mark > before:
            few = itertools.islice(batches, mark - before)
            updater, loop = Updater(model, optimizer), Loop(one_image=True)
            train_epoch(cross_entropy_steps(model, few), updater, loop, title="relearn")
        logits, labels = predict(model, seen)
        accuracy.append(100 * float((logits.argmax(1) == labels).double().mean()))
    return marks, accuracy


def endless(loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
    """The loader's batches, epoch after epoch."""
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1
