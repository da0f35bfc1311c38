"""Kinds of images on which a classifier does worse: small or large, dark or bright, of another shape or format.

Classes differ in such things too, so a kind is compared with the other images of its classes: given how many images and
errors each class has, the errors that fall to the kind are a sum of hypergeometric numbers (the exact form of the test
of Mantel and Haenszel 1959). P-values are adjusted for the number of kinds (Holm 1979).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hubel.evaluation.calibration import Bools, Integers
from hubel.evaluation.intervals import wilson_interval
from hubel.records import Finding

LEAST = 20  # images of a kind, and others
FIFTH = 0.2
LONGER = 1.1  # times as high as wide, or the other way round
FOUND = 0.05  # of adjusted p-values

Facts = npt.NDArray[np.void] | None  # (N,) of `hubel.evidence.OF_IMAGES`


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The images of one kind, `members` (N,) bool: their number and accuracy, with its 95 % interval.

    Attributes:
        rest: accuracy of the others. expected: what it would be if these were like the others of their classes.
        p: that chance does so much harm, adjusted.
    """

    name: str
    members: Bools
    n: int
    accuracy: float
    interval: tuple[float, float]
    rest: float
    expected: float
    p: float

    @property
    def worse(self) -> bool:
        return self.p < FOUND


def slices(facts: Facts, labels: Integers, right: Bools) -> tuple[Slice, ...]:
    """Divide reported images, (N,) labels and right answers, by what `hubel.evidence` keeps of them, if anything."""
    kinds = [] if facts is None else _kinds(facts)
    kinds = [kind for kind in kinds if LEAST <= kind[1].sum() <= len(labels) - LEAST]
    found = [_slice(name, members, labels, right) for name, members in kinds]
    order = np.argsort([each.p for each in found], kind="stable")
    least = 0.0
    for rank, place in enumerate(order.tolist()):
        least = max(least, min(1.0, (len(found) - rank) * found[place].p))
        found[place] = replace(found[place], p=least)
    return tuple(found)


def _kinds(facts: npt.NDArray[np.void]) -> Iterator[tuple[str, Bools]]:
    width, height, files = facts["width"], facts["height"], facts["format"]
    for values, least, most, unit in (
        (255 * facts["brightness"], "darkest", "brightest", "of 255 on average"),
        (np.minimum(width, height), "smallest", "largest", "pixels on the shorter side"),
    ):
        low, high = np.quantile(values, (FIFTH, 1 - FIFTH))
        yield f"the {least} fifth (at most {low:.0f} {unit})", values <= low
        yield f"the {most} fifth (at least {high:.0f} {unit})", values >= high
    yield "upright images", height > LONGER * width
    yield "wide images", width > LONGER * height
    yield from ((f"{name.decode('ascii', 'replace')} files", files == name) for name in np.unique(files))


def _slice(name: str, members: Bools, labels: Integers, right: Bools) -> Slice:
    from scipy.stats import hypergeom

    n, seen, expected, chance = int(members.sum()), int(right[members].sum()), 0.0, np.ones(1)
    for label in np.unique(labels[members]):
        of_class = labels == label
        inside, others, errors = int((of_class & members).sum()), of_class & ~members, int((of_class & ~right).sum())
        drawn = hypergeom.pmf(np.arange(min(errors, inside) + 1), of_class.sum(), errors, inside)
        chance = np.convolve(chance, drawn)  # of 0, 1, … errors among the members
        expected += inside * float(right[others if others.any() else of_class].mean())
    return Slice(
        name=name,
        members=members,
        n=n,
        accuracy=seen / n,
        interval=wilson_interval(seen, n),
        rest=float(right[~members].mean()),
        expected=expected / n,
        p=float(chance[n - seen :].sum()),
    )


def slice_findings(facts: Facts, labels: Integers, right: Bools, paths: Sequence[str]) -> Iterator[Finding]:
    """Make a finding, with the paths of the wrong answers, of each kind that does worse."""
    for each in slices(facts, labels, right):
        if each.worse:
            message = (
                f"Of {each.name}, {each.accuracy:.0%} of {each.n:,} are answered right, against {each.rest:.0%} of the "
                f"others, and {each.expected:.0%} expected for their classes: more such images for training would help."
            )
            wrong = tuple(paths[int(i)] for i in np.flatnonzero(each.members & ~right))
            evidence = {"accuracy": each.accuracy, "n": each.n, "rest": each.rest, "p": each.p}
            yield Finding(code="weak-slice", severity="warning", message=message, paths=wrong, evidence=evidence)
