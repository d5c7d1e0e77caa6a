"""What Scissorhands draws anew and what it holds to: salience, fresh weights, a projection."""

import copy
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Data
from masks.masks import Mask
from models import blocks
from runtime.devices import exact_fp32
from unlearn.tools.flat import flatten, split_like
from unlearn.tools.gradients import frozen_parts, gradient, inner, zero_frozen
from utils import stream

# The projection's ridge and the least value of its dual variable.
RIDGE, LEAST = 1e-3, 0.5
# How architectures name a block's shortcut.
SHORTCUTS = ("downsample", "shortcut")


def last_stages(model: nn.Module) -> list[str]:
    """The modules of the last two stages and of the classifier.

    A stage is the residual blocks of one ``nn.Sequential``, or a single layer with its BatchNorm:
    layer3, layer4 and fc of a ResNet-18.
    """
    *before, classifier = blocks(model)
    stages: dict[str, list[str]] = {}
    for group in before:
        is_layer = not any(model.get_submodule(group[0]).children())
        stage = group[0] if is_layer else group[0].rpartition(".")[0] or group[0]
        stages.setdefault(stage, []).extend(group)
    return [*itertools.chain(*list(stages.values())[-2:]), *classifier]


def forget_gradient(
    model: nn.Module, data: Data, purpose: str, which: list[int] | None = None
) -> list[Tensor]:
    """Of the cross-entropy of one seeded forget batch, un-augmented, in eval mode, the same on all
    ranks; for the parameters numbered ``which``, or all. Leaves ``model`` as it is.
    """
    probe, forget = copy.deepcopy(model).eval(), data.forget.eval_view()
    weights = list(probe.parameters())
    weights = weights if which is None else [weights[number] for number in which]
    batch = forget.subset(forget.batch_size, purpose).batches_of(forget.batch_size)
    images, labels = next(iter(batch))
    with exact_fp32():
        return gradient(F.cross_entropy(probe.forward(images), labels), weights)


def salience(model: nn.Module, data: Data) -> list[Tensor]:
    """SNIP's score of each weight, |theta dCE(forget batch)/dtheta|."""
    found = zip(forget_gradient(model, data, "snip"), model.parameters(), strict=True)
    return [(gradient * weight).abs() for gradient, weight in found]


def main_batch_norms(model: nn.Module) -> set[str]:
    """The names of the weights and biases of BatchNorm layers, but for those of shortcuts."""
    return {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not any(word in name for word in SHORTCUTS)
        for own, _ in module.named_parameters()
    }


@torch.no_grad()
def redraw_salient(
    model: nn.Module, scores: list[Tensor], share: float, inside: tuple[str, ...], seed: int
) -> None:
    """Draw anew what is among the ``share`` of all weights with the largest scores and whose name
    begins with one of ``inside``: zero for a bias, Kaiming uniform with a = sqrt(5) for all else,
    a tensor of one dimension as a column: U(-1, 1). BatchNorm layers keep their weights, but for a
    shortcut's. So the authors' code.
    """
    flat, named, kept = flatten(scores), dict(model.named_parameters()), main_batch_norms(model)
    count = round(share * len(flat))
    if not count:
        return
    least = flat.kthvalue(len(flat) - count + 1).values
    chosen = split_like(flat >= least, list(named.values()))
    for (name, weight), part in zip(named.items(), chosen, strict=True):
        if name.startswith(inside) and name not in kept:
            fresh = torch.zeros(weight.shape)
            if not name.endswith("bias"):
                draws = torch.Generator().manual_seed(stream(seed, "redraw", name))
                drawn = fresh if weight.dim() > 1 else fresh.view(-1, 1)
                nn.init.kaiming_uniform_(drawn, a=5**0.5, generator=draws)
            weight.copy_(torch.where(part, fresh.to(weight.device), weight))


def project(gradients: list[Tensor], memory: list[Tensor]) -> None:
    """Change g in place where it opposes the memory m: g + v m with v = max(0.5, -g.m / (m.m +
    1e-3)), the solution of min v^2 (m.m + 1e-3) / 2 + v g.m over v >= 0.5.
    """
    product = inner(gradients, memory)
    dual = (-product / (inner(memory, memory) + RIDGE)).clamp(min=LEAST)
    dual = torch.where(product < 0, dual, 0.0).to(gradients[0].dtype)
    torch._foreach_add_(gradients, torch._foreach_mul(memory, dual))


class Memory:
    """m, the gradient of -CE(forget batch) in the modules ``inside``, and what holds to it."""

    def __init__(self, model: nn.Module, inside: tuple[str, ...], mask: Mask | None):
        names, frozen = [name for name, _ in model.named_parameters()], frozen_parts(model, mask)
        self.which = [i for i, name in enumerate(names) if name.startswith(inside)]
        self.frozen = frozen and [frozen[i] for i in self.which]

    def renew(self, model: nn.Module, data: Data, epoch: int) -> None:
        """Take m of the model as it is."""
        self.value = torch._foreach_neg(forget_gradient(model, data, f"memory {epoch}", self.which))
        zero_frozen(self.value, self.frozen)

    def hold(self, parameters: list[nn.Parameter]) -> None:
        """:func:`project` the gradients of these modules, of all the model's ``parameters``."""
        project([parameters[i].grad for i in self.which], self.value)
