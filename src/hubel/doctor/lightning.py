"""For Lightning: ``Trainer(callbacks=[hubel.doctor.lightning_callback()])`` watches the network that is trained."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from hubel.doctor.script import Search
from hubel.doctor.watch import say
from hubel.errors import UsageError
from hubel.records import Finding


def lightning_callback(tell: Callable[[Finding], None] = say) -> Any:
    """Make a callback of Lightning's that watches what a module trains on images; its `doctor` holds the findings.

    Args:
        tell: called with each finding when it is found; by default it is printed.

    Raises:
        UsageError: Lightning is not installed.
    """
    try:
        base: Any = importlib.import_module("lightning.pytorch").Callback
    except ImportError as error:
        raise UsageError("The callback is Lightning's: pip install lightning.") from error

    class DoctorCallback(base):  # type: ignore[misc]
        """Looks for the network while fit runs, and watches it from its first step on."""

        def __init__(self) -> None:
            self.search, self.stack = Search(tell), ExitStack()

        @property
        def doctor(self) -> Any:
            return self.search.doctor

        def on_fit_start(self, *_: Any) -> None:
            self.stack.enter_context(self.search.searching())

        def on_fit_end(self, *_: Any) -> None:
            self.stack.close()

        def on_exception(self, *_: Any) -> None:
            self.stack.close()

    return DoctorCallback()
