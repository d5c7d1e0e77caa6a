"""What several runs from one model agree on."""

import torch
from torch import Tensor, nn

from unlearn.tools.flat import percent


class Moves:
    """The sum of several models' moves from ``model`` as it is now, and of the moves' signs."""

    def __init__(self, model: nn.Module):
        self.start = [weight.detach().clone() for weight in model.parameters()]
        self.statistics = [value.clone() for value in model.buffers()]
        self.total, self.signs = (torch._foreach_mul(self.start, 0.0) for _ in range(2))

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        moves = torch._foreach_sub(list(model.parameters()), self.start)
        torch._foreach_add_(self.total, moves)
        torch._foreach_add_(self.signs, torch._foreach_sign(moves))

    @torch.no_grad()
    def put_back(self, model: nn.Module) -> None:
        """Give ``model`` the weights and the buffers of the start."""
        now, before = [*model.parameters(), *model.buffers()], [*self.start, *self.statistics]
        for value, kept in zip(now, before, strict=True):
            value.copy_(kept)

    @torch.no_grad()
    def subtract(self, model: nn.Module, runs: int, alpha: float) -> float:
        """Make ``model`` the start less ``alpha`` times the mean of those moves of all ``runs``
        whose signs are equal and not zero; returns the percentage of such weights.
        """
        self.put_back(model)
        agreed = [signs.abs() == runs for signs in self.signs]
        for weight, total, same in zip(model.parameters(), self.total, agreed, strict=True):
            weight.sub_(torch.where(same, alpha / runs * total, 0.0))
        return percent(torch.cat([part.flatten() for part in agreed]))

    def state(self) -> dict[str, list[Tensor]]:
        return {"total": self.total, "signs": self.signs}

    def load_state(self, state: dict[str, list[Tensor]]) -> None:
        for name in ("total", "signs"):
            torch._foreach_copy_(getattr(self, name), state[name])
