"""Does `predict --unsure` keep its promise, and what does a temperature do? On many divisions of real answers.

    python benchmarks/unsure.py WEIGHTS/resnet20-cifar10.safetensors resnet20 DATA/cifar10 \
        --output benchmarks/results/unsure.json

The network answers for the test images once. Then, many times, some of these are drawn as validation images, on which
temperature and thresholds are chosen, and the others are the reported ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from measuring import machine, versions, write

from hubel.dataset.find import scan
from hubel.dataset.pack import Rows, pack
from hubel.evaluation.calibration import BINS, confidences, fit_temperature, levels, threshold
from hubel.evaluation.metrics import score
from hubel.events import outcome
from hubel.jobs.answer import from_weights

SHARES = (0.01, 0.02, 0.05, 0.1)
Array = npt.NDArray[Any]


def answered(weights: str, network: str, data: str) -> tuple[Array, Array, tuple[str, ...]]:
    """Logits (N, K) and labels (N,) of the test part."""
    catalog = scan(data)
    classifier, _ = from_weights(weights, network, classes=catalog.classes)
    packed = outcome(pack(catalog.root, catalog.paths, classifier.card.preprocess))
    rows = np.flatnonzero(np.array(catalog.parts) == "test")
    return classifier.logits(Rows(packed.images, rows)), catalog.labels[rows], catalog.classes


def ece(sure: Array, right: Array) -> float:
    """Expected calibration error."""
    bins = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    return float(np.abs(np.bincount(bins, right - sure, BINS)).sum() / len(sure))


def divided(logits: Array, labels: Array, classes: tuple[str, ...], size: int, times: int) -> dict[str, Any]:
    """Figures over divisions with so many validation images."""
    rng = np.random.default_rng(size)
    told: dict[float, list[tuple[float, float]]] = {share: [] for share in SHARES}
    temperatures, before, after, gains = [], [], [], []
    for _ in range(times):
        order = rng.permutation(len(labels))
        val, test = order[:size], order[size:]
        temperature, _ = fit_temperature(logits[val], labels[val])
        known = levels(*confidences(logits[val], labels[val], temperature))
        sure, right = confidences(logits[test], labels[test], temperature)
        temperatures.append(temperature)
        before.append(ece(*confidences(logits[test], labels[test])))
        after.append(ece(sure, right))
        losses = [score(logits[test] / t, labels[test], classes).loss for t in (1.0, temperature)]
        gains.append(losses[0] - losses[1])
        for share in SHARES:
            if (least := threshold(known, share)) is not None:
                taken = sure >= least
                told[share].append((float((taken & ~right).sum() / max(taken.sum(), 1)), float(taken.mean())))
    return {
        "validation_images": size,
        "divisions": times,
        "temperature": {"kept": float(np.mean(np.array(temperatures) != 1)), "mean": float(np.mean(temperatures))},
        "ece_before": float(np.mean(before)),
        "ece_after": float(np.mean(after)),
        "loss_gain": {"mean": float(np.mean(gains)), "least": float(min(gains))},
        "promises": {
            str(share): {
                "made": len(rows) / times,
                "broken": float(np.mean([error > share for error, _ in rows])) if rows else None,
                "errors": float(np.mean([error for error, _ in rows])) if rows else None,
                "answered": float(np.mean([taken for _, taken in rows])) if rows else None,
            }
            for share, rows in told.items()
        },
    }


def main() -> None:
    """Answer once, divide many times."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("weights")
    flags.add_argument("network")
    flags.add_argument("data")
    flags.add_argument("--sizes", type=int, nargs="+", default=[50, 150, 500, 2_000, 5_000])
    flags.add_argument("--times", type=int, default=500)
    flags.add_argument("--output", type=Path)
    asked = flags.parse_args()
    logits, labels, classes = answered(asked.weights, asked.network, asked.data)
    rows = [divided(logits, labels, classes, size, asked.times) for size in asked.sizes]
    accuracy = float((logits.argmax(1) == labels).mean())
    result = {"network": asked.network, "accuracy": accuracy, "n": len(labels), "rows": rows}
    write(asked.output, {"machine": machine(), "versions": versions(), **result})


if __name__ == "__main__":
    main()
