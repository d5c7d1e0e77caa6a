"""--compile: how it is asked for on each device, that it changes no result, and that nothing reads
a CUDA graph's memory too late.

CUDA graphs themselves need a GPU. What they do to memory is acted out on the CPU: at the beginning
of a step everything that the model's passes of the step before left, outputs and gradients, is
overwritten with NaN.
"""

import functools
import shutil
from unittest import mock

import pytest
import torch
from helpers import CPU, ITERATIVE, make_data, make_image_set, make_model, random_mask, small
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import engine
from engine import Trainer, compile_model
from masks.gate import SaliencyGate
from recipe import Recipe
from runtime.clock import Stopwatch
from utils import RunFailed

CUDA = torch.device("cuda")
compile_module = nn.Module.compile


@pytest.fixture
def asked(monkeypatch):
    """The options of each nn.Module.compile, which then does nothing."""
    found = []
    monkeypatch.setattr(nn.Module, "compile", lambda model, **options: found.append(options))
    return found


@pytest.mark.parametrize(
    ("device", "accumulate", "processes", "options", "marked"),
    [
        (CPU, 1, 1, {}, False),
        (torch.device("mps"), 1, 1, {}, False),
        (CUDA, 1, 1, {"mode": "reduce-overhead", "dynamic": False}, True),
        (CUDA, 2, 1, {"mode": "default", "dynamic": False}, False),
        (CUDA, 1, 2, {"mode": "default", "dynamic": False}, False),
    ],
)
def test_graphs_are_for_one_backward_pass_an_update_and_one_process(
    device, accumulate, processes, options, marked, asked, monkeypatch
):
    monkeypatch.setattr(engine.distributed, "world_size", lambda: processes)
    assert compile_model(make_model(), device, accumulate) is marked
    assert asked == [options]


# ------------------------------------------------------------------------------------- whole epochs


def run(name, masked, prepare=lambda model: False, count=12, one_image=False, **recipe):
    """Two epochs of a method; ``prepare`` gets the model before them and returns whether to mark
    its steps. Mean losses, weights, buffers.
    """
    data, model = make_data(make_image_set(90), count=count, batch_size=8), make_model()
    mask = random_mask(model) if masked else None
    gate, method = SaliencyGate(model, mask) if mask else None, small(name)
    method.prepare(model, data, mask)
    trainer = Trainer(model, method, data, Recipe(**recipe), Stopwatch(CPU), gate)
    losses = []
    with mock.patch.object(engine, "compile_model", lambda model, *unused: prepare(model)):
        trainer.fit(
            lambda epoch, stats: losses.append(torch.tensor(stats[:2])),
            compile=True,
            one_image=one_image,
        )
    method.finish(model, data)
    return [*losses, *model.state_dict().values()]


class GraphMemory:
    """Overwrites at the beginning of a step what the step before left in a graph's memory."""

    def __init__(self, monkeypatch):
        self.kept, self.overwritten = [], 0
        monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", self.begin)

    def begin(self):
        self.overwritten += len(self.kept)
        with torch.no_grad():
            for tensor in self.kept:
                tensor.fill_(torch.nan)
        self.kept.clear()

    def watch(self, model):
        """Every layer's output and every parameter's gradient are the graph's."""
        for module in model.modules():
            module.register_forward_hook(
                lambda module, inputs, output: self.kept.append(output.detach())
            )
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(
                lambda parameter: self.kept.append(parameter.grad)
            )
        return True


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("name", ITERATIVE)
def test_nothing_reads_a_graph_s_memory_after_its_step(name, masked, monkeypatch):
    memory = GraphMemory(monkeypatch)
    clip = {"clip_norm": 1.0} if masked else {}
    assert_same(run(name, masked, memory.watch, **clip), run(name, masked, **clip))
    assert memory.overwritten > 40


def test_gradients_that_wait_for_their_update_are_lost_in_a_graph_s_memory(monkeypatch):
    """Why compile_model makes no graphs for --accumulate; and that the memory acted out here is
    overwritten at all.
    """
    with pytest.raises(RunFailed, match="not finite"):
        run("FT", False, GraphMemory(monkeypatch).watch, accumulate=2)


def test_steps_are_marked_before_each_forward_pass_and_only_where_asked_for(monkeypatch):
    events = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: events.append("step"))

    def listen(model, mark_steps=False):
        model.register_forward_pre_hook(lambda module, inputs: events.append("forward"))
        return mark_steps

    run("neggrad_plus", False, functools.partial(listen, mark_steps=True))
    assert (
        "".join(event[0] for event in events).count("sff") * 3 == len(events) - 2
    )  # once more where an epoch's steps end
    events.clear()
    run("neggrad_plus", False, listen)
    assert set(events) == {"forward"}


# ---------------------------------------------------------------------------------- compiled models


def compiled(model, backend, monkeypatch, **options):
    """Compile as the scripts do, by another backend; no flag of the loop on the CPU."""
    torch._dynamo.reset()
    monkeypatch.setattr(
        nn.Module, "compile", functools.partialmethod(compile_module, backend=backend, **options)
    )
    return compile_model(model, CPU)


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize(
    "name",
    [
        "FT",
        "RL",
        "FT_prune",
        "boundary_expanding",
        "neggrad_plus",
        "scrub",
        "bad_teaching",
        "CF_k",
        "unsir",
    ],
)
def test_a_traced_model_trains_as_the_eager_one(name, masked, monkeypatch):
    """The graphs that torch.compile would hand to its code generator, run operation by operation:
    bit for bit.
    """
    counter = CompileCounterWithBackend("aot_eager")
    assert_same(
        run(name, masked, lambda model: compiled(model, counter, monkeypatch)), run(name, masked)
    )
    assert counter.frame_count


@pytest.mark.slow
def test_a_batch_of_one_image_uses_running_statistics_in_a_traced_model_too(monkeypatch):
    counter = CompileCounterWithBackend("aot_eager")
    found = run(
        "RL", True, lambda model: compiled(model, counter, monkeypatch), count=1, one_image=True
    )
    assert_same(found, run("RL", True, count=1, one_image=True))
    assert counter.frame_count


@pytest.mark.slow
@pytest.mark.parametrize("tail", ["spread", "keep", "drop"])
def test_a_loader_s_batches_are_compiled_for_two_sizes_at_most(tail, monkeypatch):
    counter, data, model = (
        CompileCounterWithBackend("aot_eager"),
        make_data(make_image_set(90), batch_size=9),
        make_model(),
    )
    compiled(model, counter, monkeypatch, dynamic=False)
    data.retain.tail = tail
    sizes = [
        len(labels)
        for epoch in range(2)
        for images, labels in data.retain
        if model(images) is not None
    ]
    assert counter.frame_count == len(set(sizes)) == (1 if tail == "drop" else 2)


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="the code generator needs a C++ compiler on the CPU"
)
@pytest.mark.parametrize("name", ["RL", "scrub"])
def test_a_compiled_model_trains_as_the_eager_one(name, monkeypatch):
    """Up to fused operations that round otherwise."""
    for a, b in zip(
        run(name, True, lambda model: compiled(model, "inductor", monkeypatch)),
        run(name, True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
