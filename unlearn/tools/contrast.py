"""CoUn's loss: contrast two augmented views of retain images, alone or added to a method."""

import dataclasses
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Data, Loader
from models import classifier
from runtime import distributed
from unlearn.base import Step, Steps, option
from utils import UserError

CONTRAST = "weight of CoUn's contrast of two views of each retain image; 0 leaves it out"


@dataclasses.dataclass
class Contrastive:
    """Mixed into a method that trains on retain batches, before fine-tuning or with losses of its
    own, which take those batches from :meth:`retain_passes` and add the third entry to the loss.

    With b images in a batch, z and z' (b, d) the normalised inputs of the classifier for two
    augmentations, and s = z z'^T / tau, the added loss is ``contrast`` (CE(s, i = j) + CE(s^T, i =
    j)) / 2: each view finds its image's other view among those of the batch. Both views are in one
    forward pass; the cross-entropy is of the first. Views are augmented, also where the method or
    the data set is not by default; equal ones would teach nothing.
    """

    contrast: float = option(0.0, CONTRAST)
    contrast_temperature: float = option(0.1, "divides the cosines that the contrast compares")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contrast < 0:
            raise UserError(f"--contrast {self.contrast}: a weight of at least 0 is wanted")
        if self.contrast_temperature <= 0:
            given = f"--contrast_temperature {self.contrast_temperature}"
            raise UserError(f"{given}: it must be above 0")

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        for logits, labels, added in self.retain_passes(model, data):
            yield Step(F.cross_entropy(logits, labels) + added, logits, labels)

    def retain_passes(
        self, model: nn.Module, data: Data
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | float]]:
        """One pass over retain: logits (b, k), labels (b,), and what is added to the loss."""
        if not self.contrast:
            for images, labels in data.retain:
                yield model(images), labels, 0.0
            return
        if not data.retain.augments():
            data.augment_retain()
            print(
                "the contrast compares two views of an image: retain images are augmented, which"
                " this method or data set leaves out by default"
            )
        features = Features(model)
        try:
            for first, second, labels in data.retain.two_views():
                logits = model(torch.cat([first, second]))
                seen = features.take()
                views = [gathered(part, data.retain) for part in seen.chunk(2)]
                loss = self.contrast * info_nce(*views, self.contrast_temperature)
                # The value of the whole batch, the gradient of this rank's part.
                loss = loss.detach() + (loss - loss.detach()) / data.retain.share
                yield logits[: len(labels)], labels, loss
        finally:
            features.remove()


class Features:
    """Catches what the model's classifier, its last layer, is given."""

    def __init__(self, model: nn.Module):
        self.seen: Tensor | None = None
        self.handle = classifier(model).layer.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.seen = inputs[0]

    def take(self) -> Tensor:
        """Those (b, d) of the last forward pass."""
        seen, self.seen = self.seen, None
        return seen

    def remove(self) -> None:
        self.handle.remove()


def gathered(own: Tensor, loader: Loader) -> Tensor:
    """The rows of all ranks for the batch at hand, this rank's with their gradient."""
    if distributed.world_size() == 1:
        return own
    total = round(len(own) / loader.share)
    start, end = distributed.rank_bounds(total)
    rows = own.new_zeros((total, own.shape[1]))
    rows[start:end] = own.detach()
    distributed.all_reduce([rows])
    return torch.cat([rows[:start], own, rows[end:]])


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The mean over both directions of the cross-entropy that finds each row's partner, in fp32.

    Args:
        first, second: (b, d), row i of both of one image.
    """
    first, second = F.normalize(first.float()), F.normalize(second.float())
    likeness = first @ second.T / temperature
    partner = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(likeness, partner) + F.cross_entropy(likeness.T, partner)) / 2
