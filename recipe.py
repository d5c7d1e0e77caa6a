"""A run's recipe: one frozen record that is consumed, written and compared; its optimizers."""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from models.structure import kernels


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a run trains, beside its method's own fields.

    ``batch_size`` and ``forget_batch_size`` are images a batch (None: of forget as of the others),
    ``milestones`` epochs, ``final_lr`` the learning rate that a cosine ends at, ``clip_norm`` the
    largest gradient norm (0: no clipping), ``accumulate`` batches an update. ``select`` "best"
    keeps the epoch with the best validation accuracy, "last" or None the last one. ``decay`` says
    what the weight decay is of: "all" parameters, or "weights" alone (:func:`decay_groups`);
    ``init`` is the hash of weights that training begins with, empty where it begins anew.
    ``drop_path`` is the last block's rate of stochastic depth, or "own": as the architecture is
    made (:func:`models.structure.set_drop_path`).
    """

    batch_size: int = 256
    momentum: float = 0.9
    schedule: str = "constant"
    warmup: int = 0
    milestones: tuple[float, ...] = ()
    final_lr: float = 0.0
    clip_norm: float = 0.0
    accumulate: int = 1
    augment: bool = True
    tail: str = "spread"
    select: str | None = None
    precision: str = "fp32"
    forget_batch_size: int | None = None
    decay: str = "all"
    init: str = ""
    drop_path: float | str = "own"

    def record(self) -> dict[str, object]:
        """The fields as plain values for a file, without those that do not apply."""
        values = dataclasses.asdict(self) | {"milestones": list(self.milestones)}
        return {name: value for name, value in values.items() if value is not None}

    def batches(self) -> dict[str, object]:
        """What :class:`datasets.loaders.Data` takes of it."""
        names = ("batch_size", "forget_batch_size", "tail", "accumulate", "augment")
        return {name: getattr(self, name) for name in names}

    def rate_factor(self, epochs: float, lr: float) -> Callable[[float], float]:
        """:func:`learning_rate_factor` of a run of so many epochs from the learning rate ``lr``."""
        final = self.final_lr / lr if self.final_lr else 0.0
        return learning_rate_factor(self.schedule, epochs, self.warmup, self.milestones, final)


class Descent(NamedTuple):
    """An optimizer and its schedule, ``lr`` times ``rate_factor`` at a progress in epochs."""

    lr: float
    optimizer: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    rate_factor: Callable[[float], float] = lambda progress: 1.0

    def start(
        self, parameters: Sequence[nn.Parameter] | Sequence[dict], updates: Sequence[int]
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        """The optimizer of ``parameters``, or of such groups of them as torch's optimizers take,
        and its scheduler for so many updates in each epoch.
        """
        values = self.lr, self.momentum, self.weight_decay, self.optimizer
        optimizer = make_optimizer(parameters, *values)
        return optimizer, make_scheduler(optimizer, self.rate_factor, updates)


def decay_groups(
    model: nn.Module, extra: Sequence[nn.Parameter], decay: str
) -> list[nn.Parameter] | list[dict]:
    """The parameters of the model and of what is trained beside it, as optimizers take them.

    For ``decay`` "weights" in two groups, the second one without weight decay: norms, biases,
    tokens, tables of positions and scales, everything but :func:`models.structure.kernels` and
    what is beside the model. So DeiT and Swin (their code), but for their relative positions.
    """
    if decay == "all":
        return [*model.parameters(), *extra]
    decayed = {id(weight) for weight in [*kernels(model).values(), *extra]}
    groups = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for parameter in [*model.parameters(), *extra]:
        groups[id(parameter) not in decayed]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def make_optimizer(
    parameters: Iterable[nn.Parameter] | Sequence[dict],
    lr: float,
    momentum: float,
    weight_decay: float,
    kind: str = "sgd",
) -> torch.optim.Optimizer:
    """``sgd``, ``adam`` or ``adamw`` as one fused kernel; ``momentum`` is SGD's.

    The scheduler writes the rate as a Python number, an argument of the kernel: nothing waits.
    """
    parameters = list(parameters)
    # torch 2.4 has fused kernels for CUDA and the CPU, 2.5 also for MPS.
    groups = parameters if isinstance(parameters[0], dict) else [{"params": parameters}]
    on_mps = any(each.device.type == "mps" for group in groups for each in group["params"])
    fused = torch.__version__ >= (2, 5) or not on_mps
    common = {"lr": lr, "weight_decay": weight_decay, "fused": fused}
    if kind == "sgd":
        return torch.optim.SGD(parameters, momentum=momentum, **common)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind](parameters, **common)


def learning_rate_factor(
    schedule: str,
    epochs: float,
    warmup: int = 0,
    milestones: tuple[float, ...] = (),
    final: float = 0.0,
) -> Callable[[float], float]:
    """The learning rate's factor at a progress in epochs (3.5 = half of the fourth).

    Args:
        schedule: ``constant``; ``multistep``, a tenth at each milestone; ``cosine``, half a period
            from one to ``final``.
        warmup: epochs over which the rate first climbs linearly, whichever schedule follows.
        milestones: epochs at which ``multistep`` steps down.
    """

    def factor(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        if schedule == "cosine":
            share = 0.5 * (1 + math.cos(math.pi * (progress - warmup) / max(epochs - warmup, 1e-9)))
            return final + (1 - final) * share
        if schedule == "multistep":
            return 0.1 ** sum(progress >= milestone for milestone in milestones)
        return 1.0

    return factor


def make_scheduler(
    optimizer: torch.optim.Optimizer, factor: Callable[[float], float], steps: Sequence[int]
) -> torch.optim.lr_scheduler.LambdaLR:
    """A scheduler to step once per update; ``steps`` says how many updates each epoch takes."""
    ends = list(itertools.accumulate(steps))

    def at(update: int) -> float:
        epoch = min(bisect.bisect_right(ends, update), len(ends) - 1)
        return factor(epoch + (update + 0.5 - ends[epoch] + steps[epoch]) / max(steps[epoch], 1))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, at if any(steps) else lambda update: 1.0)
