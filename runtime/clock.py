"""Run time, without the time in which the process was stopped or suspended."""

import contextlib
import threading
import time
from collections.abc import Iterator

import torch

from utils import warn


def warn_of_standstill(seconds: float) -> None:
    """Warn that RTE leaves ``seconds`` of standstill out, if there were any."""
    if seconds:
        warn(
            f"the process stood still for {seconds:.1f} s (stopped, suspended or not scheduled);"
            " RTE leaves them out"
        )


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock read next measures finished work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Stopwatch:
    """``seconds`` of finished device work, summed over ``with`` blocks; standstills are summed in
    ``stopped`` instead.
    """

    def __init__(self, device: torch.device, seconds: float = 0.0, stopped: float = 0.0):
        self.device, self.seconds, self.stopped = device, seconds, stopped

    def __enter__(self) -> "Stopwatch":
        synchronize(self.device)
        self.standstill = _Standstill()
        self.started = time.perf_counter()
        return self

    def __exit__(self, *exc: object) -> None:
        synchronize(self.device)
        elapsed, stopped = time.perf_counter() - self.started, self.standstill.end()
        self.seconds += max(elapsed - stopped, 0.0)
        self.stopped += stopped

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave this block, inside a ``with`` block of the watch, out of the sums."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


class _Standstill:
    """A thread that reads the clock every 0.2 s; a gap of 2 s or more beyond that is a standstill,
    as by SIGSTOP, a suspended job or gang scheduling.

    A gap in which the process used the processor does not count: one long call into C delays the
    thread, too.
    """

    EVERY, LEAST = 0.2, 2.0  # seconds
    IDLE = 0.1  # the most processor time per second of a standstill

    def __init__(self) -> None:
        self.total, self.over = 0.0, threading.Event()
        self.last = time.perf_counter(), time.process_time()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.over.wait(self.EVERY):
            self._look()

    def _look(self) -> None:
        wall, busy = time.perf_counter(), time.process_time()
        gap = wall - self.last[0] - self.EVERY
        if gap >= self.LEAST and busy - self.last[1] < self.IDLE * gap:
            self.total += gap
        self.last = wall, busy

    def end(self) -> float:
        """Stop the thread; returns the seconds of all standstills."""
        self.over.set()
        self.thread.join()
        self._look()
        return self.total
