"""A comparison of two models as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from hubel.evaluation.paired import Comparison
from hubel.report.wording import plain

CLASSES, IMAGES = 20, 12  # shown: the file has them all


def comparison_lines(found: Comparison) -> Iterator[str]:
    """The verdict, both accuracies, and the classes and images that only one model gets right."""
    yield plain(found.verdict)
    for name, accuracy, (low, high) in zip(found.names, found.accuracies, found.intervals, strict=True):
        yield f"  {plain(name)}: {accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}, n = {found.n:,})"
    yield f"\n  {'class':<24} {'images':>7} {'first alone':>12} {'second alone':>13}"
    split = sorted(found.classes.items(), key=lambda entry: -abs(entry[1][2] - entry[1][1]))
    yield from (f"  {plain(name)[:24]:<24} {n:>7,} {a:>12,} {b:>13,}" for name, (n, a, b) in split[:CLASSES])
    for name, paths in zip(found.names, found.only, strict=True):
        yield f"\n  {plain(name)} alone is right: {len(paths):,}{', --output names them all' * (len(paths) > IMAGES)}"
        yield from (f"    {plain(path)}" for path in paths[:IMAGES])
