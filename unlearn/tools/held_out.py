"""Images that no model has seen: half A of the validation images; what models say of them."""

import numpy as np
import torch
from torch import Tensor, nn

from datasets.loaders import Data, Loader, own_part
from datasets.splits import validation_halves
from runtime import distributed
from runtime.devices import exact_fp32
from unlearn.tools.teachers import ask, frozen_copy
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
            " images, which is none; train the original with --val_fraction above 0, or take"
            " another method"
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
            " chosen; use scrub, or an original that was trained with a larger --val_fraction"
        )
    return data.evaluation["val"].over(chosen, labels, "held out")


class Unseen:
    """What a frozen ``teacher`` answers to held-out images: its softmax (n, k), class by class."""

    def __init__(self, teacher: nn.Module, images: Loader):
        images = images.by_class()
        with exact_fp32():
            self.softmax = torch.cat([ask(teacher, batch).softmax(1) for batch, _ in images])
        self.counts = images.labels.bincount(minlength=self.softmax.shape[1])

    def check_classes(self, labels: Tensor) -> None:
        """Raise :class:`UserError` where one of the classes in ``labels`` has no image."""
        missing = labels[self.counts[labels] == 0]
        if len(missing):
            raise UserError(
                f"--held_out classes: no held-out image is of class {int(missing.min())}, which is"
                " in the forget set; use --held_out uniform"
            )

    def mean_softmax(
        self, batch: int, draws: torch.Generator, labels: Tensor | None = None
    ) -> Tensor:
        """The mean (k,) over ``batch`` images, drawn from all without repetition; with this rank's
        ``labels`` of a batch of so many on all ranks, over one of the class of each.
        """
        device = self.softmax.device
        if labels is None:
            order = torch.randperm(len(self.softmax), generator=draws, device=device)
            return self.softmax[order[:batch]].mean(0)
        share = own_part(torch.rand(batch, generator=draws, device=device))
        first = self.counts.cumsum(0) - self.counts
        total = self.softmax[first[labels] + (share * self.counts[labels]).long()].sum(0)
        distributed.all_reduce([total])
        return total / batch


@torch.no_grad()
def error(model: nn.Module, batches: Loader) -> float:
    """The share of wrong predictions in percent, in fp32; leaves the model in eval mode."""
    model.eval()
    device = batches.labels.device.type
    # forward() is the eager code also where --compile replaced the call.
    with exact_fp32(), torch.autocast(device, enabled=False):
        wrong = sum((model.forward(images).argmax(1) != labels).sum() for images, labels in batches)
    return 100 * float(wrong) / batches.num_samples


class Lead:
    """How far a model's accuracy on forget is above that of ``original`` on held-out images, 0 of a
    class that is forgotten as a whole; accuracies from 0 to 1.
    """

    def __init__(self, original: nn.Module, data: Data):
        self.forget, self.unseen = data.evaluation["forget"], 0.0
        if not data.chosen.dropped_classes:
            self.unseen = 1 - error(original, held_out(data)) / 100

    def of(self, model: nn.Module) -> float:
        """Leaves ``model`` as it is; waits for the device."""
        return 1 - error(frozen_copy(model), self.forget) / 100 - self.unseen
