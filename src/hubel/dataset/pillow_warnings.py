"""Keep what Pillow and its libraries say about damaged files out of sight, while any number of threads decodes."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from abc import ABC, abstractmethod
from contextlib import suppress


class Silence(ABC):
    """Silences something while any thread is inside, and puts it back when the last one is done.

    What a thread alone would put back could be what another one had silenced.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    @abstractmethod
    def begin(self) -> None:
        """Silence it."""

    @abstractmethod
    def end(self) -> None:
        """Put it back."""

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self.begin()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self.end()


class Quiet(Silence):
    """Pillow's warnings, and what it logs where nobody set logging up."""

    def begin(self) -> None:
        self._catcher, self._handler = warnings.catch_warnings(), logging.NullHandler()
        self._catcher.__enter__()
        warnings.filterwarnings("ignore", module=r"PIL\.")
        logging.getLogger("PIL").addHandler(self._handler)

    def end(self) -> None:
        self._catcher.__exit__(None, None, None)
        logging.getLogger("PIL").removeHandler(self._handler)


class Muted(Silence):
    """The process's standard error, which a library in C writes to: for as short as possible."""

    def begin(self) -> None:
        self._kept = -1
        with suppress(OSError):  # there may be none
            self._kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)

    def end(self) -> None:
        if self._kept >= 0:
            os.dup2(self._kept, 2)
            os.close(self._kept)


QUIET, MUTED = Quiet(), Muted()
