"""Presets as text, and what the presets of several methods share."""

import ast

from unlearn.base import Preset

# Sources of several methods' presets.
MATRYOSHKA_10 = "a rerun of the reference, by validation (Matryoshka), 10 % of CIFAR-10"
MATRYOSHKA_50 = "a rerun of the reference, by validation (Matryoshka), 50 % of CIFAR-10"
EUPMU_10 = "EUPMU's README, 10 % random images"


def preset(flags: str, source: str) -> Preset:
    """The preset of ``flags`` such as "unlearn_lr=5e-4 no_aug=True optimizer='sgd'"."""
    pairs = (flag.split("=", 1) for flag in flags.split())
    return Preset({name: ast.literal_eval(value) for name, value in pairs}, source)


# A budget at which plain fine-tuning comes close to Retrain: what a new method has to beat.
LONG_BUDGET = preset(
    "unlearn_epochs=50 schedule='cosine' final_lr=1e-4 unlearn_lr=0.01",
    "CoUn: NeurIPS 2025, 50 epochs, cosine to 1e-4; its rates go from 0.01 to 0.1, 0.01 is our"
    " choice",
)
