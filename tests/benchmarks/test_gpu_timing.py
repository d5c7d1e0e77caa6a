"""The arithmetic of the GPU speed checks, on made-up numbers and events, and a training loop that
waits.
"""

import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import CPU, make_data, make_model, train_epoch
from torch import nn
from torch.autograd import DeviceType

from benchmarks.gpu.timing import (
    READ,
    WINDOW,
    Blind,
    Event,
    Window,
    between,
    busy_time,
    count_of,
    flops_of,
    host_marks,
    host_waits,
    idle_share,
    ranking,
    rate_share,
    ratios,
    seconds_of,
    spread,
    union,
)
from recipe import make_optimizer
from unlearn.base import Step, cross_entropy_steps


def host(name, start, end, under=""):
    return Event(name, start, end, False, under or name)


def kernel(name, start, end):
    return Event(name, start, end, True, name)


def test_spread_is_the_median_with_its_ends():
    assert spread("s", [3.0, 1.0, 2.0, 10.0]) == {"s": 2.5, "s_min": 1.0, "s_max": 10.0}


def test_ratios_are_of_pairs():
    assert ratios([6.0, 8.0], [2.0, 2.0]) == [3.0, 4.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_warm_ups_are_run_and_not_reported():
    calls = []
    assert len(seconds_of(lambda: calls.append(1), CPU, repeats=3, warm_ups=2, inner=4)) == 3
    assert len(calls) == 5 * 4


def test_flops_are_those_of_the_products():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Flatten(), nn.Linear(4 * 8 * 8, 5, bias=False)
    )
    conv, linear = 2 * 8 * 8 * 4 * 3 * 9, 2 * 4 * 8 * 8 * 5
    images = torch.rand(2, 3, 8, 8)
    assert flops_of(net, images, backward=False) == conv + linear
    # The images need no gradient, so the first layer's backward pass is one product and the
    # second's two.
    assert flops_of(net, images) == 2 * conv + 3 * linear


def test_share_of_a_rate():
    assert rate_share(flops_per_image=3e9, images_per_second=10_000, tflops=600) == pytest.approx(
        5.0
    )


def test_overlapping_intervals_count_once():
    assert union([(0, 4), (2, 3), (3, 6), (10, 12), (6, 7)]) == 9
    assert union([]) == 0


def test_the_device_is_busy_while_it_has_kernels_whatever_the_host_does():
    events = [
        host("aten::mm", 0, 100),
        kernel("gemm", 10, 20),
        kernel("copy", 15, 30),
        kernel("gemm", 50, 60),
    ]
    assert busy_time(events) == (30, 50)
    assert busy_time(events[:1]) == (100, 100)  # without a device the host's operators are its work
    assert busy_time([]) == (0.0, 0.0)
    assert idle_share(3.0, 4.0) == 25.0
    assert idle_share(5.0, 4.0) == 0.0


def test_waits_on_cuda_are_synchronisations_and_copies_to_the_host():
    events = [
        host("cudaLaunchKernel", 0, 1, "aten::mm"),
        host("cudaStreamSynchronize", 1, 2, "aten::item"),
        host("cudaStreamSynchronize", 3, 4, "aten::item"),
        host("cudaStreamSynchronize", 5, 6, "aten::where"),
        host("cudaMemcpyAsync", 6, 7, "aten::to"),
        host(READ, 7, 8, "aten::item"),
        kernel("Memcpy DtoH (Device -> Pageable)", 8, 9),
        kernel("Memcpy DtoD (Device -> Device)", 9, 10),
        kernel("Memcpy HtoD (Pinned -> Device)", 9, 10),
    ]
    found = host_waits(events, on_cuda=True)
    assert found["cudaStreamSynchronize"] == "2 under aten::item, 1 under aten::where"
    assert found["Memcpy DtoH"].startswith("1 under")
    assert set(found) == {"cudaStreamSynchronize", "Memcpy DtoH"}
    assert host_waits(events, on_cuda=False) == {READ: "1 under aten::item"}
    assert host_waits(events[:1], on_cuda=True) == {}
    assert count_of(events, "cudaLaunchKernel", "cudaMemcpyAsync") == 2


class Seen:
    """An event as torch's profiler gives it."""

    def __init__(self, name, start, end, device_type, *, annotation=False, parent=None):
        self.name, self.device_type, self.is_user_annotation, self.cpu_parent = (
            name,
            device_type,
            annotation,
            parent,
        )
        self.time_range, self.self_cpu_time_total = (
            SimpleNamespace(start=start, end=end),
            end - start,
        )


def test_kernels_are_counted_whatever_is_in_their_names_and_named_ranges_are_not():
    cpu, cuda = DeviceType.CPU, DeviceType.CUDA
    lambda_kernel = (
        "void at::native::vectorized_elementwise_kernel<4, at::native::(anonymous)::{lambda()#1},"
        " std::array<char*, 2ul> >"
    )
    update = Seen("Optimizer.step#SGD.step", 10, 40, cpu, annotation=True)
    window = Window(CPU, 0, 1)
    window.on_cuda = True
    seen = [
        Seen(WINDOW, 0, 100, cpu, annotation=True),
        Seen(WINDOW, 0, 100, cuda, annotation=True),
        update,
        Seen("Optimizer.step#SGD.step", 10, 90, cuda),
        Seen("mine", 10, 90, cuda, annotation=True),
        Seen(lambda_kernel, 20, 30, cuda),
        Seen("gemm", 30, 35, cuda),
        Seen("aten::_fused_sgd_", 11, 12, cpu, parent=update),
        Seen("cudaDeviceSynchronize", 101, 120, cpu),
    ]
    window.profiler = SimpleNamespace(events=lambda: seen)
    events = window.events()
    assert [event.name for event in events] == [lambda_kernel, "gemm", "aten::_fused_sgd_"]
    assert busy_time(events) == (15, 15)
    assert events[2].under == "aten::_fused_sgd_"
    assert window.waits() == []


def test_ranking_adds_up_what_is_under_one_name():
    events = [
        Event("gemm", 0, 9, True, "", 3000.0),
        Event("copy", 0, 9, True, "", 2000.0),
        Event("gemm", 0, 9, True, "", 5000.0),
    ]
    assert [line.split() for line in ranking(events, 5, 2).splitlines()] == [
        ["ms/step", "calls", "percent", "name"],
        ["4.0000", "1.0", "80.0", "gemm"],
        ["1.0000", "0.5", "20.0", "copy"],
    ]
    assert "copy" not in ranking(events, 1, 2)
    assert len(ranking([], 5, 2).splitlines()) == 1


def reading_steps(model, batches):
    """A loop that asks for the loss at every step, as much code of this field does."""
    for images, labels in batches:
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        loss.item()
        yield Step(loss, logits, labels)


@pytest.mark.parametrize(("steps_of", "reads"), [(cross_entropy_steps, 0), (reading_steps, 2)])
def test_a_window_of_the_training_loop_sees_what_waits_in_it(steps_of, reads):
    data, model = make_data(), make_model()
    window = Window(CPU, 1, 2)
    optimizer = make_optimizer(model.parameters(), 0.1, 0.9, 0.0)
    train_epoch(model, between(steps_of(model, data.retain), window.marks), optimizer)
    events = window.events()
    assert host_waits(events, on_cuda=False) == (
        {READ: f"{reads} under aten::item"} if reads else {}
    )
    # Two steps lie in it: as many updates and as many convolutions.
    assert count_of(events, "aten::_fused_sgd_") == 2
    assert count_of(events, "aten::conv2d") == 2
    assert "aten::conv2d" in window.tables(100)
    assert window.waits() == ([f"{READ}: {reads} under aten::item"] if reads else [])


def test_the_lines_that_torch_warns_of_are_counted():
    def warning_steps(model, batches):
        for number, step in enumerate(cross_entropy_steps(model, batches)):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            if number == 2:
                warnings.warn("something else", stacklevel=1)
            yield step

    data, model = make_data(), make_model()
    window = Window(CPU, 1, 2)
    steps = between(warning_steps(model, data.retain), window.marks)
    with pytest.warns(UserWarning, match="called"):  # the step before the window
        train_epoch(model, steps, make_optimizer(model.parameters(), 0.1, 0.9, 0.0))
    (line,) = window.lines()
    assert line.startswith("2 at test_gpu_timing.py:")
    assert window.waits() == [line]


def test_a_loop_that_ends_in_an_error_leaves_no_profile_running():
    window = Window(CPU, 0, 5)
    window.marks[0]()
    window.close()
    window.close()  # nothing is left to end
    again = Window(CPU, 0, 1)
    again.marks[0]()
    torch.rand(3).sum()
    again.marks[1]()
    assert count_of(again.events(), "aten::rand") == 1


def test_a_profile_without_the_device_says_nothing_of_waits():
    data, model = make_data(), make_model()
    window = Window(CPU, 1, 2)
    steps = between(cross_entropy_steps(model, data.retain), window.marks)
    train_epoch(model, steps, make_optimizer(model.parameters(), 0.1, 0.9, 0.0))
    window.on_cuda = True  # as on a machine whose driver keeps its counters to itself
    with pytest.raises(Blind, match="saw nothing on the device"):
        window.waits()


def test_steps_between_marks_are_done_when_a_mark_is_called():
    data, model = make_data(), make_model()
    seen, start = [], [p.detach().clone() for p in model.parameters()]
    look = lambda: seen.append(  # noqa: E731
        any(not torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))
    )
    optimizer = make_optimizer(model.parameters(), 0.1, 0.9, 0.0)
    steps = between(cross_entropy_steps(model, data.retain), {0: look, 1: look})
    train_epoch(model, steps, optimizer)
    assert seen == [False, True]
    with pytest.raises(ValueError, match="epoch ended after 4 steps, 9 are needed"):
        train_epoch(
            model,
            between(cross_entropy_steps(model, data.retain), {9: look}),
            optimizer,
        )


def test_host_time_has_one_entry_for_each_step():
    data, model, found = make_data(), make_model(), []
    steps = between(cross_entropy_steps(model, data.retain), host_marks(CPU, 1, 2, found))
    train_epoch(model, steps, make_optimizer(model.parameters(), 0.1, 0.9, 0.0))
    assert len(found) == 2
    assert min(found) > 0
