"""A run folder comes back as it was written, field by field, and what is missing or damaged is said in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hubel.errors import RunError
from hubel.evidence import FACTS, IMAGES, LOGITS, PICTURES, THUMBNAILS, RunRecord, keep_arrays
from hubel.runs import RunFolder
from report import sample


@pytest.fixture
def run(tmp_path: Path) -> RunRecord:
    sample.run(tmp_path, n=60)
    return RunRecord.open(tmp_path)


def test_the_curves_come_back(tmp_path: Path) -> None:
    names = ("=cmd", "a, b", '"c"\n')
    rows = sample.history(6, names, final=0.9, diverged=True)
    read = sample.run(tmp_path, names=names, history=rows).history
    assert [repr(row) for row in read] == [repr(row) for row in rows]  # NaN is not equal to itself


def test_a_run_that_was_stopped_in_its_first_epoch_has_no_curves(run: RunRecord) -> None:
    (run.path / "results.csv").unlink()
    assert run.history == ()


def test_answers_are_those_of_the_logits(run: RunRecord) -> None:
    logits = torch.from_numpy(run.logits)
    assert torch.allclose(logits.softmax(1), torch.from_numpy(run.probabilities), atol=1e-6)
    assert (run.predictions == logits.argmax(1).numpy()).all()
    assert np.allclose(run.confidence, logits.softmax(1).max(1).values.numpy())
    assert run.scores.accuracy == pytest.approx((run.predictions == run.labels).mean())
    assert len(run.validation_labels) == len(run.validation_paths) == len(run.validation_logits)


def test_a_nan_is_an_answer_without_confidence(tmp_path: Path) -> None:
    likely = sample.run(tmp_path, n=60).probabilities.copy()
    likely[3] = np.nan
    run = sample.run(tmp_path, n=60, probabilities=likely)
    assert np.isnan(run.probabilities[3]).all()
    assert run.confidence[3] == 0


def test_confidences_are_those_at_the_models_temperature(run: RunRecord) -> None:
    kept = dict(run._arrays(LOGITS))
    assert run.temperature == 1
    keep_arrays(run.path, LOGITS, {**kept, "temperature": np.array([2.5])})
    warm = RunRecord(run.path)
    expected = (torch.from_numpy(run.logits) / 2.5).softmax(1)
    assert torch.allclose(torch.from_numpy(warm.probabilities), expected, atol=1e-6)
    assert (warm.predictions == run.predictions).all()
    for wrong in (np.array([0.0]), np.array([np.nan]), np.ones(2)):
        keep_arrays(run.path, LOGITS, {**kept, "temperature": wrong})
        with pytest.raises(RunError, match="its temperature is impossible"):
            _ = RunRecord(run.path).temperature


def test_facts_of_other_images_are_refused(run: RunRecord) -> None:
    assert run.images is not None
    assert run.images["format"][0] == b"PNG"
    for wrong in (np.zeros((59, 36), np.uint8), np.zeros((60, 35), np.uint8), np.zeros((60, 36), np.float32)):
        keep_arrays(run.path, IMAGES, {"facts": wrong})
        with pytest.raises(RunError, match="does not fit the 60 reported images"):
            _ = RunRecord(run.path).images
    (run.path / IMAGES).unlink()
    assert RunRecord(run.path).images is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"counts": {"test": [1, 2]}}, "its counts are not those of 10 classes"),
        ({"explained": [{"index": 60, "note": ""}]}, "none of the 60 reported ones"),
        ({"explained": [{"index": -1, "note": ""}]}, "none of the 60 reported ones"),
    ],
)
def test_facts_of_another_run_are_refused(run: RunRecord, changes: dict[str, object], said: str) -> None:
    (run.path / FACTS).write_text(json.dumps({**json.loads((run.path / FACTS).read_text()), **changes}))
    with pytest.raises(RunError, match=said):
        _ = run.facts


def test_pictures_of_another_run_are_refused(run: RunRecord) -> None:
    kept = dict(run.pictures)
    heat = kept["explained.heat"]
    for name, wrong in (
        ("explained.heat", heat[1:]),
        ("explained.heat", heat[:, 1:]),
        ("explained.heat", heat.astype(np.float32)),
        ("explained.heat", np.array(1, np.uint8)),
        ("filters.after", np.zeros((3, 3), np.float32)),
        ("augmented", np.zeros((2, 2, 8, 8), np.uint8)),
    ):
        keep_arrays(run.path, PICTURES, {**kept, name: wrong})
        with pytest.raises(RunError, match="not those that a run's pictures have"):
            _ = RunRecord(run.path).pictures
    del kept["explained.images"]
    keep_arrays(run.path, PICTURES, kept)
    with pytest.raises(RunError, match="not those that a run's pictures have"):
        _ = RunRecord(run.path).pictures


def test_only_what_is_asked_for_is_read(run: RunRecord) -> None:
    for name in ("findings.json", "scores.json", PICTURES, THUMBNAILS):
        (run.path / name).unlink()
    assert run.logits.shape == (60, 10)
    with pytest.raises(RunError, match="findings.json"):
        _ = run.findings


def test_what_is_no_finished_run_is_refused(run: RunRecord, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        RunRecord.open(tmp_path / "elsewhere")
    (run.path / FACTS).unlink()
    with pytest.raises(RunError, match=r"older hubel.*train again with --recipe"):
        RunRecord.open(run.path)
    (run.path / "scores.json").unlink()
    with pytest.raises(RunError, match="hubel resume"):
        RunRecord.open(run.path)


@pytest.mark.parametrize("name", [LOGITS, PICTURES, THUMBNAILS, IMAGES])
def test_any_flipped_bit_of_a_sealed_run_is_noticed(run: RunRecord, name: str) -> None:
    RunFolder(run.path).seal()
    content = bytearray((run.path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run.path / name).write_bytes(content)
    with pytest.raises(RunError, match=r"checksum is wrong.*restore it from a copy"):
        _ = (run.logits, run.pictures, run.thumbnails, run.images)


@pytest.mark.parametrize(
    "name", [LOGITS, PICTURES, THUMBNAILS, IMAGES, FACTS, "scores.json", "results.csv", "plan.json"]
)
def test_a_file_that_was_cut_off_is_named(run: RunRecord, name: str) -> None:
    content = (run.path / name).read_bytes()
    (run.path / name).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(RunError, match=Path(name).name):
        _ = (run.logits, run.pictures, run.thumbnails, run.images, run.facts, run.scores, run.history, run.card)


def test_logits_of_other_images_are_refused(run: RunRecord) -> None:
    said = json.loads((run.path / "split.json").read_text())
    (run.path / "split.json").write_text(json.dumps({**said, "test": said["test"][1:]}))
    with pytest.raises(RunError, match="does not fit the 59 reported images"):
        _ = run.labels
