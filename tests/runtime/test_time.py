"""What counts as time: finished work, but not that in which a process stood still."""

import signal
import subprocess
import sys
import time

import pytest
import torch

from runtime import clock
from runtime.clock import Stopwatch
from sweeping.runs import ROOT

CPU = torch.device("cpu")


@pytest.fixture
def clocks(monkeypatch):
    """A wall clock and a processor clock that the test sets, and a watch that looks only when
    told.
    """
    now = {"wall": 0.0, "busy": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(time, "process_time", lambda: now["busy"])
    monkeypatch.setattr(clock._Standstill, "_watch", lambda self: None)
    return now


@pytest.mark.parametrize(
    ("wall", "busy", "stopped"),
    [
        (21.0, 0.5, 20.8),
        (21.0, 20.0, 0.0),
        (1.0, 0.0, 0.0),
        (2.1, 0.0, 0.0),
        (2.3, 0.0, 2.1),
        (40.0, 40.0, 0.0),
    ],
)
def test_a_gap_without_work_is_a_standstill_and_a_long_call_is_none(clocks, wall, busy, stopped):
    clock = Stopwatch(CPU, seconds=5.0, stopped=1.0)
    with clock:
        clocks.update(wall=wall, busy=busy)
    assert clock.stopped == pytest.approx(1 + stopped)
    assert clock.seconds == pytest.approx(5 + wall - stopped)


def test_many_short_looks_are_no_standstill(clocks):
    with (clock := Stopwatch(CPU)):
        for _ in range(100):
            clocks["wall"] += 1.5  # a machine that is slow to wake the thread, with no work done
            clock.standstill._look()
    assert (clock.seconds, clock.stopped) == (150, 0)


STOPS_ITSELF = """
import sys, time, torch
from runtime.clock import Stopwatch
clock = Stopwatch(torch.device("cpu"))
with clock:
    print("ready", flush=True)
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass
print(clock.seconds, clock.stopped)
"""


def test_rte_leaves_out_what_a_process_was_stopped_for():
    process = subprocess.Popen(
        [sys.executable, "-c", STOPS_ITSELF],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGSTOP)
    time.sleep(4)
    process.send_signal(signal.SIGCONT)
    seconds, stopped = map(float, process.stdout.readline().split())
    assert process.wait() == 0
    assert stopped == pytest.approx(4, abs=1)
    assert seconds < 3  # half a second of work on a machine that may be busy, not 4.5
