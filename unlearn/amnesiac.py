"""Amnesiac unlearning by relabelling."""

import dataclasses
from typing import Literal

from unlearn.base import Range, option
from unlearn.random_label import ORDER, RELABEL, RandomLabel


@dataclasses.dataclass
class Amnesiac(RandomLabel):
    """Fit the forget set to wrong labels that are drawn once, shuffled with the retain set.

    This is RL in mixed order with the settings of the SSD authors' comparison (Adam at 1e-4, 3
    epochs, batches of 128, no weight decay, no augmentation): the relabelling form. The paper's
    other form subtracts logged training steps and needs the log.
    """

    label = "Amnesiac"
    masked_label = None
    paper = "Graves et al., AAAI 2021"
    source = "the SSD authors' comparison"
    presets = {}
    by_dataset = {}
    recipe = {"no_aug": True, "batch_size": 128}

    unlearn_epochs: int = option(3, "epochs of unlearning")
    unlearn_lr: float = option(1e-4, "learning rate of unlearning", Range(1e-5, 3e-3))
    optimizer: Literal["sgd", "adam", "adamw"] = option("adam", "what the steps descend with")
    weight_decay: float = option(0.0, "weight decay")
    order: Literal["sequential", "mixed"] = option("mixed", ORDER)
    relabel: Literal["per_epoch", "once"] = option("once", RELABEL)
