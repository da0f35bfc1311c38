"""Confident learning on labels that were flipped on purpose."""

from __future__ import annotations

import numpy as np

from hubel.evaluation.suspects import label_suspects, suspect_findings


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
