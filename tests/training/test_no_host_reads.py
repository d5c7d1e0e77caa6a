"""Nothing waits for the device inside the training loop, shown on the CPU for every registered
method.

Two modes see every operation. One refuses what makes the host wait for a number from a device: a
read of a value, or a result whose size depends on values. The other refuses copies between host and
device. The engine's own looks, every ``print_freq`` steps and at an epoch's end, are let through.
What CUDA's own kernels wait for shows only in a profile on a GPU.
"""

import contextlib
import dataclasses
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import (
    CPU,
    ITERATIVE,
    make_data,
    make_image_set,
    make_model,
    random_mask,
    small,
    train_epoch,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toys import Alternate, Pair

import engine
import unlearn.proximal
from datasets import loaders
from engine import Trainer
from masks.gate import SaliencyGate
from masks.scores import mean_gradient
from recipe import Recipe, make_optimizer
from runtime.clock import Stopwatch
from training import loop as training_loop
from training.meter import Meter
from unlearn.base import Step, cross_entropy_steps
from unlearn.retrain import Retrain
from unlearn.tools.per_sample import fisher_diagonal

TORCH = str(Path(torch.__file__).parent)
# Operations that hand a number to the host, or need one for the size of their result.
READS = {
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "nonzero",
    "nonzero_numpy",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "unique_dim_consecutive",
    "bincount",
    "repeat_interleave",
}
# What Python asks for: numbers, host memory, a tensor made from host memory.
CALLS = {
    "item",
    "tolist",
    "numpy",
    "cpu",
    "cuda",
    "tensor",
    "as_tensor",
    "new_tensor",
    "__array__",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "__contains__",
    "is_nonzero",
}
# Methods that read or copy inside an epoch, once an epoch and after its last step, with the reason.
ALLOWED = {
    # The weights that an epoch ended with go to the host: the choice is between all epochs.
    "scrub_r": ("to",),
    # The forget accuracy after an epoch says whether there is another, and at which temperature.
    "lotus": ("__float__", "_local_scalar_dense"),
}


class Wait(AssertionError):
    """The host waits for the device."""


class Guard:
    """Refuses, while it is on, whatever waits; ``allowed`` names calls that may."""

    def __init__(self, allowed=()):
        self.on, self.allowed, self.seen, self.let_through = False, allowed, 0, 0

    def refuse(self, name):
        self.let_through += 1
        if self.on and name not in self.allowed:
            raise Wait(name)

    @contextlib.contextmanager
    def off(self):
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before

    @contextlib.contextmanager
    def watch(self):
        made = let_through(self, torch.from_numpy, refused="from_numpy")  # no mode sees this one
        with Calls(self), Operations(self), mock.patch.object(torch, "from_numpy", made):
            self.on = True
            try:
                yield self
            finally:
                self.on = False


class Operations(TorchDispatchMode):
    def __init__(self, guard):
        super().__init__()
        self.guard = guard

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.guard.seen += 1
        if name in READS or (
            name.startswith(("index", "_index_put", "_unsafe_index")) and indexed_by_bools(args)
        ):
            self.guard.refuse(name)
        return func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    def __init__(self, guard):
        super().__init__()
        self.guard = guard

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in CALLS:
            self.guard.refuse(name)
        to_a_device = any(
            isinstance(value, str | torch.device | torch.Tensor)
            for value in (*args[1:], *kwargs.values())
        )
        # torch's own, as in clip_grad_norm_, go to where the tensor is.
        if (
            name == "to"
            and to_a_device
            and not sys._getframe(1).f_code.co_filename.startswith(TORCH)
        ):
            self.guard.refuse(name)
        return func(*args, **kwargs)


def indexed_by_bools(args):
    lists = [arg for arg in args if isinstance(arg, list | tuple)]
    return any(
        isinstance(x, torch.Tensor) and x.dtype in (torch.bool, torch.uint8)
        for part in lists
        for x in part
    )


def let_through(guard, function, refused=None):
    """``function``, at which the guard does not look, or which it refuses under a name."""

    def called(*args, **kwargs):
        if refused:
            guard.refuse(refused)
        with guard.off():
            return function(*args, **kwargs)

    return called


@pytest.fixture
def guard(monkeypatch):
    """A guard that lets through where the engine looks, and what only the CPU does."""
    guard = Guard()
    for name in ("check", "read"):
        monkeypatch.setattr(Meter, name, let_through(guard, getattr(Meter, name)))
    for module in (engine, training_loop):
        monkeypatch.setattr(module, "check_finite", let_through(guard, module.check_finite))
    # Pinned and non-blocking on CUDA: test_to_device_pins_for_cuda.
    monkeypatch.setattr(loaders, "to_device", let_through(guard, loaders.to_device))

    # Elsewhere than on the CPU, where numpy partitions, a sort finds it:
    # unlearn.saliency.lowest_chosen.
    def sort(values, counts):
        return {n: values.sort().values[len(values) - n] for n in counts if n}

    monkeypatch.setattr(unlearn.proximal, "lowest_chosen", sort)
    return guard


# --------------------------------------------------------------------------------- the guard itself

LABELS = torch.tensor([0, 1, 1])
WAITS = {
    "item": lambda x: x.sum().item(),
    "int": lambda x: int(x.sum()),
    "float": lambda x: float(x.sum()),
    "branch": lambda x: 1 if x.sum() > 0 else 0,
    "index": lambda x: [1, 2, 3][LABELS.argmin()],
    "list": lambda x: x.tolist(),
    "numpy": lambda x: np.asarray(x),
    "all": lambda x: bool(torch.isfinite(x).all()),
    "selection": lambda x: x[x > 0],
    "assignment": lambda x: x.clone().__setitem__(x > 0, x[:1] * 0),
    "masked": lambda x: x.masked_select(x > 0),
    "nonzero": lambda x: (x > 0).nonzero(),
    "where": lambda x: torch.where(x > 0),
    "unique": lambda x: LABELS.unique(),
    "counts": lambda x: torch.bincount(LABELS),
    "equal": lambda x: torch.equal(x, x),
    "made here": lambda x: torch.tensor([1.0], device=x.device),
    "moved here": lambda x: torch.zeros(1).to(x.device),
    "moved there": lambda x: x.cpu(),
    "host memory": lambda x: torch.from_numpy(np.zeros(1)),
}


@pytest.mark.parametrize("name", WAITS)
def test_the_guard_sees_what_waits(name):
    with pytest.raises(Wait), Guard().watch():
        WAITS[name](torch.ones(3))


def test_the_guard_lets_pass_what_does_not_wait():
    x = torch.ones(3)
    with Guard().watch():
        torch.where(x > 0, x, -x).masked_fill_(x > 0, 0)[LABELS].to(torch.float64).sum()
        torch.full((), 1.0, device=x.device) + len(x)


# ------------------------------------------------------------------------------------------ methods


def watched(name, guard, mask, one_image=False, **recipe):
    """Both epochs of a method under the guard; what it does before its first and after its last
    epoch is not of the loop.
    """
    data, model = make_data(make_image_set(120), count=24, batch_size=8), make_model()
    gate = SaliencyGate(model, mask(model)) if mask else None
    method = name() if isinstance(name, type) else small(name)
    method.prepare(model, data, mask(model) if mask else None)
    steps = [method.steps(data, epoch) for epoch in range(2)]
    assert min(steps) > 1, "one step shows nothing of what lies between two"
    recipe = Recipe(schedule="cosine", **recipe)
    trainer = Trainer(model, method, data, recipe, Stopwatch(CPU), gate)
    guard.allowed = ALLOWED.get(name, ())
    with guard.watch():
        trainer.fit(lambda epoch, stats: None, print_freq=10**6, one_image=one_image)
    assert guard.seen > 50 * sum(steps)


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("name", ITERATIVE)
def test_no_method_waits_inside_an_epoch(name, masked, guard):
    watched(name, guard, random_mask if masked else None, clip_norm=1.0 if masked else 0.0)


@pytest.mark.parametrize(
    "loop", [{"accumulate": 2}, {"precision": "bf16"}, {"one_image": True}], ids=str
)
def test_no_setting_of_the_loop_waits(loop, guard):
    watched("RL", guard, random_mask, **loop)


@dataclasses.dataclass
class Mixed(Retrain):
    """Retrain under mixup."""

    mixup: float = 0.8
    unlearn_epochs: int = 2


def test_mixup_does_not_wait(guard):
    watched(Mixed, guard, None)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("toy", [Alternate, Pair])
def test_phases_edits_and_pairs_do_not_wait(toy, masked, accumulate, guard):
    mask = random_mask if masked else None
    watched(toy, guard, mask, accumulate=accumulate, clip_norm=1.0)


@pytest.mark.parametrize("name", ALLOWED)
def test_who_may_wait_does_it_once_an_epoch_at_its_end(name, guard):
    """SCRUB+R copies the weights to the host after the last step, before the engine's own look at
    the epoch's sums; LoTUS reads one number.
    """
    data, model, method = make_data(batch_size=8), make_model(), small(name)
    method.prepare(model, data, None)
    guard.allowed = ALLOWED[name]
    counts = []

    def steps():
        for step in method.losses(model, data, 0):
            counts.append(guard.let_through)
            yield step
        counts.append(guard.let_through)

    with guard.watch():
        train_epoch(
            model,
            steps(),
            make_optimizer(model.parameters(), 0.01, 0.9, 0.0),
            print_freq=10**6,
        )
    assert len(set(counts[:-1])) == 1
    assert counts[-1] - counts[0] == {"scrub_r": len(model.state_dict()), "lotus": 2}[name]


def test_a_method_that_waits_is_found(guard):
    def steps(model, batches):
        for step in cross_entropy_steps(model, batches):
            yield step._replace(loss=step.loss / float(step.loss.detach()))

    data, model = make_data(), make_model()
    with pytest.raises(Wait), guard.watch():
        train_epoch(
            model,
            steps(model, data.retain),
            make_optimizer(model.parameters(), 0.01, 0.9, 0.0),
        )


class Curious(torch.autograd.Function):
    """Reads its gradient on the way back."""

    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float(gradient.sum())


def test_a_backward_pass_that_waits_is_found(guard):
    def steps(model, batches):
        for step in cross_entropy_steps(model, batches):
            yield step._replace(loss=Curious.apply(step.loss))

    data, model = make_data(), make_model()
    with pytest.raises(Wait), guard.watch():
        train_epoch(
            model,
            steps(model, data.retain),
            make_optimizer(model.parameters(), 0.01, 0.9, 0.0),
        )


class Elsewhere(TorchDispatchMode):
    """Names the operations that a tensor of another device than ``kind`` has a part in."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.seen, self.found = kind, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [
            leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)
        ]
        self.seen += 1
        if any(tensor.device.type != self.kind for tensor in tensors):
            self.found.add(func.overloadpacket.__name__)
        return result


@pytest.mark.parametrize("looks", [False, True], ids=["wait-free", "with a copy"])
def test_a_step_makes_its_numbers_on_the_device(looks, monkeypatch):
    """On the meta device, which is not the CPU: also Python numbers, in the meter say, become no
    tensors of the host.
    """
    monkeypatch.setattr(Meter, "read", lambda meter, lr, title="": meter.steps)
    meta = torch.device("meta")
    model = make_model().to(meta)
    gate = SaliencyGate(model, random_mask(make_model()))
    batches = [
        (torch.empty(4, 3, 8, 8, device=meta), torch.zeros(4, dtype=torch.int64, device=meta))
        for _ in range(2)
    ]

    def steps():
        for step in cross_entropy_steps(model, batches):
            yield step._replace(loss=step.loss * torch.ones(())) if looks else step

    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, foreach=False)
    with Elsewhere("meta") as seen:
        assert train_epoch(model, steps(), optimizer, gate=gate, clip_norm=1.0) == 2
    assert seen.found == ({"ones", "mul"} if looks else set())
    assert seen.seen > 100


def test_the_engine_looks_every_print_freq_steps_and_at_the_end(monkeypatch):
    looks, steps = [], []
    check, finite = Meter.check, training_loop.check_finite
    monkeypatch.setattr(
        Meter,
        "check",
        lambda meter, title="": looks.append(meter.steps) or check(meter, title),
    )
    monkeypatch.setattr(
        training_loop,
        "check_finite",
        lambda model, when="": steps.append(when) or finite(model, when),
    )
    weight = torch.nn.Parameter(torch.zeros(()))
    losses = (
        Step(weight * 1.0, torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)) for _ in range(7)
    )
    train_epoch(make_model(), losses, make_optimizer([weight], 0.1, 0.0, 0.0), print_freq=3)
    assert looks == [3, 6, 7]
    assert len(steps) == 2


# ------------------------------------------------------------------------- passes over many batches


def reads(action, batch_size):
    """How often ``action`` reads or copies in passes over the forget set."""
    guard, data = Guard(), make_data(count=24, batch_size=batch_size)
    with Calls(guard), Operations(guard):
        action(make_model(), data.forget.eval_view())
    return guard.let_through


@pytest.mark.parametrize(
    "action", [mean_gradient, fisher_diagonal, engine.predict], ids=["mask", "fisher", "evaluation"]
)
def test_a_pass_reads_no_more_often_over_many_batches(action):
    assert reads(action, 2) == reads(action, 24)


# ----------------------------------------------------------------------------- copies to the device


class Memory:
    """What :func:`loaders.to_device` may do to a tensor."""

    def __init__(self):
        self.done = []

    def pin_memory(self):
        self.done.append("pinned")
        return self

    def to(self, device, non_blocking=False):
        self.done.append((device.type, non_blocking))
        return self


@pytest.mark.parametrize(
    ("device", "done"),
    [("cuda", ["pinned", ("cuda", True)]), ("mps", [("mps", False)]), ("cpu", [("cpu", False)])],
)
def test_to_device_pins_for_cuda(device, done):
    memory = Memory()
    assert loaders.to_device(memory, torch.device(device)) is memory
    assert memory.done == done
