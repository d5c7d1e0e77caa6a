"""NegMerge: subtract what several fine-tunings on the forget set agree on."""

import dataclasses

from torch import Tensor, nn

from datasets.loaders import Data
from masks.masks import Mask
from unlearn.base import ALPHA, Iterative, Range, Steps, cross_entropy_steps, option
from unlearn.tools.agreement import Moves
from utils import UserError


@dataclasses.dataclass
class NegMerge(Iterative):
    """Fine-tune the original on the forget set several times, and subtract the mean of those moves
    whose sign all agree on.

    Run i = 0 ... m - 1 starts at the original with a new optimizer and takes ``epochs_each`` of the
    epochs at ``unlearn_lr`` times ``spread``^(2 i / (m - 1) - 1), without weight decay, which would
    make every sign agree. With tau_i its move, a weight whose m signs are equal and not zero
    becomes theta_o - alpha mean tau_i; all others, and BatchNorm statistics, stay the original's.
    The authors' code is for CLIP alone, with 8 to 30 settings, and alpha chosen on validation.
    """

    label = "NegMerge"
    touches = "forget"
    cost = "E n_f"
    paper = "Kim et al., ICML 2025"
    source = "no weight decay: the paper; the rest, ten runs of one epoch: our choice"
    splits = ("forget",)

    unlearn_epochs: int = option(10, "epochs of unlearning")
    unlearn_lr: float = option(0.01, "learning rate of unlearning", Range(1e-3, 0.1))
    weight_decay: float = option(0.0, "weight decay")
    alpha: float = option(1.0, ALPHA, Range(0.1, 10))
    epochs_each: int = option(1, "epochs of each of the runs that are merged")
    spread: float = option(3.0, "the runs' rates go from the rate over this to the rate times it")

    def __post_init__(self) -> None:
        if self.epochs_each < 1 or self.unlearn_epochs % self.epochs_each:
            given = f"--epochs_each {self.epochs_each}"
            raise UserError(f"{given}: it must divide the {self.unlearn_epochs} epochs of all runs")
        if self.spread < 1:
            raise UserError(f"--spread {self.spread}: at least 1 is wanted")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.moves = Moves(model)

    def rate_factor(self, epoch: int) -> float:
        last = self.unlearn_epochs // self.epochs_each - 1
        place = 2 * (epoch // self.epochs_each) / last - 1 if last else 0.0
        return self.spread**place

    def resets(self, epoch: int) -> bool:
        return epoch % self.epochs_each == 0

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        if self.resets(epoch):
            self.moves.put_back(model)
        yield from cross_entropy_steps(model, data.forget)
        if (epoch + 1) % self.epochs_each == 0:
            self.moves.add(model)

    def state(self) -> dict[str, list[Tensor]]:
        return self.moves.state()

    def load_state(self, state: dict[str, list[Tensor]]) -> None:
        self.moves.load_state(state)

    def finish(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        runs = self.unlearn_epochs // self.epochs_each
        return {"agreed": self.moves.subtract(model, runs, self.alpha)}
