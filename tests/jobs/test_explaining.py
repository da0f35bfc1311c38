"""`hubel explain`: pictures, words and JSON about single images, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hubel
from hubel.cli import main
from hubel.errors import UsageError
from hubel.evidence import RunRecord


@pytest.fixture(scope="module")
def run(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"epochs": 2, "weights": "none", "seed": 0, "show_as": "none"}
    return hubel.train(few_digits, output=tmp_path_factory.mktemp("runs") / "digits", **settings).path


def some_images(few_digits: Path) -> list[Path]:
    return sorted(few_digits.rglob("*.png"))[::40][:3]


def test_an_explanation_says_what_where_and_how_far_to_trust_it(run: Path, few_digits: Path, tmp_path: Path) -> None:
    images = some_images(few_digits)
    found = hubel.explain(run, images, output=tmp_path / "out")
    answers = hubel.predict(run, images)
    for one, answer in zip(found, answers, strict=True):
        assert one.target == answer.label
        assert list(one.probabilities) == list(answer.probabilities)[:3]
        assert one.layer
        assert one.reason
        assert (one.trusted is None) == bool(one.note)
        assert one.map.ndim == 2
        assert one.heatmap.shape == one.pixels.shape[:2]
        assert [each.cosine for each in one.alike] == sorted((e.cosine for e in one.alike), reverse=True)
        assert "<img" in one._repr_html_()
    shown = (hubel.load(run)._repr_html_(), hubel.Run(run).scores._repr_html_())  # type: ignore[union-attr]
    assert "parameters" in shown[0]
    assert shown[1].count("<td") == len(hubel.Run(run).scores.per_class) ** 2
    said = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert [row["path"] for row in said] == [str(image) for image in images]
    for row in said:
        with Image.open(tmp_path / "out" / row["picture"]) as sheet:
            assert sheet.width > 200


def test_what_is_most_alike_is_an_image_of_training(run: Path, few_digits: Path) -> None:
    record = RunRecord.open(run)
    trained = [record.trained_path(i) for i in range(len(record.trained["rows"]))]
    assert set(trained) <= set(json.loads((run / "split.json").read_text())["train"])
    (found,) = hubel.explain(run, few_digits / trained[5])
    assert found.alike[0].path == trained[5], "a training image is most like itself"
    assert found.alike[0].cosine == pytest.approx(1, abs=0.01)
    assert found.alike[0].label == Path(trained[5]).parent.name


def test_any_class_method_and_layer(run: Path, few_digits: Path) -> None:
    image = some_images(few_digits)[0]
    (seven,) = hubel.explain(run, image, label="7", method="integrated-gradients")
    assert (seven.target, seven.layer) == ("7", "")
    model = hubel.load(run).model
    name = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)][1]
    (early,) = hubel.explain(run, image, layer=name)
    assert early.layer == name
    assert not np.array_equal(early.heatmap, seven.heatmap)


def test_the_terminal_and_the_folder_beside_the_run(
    run: Path, few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, bad = tmp_path / "run", tmp_path / "bad.png"
    shutil.copytree(run, copy)
    bad.write_bytes(b"no image")
    assert main(["explain", str(copy), str(some_images(few_digits)[0]), str(bad)]) == 0
    printed = capsys.readouterr().out
    assert "most alike in training:" in printed
    assert f"{bad}: left out" in printed
    assert len(list((copy / "explained").glob("*.png"))) == 1
    assert main(["evaluate", str(copy), str(few_digits)]) == 0, "the run is still whole"
    capsys.readouterr()
    (copy / "evidence" / "trained.safetensors").unlink()
    assert main(["explain", str(copy), str(some_images(few_digits)[0]), "--json", "--output", str(tmp_path / "x")]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (said["event"], said["alike"]) == ("explanation", [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "no explanation method 'magic': choose of gradcam"),
        ({"label": "cat"}, "does not know the class 'cat': it knows '0'"),
        ({"layer": "nowhere"}, "no layer called 'nowhere'"),
        ({"layer": "nowhere", "method": "saliency"}, "takes no layer"),
    ],
)
def test_what_can_not_be_explained_is_said(settings: dict[str, str], message: str, run: Path, few_digits: Path) -> None:
    with pytest.raises(UsageError, match=message):
        hubel.explain(run, some_images(few_digits)[0], **settings)
