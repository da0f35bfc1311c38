"""The exported file: what it says, what it answers without hubel, and that damage is noticed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import hubel
from hubel.as_json import from_json
from hubel.dataset.tensors import normalise
from hubel.errors import ModelError
from hubel.evaluation.onnx import onnx_bytes, open_onnx
from hubel.records import ModelCard, Preprocess

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CARD = ModelCard(
    architecture="tiny",
    arguments={},
    classes=("a", "ß, “quoted”", "c"),
    preprocess=Preprocess(size=(12, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)),
    metrics={"test_accuracy": 0.5},
)


class Tiny(nn.Module):
    """What a user may write: layers, a function and a view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 12 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(x.view(x.shape[0], -1))  # type: ignore[no-any-return]


class Moody(nn.Module):
    """Its way depends on the image, which no graph can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))
        return self.head(pooled) if pooled.sum() > 0 else self.head(-pooled)  # type: ignore[no-any-return]


class Pair(nn.Module):
    """It takes two images, never one or three."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)).view(2, 3))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    torch.manual_seed(0)
    model = Tiny()
    model.norm.running_mean = torch.randn(4)
    return model.eval()


@pytest.fixture(scope="module")
def content(tiny: Tiny) -> bytes:
    return onnx_bytes(tiny, CARD)


def pixels(count: int) -> npt.NDArray[np.uint8]:
    """(count, 12, 16, 3), which is the network's own size."""
    return np.random.default_rng(count).integers(0, 256, (count, 12, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 7])
def test_onnxruntime_alone_answers_as_torch_does(content: bytes, tiny: Tiny, count: int) -> None:
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    batch = pixels(count)
    probabilities, label = session.run(None, {"pixels": batch})
    with torch.inference_mode():
        images = torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous()
        expected = tiny(normalise(images, CARD.preprocess)).softmax(1)
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-6)
    assert label.tolist() == [CARD.classes[i] for i in expected.argmax(1).tolist()]
    assert probabilities.dtype == np.float32


def test_the_file_says_what_it_is(content: bytes) -> None:
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    said = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(said["classes"])) == CARD.classes
    assert from_json(ModelCard, json.loads(said["hubel_card"])) == CARD
    assert said["hubel_version"] == hubel.__version__
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("pixels", "tensor(uint8)", ["n", "height", "width", 3])
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("probabilities", ["n", 3]), ("label", ["n"])]
    proto = onnx.load_from_string(content)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 18)]
    assert "onnxruntime" in proto.doc_string


def test_nothing_of_the_machine_is_in_the_file(content: bytes) -> None:
    assert str(Path(__file__).parent).encode() not in content
    assert b".py" not in content
    assert b"Tiny" not in content


def test_hubel_opens_it_again(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    for source in (content, tmp_path / "model.onnx"):
        opened = open_onnx(source)
        assert opened.card == CARD
        probabilities, labels = opened.answer(pixels(2))
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
        assert set(labels) <= set(CARD.classes)


def test_a_flipped_bit_is_found_anywhere(content: bytes) -> None:
    for position in np.linspace(0, len(content) - 1, 200).astype(int).tolist():
        damaged = bytearray(content)
        damaged[position] ^= 1
        with pytest.raises(ModelError, match="export it again"):
            open_onnx(bytes(damaged))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_part_of_a_file_is_refused(content: bytes, share: float) -> None:
    with pytest.raises(ModelError, match="hubel export"):
        open_onnx(content[: int(len(content) * share)])


def test_a_missing_file_and_a_strange_one(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="check the path"):
        open_onnx(tmp_path / "gone.onnx")
    proto = onnx.load_from_string(content)
    del proto.metadata_props[:]
    (tmp_path / "other.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="hubel export"):
        open_onnx(tmp_path / "other.onnx")


@pytest.mark.parametrize(
    ("kind", "words"), [(Moody, r"Moody can't be exported .* the same for all images"), (Pair, "write x.shape")]
)
def test_what_no_graph_can_do_is_refused_in_a_sentence(
    kind: type[nn.Module], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=words):
        onnx_bytes(kind(), CARD)
    assert capfd.readouterr() == ("", "")


def test_pixels_of_another_shape_are_refused_in_a_sentence(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"can't answer for \(1, 12, 16, 4\)"):
        open_onnx(content).answer(np.zeros((1, 12, 16, 4), np.uint8))


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"package {package}, .*pip install 'hubel\[export\]'"):
        onnx_bytes(tiny, CARD)


def test_opening_needs_onnxruntime_only(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    assert open_onnx(content).card == CARD
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match="package onnxruntime"):
        open_onnx(content)
