"""MUNBa: the retain and the forget gradient as two players of a Nash bargaining game."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from datasets.loaders import Data
from masks.masks import Mask
from unlearn.base import Iterative, Range, Step, Steps, option
from unlearn.tools.gradients import GradientMean, bargain_into, frozen_parts
from unlearn.tools.presets import preset


@dataclasses.dataclass
class Munba(Iterative):
    """Step along the bisector of the retain gradient and the gradient towards random labels on the
    forget set.

    The weights a solve K a = 1 / a, the Nash bargaining solution for the Gram matrix K (2, 2) of
    both mean gradients: a_i = 1 / (|g_i| sqrt(1 + cos)). The update a_r g_r + a_u g_u has length
    sqrt(2), clipped to 1. Labels are drawn from all classes, anew each epoch. An epoch is one pass
    over retain; each forget batch goes with one of retain, the rest is plain training, unclipped.

    The authors' code adds 1e-8 to squared norms, which breaks the solution where the retain
    gradient is small, as in the first steps (|g_r| 0.003, cos -0.2: a_u -5.4, exact 0.37), and then
    takes a fixed sum. Here 1 + cos is floored at 1e-6, and a zero gradient leaves the other alone.
    """

    label = "MUNBa"
    touches = "forget + retain"
    cost = "E (n_f + n_r)"
    paper = "Wu and Harandi, ICCV 2025"
    source = "the authors' code, but for the exact solution"
    splits = ("forget", "retain")
    recipe = {"clip_norm": 1.0}
    presets = {
        "muksb": preset(
            "a follow-up's scripts (MUKSB), 10 to 30 epochs; 10: our choice",
            unlearn_lr=0.03,
            unlearn_epochs=10,
        )
    }

    unlearn_lr: float = option(0.01, "learning rate of unlearning", Range(1e-3, 0.1))

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.forget = GradientMean(model.parameters())
        self.frozen = frozen_parts(model, mask)

    def steps(self, data: Data, epoch: int) -> int:
        return len(data.retain)

    def forget_steps(self, data: Data, epoch: int) -> int:
        return min(len(data.forget), len(data.retain))

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        like = {"generator": data.generator("random labels"), "device": data.device}
        labels = torch.randint(data.num_classes, data.forget.labels.shape, **like)
        pairs = iter(data.forget.relabelled(labels))
        for images, labels in data.retain:
            pair = next(pairs, None)
            if pair is not None:
                self.forget.add(F.cross_entropy(model(pair[0]), pair[1]), pair[1])
            logits = model(images)
            step = Step(F.cross_entropy(logits, labels), logits, labels, clip=False)
            if pair is not None:
                edit = {"edit_gradients": self.bargained, "clip": True}
                step = step._replace(phase="forget", **edit)
            yield step

    def bargained(self, parameters: list[nn.Parameter]) -> None:
        """Replace the retain gradient by the weighted sum of both."""
        bargain_into(parameters, self.forget.take(), self.frozen)
