"""Signals end a script as Ctrl-C does, and wait while a file is written."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Let signals raise ``KeyboardInterrupt`` with their name, unless whoever started the script
    ignores them.
    """

    def stop(number: int, frame: object) -> None:
        name = signal.Signals(number).name
        if _signals["held"]:
            _signals["waiting"] = name
            return
        raise KeyboardInterrupt(name)

    _signals.update(held=False, waiting=None)
    here = threading.current_thread() is threading.main_thread()
    numbers = [
        getattr(signal, name)
        for name in ("SIGINT", "SIGTERM", "SIGUSR1")
        if here and hasattr(signal, name)
    ]
    before = {
        number: signal.signal(number, stop)
        for number in numbers
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


# Whether signals wait, and for which one that came in the meantime.
_signals = {"held": False, "waiting": None}


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Let a signal wait for the end of the block: torch's writer aborts the process where an
    exception unwinds it.
    """
    _signals["held"] = True
    try:
        yield
    finally:
        _signals["held"] = False
    if _signals["waiting"]:
        raise KeyboardInterrupt(_signals["waiting"])
