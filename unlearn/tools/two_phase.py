"""DualOptim: forget steps may have an optimizer of their own."""

import dataclasses
from typing import Literal

from recipe import Descent
from unlearn.base import Iterative, Preset, Range, option
from utils import UserError

DUALOPTIM = "DualOptim (Zhong, Luo and Liu, NeurIPS 2025)"
# DualOptim's: the settings of its tables, for which it searched a rate of the forget steps each.
SETTINGS = ("cifar10_10", "cifar10_50", "cifar100_10", "svhn_10")
ADAMW_DECAY = 0.05
# DualOptim's rates go from 2.5e-6 to 4.1e-4.
FORGET_RATES = Range(1e-6, 1e-3)
# What --list_methods says below the table.
PLUG_IN = (
    f"{DUALOPTIM} is no method of its own: `--forget_optimizer sgd|adam|adamw` with `--forget_lr`"
    " gives the forget steps of a method an optimizer with state and schedule of its own, so that"
    " they share no momentum with the retain steps. Methods with both phases:"
)


@dataclasses.dataclass
class TwoPhase(Iterative):
    """Steps on forget and steps on retain, by one optimizer or by one each."""

    forget_optimizer: Literal["same", "sgd", "adam", "adamw"] = option(
        "same",
        f"optimizer of the forget steps alone; adamw has weight decay {ADAMW_DECAY}, as in"
        " DualOptim, the others that of --weight_decay; same: one optimizer for all steps",
    )
    forget_lr: float = option(
        0.0, "learning rate of --forget_optimizer", FORGET_RATES, needs="forget_optimizer"
    )

    def __post_init__(self) -> None:
        own = self.forget_optimizer != "same"
        if own and self.forget_lr <= 0:
            raise UserError(
                f"--forget_optimizer {self.forget_optimizer} needs --forget_lr above 0, such as"
                " 1e-4 for adamw"
            )
        if self.forget_lr and not own:
            raise UserError(
                f"--forget_lr {self.forget_lr} is of --forget_optimizer; add that, or drop it"
            )

    @property
    def forget_phase(self) -> Literal["forget", "retain"]:
        """The phase of a forget step: retain's where one optimizer makes all steps."""
        return "retain" if self.forget_optimizer == "same" else "forget"

    def forget_descent(self, retain: Descent) -> Descent | None:
        if self.forget_optimizer == "same":
            return None
        decay = ADAMW_DECAY if self.forget_optimizer == "adamw" else self.weight_decay
        return retain._replace(
            lr=self.forget_lr, optimizer=self.forget_optimizer, weight_decay=decay
        )


def dualoptim_presets(rates: tuple[float, ...], about: str, **values: object) -> dict[str, Preset]:
    """``values`` and DualOptim's rate of the forget steps for each of its settings."""
    common = {"unlearn_lr": 0.01, "batch_size": 128, "forget_batch_size": 128, "no_aug": False}
    common |= {"weight_decay": 5e-4, "forget_optimizer": "adamw"}
    found = {}
    for setting, rate in zip(SETTINGS, rates, strict=True):
        own = {**common, **values, "forget_lr": rate}
        found[f"dualoptim_{setting}"] = Preset(own, f"{DUALOPTIM}, {setting}: {about}")
    return found
