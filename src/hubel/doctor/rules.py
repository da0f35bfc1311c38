"""What a rule is: a function of a `Case` that looks for one fault, and returns what it saw, or None.

Rules are ordered by `Rule.depth`: what code or data get wrong explains what the dynamics show, not the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hubel.doctor.signs import Case
from hubel.records import Known, Severity


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a rule saw.

    Attributes:
        words: a clause with the figures. strength: 0 to 1, which of two causes of the same depth comes first.
        note: whether it is no more than one. depth: in place of the rule's, where what was seen is the mistake itself.
        where: names of layers, or of images. remedy: in place of the rule's.
    """

    words: str
    strength: float = 0.5
    where: tuple[str, ...] = ()
    note: bool = False
    depth: int | None = None
    remedy: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)


Test = Callable[[Case], Seen | None]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A fault, and how it is recognised.

    Attributes:
        code: the stable name. number: in docs/doctor.md. cause, remedy: sentences without a full stop.
        depth: 0 for mistakes in code or data, 1 for a bad start, 2 for settings, 3 for what the dynamics show, 4 for
            how it came out, 5 for what says no cause: a smaller one explains a larger one.
        known: how sure a finding is before a fork has decided.
        severity: ``note`` for what could be better and does no harm that was measured.
    """

    code: str
    number: int
    depth: int
    cause: str
    remedy: str
    test: Test
    known: Known = "measured"
    severity: Severity = "warning"


RULES: dict[str, Rule] = {}


def rule(
    code: str,
    number: int,
    depth: int,
    cause: str,
    remedy: str,
    *,
    known: Known = "measured",
    severity: Severity = "warning",
) -> Callable[[Test], Test]:
    """Register a test as the rule for a fault."""

    def registered(test: Test) -> Test:
        assert code not in RULES
        RULES[code] = Rule(
            code=code,
            number=number,
            depth=depth,
            cause=cause,
            remedy=remedy,
            test=test,
            known=known,
            severity=severity,
        )
        return test

    return registered
