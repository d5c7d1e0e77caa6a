"""Random labels with a pull towards the original weights: SalUn without a fixed mask."""

import dataclasses
import functools
from typing import Literal

import torch
from torch import nn

from datasets.loaders import Data
from masks.masks import Mask, lowest_chosen
from unlearn.base import Preset, Range, Steps, option
from unlearn.random_label import MATRYOSHKA, ORDER, SCISSORHANDS, RandomLabel, published
from unlearn.tools.flat import flatten, frozen_flat, split_like
from utils import UserError


def soft(lr: float, rho: float, source: str) -> Preset:
    """A run by SalUn's code or a fork, which pins the share rho to a new anchor each epoch."""
    return Preset(published(lr, "mixed", source).values | {"rho": rho}, source)


@dataclasses.dataclass
class ProximalRandomLabel(RandomLabel):
    """Random labels under an l1 pull to the original weights, a soft mask that fades to nothing.

    After update t = 0, 1, ... of T, with d = theta - theta_o: theta <- theta_o where |d| <= tau_t,
    else theta - sign(d) tau_t, the proximal step of tau_t ||d||_1. tau_t is the q_t-th smallest |d|
    of the P weights that may change, with q_t = int(rho (1 - t / T) P), so that at least q_t of
    them equal the original, bit for bit, after update t. The anchor is the original throughout: the
    reference takes a new one each epoch, and its total drift is not sparse. ``rho`` has no
    published default: 0.5 pins half of the weights at first, as SalUn's mask of density 0.5 does.
    At 0 this is RL in the same order.
    """

    label = "SalUn-soft"
    masked_label = None
    paper = "Fan et al., ICLR 2024"
    source = (
        "mixed order, 10 epochs: SalUn's released code; rate, rho and the one anchor: our choice"
    )
    by_dataset = {}
    presets = {
        "scissorhands_10": soft(
            0.1, 0.5, f"{SCISSORHANDS}, without a hard mask: CIFAR-10, 10 %; rho: our choice"
        ),
        "matryoshka_10": soft(5e-4, 0.1, f"{MATRYOSHKA}, 10 %"),
        "matryoshka_50": soft(0.013, 0.9, f"{MATRYOSHKA}, 50 %"),
    }

    order: Literal["sequential", "mixed"] = option("mixed", ORDER)
    rho: float = option(
        0.5,
        "share of the weights that the first update leaves at the original",
        Range(0.1, 0.9, log=False),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rho <= 1:
            raise UserError(f"--rho {self.rho}: a share from 0 to 1 is wanted")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.weights = list(model.parameters())
        self.original = flatten(self.weights)
        self.frozen = frozen_flat(model.named_parameters(), mask)
        self.free = len(self.frozen) - int(self.frozen.sum())

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        steps = [self.steps(data, e) for e in range(self.unlearn_epochs)]
        # Counted from the epoch, since a resumed run would have lost a counter.
        before, total = sum(steps[:epoch]), sum(steps)
        for t, step in enumerate(super().losses(model, data, epoch), start=before):
            pinned = int(self.rho * (1 - t / total) * self.free)
            yield step._replace(project=functools.partial(self.pull, pinned) if pinned else None)

    def pull(self, pinned: int, lr: float) -> None:
        """The proximal step, whatever ``lr``, that puts ``pinned`` weights back to the original."""
        weights = flatten(self.weights)
        moved = weights - self.original
        # What the gate keeps is never among the nearest.
        distance = moved.abs().masked_fill_(self.frozen, torch.inf)
        others = len(distance) - pinned + 1
        tau = lowest_chosen(distance, [others])[others]
        weights = torch.where(distance <= tau, self.original, weights - moved.sign() * tau)
        torch._foreach_copy_(self.weights, split_like(weights, self.weights))
