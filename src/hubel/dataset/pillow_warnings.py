"""Keep Pillow's warnings about damaged metadata out of sight while files are decoded, in any number of threads."""

from __future__ import annotations

import threading
import warnings


class Quiet:
    """Silences Pillow's warnings while any thread decodes, and puts the filters back when the last one is done.

    `warnings.catch_warnings` alone would leave its filter behind when two threads overlap.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._catcher = threading.Lock(), 0, warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._catcher.__exit__(None, None, None)


QUIET = Quiet()
