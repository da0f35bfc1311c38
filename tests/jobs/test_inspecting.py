"""`inspect`, `conv` and `export` from the command line and from Python."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torchinfo
import torchvision
from torch import Tensor, nn

import hubel
from hubel.cli import main
from hubel.errors import UsageError
from hubel.nn.foreign import load_code
from hubel.nn.zoo import NETWORKS, native
from repetitions import without_repetitions


@pytest.mark.parametrize("name", without_repetitions(NETWORKS))
def test_networks_at_two_sizes(name: str) -> None:
    channels, height, width = native(name)
    first = hubel.inspect(name)
    second = hubel.inspect(name, input=(channels, height + 32, width + 32))
    assert first.input == (channels, height, width)
    assert first.layers[-1].shape == ((1000,) if height > 64 else (10,))
    assert first.parameters > 0
    assert second.macs > first.macs
    if not any(part in name for part in ("two-block", "lenet", "quick")) and name != "simple-cnn":
        assert second.parameters == first.parameters, "no layer was made for one size"


def test_the_table_equals_torchinfos_totals() -> None:
    ours = hubel.inspect("resnet50")
    theirs = torchinfo.summary(torchvision.models.resnet50(), (1, 3, 224, 224), verbose=0)
    assert ours.parameters == theirs.total_params == 25_557_032
    assert sum(layer.parameters for layer in ours.layers) == theirs.total_params
    # torchinfo counts batch norm's parameters and the dense layer's biases as multiply-adds.
    extra = sum(layer.parameters for layer in ours.layers if layer.kind == "BatchNorm2d") + 1000
    assert ours.macs == theirs.total_mult_adds - extra
    assert (ours.field, ours.stride, ours.padding) == ((427, 427), (32, 32), (213, 213))
    assert ours.warnings == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lenet5", "--input", "1,10,10"], ("smallest size is 16x16", "at its layer conv2")),
        (["vgg16", "--input", "30"], ("smallest size is 32x32", "at its layer features.30")),
        (["torchvision/alexnet", "--input", "3,20,20"], ("smallest size is 63x63", "at its layer features.5")),
        (["resnet50", "--input", "3,20"], ("expected channels,height,width such as 3,224,224",)),
        (["resnet50", "--input", "a"], ("expected whole numbers",)),
        (["resnet50", "--classes", "0"], ("must be at least 1",)),
        (["resnet55"], ("did you mean resnet",)),
        (["resnet50", "--output", "x.png"], ("must end in .svg (picture), .html (page) or .json (numbers)",)),
    ],
)
def test_bad_questions(arguments: list[str], said: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", *arguments]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in said), error
    assert error.count("\n") == 1


class Own(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3, padding=1)
        self.right = nn.Conv2d(3, 8, 5, padding=2)
        self.out = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        import torch

        y = torch.cat([self.left(x), self.right(x)], 1)
        z: Tensor = self.out(y.mean((2, 3)))
        return z


def test_your_own_module_and_its_files(tmp_path: Path) -> None:
    summary = hubel.inspect(Own(), input=(3, 24, 24))
    assert summary.network == "Own"
    assert summary.field == (5, 5)
    for name in ("net.svg", "net.html", "net.json"):
        hubel.inspect(Own(), input=(3, 24, 24), output=tmp_path / name)
    assert ET.parse(tmp_path / "net.svg").getroot().tag.endswith("svg")
    assert "<table" in (tmp_path / "net.html").read_text("utf-8")
    assert json.loads((tmp_path / "net.json").read_text())["parameters"] == summary.parameters
    with pytest.raises(UsageError, match="must end in"):
        hubel.inspect(Own(), output=tmp_path / "net.pdf")


DOUBLED = """
from torch import nn


class Doubled(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.first, self.out = nn.Conv2d(3, 8, 3), nn.Linear(8, num_classes)
        self.again = self.first

    def forward(self, x):
        return self.out(self.again(x).mean((2, 3)))
"""


def test_a_module_under_two_names_counts_once_and_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(DOUBLED)
    name = f"{tmp_path / 'net.py'}:Doubled"
    assert hubel.inspect(name, input=(3, 24, 24)).parameters == 224 + 90, "as many classes as the code itself says"
    assert hubel.inspect(name, input=(3, 24, 24), classes=1000).parameters == 224 + 9000
    model = load_code(name)(num_classes=3)
    assert hubel.inspect(model, input=(3, 24, 24)).parameters == 224 + 27
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    with pytest.raises(UsageError, match=r"an nn.Module such as Net\(\)"):
        hubel.inspect(Own)


def test_inspect_prints_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "resnet20", "--time"]) == 0
    text = capsys.readouterr().out
    assert "layer3.2" in text
    assert "269,722" in text
    assert main(["inspect", "resnet20", "--json", "--classes", "7"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["layers"][-1]["shape"] == [7]
    assert said["layers"][0]["milliseconds"] is None


def test_a_trained_model_is_inspected_and_exported(
    few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = hubel.train(few_digits, epochs=1, width=16, output=tmp_path / "run", show_as="none")
    summary = hubel.inspect(run.path)
    assert summary.layers[-1].shape == (3,)
    assert summary.input[0] == 1
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert main(["export", str(run.path)]) == 0
    assert "Compared with PyTorch on" in capsys.readouterr().out
    run.verify()
    image = next((few_digits / "7").iterdir())
    assert main(["predict", str(tmp_path / "run.onnx"), str(image), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    expected = hubel.predict(run.path, image)[0]
    assert answer["label"] == expected.label
    assert answer["confidence"] == pytest.approx(expected.confidence, abs=1e-5)


def test_conv_answers_as_the_facts_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conv", "--input", "224", "--kernel", "3", "--stride", "2", "--padding", "0"]) == 0
    text = capsys.readouterr().out
    assert "3 × 224 × 224 → 16 × 111 × 111" in text
    assert "floor((224 + 2*0 - 1*(3 - 1) - 1) / 2) + 1" in text
    assert "no window sees 1 row at the bottom" in text
    pool = ["conv", "--input", "4", "--kernel", "2", "--op", "maxpool", "--channels", "1", "--json"]
    assert main(pool) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == [1, 2, 2]
    assert main(["conv", "--input", "7", "--kernel", "9"]) == 2
    assert "a kernel of 9 does not fit into 7 rows: use a kernel of at most 7" in capsys.readouterr().err
    assert main(["conv", "--input", "7", "--kernel", "3", "--padding", "sam"]) == 2
    assert "expected whole numbers, same or valid" in capsys.readouterr().err
