"""Metrics against scikit-learn and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn import metrics as oracle

from hubel.errors import UsageError
from hubel.evaluation.metrics import score, wilson_interval, worst_errors


@pytest.mark.parametrize("classes", [2, 5, 14])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_equal_scikit_learn(classes: int, absent: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(300, classes)).astype(np.float32)
    labels = rng.integers(0, classes - 1 if absent else classes, 300)
    logits[np.arange(300), labels] += 1
    if absent:
        logits[:, 0] = -9  # a class that is never predicted
    scores = score(logits, labels, [str(k) for k in range(classes)])
    guess, every = logits.argmax(1), range(classes)
    p, r, f, s = oracle.precision_recall_fscore_support(labels, guess, labels=every, zero_division=0)
    assert [c.precision for c in scores.per_class] == pytest.approx(list(p))
    assert [c.recall for c in scores.per_class] == pytest.approx(list(r))
    assert [c.f1 for c in scores.per_class] == pytest.approx(list(f))
    assert [c.support for c in scores.per_class] == list(s)
    assert scores.n == 300
    assert scores.accuracy == pytest.approx(oracle.accuracy_score(labels, guess))
    occurring = np.unique(labels)
    recalls = oracle.recall_score(labels, guess, labels=occurring, average="macro")
    assert scores.balanced_accuracy == pytest.approx(recalls)
    assert np.array_equal(scores.confusion, oracle.confusion_matrix(labels, guess, labels=every))
    probabilities = torch.as_tensor(logits).double().softmax(1).numpy()
    assert scores.loss == pytest.approx(oracle.log_loss(labels, probabilities, labels=list(every)))
    if classes > 10:
        assert scores.top5 == pytest.approx(oracle.top_k_accuracy_score(labels, logits, k=5, labels=list(every)))
    else:
        assert scores.top5 is None


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 30), (17, 30), (917, 1000), (10_000, 10_000)])
def test_wilson_interval_equals_scipy(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nan_counts_as_wrong_and_makes_the_loss_nan() -> None:
    logits = torch.tensor([[2.0, 0.0], [math.nan, 0.0], [0.0, math.nan], [0.0, 3.0]])
    scores = score(logits, torch.tensor([0, 0, 1, 1]), ("a", "b"))
    assert scores.accuracy == 0.5
    assert math.isnan(scores.loss)
    assert scores.confusion == ((1, 0), (0, 1))
    assert [(c.support, c.recall, c.precision) for c in scores.per_class] == [(2, 0.5, 1.0), (2, 0.5, 1.0)]
    assert score(torch.full((3, 12), math.nan), torch.tensor([0, 1, 2]), [""] * 12).top5 == 0


def test_infinite_logits_keep_their_meaning() -> None:
    scores = score(torch.tensor([[0.0, -math.inf]]), torch.tensor([0]), ("a", "b"))
    assert (scores.accuracy, scores.loss) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("logits", "labels", "says"),
    [
        (torch.zeros(0, 2), torch.zeros(0), "at least one label"),
        (torch.zeros(3, 2), torch.zeros(4), "expected logits"),
        (torch.zeros(3, 3), torch.zeros(3), "for 2 classes"),
        (torch.zeros(1, 2), torch.tensor([2]), r"0\.\.1, got 2\.\.2"),
        (torch.zeros(1, 2), torch.tensor([-1]), "must lie in"),
    ],
)
def test_what_does_not_fit_is_refused(logits: torch.Tensor, labels: torch.Tensor, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        score(logits, labels, ("a", "b"))


def test_worst_errors_are_the_surest_first() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.95, 0.05], [0.1, 0.9], [math.nan, 0.5]])
    labels = np.array([0, 0, 0, 1, 0, 0])
    assert worst_errors(probabilities, labels, 10).tolist() == [3, 4, 1, 2, 5]
    assert worst_errors(torch.tensor(probabilities), torch.tensor(labels), 2).tolist() == [3, 4]
    assert worst_errors(probabilities, labels, 0).tolist() == []
