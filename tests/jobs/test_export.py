"""`export` and `predict` with what it wrote: the same answers from the same file bytes, or no file."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hubel
from hubel.dataset.hard_cases import hard_cases
from hubel.errors import DataError, ModelError, RunError, UsageError
from hubel.evaluation.onnx import onnx_bytes
from hubel.events import Event, Note, Progress
from hubel.jobs import export as module
from hubel.jobs.answer import Classifier, OnnxClassifier, load
from hubel.jobs.evaluate import evaluating
from hubel.jobs.export import Exported, exporting
from hubel.nn.saved import save_model
from hubel.nn.zoo import build
from hubel.records import ModelCard, Preprocess
from hubel.runs import verify

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def finished(events: Iterator[Event]) -> tuple[list[Event], Exported]:
    """The events of a generator and what it returns."""
    seen: list[Event] = []
    while True:
        try:
            seen.append(next(events))
        except StopIteration as stop:
            return seen, stop.value


@pytest.fixture(scope="module")
def run(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    data = shutil.copytree(few_digits, folder / "data")
    return hubel.train(data, output=folder / "run", show_as="none", epochs=1, width=16).path


@pytest.fixture(scope="module")
def outcome(run: Path) -> tuple[list[Event], Exported]:
    return finished(exporting(run))


def test_the_runs_own_test_images_are_compared(run: Path, outcome: tuple[list[Event], Exported]) -> None:
    events, exported = outcome
    held = len((run / "predictions.csv").read_text("utf-8").splitlines()) - 1
    assert exported.n == exported.same == held > 0
    assert exported.largest <= 1e-5
    assert exported.left_out == 0
    notes = [event.text for event in events if isinstance(event, Note)]
    assert f"the same class for {held}" in notes[0]
    assert "run.onnx" in notes[1]
    last = [event for event in events if isinstance(event, Progress)][-1]
    assert last.done == last.total == held


def test_the_file_lies_beside_the_run_which_stays_sealed(run: Path, outcome: tuple[list[Event], Exported]) -> None:
    assert Path(outcome[1].path) == run.with_name("run.onnx")
    assert {file.name for file in run.parent.iterdir()} == {"data", "run", "run.onnx"}
    verify(run)


def test_predict_answers_from_the_file_as_from_the_run(
    run: Path, outcome: tuple[list[Event], Exported], tmp_path: Path
) -> None:
    (tmp_path / "no.jpg").write_bytes(b"just words")
    for name, content in hard_cases((8, 8)).items():
        (tmp_path / name).write_bytes(content)
    theirs, ours = (load(model, device="cpu").predict([tmp_path]) for model in (outcome[1].path, run))
    assert [answer.error for answer in theirs] == [answer.error for answer in ours]
    assert sum(answer.error is not None for answer in theirs) == 1
    for a, b in zip(theirs, ours, strict=True):
        assert (a.path, a.label) == (b.path, b.label)
        assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)


def test_the_loaded_file_has_the_interface_of_a_classifier(run: Path, outcome: tuple[list[Event], Exported]) -> None:
    exported, classifier = load(outcome[1].path), load(run, device="cpu")
    assert isinstance(exported, OnnxClassifier)
    assert isinstance(classifier, Classifier)
    assert exported.classes == classifier.classes == ("0", "1", "7")
    assert exported.card == classifier.card
    (answer,) = exported.predict([hard_cases()["photo.jpg"]])
    assert answer.path == "(bytes)"
    assert answer.confidence == max(answer.probabilities.values())


def test_an_exported_file_can_only_predict(run: Path, outcome: tuple[list[Event], Exported], few_digits: Path) -> None:
    with pytest.raises(ModelError, match="give the run folder"):
        list(evaluating(few_digits, lambda _: (load(outcome[1].path), []), None))
    with pytest.raises(UsageError, match="exported already"):
        finished(exporting(outcome[1].path))


def network(folder: Path, model: nn.Module, card: ModelCard) -> Path:
    folder.mkdir()
    save_model(folder, model.state_dict(), card)
    return folder


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder without a run: random weights, colour, 64 pixels, a margin cut off."""
    torch.manual_seed(0)
    card = ModelCard(
        architecture="resnet20",
        arguments={},
        classes=("cat", "dog", "fox"),
        preprocess=Preprocess(size=(64, 64), crop_pct=0.875, interpolation="bicubic"),
    )
    return network(tmp_path_factory.mktemp("resnet") / "model", build("resnet20", classes=3, size=(64, 64)), card)


def test_without_a_run_made_up_images_are_compared_and_another_model_is_never_written(
    resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents: list[bytes] = []

    def remembered(model: nn.Module, card: ModelCard) -> bytes:
        contents.append(onnx_bytes(model, card))
        return contents[0]

    target = tmp_path / "net.onnx"
    monkeypatch.setattr(module, "onnx_bytes", remembered)
    events, exported = finished(exporting(resnet, output=target))
    assert exported.n == exported.same == len(hard_cases())
    assert any(isinstance(event, Note) and "made-up" in event.text for event in events)
    assert target.read_bytes() == contents[0]

    shifted = dataclasses.replace(Preprocess(size=(64, 64), crop_pct=0.875, interpolation="bicubic"), mean=(0.45,) * 3)
    monkeypatch.setattr(module, "onnx_bytes", lambda *_: contents[0])
    real = load(resnet, device="cpu")
    assert isinstance(real, Classifier)
    other = Classifier(real.model, dataclasses.replace(real.card, preprocess=shifted))
    monkeypatch.setattr(module, "load_folder", lambda *_, **__: other)
    with pytest.raises(ModelError, match=r"other.onnx was not written: for \S+ PyTorch says .* is allowed"):
        finished(exporting(resnet, output=tmp_path / "other.onnx"))
    assert not (tmp_path / "other.onnx").exists()
    with pytest.raises(ModelError, match="was not written"):
        finished(exporting(resnet, output=target))
    assert target.read_bytes() == contents[0], "the earlier file stays"


def test_images_can_be_given(
    run: Path, outcome: tuple[list[Event], Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = Path(outcome[1].path).read_bytes()
    monkeypatch.setattr(module, "onnx_bytes", lambda *_: content)
    images = [hard_cases()["grey16.png"], b"no image", hard_cases()["exif6.jpg"]]
    events, exported = finished(exporting(run, output=tmp_path / "a.onnx", images=images))
    assert (exported.n, exported.left_out) == (2, 1)
    assert any(isinstance(event, Note) and "1 can't be used" in event.text for event in events)
    with pytest.raises(DataError, match="None of the 1 images"):
        finished(exporting(run, output=tmp_path / "b.onnx", images=[b"no image"]))
    assert not (tmp_path / "b.onnx").exists()


def test_a_tie_in_pytorch_may_go_either_way() -> None:
    target, half = Path("x.onnx"), {"a": 0.5, "b": 0.499999}
    answer = hubel.Answer(path="i.png", label="a", confidence=0.5, probabilities=half)
    module._check("i.png", answer, "b", half, 1e-6, target)
    clear = dataclasses.replace(answer, probabilities={"a": 0.6, "b": 0.4})
    with pytest.raises(ModelError, match="i.png"):
        module._check("i.png", clear, "b", half, 1e-6, target)
    with pytest.raises(ModelError, match="i.png"):
        module._check("i.png", answer, "a", half, float("nan"), target)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"to": "tflite"}, UsageError, "onnx is the one format"),
        ({"output": "model.bin"}, UsageError, "ends in .onnx"),
        ({"output": "nowhere/model.onnx"}, UsageError, "create it first"),
        ({"images": ["gone.png"]}, DataError, "no image gone.png"),
    ],
)
def test_wrong_calls_end_before_any_work(
    run: Path, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    events = exporting(run, **arguments)
    with pytest.raises(error, match=words):
        next(events)


def test_a_missing_run_and_a_missing_package(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((ModelError, RunError), match="gone"):
        next(exporting(tmp_path / "gone"))
    with pytest.raises(ModelError, match="gone.onnx"):
        load(tmp_path / "gone.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pip install 'hubel\[export\]'"):
        next(exporting(run))


def test_published_weights_answer_alike(shared: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = build("squeezenet1_0", classes=1000, size=(227, 227))
    model.load_state_dict(load_file(shared / "weights" / "squeezenet1_0-imagenet.safetensors"))
    seen = Preprocess(size=(227, 227), crop_pct=227 / 256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    names = tuple(f"class {i}" for i in range(1000))
    card = ModelCard(architecture="squeezenet1_0", arguments={}, classes=names, preprocess=seen)
    _, exported = finished(exporting(network(tmp_path / "squeezenet", model, card)))
    assert exported.n == exported.same == len(hard_cases())
    assert exported.largest <= 1e-5
