"""Images that no model has seen: half A of the validation images; what a model gets wrong."""

import numpy as np
import torch
from torch import nn

from datasets.loaders import Data, Loader
from datasets.splits import validation_halves
from runtime.devices import exact_fp32
from utils import UserError


def held_out(data: Data) -> Loader:
    """Half A of the validation images, un-augmented, without a class that is forgotten as a whole.

    Raises:
        UserError: there are none.
    """
    half = data.validation_half(0)
    if not half.num_samples:
        raise UserError(
            f"the method learns from half of the {data.evaluation['val'].num_samples} validation"
            " images, which is none; give data that leave some, or another method"
        )
    return half


def held_out_like_forget(data: Data) -> Loader:
    """The images of half A that are of a class in the forget set, un-augmented.

    Raises:
        UserError: there are none.
    """
    labels, half = data.dataset.y_train, validation_halves(data.split, data.dataset.y_train)[0]
    chosen = half[np.isin(labels[half], labels[data.chosen.forget])]
    if not len(chosen):
        raise UserError(
            "no validation image of half A is of a class in the forget set, so that no epoch can be"
            " chosen; use scrub"
        )
    return data.evaluation["val"].over(chosen, labels, "held out")


@torch.no_grad()
def error(model: nn.Module, batches: Loader) -> float:
    """The share of wrong predictions in percent, in fp32; leaves the model in eval mode."""
    model.eval()
    device = batches.labels.device.type
    # forward() is the eager code also where --compile replaced the call.
    with exact_fp32(), torch.autocast(device, enabled=False):
        wrong = sum((model.forward(images).argmax(1) != labels).sum() for images, labels in batches)
    return 100 * float(wrong) / batches.num_samples
