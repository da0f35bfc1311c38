"""The time a run has used and has left."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Seconds since the start, and until the budget is used up.

    Args:
        started: reading of `time.monotonic` at the start. budget: seconds for everything; None for no limit.
    """

    started: float
    budget: float | None

    @classmethod
    def going_on(cls, used: float, budget: float | None) -> Clock:
        """Return the clock of a run that had used so many seconds when it was interrupted."""
        return cls(time.monotonic() - used, budget)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds that are left; infinite without a budget."""
        return math.inf if self.budget is None else self.budget - self.seconds
