"""Two trained models on the same images, and answers that are withheld: from Python and from the command line."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import hubel
from hubel.cli import main
from hubel.errors import DataError, UsageError
from hubel.evaluation.calibration import confidences, fit_temperature, levels
from hubel.evidence import IMAGES, LOGITS, RunRecord, keep_arrays
from hubel.nn.saved import _digest_json, read_card, save_model
from hubel.nn.tensor_file import read_tensors
from hubel.records import Level, ModelCard
from hubel.runs import RunFolder, write_json
from report import sample

LEVELS = (Level(confidence=0.99, n=200, errors=0), Level(confidence=0.0, n=400, errors=80))


@pytest.fixture(scope="module")
def data(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of sixty digits each."""
    folder = tmp_path_factory.mktemp("four") / "digits"
    for name in "0178":
        (folder / name).mkdir(parents=True)
        for file in sorted((digits / name).iterdir())[:60]:
            shutil.copy(file, folder / name / file.name)
    return folder


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of one epoch, and one of six, on the same parts."""
    home = tmp_path_factory.mktemp("runs")
    first, second = (
        hubel.train(data, output=home / f"e{epochs}", show_as="none", width=16, epochs=epochs, report=False).path
        for epochs in (1, 6)
    )
    return first, second


def test_runs_are_compared_on_what_both_reported(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = hubel.compare(*runs)
    first, second = map(RunRecord.open, runs)
    right = [record.predictions == record.labels for record in (first, second)]
    assert first.paths == second.paths
    assert found.n == len(first.paths)
    assert found.accuracies == (pytest.approx(first.scores.accuracy), pytest.approx(second.scores.accuracy))
    assert found.only[1] == tuple(p for p, a, b in zip(first.paths, *right, strict=True) if b and not a)
    assert main(["compare", *map(str, runs)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == found.verdict
    assert f"{runs[1]}: {found.accuracies[1]:.2%}" in said


def test_on_given_images_both_answer(runs: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    """Of the folder that the runs divided themselves, what they were trained on is left out."""
    found = hubel.compare(*runs, data, output=tmp_path / "new", show_as="none")
    assert found.n == len(RunRecord.open(runs[0]).paths)
    assert dataclasses.replace(found, n=0) == dataclasses.replace(hubel.compare(*runs), n=0)
    written = json.loads((tmp_path / "new" / "comparison.json").read_text())
    assert written["accuracies"] == list(found.accuracies)
    loaded = hubel.compare(hubel.load(runs[0]), str(runs[1]), data, output=tmp_path / "x.json", show_as="none")
    assert loaded.names == ("the first model", str(runs[1]))
    assert json.loads((tmp_path / "x.json").read_text())["names"] == ["the first model", str(runs[1])]


def test_images_are_known_by_their_content_under_other_names(tmp_path: Path) -> None:
    a = sample.run(tmp_path / "a", n=200)
    b = sample.run(tmp_path / "b", n=200, paths=tuple(f"moved/{i}.png" for i in range(200)), error=0.3)
    found = hubel.compare(a.path, b.path)
    assert found.n == 200
    assert found.only[0] == tuple(np.array(a.paths)[(a.predictions == a.labels) & (b.predictions != b.labels)])
    (b.path / IMAGES).unlink()
    with pytest.raises(DataError, match="no image in common: say on which"):
        hubel.compare(a.path, b.path)


def test_other_classes_are_compared_on_those_that_both_know(tmp_path: Path) -> None:
    names = sample.classes(10)
    a = sample.run(tmp_path / "a", n=300)
    b = sample.run(tmp_path / "b", n=300, paths=a.paths, names=(*names[:4], *(f"other {i}" for i in range(6))))
    found = hubel.compare(a.path, b.path)
    expected = int((a.labels < 4).sum())
    assert found.n == expected
    assert set(found.classes) == set(names[:4])
    right = a.logits[a.labels < 4][:, :4].argmax(1) == a.labels[a.labels < 4]
    assert found.accuracies[0] == pytest.approx(right.mean())
    c = sample.run(tmp_path / "c", n=300, paths=a.paths, names=(names[0], *(f"other {i}" for i in range(9))))
    with pytest.raises(DataError, match="don't share two classes"):
        hubel.compare(a.path, c.path)


def test_wrong_calls_are_one_sentence(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="say on which to compare them"):
        hubel.compare(hubel.load(runs[0]), runs[1])
    for arguments in ([str(runs[0])], [*map(str, runs), "x", "y"], [str(runs[0]), str(tmp_path / "none")]):
        assert main(["compare", *arguments]) in (1, 2)
        assert capsys.readouterr().err.count("\n") == 1


def test_a_trained_model_is_calibrated_by_its_validation_logits(runs: tuple[Path, Path]) -> None:
    record, card = RunRecord.open(runs[0]), read_card(runs[0] / "model")
    expected, _ = fit_temperature(record.validation_logits, record.validation_labels)
    assert card.temperature == record.temperature == expected
    assert card.levels == levels(*confidences(record.validation_logits, record.validation_labels, expected))
    answers = hubel.load(runs[0]).predict(
        [Path(json.loads((runs[0] / "split.json").read_text())["source"]) / record.paths[0]]
    )
    scaled = (torch.from_numpy(record.logits[0]) / expected).softmax(0)
    assert answers[0].confidence == pytest.approx(float(scaled.max()), abs=1e-5)
    assert record.scores.ece is not None


@pytest.fixture(scope="module")
def wavering(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder whose temperature makes it unsure of some answers, and with known levels."""
    folder, record = tmp_path_factory.mktemp("model"), RunRecord.open(runs[1])
    card = read_card(runs[1] / "model")
    sure = np.sort(confidences(record.logits, record.labels, card.temperature)[0])
    known = (dataclasses.replace(LEVELS[0], confidence=float(sure[len(sure) // 2])), LEVELS[1])
    save_model(
        folder, read_tensors(runs[1] / "model" / "model.safetensors")[0], dataclasses.replace(card, levels=known)
    )
    return folder


def test_unsure_answers_say_so(
    wavering: Path, runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, source = RunRecord.open(runs[1]), json.loads((runs[1] / "split.json").read_text())["source"]
    images = [str(Path(source) / path) for path in record.paths]
    least = read_card(wavering).levels[0].confidence
    answers = hubel.predict(wavering, images, unsure=0.05)
    assert [a.unsure for a in answers] == [bool((a.confidence or 0) < least) for a in answers]
    assert 0 < sum(a.unsure for a in answers) < len(answers)
    assert not any(a.unsure for a in hubel.predict(wavering, images))
    assert main(["predict", str(wavering), *images, "--unsure", "0.05"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [": unsure, perhaps " in line for line in lines] == [a.unsure for a in answers]
    assert main(["predict", str(wavering), *images, "--unsure", "0.05", "--json"]) == 0
    assert [json.loads(line)["unsure"] for line in capsys.readouterr().out.splitlines()] == [a.unsure for a in answers]
    assert main(["predict", str(wavering), *images, "--unsure", "0.05", "--output", str(tmp_path / "a.csv")]) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert [row["unsure"] for row in rows] == ["unsure" if a.unsure else "" for a in answers]
    capsys.readouterr()
    assert main(["predict", str(wavering), images[0], "--unsure", "0.001"]) == 2
    assert "no confidence keeps errors that few" in capsys.readouterr().err


def test_an_older_run_answers_as_before(runs: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    """As a run was before there were temperatures: a card of three keys, evidence without a temperature."""
    old = shutil.copytree(runs[1], tmp_path / "old")
    tensors, record = read_tensors(old / "model" / "model.safetensors")[0], RunRecord.open(old)
    save_model(old / "model", tensors, dataclasses.replace(read_card(old / "model"), temperature=1.0, levels=()))
    config = json.loads((old / "model" / "config.json").read_text())
    del config["sha256"], config["hubel"]["temperature"], config["hubel"]["levels"]
    write_json(old / "model" / "config.json", {**config, "sha256": _digest_json(config)})
    keep_arrays(old, LOGITS, {k: array for k, array in record._arrays(LOGITS).items() if k != "temperature"})
    (old / IMAGES).unlink()
    RunFolder(old).seal()
    assert read_card(old / "model").temperature == RunRecord.open(old).temperature == 1
    assert RunRecord.open(old).images is None
    assert "accuracy by size, brightness, shape and format is left out" in RunRecord.open(old).missing[0]
    assert hubel.evaluate(old, data, show_as="none").accuracy == record.scores.accuracy
    with pytest.raises(UsageError, match="saved without counts of its errors"):
        hubel.predict(old, data, unsure=0.1)


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"temperature": math.inf}, {"levels": (Level(confidence=0.5, n=3, errors=3), 1)}]
)
def test_impossible_cards_are_refused(wrong: dict[str, object]) -> None:
    card = ModelCard(architecture="x", arguments={}, classes=("a", "b"), preprocess=hubel.Preprocess(size=(8, 8)))
    if "temperature" in wrong:
        with pytest.raises(ValueError, match="temperature"):
            dataclasses.replace(card, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="impossible"):
        Level(confidence=0.5, n=3, errors=4)
