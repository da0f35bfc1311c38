"""How well scores rank the images of a class before the others, where an image may have several labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hubel.errors import UsageError


def ranked(
    labels: npt.NDArray[Any], scores: npt.NDArray[Any], classes: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Area under the ROC curve and average precision by class, ``macro`` and ``micro``; the figures of scikit-learn.

    Args:
        labels: (N, K) of 0 and 1. scores: (N, K), the higher the likelier. A class that all images have, or none, is
            left out.

    Raises:
        UsageError: other shapes or labels, scores that aren't finite, or no class is left.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if labels.shape != scores.shape or labels.shape[1:] != (len(classes),) or not np.isin(labels, (0, 1)).all():
        raise UsageError(f"expected labels of 0 and 1 and scores, both (N, {len(classes)}), got {labels.shape}.")
    told = [k for k in range(len(classes)) if 0 < labels[:, k].sum() < len(labels)]
    if not told or not np.isfinite(scores).all():
        raise UsageError("expected finite scores, and a class that some images have and others have not.")
    pairs = {classes[k]: (labels[:, k], scores[:, k]) for k in told} | {"micro": (labels.ravel(), scores.ravel())}
    found = {name: (float(roc_auc_score(*p)), float(average_precision_score(*p))) for name, p in pairs.items()}
    auc, precision = np.mean([found[classes[k]] for k in told], axis=0).tolist()
    return found | {"macro": (auc, precision)}
