"""What the presets of several methods share."""

from unlearn.base import Preset
from unlearn.tools.two_phase import SETTINGS, dualoptim_presets

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

# The alphas are for SETTINGS, in their order.
SFRON_PRESETS = {
    "tiny_imagenet": preset(
        "the authors' code for 10 % of Tiny-ImageNet: 500 steps of each kind",
        unlearn_lr=2e-5,
        unlearn_steps=1000,
        optimizer="adamw",
        weight_decay=0.05,
        alpha=500.0,
        loss_power=0.6,
        forget_every=1,
    ),
    **{
        f"tuned_{setting}": preset(f"alpha as DualOptim's authors tuned it, {setting}", alpha=alpha)
        for setting, alpha in zip(SETTINGS, (31.0, 82.0, 44.0, 12.5), strict=True)
    },
    **dualoptim_presets((1e-4, 4.1e-4, 1e-4, 1.6e-4), "SFRon, under its cosine", alpha=1.0),
}

SCISSORHANDS_PRESETS = {
    "cifar10_50": preset(
        "the authors' script for 50 % of CIFAR-10",
        unlearn_lr=1e-3,
        redraw_share=0.03,
        forget_weight=0.01,
        project_every=10,
    )
}
