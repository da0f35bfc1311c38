"""From measurements to findings, the likeliest cause first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hubel.doctor import inputs, learning, loop, network
from hubel.doctor.rules import RULES, Rule, Seen
from hubel.doctor.signs import Case
from hubel.records import Finding

FAMILIES = (inputs, network, loop, learning)  # which hold the rules; they register themselves


def diagnose(case: Case, told: Mapping[str, int] | None = None) -> list[Finding]:
    """Return what is wrong, the likeliest cause first: of the same depth, what was seen first.

    Args:
        told: the step at which a code was seen first.
    """
    since = told or {}
    found = sorted(_all(case), key=lambda one: _order(one[0], one[1], since.get(one[0].code, case.now)))
    return [_finding(rule, seen, case) for rule, seen in found]


def _all(case: Case) -> Iterator[tuple[Rule, Seen]]:
    for each in RULES.values():
        seen = each.test(case)
        if seen is not None:
            yield each, seen


def _order(rule: Rule, seen: Seen, since: int) -> tuple[float, ...]:
    return (9 if seen.note else rule.depth if seen.depth is None else seen.depth, since, -seen.strength)


def _finding(rule: Rule, seen: Seen, case: Case) -> Finding:
    remedy = seen.remedy or rule.remedy
    return Finding(
        code=rule.code,
        severity="note" if seen.note else rule.severity,
        message=f"{seen.words[0].upper()}{seen.words[1:]}: {rule.cause}. {remedy[0].upper()}{remedy[1:]}.",
        cause=rule.cause,
        remedy=remedy,
        step=case.now,
        known=rule.known,
        evidence={**seen.evidence, **({"where": list(seen.where)} if seen.where else {})},
    )
