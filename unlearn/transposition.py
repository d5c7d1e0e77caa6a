"""CT: transpose every convolution kernel, then fine-tune."""

import dataclasses

import torch
from torch import nn

from datasets.loaders import Data
from masks.masks import Mask
from unlearn.base import Iterative, Range, Steps, cross_entropy_steps, option
from unlearn.tools.convolutions import convolutions
from utils import UserError, warn


@dataclasses.dataclass
class ConvolutionTranspose(Iterative):
    """Swap height and width of every convolution kernel, then fine-tune on the retain set.

    Features keep their kind and lose their direction. A 1x1 kernel is its own transpose. The fifth
    of the NeurIPS 2023 challenge. Cosine falls once an epoch there, here at every step.
    """

    label = "CT"
    breaks = ()
    touches = "retain"
    cost = "E n_r"
    paper = "NeurIPS 2023 challenge, fifth; Cadet et al., 2024 (arXiv 2410.01276)"
    source = "the code of Cadet et al."
    splits = ("retain",)
    recipe = {"batch_size": 64, "schedule": "cosine"}

    unlearn_epochs: int = option(3, "epochs of unlearning")
    unlearn_lr: float = option(1e-3, "learning rate of unlearning", Range(1e-4, 0.1))

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        transpose_kernels(model)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        return cross_entropy_steps(model, data.retain)


@torch.no_grad()
def transpose_kernels(model: nn.Module) -> None:
    """Swap height and width of the square kernels, in place; a warning counts the others.

    Raises:
        UserError: every kernel is its own transpose.
    """
    layers = convolutions(model, "CT")
    square = [layer.weight for layer in layers.values() if len({*layer.kernel_size}) == 1]
    if all(weight.shape[-1] == 1 for weight in square):
        raise UserError("CT transposes square kernels larger than 1x1, and this model has none")
    if len(square) < len(layers):
        others = [name for name, layer in layers.items() if len({*layer.kernel_size}) > 1]
        warn(f"CT leaves {len(others)} kernels that are not square as they are, first {others[0]}")
    for weight in square:
        weight.copy_(weight.transpose(2, 3).clone())
