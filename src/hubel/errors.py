"""Everything that hubel refuses, with the exit code the command line ends with.

HubelError            1   something failed; the message says what, why and what to do
├── UsageError        2   the call itself was wrong (unknown name, impossible value)
├── DataError         1   the data can't be used
│   └── ImageError    1   one image can't be used; `reason` says why in a few words
├── ModelError        1   a network or a model folder can't be used
└── RunError          1   a run folder can't be read or written
Interrupted         130   Ctrl-C; the best model was kept
Terminated          143   SIGTERM; the best model was kept
"""

from __future__ import annotations


class HubelError(Exception):
    """A failure that is explained in one sentence: what happened, why, and what to do."""

    exit_code = 1


class UsageError(HubelError, ValueError):
    """The call itself was wrong: an unknown name or an impossible value."""

    exit_code = 2


class DataError(HubelError):
    """The data can't be used as given."""


class ImageError(DataError):
    """One image can't be used.

    Args:
        reason: why, in a few words, without the file's name (``"empty file"``).
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ModelError(HubelError):
    """A network can't be built, or a model folder can't be used."""


class RunError(HubelError):
    """A run folder can't be read or written."""


class Interrupted(HubelError):
    """Ctrl-C: the step was finished, and what was kept lies in the run folder."""

    exit_code = 130


class Terminated(HubelError):
    """SIGTERM: the step was finished, and what was kept lies in the run folder."""

    exit_code = 143
