"""CF-k and EU-k: train the last blocks alone, from the original's weights or from new ones."""

import dataclasses
import itertools

from torch import nn

from datasets.loaders import Data
from models import blocks, redraw
from unlearn.base import Iterative, Steps, cross_entropy_steps, option
from unlearn.saliency import Mask
from utils import UserError, stream


@dataclasses.dataclass
class FinetuneLastBlocks(Iterative):
    """Fine-tune only the classifier and the last k blocks before it on the retain set.

    A block is a layer with its BatchNorm, or a residual block: conv1 + bn1, layer1.0, ..., layer4.1, then the classifier fc
    for ResNet-18. Everything before the last ``k`` is frozen, BatchNorm statistics included. At k 0 only the classifier
    learns; with all blocks this is FT. k 1 and 10 epochs at 0.01 are a later comparison's.
    """

    label = "CF-k"
    touches = "retain"
    cost = "E n_r, backward only through the last blocks"
    paper = "Goel et al., 2022 (arXiv 2201.06640)"
    splits = ("retain",)

    k: int = option(1, "blocks before the classifier that learn with it")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        groups = blocks(model)
        first = len(groups) - 1 - self.k
        if first < 0:
            raise UserError(f"--k {self.k}: allowed 0 to {len(groups) - 1}, the blocks before this architecture's classifier")
        self.frozen, self.trained = (list(itertools.chain(*part)) for part in (groups[:first], groups[first:]))
        model.requires_grad_(False)
        for name in self.trained:
            model.get_submodule(name).requires_grad_(True)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        for name in self.frozen:
            model.get_submodule(name).eval()
        yield from cross_entropy_steps(model, data.retain)

    def finish(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        model.requires_grad_(True)
        return {}


@dataclasses.dataclass
class RetrainLastBlocks(FinetuneLastBlocks):
    """Initialise the classifier and the last k blocks before it anew, then train only those on the retain set.

    The rest keeps the original's weights, and with them what it learnt from the forget set. Blocks and defaults are CF-k's;
    with all blocks this is Retrain at another rate.
    """

    label = "EU-k"

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        super().prepare(model, data, mask)
        redraw(model, stream(data.seed, "init"), self.trained)
