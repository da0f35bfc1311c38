"""How far a network's confidence can be trusted, and on which kinds of images its answers: what the page says of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hubel.evaluation.calibration import calibration, confidences, fit_temperature, levels, threshold
from hubel.evaluation.intervals import wilson_interval
from hubel.evaluation.slices import slices
from hubel.evidence import RunRecord
from hubel.report.wording import bare_percent, percent, points

POINTS, FIRST = 200, 20  # of the coverage curve; so few images at least, since fewer say nothing
PROMISES = (0.01, 0.02, 0.05, 0.1)  # shares of errors


def confidence(run: RunRecord) -> dict[str, Any]:
    """Sentences about calibration, the reliability diagrams by name, the coverage curve, promises, kinds of images."""
    right, n = run.predictions == run.labels, len(run.labels)
    fitted, why = fit_temperature(run.validation_logits, run.validation_labels)
    saved = run.temperature
    now = calibration(run.confidence, right)
    other = calibration(*confidences(run.logits, run.labels, fitted if saved == 1 else 1.0))
    words = (
        f"Confidence and accuracy lie {points(now.ece)} apart on average (expected calibration error; 95 % interval "
        f"{bare_percent(now.interval[0], n)} to {percent(now.interval[1], n)}, n = {n:,}). A perfectly calibrated "
        f"network would seem to be {points(now.chance)} apart on as many images."
    )
    if saved != 1:
        more = f"Without its temperature of {saved:.3g} it would be {points(other.ece)}; the temperature was {why}"
    elif fitted != 1:
        more = f"This model was saved without a temperature; one of {fitted:.3g} would make it {points(other.ece)}."
    else:
        more = f"It has no temperature: {why}"
    surest = np.argsort(-run.confidence, kind="stable")
    share, kept = np.arange(1, n + 1) / n, np.cumsum(right[surest]) / np.arange(1, n + 1)
    places = np.unique(np.linspace(min(FIRST, n) - 1, n - 1, POINTS).astype(int))
    return {
        "calibration": (words, more),
        "reliability": {"as it answers": now.bins} | ({"without temperature": other.bins} if saved != 1 else {}),
        "coverage": [{"share": float(share[i]), "accuracy": float(kept[i])} for i in places],
        "promises": list(_promises(run, right)),
        "slices": slices(run.images, run.labels, right),
    }


def _promises(run: RunRecord, right: Any) -> Iterator[tuple[str, ...]]:
    """Share of errors accepted, confidence, share of the reported images answered, and errors among those."""
    known = levels(*confidences(run.validation_logits, run.validation_labels, run.temperature))
    for share in PROMISES:
        least = threshold(known, share)
        answered = run.confidence >= (2.0 if least is None else least)
        n, wrong = int(answered.sum()), int((answered & ~right).sum())
        low, high = wilson_interval(wrong, n) if n else (0.0, 1.0)
        errors = f"{percent(wrong / n, n)} ({bare_percent(low, n)} to {percent(high, n)}, n = {n:,})" if n else ""
        found = "none is sure enough" if least is None else percent(least)
        yield percent(share, 1), found, percent(n / len(right)), errors
