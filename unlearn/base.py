"""The contract of a method. A method says what is minimised; how a weight changes is engine.py's alone."""

import dataclasses
from collections.abc import Generator
from typing import Any, ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Data, Loader


class Step(NamedTuple):
    """One descent step: a scalar loss that requires a gradient, and the logits (b, k) and labels (b,) it came from."""

    loss: Tensor
    logits: Tensor
    labels: Tensor


Steps = Generator[Step, Any, None]


def option(default: object, help: str) -> Any:
    """A dataclass field that is a flag of the same name; ``help`` is what ``--help`` prints."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass
class Method:
    """Fields are the method's flags, and ``repr(method)`` is the whole truth about its hyper-parameters.

    Class attributes: ``label`` and ``masked_label`` name its table row without and with a mask, ``touches`` says
    which data it reads, ``paper`` where it comes from, ``needs_original`` whether it starts from a trained model.
    """

    label: ClassVar[str]
    masked_label: ClassVar[str | None] = None
    touches: ClassVar[str]
    paper: ClassVar[str]
    needs_original: ClassVar[bool] = True

    def prepare(self, model: nn.Module, data: Data) -> None:
        """Once before the run (also before a resumed one), with ``model`` holding the original weights."""


@dataclasses.dataclass
class Iterative(Method):
    """A method that descends a loss for some epochs; ``splits`` names the loaders that one epoch visits."""

    splits: ClassVar[tuple[str, ...]]
    # Hyper-parameters that are taken from another flag where they are not typed: {field: flag}.
    inherits: ClassVar[dict[str, str]] = {}

    unlearn_epochs: int = option(10, "epochs of unlearning")
    unlearn_lr: float = option(0.01, "learning rate of unlearning")

    def steps(self, data: Data) -> int:
        """Updates an epoch takes, for the schedule and the progress bar."""
        return sum(len(getattr(data, split)) for split in self.splits)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        """Yield one :class:`Step` per update. Never ``yield`` inside ``no_grad``; the loop owns autocast."""
        raise NotImplementedError


@dataclasses.dataclass
class OneShot(Method):
    """A method that edits the weights once, in fp32."""

    def edit(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        """Change ``model`` in place; returns what the result should record, such as a solver's residual.

        An entry "warning" is shown to the user and listed among the result's warnings.
        """
        raise NotImplementedError


def cross_entropy_steps(model: nn.Module, batches: Loader) -> Steps:
    """Plain training: one cross-entropy step per batch."""
    for images, labels in batches:
        logits = model(images)
        yield Step(F.cross_entropy(logits, labels), logits, labels)
