"""How well logits match labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hubel.errors import UsageError
from hubel.records import ClassScore, Scores

Z95 = 1.959963984540054  # the normal quantile of 0.975
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
    _check(values, truth, classes)
    answered = ~values.isnan().any(dim=1)
    predicted = values.argmax(dim=1)
    right = answered & (predicted == truth)
    confusion = _confusion(truth[answered], predicted[answered], len(classes))
    support = torch.bincount(truth, minlength=len(classes))
    hits, guesses = confusion.diagonal(), confusion.sum(dim=0)
    recall = hits / support.clamp(min=1)
    per_class = tuple(
        _class_score(name, int(hits[k]), int(guesses[k]), int(support[k])) for k, name in enumerate(classes)
    )
    return Scores(
        n=len(truth),
        loss=float(torch.nn.functional.cross_entropy(values, truth)),
        accuracy=float(right.double().mean()),
        interval=wilson_interval(int(right.sum()), len(truth)),
        top5=_top5(values, truth, answered) if len(classes) > TOP5_ABOVE else None,
        balanced_accuracy=float(recall[support > 0].double().mean()),
        per_class=per_class,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
    )


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share that was seen `right` times in `n` (Wilson 1927); it never leaves [0, 1].

    >>> [round(bound, 3) for bound in wilson_interval(90, 100)]
    [0.826, 0.945]
    """
    share, shrink = right / n, 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / shrink
    half = Z95 / shrink * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


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


def _check(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    n, k = len(labels), len(classes)
    if n == 0 or labels.ndim != 1 or tuple(logits.shape) != (n, k):
        raise UsageError(
            f"expected logits (N, {k}) for {k} classes and at least one label, "
            f"got logits {tuple(logits.shape)} and labels {tuple(labels.shape)}."
        )
    if int(labels.min()) < 0 or int(labels.max()) >= k:
        raise UsageError(f"labels must lie in 0..{k - 1}, got {int(labels.min())}..{int(labels.max())}.")


def _confusion(truth: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """(K, K) counts: row is the label, column the prediction."""
    return torch.bincount(truth * classes + predicted, minlength=classes**2).view(classes, classes)


def _class_score(name: str, hits: int, guesses: int, support: int) -> ClassScore:
    return ClassScore(
        name=name,
        precision=hits / guesses if guesses else 0.0,
        recall=hits / support if support else 0.0,
        f1=2 * hits / (guesses + support) if guesses + support else 0.0,
        support=support,
    )


def _top5(logits: Tensor, labels: Tensor, answered: Tensor) -> float:
    among = (logits.topk(5, dim=1).indices == labels[:, None]).any(dim=1)
    return float((among & answered).double().mean())
