"""Train from scratch without the forget set: what every other method is measured against."""

import dataclasses

from torch import nn

from datasets.loaders import Data
from masks.masks import Mask
from models import begin, redraw
from unlearn.base import Iterative, Steps, option
from unlearn.tools.mixup import training_steps
from utils import stream


@dataclasses.dataclass
class Retrain(Iterative):
    """Train anew on the retain set alone: what every gap is measured against.

    What is not typed is as the original was trained: epochs, rate, batches, schedule, augmentation
    and the rest of its recipe. Initialisation and order come from ``--seed``, a stream apart from
    the original's ``--train_seed``. Where the original began with the weights of a file
    (``--init``), so does Retrain. Under a mask what may change is initialised anew and the rest
    keeps the original's weights.
    """

    label = "Retrain"
    touches = "retain"
    cost = "E n_r"
    paper = "exact unlearning"
    source = (
        "the original's recipe; without one, the reference's: 182 epochs, SGD 0.1, multistep at 91"
        " and 136"
    )
    splits = ("retain",)
    needs_original = False
    inherits = {"unlearn_epochs": "epochs", "unlearn_lr": "lr"}

    unlearn_epochs: int = option(182, "epochs of unlearning")
    unlearn_lr: float = option(0.1, "learning rate of unlearning")
    label_smoothing: float = option(
        0.0, "share of the target that is spread over all classes, 0 to 1"
    )
    mixup: float = option(0.0, "alpha of mixup, 0 without")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        redraw(model, stream(data.seed, "init"))
        begin(model)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        return training_steps(model, data.retain, self.label_smoothing, self.mixup)
