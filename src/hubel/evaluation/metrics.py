"""How well logits match labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hubel.errors import UsageError
from hubel.evaluation.intervals import wilson_interval
from hubel.records import ClassScore, Scores

TOP5_ABOVE = 10  # classes; with ten or fewer, five guesses say little

Array = Tensor | npt.NDArray[Any]


def score(logits: Array, labels: Array, classes: Sequence[str]) -> Scores:
    """Compare (N, K) logits with (N,) labels in 0..K-1.

    An image whose logits hold a NaN counts as wrong and makes the loss NaN; it has no predicted class, so the confusion
    matrix leaves it out. Precision, recall and F1 are 0 where undefined.

    Raises:
        UsageError: no images, shapes that don't fit, or a label outside the classes.

    >>> score(torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]), ("cat", "dog")).accuracy
    0.5
    """
    values, truth = torch.as_tensor(logits).detach().cpu().double(), torch.as_tensor(labels).detach().cpu().long()
    _check(values, truth, len(classes))
    answered = ~values.isnan().any(dim=1)
    right = answered & (values.argmax(dim=1) == truth)
    top5 = answered & (values.topk(min(5, len(classes))).indices == truth[:, None]).any(dim=1)
    cells = (truth * len(classes) + values.argmax(dim=1))[answered]
    confusion = torch.bincount(cells, minlength=len(classes) ** 2).view(len(classes), -1)
    support = torch.bincount(truth, minlength=len(classes))
    per_class = _per_class(confusion.double(), support, classes)
    return Scores(
        n=len(truth),
        loss=float(torch.nn.functional.cross_entropy(values, truth)),
        accuracy=float(right.double().mean()),
        interval=wilson_interval(int(right.sum()), len(truth)),
        top5=float(top5.double().mean()) if len(classes) > TOP5_ABOVE else None,
        balanced_accuracy=float(np.mean([each.recall for each in per_class if each.support])),
        per_class=per_class,
        confusion=tuple(map(tuple, confusion.tolist())),
    )


def worst_errors(probabilities: Array, labels: Array, limit: int) -> npt.NDArray[np.int64]:
    """Return indices of wrongly answered images, those the model was surest of first; equal ones by index.

    Args:
        probabilities: (N, K), rows that sum to 1; a NaN counts as an error without confidence.
    """
    values: npt.NDArray[Any] = np.asarray(probabilities)
    broken = np.isnan(values).any(axis=1)
    confidence = np.where(broken, 0.0, values.max(axis=1))
    wrong = broken | (values.argmax(axis=1) != np.asarray(labels))
    order = np.argsort(-confidence, kind="stable")
    return np.asarray(order[wrong[order]][: max(limit, 0)], dtype=np.int64)


def _check(logits: Tensor, labels: Tensor, classes: int) -> None:
    if len(labels) == 0 or labels.ndim != 1 or tuple(logits.shape) != (len(labels), classes):
        raise UsageError(
            f"expected logits (N, {classes}) for {classes} classes and at least one label, "
            f"got logits {tuple(logits.shape)} and labels {tuple(labels.shape)}."
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise UsageError(f"labels must lie in 0..{classes - 1}, got {int(labels.min())}..{int(labels.max())}.")


def _per_class(confusion: Tensor, support: Tensor, classes: Sequence[str]) -> tuple[ClassScore, ...]:
    """Precision, recall and F1 of each class, from (K, K) counts (row: label, column: prediction) and (K,) labels."""
    hits, guesses = confusion.diagonal(), confusion.sum(dim=0)
    ratios = (hits / guesses.clamp(min=1), hits / support.clamp(min=1), 2 * hits / (guesses + support).clamp(min=1))
    rows = zip(classes, *(ratio.tolist() for ratio in ratios), support.tolist(), strict=True)
    return tuple(ClassScore(name=n, precision=p, recall=r, f1=f1, support=count) for n, p, r, f1, count in rows)
