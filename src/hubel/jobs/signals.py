"""Ctrl-C and SIGTERM while training: the first asks the loop to stop after the step, the second Ctrl-C ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hubel.errors import Terminated


class Stop:
    """Whether somebody asked the training to stop.

    Attributes:
        signal: the signal's name, None before. at_once: whether a SIGTERM may end what is going on in its middle.
    """

    signal: str | None = None
    at_once = False

    def ask(self, number: int, _: FrameType | None) -> None:
        """Handle a signal: remember it, and let the next Ctrl-C through."""
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name
        if self.at_once and number == signal.SIGTERM:
            raise Terminated("Stopped by SIGTERM while measuring; the training is complete: hubel resume ends it.")


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
