"""What the presets of several methods share."""

from unlearn.base import Preset

# Sources of several methods' presets.
MATRYOSHKA_10 = "a rerun of the reference, by validation (Matryoshka), 10 % of CIFAR-10"
MATRYOSHKA_50 = "a rerun of the reference, by validation (Matryoshka), 50 % of CIFAR-10"
EUPMU_10 = "EUPMU's README, 10 % random images"


def preset(source: str, **values: object) -> Preset:
    """The preset that sets these flags, as ``source`` has them."""
    return Preset(values, source)


# A budget at which plain fine-tuning comes close to Retrain: what a new method has to beat.
LONG_BUDGET = preset(
    "CoUn: NeurIPS 2025, 50 epochs, cosine to 1e-4; its rates go from 0.01 to 0.1, 0.01 is our"
    " choice",
    unlearn_epochs=50,
    schedule="cosine",
    final_lr=1e-4,
    unlearn_lr=0.01,
)
