"""What trainings with several seeds show of a difference: a mean, and an interval that counts seeds and images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hubel.evaluation.intervals import Z95

Verdict = Literal["supported", "refuted", "undecided"]
ACCURACY, TRAINING_ERROR = "accuracy", "training error"


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A mean over seeds.

    Attributes:
        low, high: its 95 % interval. seeds: trainings of each side. images: that it was counted on; 0 where none were.
    """

    value: float
    low: float
    high: float
    seeds: int
    images: int = 0

    @property
    def verdict(self) -> Verdict:
        """Of "it is above zero": decided only by two seeds or more whose interval leaves zero out."""
        if self.seeds > 1 and (self.low > 0 or self.high < 0):
            return "supported" if self.low > 0 else "refuted"
        return "undecided"

    def above(self, least: float) -> Effect:
        """The same against another line than zero."""
        return replace(self, value=self.value - least, low=self.low - least, high=self.high - least)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of one variant.

    Attributes:
        run: its folder, seen from the lab's. values: what was measured, by name (`accuracy`, `training error`, …).
        error: why there is none; or why it ended early, where there are values.
    """

    variant: str
    seed: int
    run: str = ""
    values: dict[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A variant in the table.

    Attributes:
        settings: what is special about it. value: of the measure, averaged over its trials; None where all failed.
        parameters, macs, memory: of its network; `memory` is that of all layers' outputs for one image, in bytes.
        seconds: of training, without reading and measuring. error: of the first trial that failed.
    """

    variant: str
    settings: dict[str, Any]
    trials: int
    value: Effect | None
    parameters: float
    macs: float
    memory: float
    seconds: float
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A sum of variants' values, each with its factor, and whether it is above a line.

    Attributes:
        words: what is the case, if it is. least: the line. value: the sum; None where no seed had all of the variants.
    """

    words: str
    factors: dict[str, float]
    least: float = 0.0
    value: Effect | None = None
    verdict: Verdict = "undecided"

    def judged(self, value: Effect | None) -> Difference:
        """The same with its value and verdict."""
        verdict: Verdict = "undecided" if value is None else value.above(self.least).verdict
        return replace(self, value=value, verdict=verdict)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is compared; lab.json.

    Attributes:
        source: the images; files: how many there are.
        images: how many of them are trained on, the same share of every class; all when None.
        recipe: the settings that all variants have, as YAML. measure: what the table is about.
    """

    source: str
    files: int = 0
    variants: dict[str, dict[str, Any]]
    seeds: int
    recipe: str
    images: int | None = None
    measure: str = ACCURACY


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What came out; results.json.

    Attributes:
        differences: of every variant and the first one; or those that were asked for.
    """

    folder: str
    question: Question
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    trials: tuple[Trial, ...]
    hardware: str = ""

    @property
    def verdict(self) -> Verdict:
        """Of all differences together: supported if all are, refuted if one is."""
        said = {each.verdict for each in self.differences}
        return "refuted" if "refuted" in said else "supported" if said == {"supported"} else "undecided"


def effect(by_seed: npt.ArrayLike, by_image: npt.ArrayLike | None = None) -> Effect:
    """Average what trainings differ by, and say how far the average can be trusted for other seeds and other images.

    Half the interval is the root of two squares: Student's quantile times the standard error over seeds, and the normal
    quantile times that over images. It is too wide rather than too narrow, since images count twice.

    Args:
        by_seed: (S,) a value of each seed. by_image: (N,) of each image, the mean over the seeds, where there are some.

    >>> [round(x, 3) for x in (effect([0.02, 0.03, 0.04]).low, effect([0.02, 0.03, 0.04]).high)]
    [0.005, 0.055]
    """
    values: npt.NDArray[Any] = np.asarray(by_seed, dtype=float)
    images: npt.NDArray[Any] = np.asarray([] if by_image is None else by_image, dtype=float)
    squares = _standard_error(values) ** 2 * _student(len(values)) ** 2 + (Z95 * _standard_error(images)) ** 2
    middle, half = float(values.mean()), math.sqrt(squares)
    return Effect(value=middle, low=middle - half, high=middle + half, seeds=len(values), images=len(images))


def _standard_error(values: npt.NDArray[Any]) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _student(seeds: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, seeds - 1)) if seeds > 1 else 0.0
