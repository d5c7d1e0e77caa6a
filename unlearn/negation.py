"""NoT: turn the first layer's weights around, then fine-tune."""

import dataclasses

import torch
from torch import nn

from datasets.loaders import Data
from masks.masks import Mask
from unlearn.base import Range, option
from unlearn.finetune import FineTune
from unlearn.tools.contrast import Contrastive
from unlearn.tools.convolutions import convolutions
from unlearn.tools.presets import LONG_BUDGET, preset


@dataclasses.dataclass
class WeightNegation(Contrastive, FineTune):
    """Multiply the first convolution's weights by -1, then fine-tune on the retain set.

    The layers after it were fitted to its outputs and have to adapt anew; a bias stays as it is.
    The paper is on federated learning; CoUn's comparison runs it on one machine, with the budget
    that is the default here. Neither has published code. ``contrast`` adds CoUn's loss.
    """

    label = "NoT"
    breaks = ()
    paper = "Khalil et al., CVPR 2025"
    source = (
        "CoUn (NeurIPS 2025): the first layer, 50 epochs, cosine to 1e-4, rates from 0.01 to 0.1;"
        " 0.01 of these: our choice"
    )
    recipe = {"schedule": "cosine", "final_lr": 1e-4}
    presets = {
        "long_budget": LONG_BUDGET,
        "ten_epochs": preset("our choice: FT's epochs, for an equal budget", unlearn_epochs=10),
    }

    unlearn_epochs: int = option(50, "epochs of unlearning")
    unlearn_lr: float = option(0.01, "learning rate of unlearning", Range(0.01, 0.1))

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        negate_first(model)


@torch.no_grad()
def negate_first(model: nn.Module) -> None:
    """Multiply the weights of the first convolution by -1, in place."""
    next(iter(convolutions(model, "NoT").values())).weight.neg_()
