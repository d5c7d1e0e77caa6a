"""The contract of a method: what is minimised. How a weight changes is the loop's alone."""

import dataclasses
from collections.abc import Callable, Generator
from typing import Any, ClassVar, Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Data, Loader
from masks.masks import Mask
from recipe import Descent


class Step(NamedTuple):
    """One descent step: a scalar loss that requires a gradient, and the logits (b, k) and labels
    (b,) it came from.

    Attributes:
        project: called with the learning rate of the update, edits the weights right after it, such
            as a proximal step. The gate acts after it.
        phase: with which other steps this one accumulates under ``--accumulate``, and which
            optimizer it descends with: see :meth:`Iterative.forget_descent`.
        edit_gradients: called before the update with the model's parameters in its order, then
            :meth:`Iterative.extra_parameters`; edits their ``grad``, the mean over the update's
            images of all ranks (None where it has none), in place. Clip and gate act after it.
            Every rank has to make the same edit.
        clip: whether ``--clip_norm`` applies to this step.
        gated: whether the mask applies to this step. A step that is not gated may move every
            weight, by the momentum that gated steps have gathered too; gated steps then keep what
            is frozen where it left it. At the end of a run whose steps are all gated a frozen
            weight is the original's, bit for bit.

    Steps of one update agree in ``clip`` and ``gated``; ``project`` and ``edit_gradients`` are
    those of its last step.
    """

    loss: Tensor
    logits: Tensor
    labels: Tensor
    project: Callable[[float], None] | None = None
    phase: Literal["forget", "retain"] = "retain"
    edit_gradients: Callable[[list[nn.Parameter]], None] | None = None
    clip: bool = True
    gated: bool = True


Steps = Generator[Step, None, None]


class Range(NamedTuple):
    """Where a search looks for a hyper-parameter: from ``low`` to ``high``, evenly in its logarithm
    or in itself.

    With ``rest`` evenly in the logarithm of 1 - value: for a share that is close to one.
    """

    low: float
    high: float
    log: bool = True
    rest: bool = False

    def at(self, share: float) -> float:
        """The value at ``share`` in [0, 1] of the range."""
        if self.rest:
            return 1 - (1 - self.low) * ((1 - self.high) / (1 - self.low)) ** share
        if self.log:
            return self.low * (self.high / self.low) ** share
        return self.low + share * (self.high - self.low)


class Preset(NamedTuple):
    """Values of flags by name, a method's own or the loop's, and who ran it so or "our choice".

    ``as_original`` names the fields that take the value of the original's record, where it has it.
    """

    values: dict[str, object]
    source: str
    as_original: tuple[str, ...] = ()


# What --help says of a flag that several methods have.
ALPHA = (
    "weight of the penalty, of the step or of the noise; SSD's: ratio from which a weight is chosen"
)

GAMMA = (
    "weight of the retain set's cross-entropy; SFRon's: ratio of a weight's importance to forget"
    " over that to retain from which forget steps may change it; a mask of --mask_path takes its"
    " place, and holds in retain steps too"
)


def option(default: object, help: str, range: Range | None = None, needs: str = "") -> Any:
    """A dataclass field that is a flag of its name; a search looks in ``range``, where the field
    ``needs``, if one is named, has another value than its default.
    """
    return dataclasses.field(
        default=default, metadata={"help": help, "range": range, "needs": needs}
    )


@dataclasses.dataclass
class Method:
    """Fields are the method's flags, and ``repr(method)`` is the whole truth about its
    hyper-parameters.

    Class attributes: ``label`` and ``masked_label`` name its table row without and with a mask,
    ``scenarios`` what it was designed to forget ("random" images, a "class"), ``touches`` which
    data it reads, ``cost`` its price in sample gradients (E epochs, n_f forget and n_r retain
    images, P parameters), ``paper`` where it comes from, ``source`` where its default values come
    from, ``presets`` other values by name, ``by_dataset`` other defaults on some data sets, or of
    an architecture on one ("cifar10 resnet18"), by the name of the field, ``needs_original``
    whether it starts from a trained model, ``learns_from_validation`` whether it reads half A of
    the validation images, so that it is to be chosen by half B alone, or the field that makes it
    so, ``breaks`` the flags that say how much of the model it breaks before its
    training repairs it, if any; None for a method that breaks nothing first.
    """

    label: ClassVar[str]
    masked_label: ClassVar[str | None] = None
    scenarios: ClassVar[tuple[str, ...]] = ("random", "class")
    touches: ClassVar[str]
    cost: ClassVar[str]
    paper: ClassVar[str]
    source: ClassVar[str] = "our choice"
    presets: ClassVar[dict[str, Preset]] = {}
    by_dataset: ClassVar[dict[str, dict[str, object]]] = {}
    needs_original: ClassVar[bool] = True
    learns_from_validation: ClassVar[bool | str] = False
    breaks: ClassVar[tuple[str, ...] | None] = None

    def __post_init__(self) -> None:
        """Raise :class:`UserError` for values that mean nothing."""

    def check_size(self, num_classes: int, retain: int) -> None:
        """Refuse far more work than is meant, by the numbers of classes and of retain images.

        It is called before images are read where the original's record tells the numbers.
        """

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        """Once before the run (also before a resumed one), with ``model`` holding the original
        weights.

        ``mask`` is {parameter name: bool, True = may change}, or None: the gate enforces it, a
        method may heed it.
        """


@dataclasses.dataclass
class Iterative(Method):
    """Descends a loss for some epochs; ``splits`` names the loaders that one epoch visits."""

    splits: ClassVar[tuple[str, ...]]
    # The loop's flags whose default this method changes, such as {"momentum": 0.0}.
    recipe: ClassVar[dict[str, object]] = {}
    # Forget batches as a share of --batch_size, where --forget_batch_size is not typed.
    forget_share: ClassVar[float] = 1.0
    # {field: flag}, the flag whose value a field takes where its own is not typed.
    inherits: ClassVar[dict[str, str]] = {}
    # Updates after which the run ends, in the place of ``unlearn_epochs``, unless it is 0; a field
    # of the methods that count so.
    unlearn_steps: ClassVar[int] = 0

    unlearn_epochs: int = option(10, "epochs of unlearning")
    unlearn_lr: float = option(0.01, "learning rate of unlearning", Range(1e-4, 0.3))
    optimizer: Literal["sgd", "adam", "adamw"] = option("sgd", "what the steps descend with")
    weight_decay: float = option(5e-4, "weight decay")
    bn: Literal["train", "freeze"] = option("train", "BatchNorm statistics while training")

    def loaders(self, data: Data) -> list[Loader]:
        """Whose batches the model sees: another list where a method joins its splits."""
        return [getattr(data, split) for split in self.splits]

    def steps(self, data: Data, epoch: int) -> int:
        """Steps that ``epoch`` takes, for the schedule and the progress bar."""
        return sum(len(getattr(data, split)) for split in self.splits)

    def forget_steps(self, data: Data, epoch: int) -> int:
        """How many of :meth:`steps` are of the phase "forget"."""
        return 0

    def forget_descent(self, retain: Descent) -> Descent | None:
        """The optimizer of the phase "forget" alone, beside that of ``retain``; None where one
        serves both phases.
        """
        return None

    def rate_factor(self, epoch: int) -> float:
        """A factor on the learning rate in ``epoch``, on top of the schedule."""
        return 1.0

    def resets(self, epoch: int) -> bool:
        """Whether the optimizer begins ``epoch`` anew, without momentum or moments."""
        return False

    def extra_parameters(self) -> list[nn.Parameter]:
        """What :meth:`prepare` made to be trained beside the model, such as a shadow class."""
        return []

    def state(self) -> dict:
        """What a resumed run needs besides the model's weights: tensors and plain values."""
        return {}

    def load_state(self, state: dict) -> None:
        """Continue from what :meth:`state` gave; called after :meth:`prepare`."""

    def finish(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        """A last edit of ``model``, in fp32; returns what :meth:`OneShot.edit` does."""
        return {}

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        """Yield one :class:`Step` per update, never inside ``no_grad``; the loop owns autocast."""
        raise NotImplementedError


@dataclasses.dataclass
class OneShot(Method):
    """A method that edits the weights once, in fp32."""

    def edit(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        """Change ``model`` in place; returns what the result should record, such as a solver's
        residual.

        An entry "warning" is shown to the user and listed among the result's warnings.
        """
        raise NotImplementedError


def joint_loss(*terms: tuple[Tensor, Loader]) -> Tensor:
    """A step's loss over batches of several loaders: the sum of terms that are each a mean over its
    loader's batch at hand. The step's labels are those of the first.

    In a run of several processes the loop weights a rank's loss by its part of these labels, and
    its part of another loader's batch may be another.
    """
    (total, first), *others = terms
    for loss, loader in others:
        total = total + loss * (loader.share / first.share)
    return total


def cross_entropy_steps(model: nn.Module, batches: Loader, label_smoothing: float = 0.0) -> Steps:
    """Plain training: one cross-entropy step per batch."""
    for images, labels in batches:
        logits = model(images)
        yield Step(F.cross_entropy(logits, labels, label_smoothing=label_smoothing), logits, labels)
