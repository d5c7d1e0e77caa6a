"""Gradient ascent on the forget set."""

import dataclasses

import torch.nn.functional as F
from torch import nn

from datasets.loaders import Data
from masks.masks import Mask
from models import cpu_copy
from unlearn.base import Iterative, Range, Step, Steps, option
from unlearn.tools.held_out import error, held_out
from unlearn.tools.presets import EUPMU_10, MATRYOSHKA_10, MATRYOSHKA_50, preset
from unlearn.tools.teachers import frozen_copy
from utils import UserError


@dataclasses.dataclass
class GradientAscent(Iterative):
    """Climb the loss on the forget set.

    The rate is a cliff, from no effect to collapse: watch the retain accuracy that each epoch
    prints. The default is the reference authors' for a class; for random images they advise 5e-4 or
    1e-3. As there, weights decay on the way, and BatchNorm takes its statistics from the forget set
    alone: ``--bn freeze`` keeps the original's.

    With ``--stop_below`` the run ends with the first epoch whose accuracy on half A of the
    validation images is below so many percent, and goes back to the weights before that epoch.
    """

    label = "GA"
    touches = "forget"
    cost = "E n_f"
    paper = "Graves et al., AAAI 2021; Thudi et al., EuroS&P 2022"
    source = "the reference's authors, for a class of CIFAR-10: Unlearn-Sparse, issue 5"
    splits = ("forget",)
    learns_from_validation = "stop_below"
    presets = {
        "salun_random": preset(
            "the reference's authors, for random images: 5e-4 or 1e-3 (issue 8)",
            unlearn_lr=5e-4,
            unlearn_epochs=5,
        ),
        "matryoshka_cifar10_10": preset(MATRYOSHKA_10, unlearn_lr=1e-5, unlearn_epochs=5),
        "matryoshka_cifar10_50": preset(MATRYOSHKA_50, unlearn_lr=1e-4, unlearn_epochs=5),
        "scissorhands_cifar100_50": preset(
            "Scissorhands' scripts, 50 % of CIFAR-100", unlearn_lr=1e-4, unlearn_epochs=10
        ),
        "eupmu_10": preset(EUPMU_10, unlearn_lr=1.5e-3, unlearn_epochs=5),
        "sfron_cifar10": preset(
            "SFRon's comparison: Huang et al., NeurIPS 2024",
            unlearn_lr=1e-4,
            unlearn_epochs=9,
            bn="freeze",
            clip_norm=0.1,
            batch_size=128,
            forget_batch_size=128,
        ),
    }

    unlearn_epochs: int = option(5, "epochs of unlearning")
    unlearn_lr: float = option(1e-4, "learning rate of unlearning", Range(1e-5, 1e-2))
    stop_below: float = option(
        0.0,
        "accuracy in percent on half of the validation images: the epoch that ends below it is"
        " undone, and the last; 0 does not look",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.stop_below <= 100:
            raise UserError(f"--stop_below {self.stop_below}: allowed 0 to 100, in percent")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.kept = {"stopped_after": None}
        if self.stop_below:
            self.held_out, self.kept["weights"] = held_out(data), cpu_copy(model)

    def steps(self, data: Data, epoch: int) -> int:
        return 0 if self.stopped() else len(data.forget)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        if self.stopped():
            return
        for images, labels in data.forget:
            logits = model(images)
            yield Step(-F.cross_entropy(logits, labels), logits, labels)
        if self.stop_below:
            self.look(model, epoch)

    def look(self, model: nn.Module, epoch: int) -> None:
        """Undo the epoch that has ended where it broke the model."""
        if 100 - error(frozen_copy(model), self.held_out) >= self.stop_below:
            self.kept["weights"] = cpu_copy(model)
            return
        model.load_state_dict(self.kept["weights"])
        self.kept["stopped_after"] = epoch
        print(f"epoch {epoch + 1} ended below --stop_below {self.stop_below}, is undone, the last")

    def stopped(self) -> bool:
        return bool(self.stop_below) and self.kept["stopped_after"] is not None

    def state(self) -> dict:
        return self.kept

    def load_state(self, state: dict) -> None:
        self.kept |= state

    def finish(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        return {"stopped_after_epoch": self.kept["stopped_after"]} if self.stopped() else {}
