"""MSG: draw the convolution weights with the smallest gradients anew, then fine-tune these."""

import dataclasses

import torch
from torch import Tensor, nn

from datasets.loaders import Data
from masks.masks import Mask
from masks.scores import mean_gradient
from unlearn.base import Iterative, Range, Steps, cross_entropy_steps, option
from unlearn.tools.convolutions import convolutions
from utils import UserError


@dataclasses.dataclass
class MaskedSmallGradients(Iterative):
    """Draw anew the convolution weights that tell forget from retain least, then fine-tune them on
    the retain set, ten times as fast as the other convolution weights.

    In each convolution the share ``redrawn`` of the weights with the smallest |gradient of CE(R') -
    CE(F)|, R' as many retain images as there are forget images, is drawn from He's normal
    distribution (fan-out). The gradients of the other convolution weights are multiplied by
    ``slowed``. The rate climbs epoch by epoch to the middle and falls again. There the gradients
    are of augmented images under batch statistics, here of the images as they are in eval mode.
    """

    label = "MSG"
    breaks = ("redrawn",)
    touches = "forget + retain"
    cost = "2 n_f + E n_r"
    paper = "NeurIPS 2023 challenge, second; Cadet et al., 2024 (arXiv 2410.01276)"
    source = "the code of Cadet et al."
    splits = ("retain",)
    recipe = {"batch_size": 64}

    unlearn_epochs: int = option(5, "epochs of unlearning")
    unlearn_lr: float = option(1e-3, "learning rate of unlearning", Range(1e-4, 0.1))
    redrawn: float = option(0.3, "share of each convolution's weights drawn anew", Range(0.05, 0.9))
    slowed: float = option(0.1, "factor on the gradients of the other convolution weights")

    def __post_init__(self) -> None:
        if not (0 < self.redrawn <= 1 and 0 <= self.slowed <= 1):
            given = f"--redrawn {self.redrawn} --slowed {self.slowed}"
            raise UserError(f"{given}: allowed are shares up to 1, the first above 0")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        layers, generator = convolutions(model, "MSG"), data.generator("msg")
        forget, retain = data.forget.eval_view(), data.retain.eval_view()
        of_forget = mean_gradient(model, forget)
        of_retain = mean_gradient(model, retain.subset(forget.num_samples, "msg"))
        self.factors: dict[int, Tensor] = {}
        for name, layer in layers.items():
            size = (of_retain[f"{name}.weight"] - of_forget[f"{name}.weight"]).abs()
            chosen, weight = smallest(size, self.redrawn), layer.weight.detach()
            drawn = torch.empty_like(weight, memory_format=torch.contiguous_format)
            nn.init.kaiming_normal_(drawn, mode="fan_out", nonlinearity="relu", generator=generator)
            weight.copy_(torch.where(chosen, drawn, weight))
            self.factors[id(layer.weight)] = torch.where(chosen, 1.0, self.slowed).to(weight)

    def rate_factor(self, epoch: int) -> float:
        top, end = (self.unlearn_epochs + 1) // 2, self.unlearn_epochs + 1
        return (epoch + 1) / top if epoch < top else (end - epoch - 1) / (end - top)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        for step in cross_entropy_steps(model, data.retain):
            yield step._replace(edit_gradients=self._slow)

    def _slow(self, parameters: list[nn.Parameter]) -> None:
        slowed = [p for p in parameters if id(p) in self.factors]
        torch._foreach_mul_([p.grad for p in slowed], [self.factors[id(p)] for p in slowed])


def smallest(sizes: Tensor, share: float) -> Tensor:
    """Bool like ``sizes``: the round(share n) smallest; of equal ones the first."""
    order = sizes.flatten().argsort(stable=True)
    chosen = torch.zeros(sizes.numel(), dtype=torch.bool, device=sizes.device)
    chosen[order[: round(share * sizes.numel())]] = True
    return chosen.view(sizes.shape)
