"""CoUn: fine-tune on the retain set and contrast two views of its images."""

import dataclasses

from unlearn.base import Range, option
from unlearn.finetune import FineTune
from unlearn.tools.contrast import CONTRAST, Contrastive
from unlearn.tools.presets import LONG_BUDGET, preset


@dataclasses.dataclass
class CoUn(Contrastive, FineTune):
    """Fine-tune on the retain set while two augmented views of each image find each other among the
    batch's.

    The loss is CE(view 1) + contrast InfoNCE(view 1, view 2) on the inputs of the classifier, with
    cosines divided by ``contrast_temperature``, both directions, and the batch's other images as
    negatives. The same flags add the second term to NegGrad+, l1-sparse and NoT. At contrast 0 this
    is FT. The paper's weights go from 0.1 to 6, its temperatures up to 0.3, its rates from 0.01 to
    0.1. Images of a data set without augmentation are cropped.
    """

    label = "CoUn"
    cost = "2 E n_r"
    paper = "Khalil et al., NeurIPS 2025"
    source = (
        "the paper: 50 epochs, cosine to 1e-4; rate, weight and temperature inside its ranges: our"
        " choice"
    )
    recipe = {name: LONG_BUDGET.values[name] for name in ("schedule", "final_lr")}
    presets = {
        "short": preset(
            "our choice: the ten epochs of most comparisons",
            unlearn_epochs=10,
            unlearn_lr=0.01,
            schedule="cosine",
        )
    }

    unlearn_epochs: int = option(50, "epochs of unlearning")
    unlearn_lr: float = option(0.01, "learning rate of unlearning", Range(0.01, 0.1))
    contrast: float = option(1.0, CONTRAST, Range(0.1, 6))
