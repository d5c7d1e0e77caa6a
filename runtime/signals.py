"""Signals end a script as Ctrl-C does, but never while torch writes a file; how a process ends with
its parent.
"""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator

SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")


@dataclasses.dataclass
class _State:
    """Whether signals are held back, and the name of the last one that arrived meanwhile."""

    held: bool = False
    waiting: str | None = None


_state = _State()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` with the signal's name in the block.

    A signal that the parent process made this one ignore stays ignored.
    """

    def stop(number: int, frame: object) -> None:
        name = signal.Signals(number).name
        if _state.held:
            _state.waiting = name
            return
        raise KeyboardInterrupt(name)

    _state.held, _state.waiting = False, None
    previous = {}
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        for name in SIGNALS:
            number = getattr(signal, name, None)  # Windows has no SIGUSR1
            if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                previous[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Let a signal wait for the end of the block: torch's writer aborts the process if an exception
    unwinds it.
    """
    _state.held = True
    try:
        yield
    finally:
        _state.held = False
    if _state.waiting:
        raise KeyboardInterrupt(_state.waiting)


def end_with(parent: int) -> None:
    """End this process within a second of ``parent``, which started it, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
