"""CF-k and EU-k: train the last blocks alone, from the original's weights or from new ones."""

import dataclasses
import itertools
from typing import Literal

from torch import nn

from datasets.loaders import Data
from masks.masks import Mask
from models import blocks, part, redraw
from unlearn.base import Iterative, Steps, cross_entropy_steps, option
from unlearn.tools.presets import preset
from utils import UserError, stream

SCRUB_RESNET18 = preset(
    "SCRUB's code: the whole last stage, two blocks of a ResNet-18, under the original's"
    " classifier; rate and epochs are the defaults",
    k=2,
    classifier="freeze",
    momentum=0.0,
    weight_decay=0.0,
    batch_size=64,
)


@dataclasses.dataclass
class FinetuneLastBlocks(Iterative):
    """Fine-tune only the classifier and the last k blocks before it on the retain set.

    A block is a layer with its BatchNorm, or a residual block: conv1 + bn1, layer1.0, ...,
    layer4.1, then the classifier fc for ResNet-18; of a transformer the embedding of the patches,
    the encoder's layers, the head. Everything before the last ``k`` is frozen,
    BatchNorm statistics included. At k 0 only the classifier learns; with all blocks this is FT. k
    1 and 10 epochs at 0.01 are a later comparison's. SCRUB's authors train the last stage under the
    original's classifier: k 2 for ResNet-18 and ``classifier`` freeze, which keeps it as it is.
    """

    label = "CF-k"
    touches = "retain"
    cost = "E n_r, backward only through the last blocks"
    paper = "Goel et al., 2022 (arXiv 2201.06640)"
    source = "a later comparison's k 1 and 10 epochs at 0.01 (WorstCase)"
    splits = ("retain",)
    presets = {"scrub_resnet18": SCRUB_RESNET18}

    k: int = option(1, "blocks before the classifier that learn")
    classifier: Literal["train", "freeze"] = option(
        "train", "whether the classifier learns with the last blocks"
    )

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        groups = blocks(model)
        before, frozen = len(groups) - 1, self.classifier == "freeze"
        if not frozen <= self.k <= before:
            but = " (at 0 nothing would learn: --classifier freeze)" if frozen else ""
            raise UserError(
                f"--k {self.k}: allowed {int(frozen)} to {before}, the blocks before this"
                f" architecture's classifier{but}"
            )
        first, end = before - self.k, before if frozen else len(groups)
        self.frozen = list(itertools.chain(*groups[:first], *groups[end:]))
        self.trained = list(itertools.chain(*groups[first:end]))
        model.requires_grad_(False)
        for name in self.trained:
            part(model, name).requires_grad_(True)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        for name in self.frozen:
            if isinstance(frozen := part(model, name), nn.Module):
                frozen.eval()
        yield from cross_entropy_steps(model, data.retain)

    def finish(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        model.requires_grad_(True)
        return {}


@dataclasses.dataclass
class RetrainLastBlocks(FinetuneLastBlocks):
    """Initialise the classifier and the last k blocks before it anew, then train only those on the
    retain set.

    The rest keeps the original's weights, and with them what it learnt from the forget set. Blocks
    and defaults are CF-k's; with all blocks this is Retrain at another rate.
    """

    label = "EU-k"
    presets = {
        "scrub_resnet18": SCRUB_RESNET18._replace(
            source="SCRUB's code: CF-k's preset for as many epochs as the original was trained",
            as_original=("unlearn_epochs",),
        )
    }
    breaks = ("k",)

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        super().prepare(model, data, mask)
        redraw(model, stream(data.seed, "init"), self.trained)
