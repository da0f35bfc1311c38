"""The sentences say what the numbers say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hubel.evaluation.metrics import wilson_interval
from hubel.records import Baselines, Finding
from hubel.report.story import (
    advice,
    against_baselines,
    causes,
    divergence,
    mistakes,
    training_gap,
    verdict,
    weakest_class,
    weakest_index,
)

from . import sample


@pytest.mark.parametrize(
    ("logistic", "words"),
    [(0.5, "above the best baseline, logistic"), (0.999, "worse than a simple method"), (None, "most frequent class")],
)
def test_against_baselines(tmp_path: Path, logistic: float | None, words: str) -> None:
    scores = sample.run(tmp_path).scores
    assert words in against_baselines(scores, Baselines(majority=0.1, logistic=logistic), "test")


def test_a_baseline_within_the_interval_is_no_clear_difference(tmp_path: Path) -> None:
    scores = sample.run(tmp_path).scores
    sentence = against_baselines(scores, Baselines(majority=0.1, logistic=scores.accuracy + 0.001), "test")
    assert "no clear difference" in sentence


def test_all_right_is_not_below_a_baseline_that_is(tmp_path: Path) -> None:
    scores = replace(sample.run(tmp_path).scores, n=27, accuracy=1.0, interval=wilson_interval(27, 27))
    assert "worse than" not in against_baselines(scores, Baselines(majority=0.1, logistic=1.0), "test")


def test_weakest_class_is_the_one_with_the_lowest_recall(tmp_path: Path) -> None:
    scores = sample.run(tmp_path).scores
    weakest = weakest_index(scores)
    assert weakest is not None
    assert scores.per_class[weakest].recall == min(c.recall for c in scores.per_class)
    other, count = mistakes(scores, weakest)[0]
    assert count == max(c for j, c in enumerate(scores.confusion[weakest]) if j != weakest)
    assert f"“{scores.per_class[other].name}” ({count} of " in weakest_class(scores)


def test_training_gap() -> None:
    row = sample.history(5, ("bag",), final=0.8)[-1]
    far = replace(row, train_accuracy=0.99, val_accuracy=0.7, best=True)
    near = replace(row, train_accuracy=0.72, val_accuracy=0.7, best=True)
    under = replace(row, train_accuracy=0.6, val_accuracy=0.7, best=True)
    assert training_gap((far,)).startswith("A sign of overfitting: 99.0\xa0%")
    assert "close together" in training_gap((near,))
    assert "No sign of overfitting" in training_gap((under,))
    assert training_gap(()) == ""


def test_divergence_names_the_first_bad_epoch_and_the_kept_one() -> None:
    sentence = divergence(sample.history(10, ("bag",), final=0.5, diverged=True))
    assert "from epoch 6 on" in sentence
    assert "weights of epoch 5 were kept" in sentence
    assert divergence(sample.history(10, ("bag",), final=0.5)) == ""


def test_three_causes_with_their_numbers(tmp_path: Path) -> None:
    run = sample.run(tmp_path)
    first, *others = causes(run)
    errors = run.scores.n - sum(row[i] for i, row in enumerate(run.scores.confusion))
    assert "mixed up" in first.title
    assert f"{errors}\xa0errors" in first.text
    assert len(others) == 2
    assert first.cell is not None
    assert {(int(run.labels[i]), int(run.probabilities[i].argmax())) for i in first.images} == {first.cell}


def test_a_fault_of_the_data_is_a_cause_unless_it_is_left_out(tmp_path: Path) -> None:
    fault = Finding(code="imbalance", severity="warning", message="Class a has 9 times as many images as class b.")
    told = sample.run(tmp_path / "told", findings=(fault,))
    hidden = sample.run(tmp_path / "hidden", findings=(replace(fault, left_out=True),))
    assert fault.message in [cause.text for cause in causes(told)]
    assert fault.message not in [cause.text for cause in causes(hidden)]


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    scores = sample.run(tmp_path).scores
    assert verdict(sample.run(tmp_path, scores=replace(scores, n=0)))[0].startswith("No image was measured")


def test_leaks_are_said_in_the_verdict_and_are_no_cause_of_errors(tmp_path: Path) -> None:
    run = sample.run(tmp_path, n=200)
    found = tuple(
        Finding(code="near-leak", severity="warning", message="m", paths=(run.paths[i], f"train/{i}.png"))
        for i in range(3)
    )
    run = sample.run(tmp_path, n=200, findings=found)
    [said] = [sentence for sentence in verdict(run) if "flatter" in sentence]
    assert said.replace("\u00a0", " ").startswith("3 measured images (1.5 %) are also, or nearly, among the training")
    assert not [cause for cause in causes(run) if "leak" in cause.title]


def test_findings_of_a_kind_make_one_cause(tmp_path: Path) -> None:
    found = tuple(
        Finding(code="label-conflict", severity="error", message=f"case {i}.", paths=(f"a{i}", f"b{i}"))
        for i in range(5)
    )
    run = sample.run(tmp_path, n=200, findings=found)
    [cause] = [c for c in causes(run) if "conflict" in c.title]
    assert cause.title.replace("\u00a0", " ") == "The data: label conflict (10 files)"
    assert cause.text == "case 0. The audit found 5 of the kind."


def test_a_friend_says_that_a_network_was_hardly_trained(tmp_path: Path) -> None:
    rows = tuple(replace(row, step=10 * row.epoch) for row in sample.history(4, ("bag",), final=0.5))
    [said] = [s for s in advice(sample.run(tmp_path, history=rows)) if "hardly" in s]
    assert "40\xa0steps in 4 of 4\xa0epochs. Give it more time, --minutes 20" in said
    longer = tuple(replace(row, step=1000 * row.epoch) for row in rows)
    assert not any("hardly" in s for s in advice(sample.run(tmp_path / "longer", history=longer)))


def test_a_friend_says_that_it_was_still_getting_better(tmp_path: Path) -> None:
    first = sample.history(8, ("bag",), final=0.8)
    rising = tuple(replace(r, step=1000 * r.epoch, epochs=8, val_accuracy=0.1 * r.epoch, best=True) for r in first)
    [said] = [s for s in advice(sample.run(tmp_path / "a", history=rising)) if "getting better" in s]
    assert "in the last 2\xa0epochs" in said
    assert "--extend 4" in said
    assert any("getting better" in s for s in verdict(sample.run(tmp_path / "b", history=rising)))
    level = tuple(replace(row, val_accuracy=0.8) for row in rising)
    assert not any("getting better" in s for s in advice(sample.run(tmp_path / "c", history=level)))


def test_a_friend_names_classes_with_very_few_images(tmp_path: Path) -> None:
    few = (7, *(100,) * 9)
    said = advice(sample.run(tmp_path, counts={"train": few, "val": few, "test": few}))
    assert any("very few training images (7\xa0images)" in s for s in said)


def test_a_friend_says_that_a_simple_method_is_better(tmp_path: Path) -> None:
    rivals = Baselines(majority=0.1, logistic=0.999, logistic_n=1000)
    assert any("worse than a simple method" in s for s in advice(sample.run(tmp_path, baselines=rivals)))
