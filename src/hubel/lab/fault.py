"""`hubel lab fault`: the same training twice, healthy and with a mistake planted, and what the doctor says of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hubel.doctor.faults import FAULTS
from hubel.doctor.lesson import Learned, digits, run
from hubel.doctor.rules import RULES
from hubel.errors import UsageError
from hubel.records import Finding
from hubel.report.wording import loss as nats

BARS, WIDTH = " ▁▂▃▄▅▆▇█", 40


@dataclass(frozen=True, kw_only=True)
class Course:
    """One training.

    Attributes:
        losses: of every step, in nats. accuracy: on held-out images, in the end. findings: the doctor's.
    """

    losses: tuple[float, ...]
    accuracy: float
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """A fault, and two trainings that differ in it alone."""

    fault: str
    cause: str
    remedy: str
    healthy: Course
    sick: Course


def fault(name: str, *, way: int = 1, severity: int = 2, seed: int = 0) -> SideBySide:
    """Train two small networks on the embedded digits, one of them with a fault.

    Args:
        name: which one, a rule's code. way: 1 or 2, how it is planted. severity: 1 to 3.

    Raises:
        UsageError: there is no such fault.
    """
    if name not in FAULTS:
        raise UsageError(f"hubel lab fault {name}: NAME is one of {', '.join(sorted(FAULTS))}.")
    healthy = digits(seed=seed)
    sick = FAULTS[name][way - 1](healthy, severity - 1)
    rule = RULES[name]
    return SideBySide(
        fault=name,
        cause=rule.cause,
        remedy=rule.remedy,
        healthy=_course(run(healthy)),
        sick=_course(run(sick)),
    )


def lines(seen: SideBySide) -> list[str]:
    """The two side by side, for the terminal."""
    top = max(x for course in (seen.healthy, seen.sick) for x in _smooth(course.losses))
    told = [f"{seen.fault}: {seen.cause}", ""]
    for name, course in (("healthy", seen.healthy), ("sick", seen.sick)):
        ends = f"{nats(course.losses[0])} → {nats(course.losses[-1])}" if course.losses else "no step was taken"
        told.append(
            f"{name:8} {_curve(course.losses, top):{WIDTH}}  loss {ends}, held-out accuracy {course.accuracy:.1%}"
        )
    for name, course in (("healthy", seen.healthy), ("sick", seen.sick)):
        said = [finding.message for finding in course.findings if finding.severity != "note"]
        told += ["", f"What the doctor says of the {name} one:"]
        told += [f"  {place}. {each}" for place, each in enumerate(said, 1)] or ["  nothing"]
    return told


def _course(learned: Learned) -> Course:
    return Course(
        losses=tuple(learned.doctor.case.losses()),
        accuracy=learned.accuracy,
        findings=tuple(learned.doctor.said()),
    )


def _smooth(losses: Sequence[float]) -> list[float]:
    """Means of so many stretches as the curve has columns; what is not finite counts as ten times chance."""
    found = np.clip(np.nan_to_num(np.array(losses), nan=23.0, posinf=23.0), 0, 23.0)
    return [float(part.mean()) for part in np.array_split(found, WIDTH) if len(part)] or [0.0]


def _curve(losses: Sequence[float], top: float) -> str:
    return "".join(BARS[round(x / max(top, 1e-9) * (len(BARS) - 1))] for x in _smooth(losses))
