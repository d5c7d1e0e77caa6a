"""SFRon: climb on forget where it matters more than retain, and repair at every step."""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import nn

from datasets.loaders import Data
from masks.masks import Mask
from masks.scores import ratio
from unlearn.base import ALPHA, GAMMA, Range, Step, Steps, option
from unlearn.tools.adaptive import adaptive_cross_entropy
from unlearn.tools.presets import SFRON_PRESETS
from unlearn.tools.two_phase import TwoPhase
from utils import UserError


@dataclasses.dataclass
class SFRon(TwoPhase):
    """Climb on forget in the weights that matter more to it than to retain, and repair on retain.

    Before retain steps t = 0, ``forget_every``, ... of T a forget step climbs a_t sum_i w_i CE_i:
    a_t = alpha (1 + cos(pi t / T)) / 2, constant w_i = CE_i^-loss_power / sum. Its gradient is kept
    where the score ratio is ``gamma`` or more, then clipped; retain steps move all, unclipped. One
    optimizer serves both. A mask file replaces the ratio, and freezes in retain steps too.
    """

    label = "SFRon"
    touches = "forget + retain"
    cost = "unlearn_steps batches, a sixth of forget; n_f + n_r for the ratio"
    paper = "Huang et al., NeurIPS 2024"
    source = "the authors' code for 10 % of CIFAR-10: 1500 retain steps, 300 forget steps"
    splits = ("forget", "retain")
    recipe = {"batch_size": 128, "schedule": "cosine", "clip_norm": 7.0}
    presets = SFRON_PRESETS

    unlearn_steps: int = option(1800, "updates of both kinds together; 0: --unlearn_epochs instead")
    alpha: float = option(25.0, ALPHA, Range(1, 500))
    gamma: float = option(1.0, GAMMA)
    loss_power: float = option(0.5, "power of 1 / loss that a forget sample is weighed by, 0 to 2")
    forget_every: int = option(5, "retain steps from one forget step to the next")
    forget_phase = "forget"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.loss_power <= 2 or self.forget_every < 1:
            given = f"--loss_power {self.loss_power} --forget_every {self.forget_every}"
            raise UserError(f"{given}: allowed are 0 to 2, and 1 or more")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        every, steps = self.forget_every, self.unlearn_steps * data.batches.accumulate
        self.total = steps * every // (every + 1) or self.unlearn_epochs * len(data.retain)
        if mask:
            print("SFRon: --mask_path replaces --gamma's mask and freezes in retain steps too")
        scores = [] if mask else ratio(model, data).values()
        self.kept = [(score >= self.gamma).to(score) for score in scores]

    def steps(self, data: Data, epoch: int) -> int:
        return len(data.retain) + self.forget_steps(data, epoch)

    def forget_steps(self, data: Data, epoch: int) -> int:
        length = len(data.retain)
        return len(range(-epoch * length % self.forget_every, length, self.forget_every))

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        forget, edit = data.forget.cycled(), self._keep if self.kept else None
        for t, (images, labels) in enumerate(data.retain, start=epoch * len(data.retain)):
            if t % self.forget_every == 0:
                strength = self.alpha * (1 + math.cos(math.pi * min(1, t / self.total))) / 2
                forget_images, true = next(forget)
                logits = model(forget_images)
                climbed = adaptive_cross_entropy(logits, true, self.loss_power, data.forget.share)
                yield Step(-strength * climbed, logits, true, phase="forget", edit_gradients=edit)
            logits = model(images)
            yield Step(F.cross_entropy(logits, labels), logits, labels, clip=False)

    def _keep(self, parameters: list[nn.Parameter]) -> None:
        torch._foreach_mul_([parameter.grad for parameter in parameters], self.kept)
