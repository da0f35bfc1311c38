"""What decoding learned of each image of a set, as a table of 96 bytes an image that can be mapped from a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hubel.records import ImageFacts

Facts: TypeAlias = npt.NDArray[np.void]  # (N,) of `FACTS`

FACTS = np.dtype(
    [
        ("usable", "?"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("mode", "S8"),
        ("format", "S8"),
        ("frames", "<u4"),
        ("orientation", "u1"),
        ("transparent", "?"),
        ("colour", "?"),
        ("sha256", "S64"),
    ]
)


def as_row(fact: ImageFacts) -> tuple[Any, ...]:
    """One image's facts as a row of `FACTS`."""
    values = (getattr(fact, str(name)) for name in FACTS.names or () if name != "usable")
    return (True, *(value.encode() if isinstance(value, str) else value for value in values))


def table_of(facts: Sequence[ImageFacts | None]) -> Facts:
    """(N,) of `FACTS`; None is an image that can't be used."""
    table = np.zeros(len(facts), FACTS)
    for i, fact in enumerate(facts):
        if fact is not None:
            table[i] = as_row(fact)
    return table
