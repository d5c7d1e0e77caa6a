"""Scissorhands: draw the forget set's most salient weights anew, then repair."""

import dataclasses

import torch.nn.functional as F
from torch import nn

from datasets.loaders import Data
from masks.masks import Mask
from unlearn.base import Iterative, Range, Step, Steps, joint_loss, option
from unlearn.tools.presets import SCISSORHANDS_PRESETS
from unlearn.tools.snip import Memory, last_stages, redraw_salient, salience
from utils import UserError


@dataclasses.dataclass
class Scissorhands(Iterative):
    """Draw the weights that matter most to a forget batch anew, then learn retain against forget
    without undoing it.

    SNIP's score is |theta dCE(forget batch)/dtheta| at the original. What is among the
    ``redraw_share`` of all weights with the largest and lies in the last two stages or the
    classifier is drawn anew, but for BatchNorm outside of shortcuts. Each ``pair_every``-th retain
    batch, by default each, goes with a forget batch, while there are any, under CE(retain) -
    forget_weight CE(forget), the others are plain training. In steps ``project_every``, 2
    ``project_every``, ... of an epoch, where they are pairs, the gradient g of those stages becomes
    g + v m if g.m < 0, m the gradient of -CE(forget batch) as the epoch begins and v = max(0.5,
    -g.m / (m.m + 1e-3)): the authors' projection with one memory.
    """

    label = "Scissorhands"
    breaks = ("redraw_share",)
    touches = "forget + retain"
    cost = "E (n_f + n_r), and E + 1 forget batches"
    paper = "Wu and Harandi, ECCV 2024"
    source = "the authors' script for 10 % of CIFAR-10"
    splits = ("forget", "retain")
    presets = SCISSORHANDS_PRESETS

    unlearn_lr: float = option(5e-3, "learning rate of unlearning", Range(5e-4, 5e-2))
    forget_weight: float = option(0.05, "weight of the forget loss", Range(0.005, 0.5))
    redraw_share: float = option(
        0.03, "share of the weights, by SNIP score, of which the last stages' are drawn anew"
    )
    pair_every: int = option(1, "retain batches of which one goes with a forget batch")
    project_every: int = option(1, "steps of which one projects a pair's gradient")

    def __post_init__(self) -> None:
        if not 0 <= self.redraw_share <= 1:
            raise UserError(f"--redraw_share {self.redraw_share}: allowed 0 to 1")
        for name in ("pair_every", "project_every"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: at least 1 is wanted")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        inside = tuple(f"{name}." for name in last_stages(model))
        self.memory = Memory(model, inside, mask)
        redraw_salient(model, salience(model, data), self.redraw_share, inside, data.seed)

    def steps(self, data: Data, epoch: int) -> int:
        return len(data.retain)

    def forget_steps(self, data: Data, epoch: int) -> int:
        return min(len(data.forget), -(-len(data.retain) // self.pair_every))

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        self.memory.renew(model, data, epoch)
        pairs = iter(data.forget)
        for number, (images, labels) in enumerate(data.retain):
            logits = model(images)
            learnt = F.cross_entropy(logits, labels)
            pair = None if number % self.pair_every else next(pairs, None)
            if pair is None:
                yield Step(learnt, logits, labels)
                continue
            climbed = -self.forget_weight * F.cross_entropy(model(pair[0]), pair[1])
            loss = joint_loss((learnt, data.retain), (climbed, data.forget))
            edit = None if (number + 1) % self.project_every else self.memory.hold
            yield Step(loss, logits, labels, phase="forget", edit_gradients=edit)
