"""The graph against the decoder, whose resizing is Pillow's: equal in every bit, for any size."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from hubel.dataset.decode import decode, upright
from hubel.dataset.hard_cases import hard_cases
from hubel.evaluation.onnx_graph import Graph, Value
from hubel.evaluation.onnx_pixels import preprocessing
from hubel.records import Fit, Interpolation, Preprocess

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

SIDES = [(1, 1), (1, 1000), (1000, 1), (7, 9), (24, 36), (37, 51), (150, 200), (301, 17), (23, 25)]
WAYS: list[tuple[Fit, float]] = [("crop", 1.0), ("crop", 0.875), ("pad", 1.0), ("squash", 1.0)]


@cache
def session(preprocess: Preprocess) -> Any:
    graph, helper, uint8 = Graph(), onnx.helper, onnx.TensorProto.UINT8
    result = preprocessing(Value(graph, "pixels", "uint8"), preprocess)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "test",
            [helper.make_tensor_value_info("pixels", uint8, ["n", "h", "w", 3])],
            [helper.make_tensor_value_info(result.name, uint8, ["n", preprocess.channels, *preprocess.size])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    return runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def shrunk(pixels: npt.NDArray[np.uint8], preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """(N, H, W, 3) → (N, height, width, C) by the graph."""
    result: npt.NDArray[np.uint8] = session(preprocess).run(None, {"pixels": pixels})[0]
    return result.transpose(0, 2, 3, 1)


def noise(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Noise above, black and white below: the cubic filter overshoots there."""
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[height // 2 :] = (pixels[height // 2 :] > 127) * 255
    return pixels


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def preprocess_for(fit: Fit, crop_pct: float, interpolation: Interpolation, channels: int) -> Preprocess:
    half = (0.5,) * channels
    return Preprocess(
        size=(24, 36),
        channels=channels,
        fit=fit,
        crop_pct=crop_pct,
        interpolation=interpolation,
        mean=half,
        std=half,
        background=(10, 200, 30),
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("fit", "crop_pct"), WAYS)
def test_the_graph_and_the_decoder_agree_in_every_bit(
    fit: Fit, crop_pct: float, interpolation: Interpolation, channels: int
) -> None:
    preprocess = preprocess_for(fit, crop_pct, interpolation, channels)
    for height, width in SIDES:
        pixels = noise(height, width)
        expected, _ = decode(png(pixels), preprocess)
        np.testing.assert_array_equal(shrunk(pixels[None], preprocess)[0], expected, f"{height}x{width}")


@pytest.mark.parametrize(("fit", "crop_pct"), WAYS)
def test_files_of_every_kind_go_the_same_way(fit: Fit, crop_pct: float) -> None:
    preprocess = preprocess_for(fit, crop_pct, "bilinear", 3)
    for name, data in hard_cases(preprocess.size).items():
        ours = shrunk(upright(data, preprocess)[None], preprocess)[0]
        np.testing.assert_array_equal(ours, decode(data, preprocess)[0], name)


def test_a_batch_is_resized_image_by_image() -> None:
    preprocess = preprocess_for("pad", 1.0, "bicubic", 1)
    batch = np.random.default_rng(0).integers(0, 256, (3, 50, 40, 3), dtype=np.uint8)
    expected = [shrunk(batch[i : i + 1], preprocess)[0] for i in range(3)]
    np.testing.assert_array_equal(shrunk(batch, preprocess), expected)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_what_has_the_wanted_size_is_not_changed(fit: Fit) -> None:
    pixels = noise(24, 36)[None]
    for interpolation in ("bilinear", "bicubic"):
        np.testing.assert_array_equal(shrunk(pixels, preprocess_for(fit, 1.0, interpolation, 3)), pixels)
