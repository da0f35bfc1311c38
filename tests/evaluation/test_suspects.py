"""Confident learning on labels that were flipped on purpose."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from hubel.evaluation.suspects import RIDGES, STEEP, held_out, label_suspects, suspect_findings


def test_flipped_labels_come_first() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 400)
    probabilities = np.full((400, 4), 0.05, dtype=np.float32)
    probabilities[np.arange(400), truth] = 0.85
    given = truth.copy()
    flipped = rng.choice(400, 20, replace=False)
    given[flipped] = (given[flipped] + 1) % 4
    suspects = label_suspects(probabilities, given)
    assert {s.index for s in suspects} == set(flipped.tolist())
    assert all(s.guess == truth[s.index] for s in suspects)


def test_unsure_mistakes_are_no_suspects() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.55, 0.45], [0.1, 0.9]], dtype=np.float32)
    assert label_suspects(probabilities, np.array([0, 0, 1, 1])) == ()


def test_the_finding_names_them() -> None:
    probabilities = np.array([[0.9, 0.1], [0.95, 0.05], [0.1, 0.9]], dtype=np.float32)
    suspects = label_suspects(probabilities, np.array([0, 1, 1]))
    [finding] = suspect_findings(suspects, ["a.png", "b.png", "c.png"], ["cat", "dog"], "3 images")
    assert finding.paths == ("b.png",)
    assert "labelled 'dog' and looks like 'cat'" in finding.message
    assert suspect_findings((), [], [], "3 images") == ()


def test_a_label_is_judged_by_what_is_usual_for_it() -> None:
    """Own less than a quarter, other at least half of the mean: of class 0 it is 0.6, of class 1 it is 0.5."""
    usual = np.array([[0.9, 0.1]] * 2 + [[0.0, 1.0]] + [[0.5, 0.5]] * 20, dtype=np.float64)
    rows = np.concatenate([usual, [[0.14, 0.86], [0.16, 0.84]]])
    labels = np.array([0, 0, 0] + [1] * 20 + [0, 0])
    mean = rows[labels == 0, 0].mean()
    expected = [i for i in range(25) if labels[i] == 0 and rows[i, 0] < mean / 4 and rows[i, 1] >= 0.25]
    assert [s.index for s in label_suspects(rows.astype(np.float32), labels)] == expected == [2]


def test_answers_of_other_folds_are_ridge_regressions() -> None:
    """One fold after the other by scikit-learn, at one of the penalties and a temperature."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    features = (rng.normal(size=(90, 7)) + 1.5 * np.eye(7)[labels]).astype(np.float32)
    fold = np.arange(90) % 5
    found = held_out(features, labels, fold, 3)
    assert found.sum(1) == pytest.approx(np.ones(90), abs=1e-5)
    x = features - features.mean(0)
    x = np.concatenate([x / np.sqrt(np.square(x).sum(1).mean()), np.ones((90, 1))], 1)
    fits = []
    for ridge in RIDGES:
        scores = np.empty((90, 3))
        for k in range(5):
            some = fold != k
            alpha = ridge * np.square(x[some]).sum() / x.shape[1]
            model = Ridge(alpha=alpha, fit_intercept=False).fit(x[some], np.eye(3)[labels[some]] - 1 / 3)
            scores[~some] = STEEP * model.predict(x[~some])
        logs = np.log(found)
        slope = np.polyfit(
            (scores - scores.mean(1, keepdims=True)).ravel(), (logs - logs.mean(1, keepdims=True)).ravel(), 1
        )
        fitted = slope[0] * (scores - scores.mean(1, keepdims=True))
        fits.append(np.abs(fitted - (logs - logs.mean(1, keepdims=True))).max())
    assert min(fits) < 1e-3


def test_no_answer_depends_on_its_own_label() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 60)
    features, fold = rng.normal(size=(60, 5)).astype(np.float32), np.arange(60) % 5
    before = held_out(features, labels, fold, 3)
    changed = labels.copy()
    changed[fold == 2] = (changed[fold == 2] + 1) % 3
    after = held_out(features, changed, fold, 3)
    ranks = [np.argsort(each[fold == 2], axis=1, kind="stable") for each in (before, after)]
    assert (ranks[0] == ranks[1]).mean() > 0.9  # penalty and temperature, two numbers for all, may have moved


def test_planted_wrong_labels_are_found_and_excluded() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 5, 600)
    features = (rng.normal(size=(600, 40)) + 4 * np.eye(40)[truth]).astype(np.float32)
    wrong = rng.choice(600, 120, replace=False)
    given = truth.copy()
    given[wrong] = (given[wrong] + rng.integers(1, 5, 120)) % 5
    suspects = label_suspects(held_out(features, given, np.arange(600) % 5, 5), given)
    hits = {s.index for s in suspects} & set(wrong.tolist())
    assert len(hits) / len(suspects) > 0.8
    assert len(hits) / 120 > 0.8
    paths = [f"{i}.png" for i in range(600)]
    [finding] = suspect_findings(suspects, paths, list("abcde"), "600 images", exclude=True)
    assert finding.exclude == finding.paths == tuple(f"{s.index}.png" for s in suspects)
    assert finding.evidence["looks_like"][finding.paths[0]] == "abcde"[suspects[0].guess]
    [named] = suspect_findings(suspects, paths, list("abcde"), "600 images")
    assert (named.exclude, len(named.paths)) == ((), 30)
