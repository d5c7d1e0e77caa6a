"""What a run says while it goes on: a line an epoch, and its training curve."""

import json
import math
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from datasets.loaders import Data
from engine import EpochStats, predict
from evaluation.accuracy import accuracy
from runtime import distributed
from runtime.clock import Stopwatch
from runtime.files import save_text

# Images of each split that the line after an epoch is computed on; the result uses all of them.
MONITORED = 500


def to_numpy(output: tuple[Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    return output[0].numpy(), output[1].numpy()


def epoch_line(epoch: int, epochs: int, stats: EpochStats, seen: str, clock: Stopwatch) -> str:
    """What is printed after an epoch; ``seen`` is what it was evaluated to."""
    rates = dict.fromkeys(f"{lr:.4g}" for lr in (stats.first_lr, stats.lr))
    return (
        f"epoch {epoch + 1}/{epochs}  loss {stats.loss:.4f}  {seen}lr {' to '.join(rates)} "
        f" {clock.seconds:.1f} s"
    )


class Monitor:
    """Accuracy on a fixed sample of forget, retain and val after each epoch, so that a collapse is
    seen when it happens.
    """

    def __init__(self, model: nn.Module, data: Data):
        self.model = model
        self.samples = {
            name: data.evaluation[name].subset(MONITORED, "monitor")
            for name in ("forget", "retain", "val")
        }

    def accuracies(self) -> dict[str, float]:
        """In percent; NaN for an empty split."""
        return {
            name: accuracy(*to_numpy(predict(self.model, loader)))
            for name, loader in self.samples.items()
        }


class Curve:
    """A run's training curve: one line of JSON per epoch beside its checkpoint, and with
    --tensorboard an event file.
    """

    def __init__(self, file: Path, start_epoch: int, tensorboard: bool):
        kept = file.read_text().splitlines()[:start_epoch] if start_epoch and file.is_file() else []
        self.file, self.lines = file, kept
        self.writer = None
        if tensorboard and distributed.rank() == 0:
            from torch.utils.tensorboard import SummaryWriter  # an extra

            self.writer = SummaryWriter(file.with_suffix(""))

    def add(self, epoch: int, stats: EpochStats, seen: dict[str, float], seconds: float) -> None:
        """The epoch's loss, accuracies in percent, learning rate and seconds so far."""
        values = {**stats._asdict(), "seconds": seconds}
        # An empty split has no accuracy.
        values |= {name: value for name, value in seen.items() if math.isfinite(value)}
        self.lines.append(json.dumps({"epoch": epoch + 1, **values}))
        # Whole, like every file: a kill between two lines leaves the shorter curve.
        save_text("\n".join(self.lines) + "\n", self.file)
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, epoch + 1)
            self.writer.flush()
