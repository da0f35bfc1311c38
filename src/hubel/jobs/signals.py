"""Signals while training: the first asks the loop to stop after the step, a second Ctrl-C ends at once.

SIGTERM, and SIGHUP when the terminal is closed, store the state and end; Ctrl-C measures the best model first.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hubel.errors import Terminated

HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has none


class Stop:
    """Whether somebody asked the training to stop.

    Attributes:
        signal: SIGINT, or SIGTERM for a hang-up, too; None before. at_once: whether a SIGTERM may end what is going
            on in its middle.
    """

    signal: str | None = None
    at_once = False

    def ask(self, number: int, _: FrameType | None) -> None:
        """Handle a signal: remember it, and let the next Ctrl-C through."""
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if number == HANG_UP:
            _leave_terminal()
        self.signal = "SIGINT" if number == signal.SIGINT else "SIGTERM"
        if self.at_once and self.signal == "SIGTERM":
            raise Terminated("Stopped by SIGTERM while measuring; the training is complete: hubel resume ends it.")


def _leave_terminal() -> None:
    """Print to nowhere what was for the terminal: it is closed, and printing to it would fail."""
    for stream in (1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Catch SIGINT, SIGTERM and SIGHUP for a while; outside of the main thread nothing is caught.

    A hang-up that was to be ignored (nohup) still is.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if HANG_UP is not None and signal.getsignal(HANG_UP) != signal.SIG_IGN:
        numbers.append(HANG_UP)
    before = {number: signal.signal(number, stop.ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
