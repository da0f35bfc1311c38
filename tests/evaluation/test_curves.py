"""Ranking figures against their definitions as counts of pairs, and against scikit-learn's averages."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from hubel.errors import UsageError
from hubel.evaluation.curves import ranked

NAMES = ("a", "b", "c")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_figures_are_counts_of_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, (40, 3)), rng.integers(0, 9, (40, 3)) / 8  # with ties
    labels[0], labels[1] = 0, 1
    found = ranked(labels, scores, NAMES)
    for k, name in enumerate(NAMES):
        positive, negative = scores[labels[:, k] == 1, k], scores[labels[:, k] == 0, k]
        wins = [float(p > n) + 0.5 * (p == n) for p in positive for n in negative]
        assert found[name][0] == pytest.approx(np.mean(wins))
    for i, (place, figure) in enumerate(
        (p, f) for f in (roc_auc_score, average_precision_score) for p in ("macro", "micro")
    ):
        assert found[place][i // 2] == pytest.approx(figure(labels, scores, average=place))


def test_a_class_that_none_or_all_have_is_left_out() -> None:
    labels = np.array([[0, 1, 0], [1, 1, 0], [1, 1, 0]])
    found = ranked(labels, np.array([[0.1, 0.5, 0.2], [0.9, 0.4, 0.3], [0.8, 0.1, 0.1]]), NAMES)
    assert found["a"] == found["macro"] == (1.0, 1.0)
    assert set(found) == {"a", "macro", "micro"}


@pytest.mark.parametrize(
    ("labels", "scores", "says"),
    [
        (np.zeros((3, 2)), np.zeros((3, 2)), "both \\(N, 3\\)"),
        (np.full((3, 3), 2), np.zeros((3, 3)), "labels of 0 and 1"),
        (np.eye(3), np.full((3, 3), np.nan), "finite"),
        (np.ones((3, 3)), np.zeros((3, 3)), "a class that some images have"),
    ],
)
def test_what_does_not_fit_is_refused(labels: npt.NDArray[Any], scores: npt.NDArray[Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ranked(labels, scores, NAMES)
