"""Which files of a folder are predicted, what else an image may be, and how the answers are written."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hubel.dataset.as_file import as_file
from hubel.dataset.decode import decode
from hubel.errors import DataError
from hubel.jobs.answer import Answer, Classifier, answers_csv, list_images
from hubel.records import ModelCard, Preprocess


def test_hidden_and_system_files_are_left_out_and_others_named(tmp_path: Path) -> None:
    names = ("cat/0.png", "labels.txt", ".ipynb_checkpoints/x.png", "Thumbs.db", "cat/.DS_Store", "__MACOSX/cat/0.png")
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "more/1.png").touch()
    (tmp_path / "in/more").symlink_to(tmp_path / "more")
    (tmp_path / "in/round").symlink_to("..")
    found = [str(Path(str(file)).relative_to(tmp_path)) for file in list_images([tmp_path / "in"])]
    assert found == ["in/cat/0.png", "in/labels.txt", "in/more/1.png"]
    assert list_images([tmp_path / "in/.ipynb_checkpoints/x.png"])  # as asked


def test_class_names_go_round_in_the_answers_csv() -> None:
    answers = [
        Answer(path="=a.png", label="-1", confidence=0.5, probabilities={}),
        Answer(path="b", label="=x", confidence=1.0, probabilities={}),
    ]
    rows = list(csv.DictReader(io.StringIO(answers_csv(answers))))
    assert [(row["file_name"], row["label"]) for row in rows] == [("=a.png", "-1"), ("b", "=x")]
    assert "'=a.png,'-1," in answers_csv(answers, spreadsheet=True)


def test_the_csv_holds_as_many_classes_as_asked_for() -> None:
    said = {"2": 0.5, "10": 0.375, "error": 0.125}
    answers = [
        Answer(path="a.png", label="2", confidence=0.5, probabilities=said),
        Answer(path="b", label=None, confidence=None, probabilities={}, error="damaged"),
    ]
    a, b = csv.DictReader(io.StringIO(answers_csv(answers, top=2, probabilities=True)))
    assert list(a)[4:] == ["label_2", "confidence_2", "p 2", "p 10", "p error"]
    assert (a["label"], a["label_2"], a["confidence_2"], a["error"]) == ("2", "10", "0.375000", "")
    assert [float(a[f"p {name}"]) for name in said] == list(said.values())
    assert b == {**dict.fromkeys(a, ""), "file_name": "b", "error": "damaged"}
    assert answers_csv(answers).splitlines() == ["file_name,label,confidence,error", "a.png,2,0.500000,", "b,,,damaged"]
    assert next(csv.reader(io.StringIO(answers_csv(answers, top=9))))[-1] == "confidence_3"
    assert "p 2" not in answers_csv(answers[1:], probabilities=True)


class Brightness(nn.Module):
    """Says how bright an image is, so that answers tell which pixels were seen."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.mean((1, 2, 3)), x[:, 0].mean((1, 2))], 1)


def classifier(scale: float = 1.0) -> Classifier:
    images = Preprocess(size=(20, 30), mean=(0.0,) * 3, std=(1 / scale,) * 3)
    card = ModelCard(architecture="quick", arguments={}, classes=("bright", "red"), preprocess=images)
    return Classifier(model=Brightness(), card=card)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_an_image_is_a_path_bytes_a_picture_or_an_array(picture: Path) -> None:
    model, pixels = classifier(), np.asarray(Image.open(picture))
    (wanted,) = model.predict([picture])
    given: list[Any] = [str(picture), picture, picture.read_bytes(), Image.open(picture), pixels]
    for one in (*given, pixels[::1, ::-1][:, ::-1], np.stack([pixels])):
        (answer,) = model.predict(one)
        assert answer.probabilities == wanted.probabilities
        assert answer.error is None
    answers = model.predict(given)
    assert [answer.probabilities for answer in answers] == [wanted.probabilities] * 5
    assert [answer.path for answer in answers] == [*map(str, [picture] * 2), "(bytes)", "(PngImageFile)", "(ndarray)"]
    grey = pixels[..., 0]
    assert model.predict(grey) == model.predict(np.stack([grey] * 3, -1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_a_picture_of_any_mode_is_seen_as_pillow_sees_it(mode: str, picture: Path) -> None:
    shown = Image.open(picture).convert(mode)
    seen, facts = decode(as_file(shown), Preprocess(size=(20, 30)))
    assert np.array_equal(seen, np.asarray(shown.convert("RGB")))
    assert (facts.width, facts.height) == (30, 20)


@pytest.mark.parametrize(("mode", "per_step"), [("I", 1), ("I;16", 257), ("F", 1)])
def test_a_picture_of_more_than_8_bits_is_scaled_as_a_file_is(mode: str, per_step: int, picture: Path) -> None:
    grey = np.asarray(Image.open(picture).convert("L"))
    numbers = {"I": np.int32, "I;16": np.uint16, "F": np.float32}[mode]
    shown = Image.fromarray(grey.astype(numbers) * numbers(per_step))
    assert shown.mode == mode
    assert np.array_equal(decode(as_file(shown), Preprocess(size=(20, 30), channels=1))[0][..., 0], grey)


def test_a_picture_is_turned_as_its_file_would_be(picture: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(picture).save(tmp_path / "turned.jpg", exif=exif, quality=100)
    images = Preprocess(size=(30, 20))
    file, opened = (
        decode(as_file(it), images)[0] for it in (tmp_path / "turned.jpg", Image.open(tmp_path / "turned.jpg"))
    )
    assert np.array_equal(file, opened)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (np.zeros((4, 4, 3)), "an array of float64 (4, 4, 3): expected is uint8"),
        (np.zeros((5, 4, 4), np.uint8), "an array of uint8 (5, 4, 4)"),
        (np.zeros((0, 4), np.uint8), "can't be read"),
        ([None], "an array of object ()"),
        (b"no image", ""),
    ],
)
def test_what_is_no_image_is_said_in_its_answer(wrong: Any, why: str) -> None:
    (answer,) = classifier().predict(wrong)
    assert answer.label is None
    assert why in (answer.error or "")


def test_a_picture_that_ends_too_early_is_said(picture: Path, tmp_path: Path) -> None:
    (tmp_path / "half.png").write_bytes(picture.read_bytes()[:900])
    with Image.open(tmp_path / "half.png") as half:
        answers = classifier().predict([half, picture])
    assert "can't be read" in (answers[0].error or "")
    assert answers[1].error is None


def test_a_path_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(DataError, match="no image cat.jpg"):
        classifier().predict("cat.jpg")


def test_an_answer_that_is_not_finite_is_an_error(picture: Path) -> None:
    (answer,) = classifier(scale=1e39).predict(picture)
    assert (answer.label, answer.confidence, answer.probabilities) == (None, None, {})
    assert "not finite" in (answer.error or "")
    assert "nan" not in answers_csv([answer])
