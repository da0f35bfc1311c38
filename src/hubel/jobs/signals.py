"""Ctrl-C and SIGTERM while training: the first asks the loop to stop after the step, the second Ctrl-C ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether somebody asked the training to stop; `signal` is the signal's name, None before."""

    signal: str | None = None

    def ask(self, number: int, _: FrameType | None) -> None:
        """Handle a signal: remember it, and let the next Ctrl-C through."""
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name


@contextmanager
def stopping() -> Iterator[Stop]:
    """Catch SIGINT and SIGTERM for a while; outside of the main thread nothing is caught."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
