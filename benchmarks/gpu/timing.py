"""What the speed checks measure with: repeats, counted arithmetic, and a profile of some steps
inside the training loop.

The functions on :class:`Event` take plain lists, so that they can be tested without a device.
"""

import copy
import itertools
import os
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from runtime.clock import Stopwatch, synchronize
from unlearn.base import Steps

WINDOW = "profiled steps"
SYNCHRONIZE = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "cudaMemcpy",
)
TO_HOST = "Memcpy DtoH"
SYNC_WARNING = "synchronizing CUDA operation"
# Ranges that torch itself names, such as "Optimizer.step#SGD.step".
LABELS = ("Optimizer.", "enumerate(DataLoader)")
READ = "aten::_local_scalar_dense"  # what Tensor.item() and a branch on a tensor end in


# ------------------------------------------------------------------------------------------ repeats


def seconds_of(
    action: Callable[[], object],
    device: torch.device,
    repeats: int,
    warm_ups: int = 1,
    inner: int = 1,
) -> list[float]:
    """Seconds of one call in each of ``repeats`` turns of ``inner`` calls, device work finished;
    warm-up turns are not in it.
    """
    found = []
    for _ in range(warm_ups + repeats):
        with Stopwatch(device) as clock:
            for _ in range(inner):
                action()
        found.append(clock.seconds / inner)
    return found[warm_ups:]


def spread(name: str, values: Sequence[float]) -> dict[str, float]:
    """The median of ``values`` under ``name``, and the smallest and largest beside it."""
    return {name: statistics.median(values), f"{name}_min": min(values), f"{name}_max": max(values)}


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """One ratio of each pair that was measured one right after the other."""
    return [n / d for n, d in zip(numerators, denominators, strict=True)]


# --------------------------------------------------------------------------------------- arithmetic


def flops_of(model: nn.Module, images: Tensor, backward: bool = True) -> float:
    """Floating-point operations of one image's forward and backward pass: matrix products and
    convolutions alone.

    Counted on a copy of ``model`` and on ``images`` (n, 3, side, side); a multiply-add counts as
    two.
    """
    model = copy.deepcopy(model)
    with FlopCounterMode(display=False) as counter:
        logits = model(images)
        if backward:
            F.cross_entropy(logits, logits.argmax(1)).backward()
    return counter.get_total_flops() / len(images)


def rate_share(flops_per_image: float, images_per_second: float, tflops: float) -> float:
    """Percent of a measured rate of ``tflops`` (10^12 operations a second) that so many images a
    second reach.
    """
    return 100 * flops_per_image * images_per_second / (tflops * 1e12)


# ------------------------------------------------------------------------- inside the training loop


def between(steps: Steps, marks: Mapping[int, Callable[[], None]]) -> Steps:
    """``steps`` up to the last mark; ``marks[i]`` is called when i steps are done, updates
    included.

    The loop that is given the steps goes on as ever: it cannot tell them from a shorter epoch.
    """
    updated, last = None, max(marks)
    for number in itertools.count():
        if number in marks:
            marks[number]()
        if number == last:
            return
        try:
            step = steps.send(updated)
        except StopIteration:
            raise ValueError(f"the epoch ended after {number} steps, {last} are needed") from None
        updated = yield step


def host_marks(
    device: torch.device, first: int, count: int, found: list[float]
) -> dict[int, Callable[[], None]]:
    """Marks for :func:`between`: what the host alone needs for each of ``count`` steps, in seconds,
    is added to ``found``.

    Each of these steps begins with an idle device and an empty launch queue, so that the host never
    waits for either.
    """
    started = []

    def mark() -> None:
        now = time.perf_counter()
        if started:
            found.append(now - started[-1])
        synchronize(device)
        started.append(time.perf_counter())

    return dict.fromkeys(range(first, first + count + 1), mark)


class Event(NamedTuple):
    """Something that a profiler saw, on the device or the host: its name, when it was in
    microseconds, the outermost operator that it was under, and its time without that of the
    operators under it.
    """

    name: str
    start: float
    end: float
    on_device: bool
    under: str
    own: float = 0.0


class Blind(RuntimeError):
    """The profiler saw nothing on the device, so that it cannot say that the host never waited."""


class Window:
    """A profile of ``count`` steps of a training loop, after ``first`` others; give :attr:`marks`
    to :func:`between`.

    On CUDA torch also warns of each operation that synchronises, with the line that asked for it:
    :meth:`lines`.
    """

    def __init__(self, device: torch.device, first: int, count: int):
        self.on_cuda, self.device, self.count = device.type == "cuda", device, count
        # Between two profiles CUPTI stays: beside CUDA graphs it does not come back in every
        # version.
        os.environ.setdefault("TEARDOWN_CUPTI", "0")
        activities = (
            [ProfilerActivity.CPU, ProfilerActivity.CUDA]
            if self.on_cuda
            else [ProfilerActivity.CPU]
        )
        self.profiler, self.range = profile(activities=activities), record_function(WINDOW)
        self.catcher = warnings.catch_warnings(record=True)
        self.warnings: list[warnings.WarningMessage] = []
        self.running = False
        self.marks = {first: self._start, first + count: self.close}

    def _start(self) -> None:
        self.running = True
        synchronize(self.device)
        self.warnings = self.catcher.__enter__()
        warnings.simplefilter("always")
        self.profiler.start()
        if self.on_cuda:
            torch.cuda.set_sync_debug_mode("warn")
        self.range.__enter__()

    def close(self) -> None:
        """End the window, where it has begun and not ended: also for a loop that an error ended
        inside of it.
        """
        if not self.running:
            return
        self.running = False
        # The range ends first: the profiler waits for the device when it stops, which is no wait of
        # the loop's.
        self.range.__exit__(None, None, None)
        if self.on_cuda:
            torch.cuda.set_sync_debug_mode("default")
        self.profiler.stop()
        self.catcher.__exit__(None, None, None)

    def events(self) -> list[Event]:
        """What happened in the window: on the host between its ends, on the device whatever was
        launched there.

        Raises:
            Blind: on CUDA, where the profiler saw nothing of the device.
        """
        seen = self.profiler.events()
        window = next(
            e for e in seen if e.name == WINDOW and e.device_type == DeviceType.CPU
        ).time_range
        found = [_plain(e) for e in seen if not _is_label(e)]
        if self.on_cuda and not any(event.on_device for event in found):
            raise Blind("the profiler saw nothing on the device: this machine may not let it count")
        return [
            e for e in found if e.on_device or (window.start <= e.start and e.end <= window.end)
        ]

    def lines(self) -> list[str]:
        """The lines of code that made the host wait for the device, with how often each did."""
        seen = [warning for warning in self.warnings if SYNC_WARNING in str(warning.message)]
        places = Counter(f"{Path(warning.filename).name}:{warning.lineno}" for warning in seen)
        return [f"{count} at {place}" for place, count in places.most_common()]

    def waits(self) -> list[str]:
        """Every wait of the host in the window, as the profiler saw it and as torch warned of it;
        empty where there was none.
        """
        by_name = host_waits(self.events(), self.on_cuda)
        return [f"{what}: {places}" for what, places in by_name.items()] + self.lines()

    def tables(self, rows: int) -> str:
        """The most expensive kernels of the device and operators of the host, for each step."""
        events = self.events()
        parts = {
            "kernels of the device": [event for event in events if event.on_device],
            "operators of the host, without those under them": [
                event for event in events if not event.on_device
            ],
        }
        return "\n\n".join(
            f"{title}\n{ranking(part, rows, self.count)}" for title, part in parts.items()
        )


def _plain(event: object) -> Event:
    """An event of the profiler's without the rest of what it knows."""
    span, on_device = event.time_range, event.device_type != DeviceType.CPU
    own = span.end - span.start if on_device else event.self_cpu_time_total
    return Event(event.name, span.start, span.end, on_device, _outermost(event), own)


def _is_label(event: object) -> bool:
    """Whether it is a range that somebody named: on the device it spans kernels and the gaps
    between them.

    A "#" alone says nothing: the names of most elementwise kernels have ``{lambda()#1}`` in them.
    """
    named = event.name == WINDOW or event.name.startswith(LABELS)
    return named or bool(getattr(event, "is_user_annotation", False))


def _outermost(event: object) -> str:
    while event.cpu_parent is not None and not _is_label(event.cpu_parent):
        event = event.cpu_parent
    return event.name


# ---------------------------------------------------------------------------------- what events say


def host_waits(events: Iterable[Event], on_cuda: bool) -> dict[str, str]:
    """How often the host waited for the device, as {what: "COUNT under OPERATOR, ..."}; empty where
    it never did.

    On CUDA: synchronisations, blocking copies and copies to the host. Reading a number of a tensor
    (``item()``) is a wait where the tensor is on the device, and is one of these there. On the CPU,
    where nothing waits, every such read counts.
    """
    seen: dict[str, Counter] = {}
    for event in events:
        waits = (
            event.name in SYNCHRONIZE or event.name.startswith(TO_HOST)
            if on_cuda
            else event.name == READ
        )
        if waits:
            seen.setdefault(TO_HOST if event.on_device else event.name, Counter())[event.under] += 1
    return {
        what: ", ".join(f"{count} under {under}" for under, count in places.most_common())
        for what, places in seen.items()
    }


def count_of(events: Iterable[Event], *names: str) -> int:
    """How many events have one of these names."""
    return sum(event.name in names for event in events)


def ranking(events: Iterable[Event], rows: int, steps: int) -> str:
    """The names with most time of their own, as a table: milliseconds and calls of each of
    ``steps``, percent of all.
    """
    total, calls = Counter(), Counter()
    for event in events:
        total[event.name] += event.own
        calls[event.name] += 1
    whole = sum(total.values()) or 1.0
    lines = [
        f"{us / 1e3 / steps:10.4f} {calls[name] / steps:8.1f} {100 * us / whole:8.1f}  {name[:110]}"
        for name, us in total.most_common(rows)
    ]
    return "\n".join([f"{'ms/step':>10} {'calls':>8} {'percent':>8}  name", *lines])


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """The length that intervals cover together, however they overlap."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def busy_time(events: Sequence[Event]) -> tuple[float, float]:
    """Microseconds that the device worked, and from its first work to its last.

    Without events on a device, those of the host's operators: the CPU is the device then.
    """
    on_device = [event for event in events if event.on_device]
    spans = [(event.start, event.end) for event in on_device or events]
    if not spans:
        return 0.0, 0.0
    return union(spans), max(end for _, end in spans) - min(start for start, _ in spans)


def idle_share(busy_ms: float, step_ms: float) -> float:
    """Percent of a step's time in which the device has nothing to do; 0 where a profile says it
    worked longer than that.
    """
    return 100 * max(0.0, 1 - busy_ms / step_ms)
