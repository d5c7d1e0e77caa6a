"""UAM: the retain gradient where the forget loss is higher."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

from datasets.loaders import Data
from masks.masks import Mask
from unlearn.base import Iterative, Range, Step, Steps, option
from unlearn.tools.gradients import GradientMean, frozen_parts, inner, zero_frozen
from utils import UserError


@dataclasses.dataclass
class Uam(Iterative):
    """Sharpness-aware training on retain whose ascent step climbs the forget loss instead.

    With g the gradient of CE(forget batch) at theta, the retain gradient is taken at theta +
    ``radius`` g / |g| and applied at theta. An epoch is one pass over retain; the forget batches
    are cycled beside it. At radius 0 this is FT at twice the price. In train mode BatchNorm counts
    both batches; the authors' code sends both through the ascent's forward pass, here the forget
    batch goes alone. Under ``--accumulate`` each batch is moved by a forget batch of its own.
    """

    label = "UAM"
    touches = "forget + retain"
    cost = "2 E n_r"
    paper = "unlearning-aware minimization, NeurIPS 2025"
    source = "the update: the authors' code; rate, epochs and radius: our choice"
    splits = ("forget", "retain")

    unlearn_lr: float = option(0.01, "learning rate of unlearning", Range(1e-3, 0.1))
    radius: float = option(
        0.05,
        "how far the weights are moved up the forget loss for the retain gradient",
        Range(0.01, 1),
    )

    def __post_init__(self) -> None:
        if self.radius < 0:
            raise UserError(f"--radius {self.radius}: a length of at least 0 is wanted")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.weights, self.frozen = list(model.parameters()), frozen_parts(model, mask)
        self.forget = GradientMean(self.weights)

    def steps(self, data: Data, epoch: int) -> int:
        return len(data.retain)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        forget = data.forget.cycled()
        for images, labels in data.retain:
            forget_images, forget_labels = next(forget)
            self.forget.add(F.cross_entropy(model(forget_images), forget_labels), forget_labels)
            self.here = [weight.detach().clone() for weight in self.weights]
            self.move()
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
            yield Step(loss, logits, labels, edit_gradients=lambda parameters: self.come_back())
            self.come_back()

    @torch.no_grad()
    def move(self) -> None:
        """Climb the forget loss by ``radius``; nowhere where its gradient is zero."""
        steps = self.forget.take()
        zero_frozen(steps, self.frozen)
        length = inner(steps, steps).sqrt()
        scale = torch.where(length > 0, self.radius / length, 0.0).to(steps[0].dtype)
        torch._foreach_add_(self.weights, torch._foreach_mul(steps, scale))

    @torch.no_grad()
    def come_back(self) -> None:
        """Put the weights where they were before :meth:`move`, bit for bit; once a step."""
        if self.here:
            torch._foreach_copy_(self.weights, self.here)
        self.here = []
