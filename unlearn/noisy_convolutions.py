"""CFW: Gaussian noise on convolutions, then fine-tuning."""

import dataclasses
from typing import Literal

import torch
from torch import nn

from datasets.loaders import Data
from masks.masks import Mask
from unlearn.base import Iterative, Range, Steps, cross_entropy_steps, option
from unlearn.tools.convolutions import convolutions
from utils import UserError


@dataclasses.dataclass
class NoisyConvolutions(Iterative):
    """Add Gaussian noise to the first convolution's weights, then fine-tune on the retain set.

    Noise of standard deviation ``noise`` before the first epoch and of ``last_noise`` before the
    last, if that is another. The published code names all layers whose name holds ``conv`` and
    looks at the model's direct children only, which is the first convolution of a ResNet: ``where``
    all is what it says, stem what it does. The third of the NeurIPS 2023 challenge. Its balanced
    class weights, a factor of about 1 on the whole loss, are left out; its cosine falls once an
    epoch, ours at every step.
    """

    label = "CFW"
    breaks = ("noise",)
    touches = "retain"
    cost = "E n_r"
    paper = "NeurIPS 2023 challenge, third; Cadet et al., 2024 (arXiv 2410.01276)"
    source = "the code of Cadet et al."
    splits = ("retain",)
    recipe = {"batch_size": 64, "schedule": "cosine"}

    unlearn_epochs: int = option(4, "epochs of unlearning")
    unlearn_lr: float = option(7e-4, "learning rate of unlearning", Range(1e-4, 0.1))
    where: Literal["stem", "all"] = option("stem", "noise on the first convolution, or on all")
    noise: float = option(
        0.6, "standard deviation of the noise before the first epoch", Range(0.01, 1)
    )
    last_noise: float = option(0.005, "standard deviation of the noise before the last epoch")

    def __post_init__(self) -> None:
        if self.noise < 0 or self.last_noise < 0:
            raise UserError(
                f"--noise {self.noise} --last_noise {self.last_noise}: at least 0 is wanted"
            )

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        layers = convolutions(model, "CFW")
        named = list(layers.items())[: None if self.where == "all" else 1]
        self.weights = []
        for name, layer in named:
            may_change = mask and mask[f"{name}.weight"].to(layer.weight.device)
            self.weights.append((layer.weight, may_change))
        self._add_noise(self.noise, data.generator("cfw"))

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        if 0 < epoch == self.unlearn_epochs - 1:
            self._add_noise(self.last_noise, data.generator("cfw, last"))
        yield from cross_entropy_steps(model, data.retain)

    @torch.no_grad()
    def _add_noise(self, deviation: float, draw: torch.Generator) -> None:
        for weight, may_change in self.weights:
            noise = torch.randn(weight.shape, generator=draw, device=weight.device)
            noisy = weight + deviation * noise
            weight.copy_(noisy if may_change is None else torch.where(may_change, noisy, weight))
