"""The resizing in torch, and in ONNX Runtime, against the decoder, which is Pillow's: equal in every bit."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import nn

from hubel.dataset.decode import decode, upright
from hubel.dataset.hard_cases import hard_cases
from hubel.dataset.tensors import to_tensor
from hubel.evaluation.onnx import onnx_bytes
from hubel.evaluation.pillow import fitted
from hubel.records import Fit, Interpolation, ModelCard, Preprocess

SIDES = [(1, 1), (1, 1000), (1000, 1), (7, 9), (24, 36), (37, 51), (150, 200), (301, 17), (23, 25)]
SIZES = [(24, 36), (33, 70)]  # one block of rows, and several
WAYS: list[tuple[Fit, float]] = [("crop", 1.0), ("crop", 0.875), ("pad", 1.0), ("squash", 1.0)]


def shrunk(pixels: npt.NDArray[np.uint8], preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """(N, H, W, 3) → (N, height, width, C) by torch."""
    result: npt.NDArray[np.uint8] = fitted(torch.from_numpy(pixels), preprocess).permute(0, 2, 3, 1).numpy()
    return result


def noise(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Noise above, black and white below: the cubic filter overshoots there."""
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[height // 2 :] = (pixels[height // 2 :] > 127) * 255
    return pixels


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def preprocess_for(
    fit: Fit, crop_pct: float, interpolation: Interpolation, channels: int = 3, size: tuple[int, int] = (24, 36)
) -> Preprocess:
    half = (0.5,) * channels
    return Preprocess(
        size=size,
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
def test_torch_and_the_decoder_agree_in_every_bit(
    fit: Fit, crop_pct: float, interpolation: Interpolation, channels: int
) -> None:
    for size in SIZES:
        preprocess = preprocess_for(fit, crop_pct, interpolation, channels, size)
        for height, width in SIDES:
            pixels = noise(height, width)
            expected, _ = decode(png(pixels), preprocess)
            np.testing.assert_array_equal(shrunk(pixels[None], preprocess)[0], expected, f"{height}x{width} to {size}")


@pytest.mark.parametrize(("fit", "crop_pct"), WAYS)
def test_files_of_every_kind_go_the_same_way(fit: Fit, crop_pct: float) -> None:
    preprocess = preprocess_for(fit, crop_pct, "bilinear")
    for name, data in hard_cases(preprocess.size).items():
        ours = shrunk(upright(data, preprocess)[None], preprocess)[0]
        np.testing.assert_array_equal(ours, decode(data, preprocess)[0], name)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_what_has_the_wanted_size_is_not_changed(fit: Fit) -> None:
    pixels = noise(24, 36)[None]
    for interpolation in ("bilinear", "bicubic"):
        np.testing.assert_array_equal(shrunk(pixels, preprocess_for(fit, 1.0, interpolation)), pixels)


@pytest.mark.parametrize(
    ("fit", "crop_pct", "interpolation", "channels"),
    [("crop", 0.875, "bicubic", 3), ("pad", 1.0, "bilinear", 1), ("squash", 1.0, "bicubic", 1)],
)
def test_the_exported_file_sees_the_same_pixels(
    fit: Fit, crop_pct: float, interpolation: Interpolation, channels: int
) -> None:
    runtime: Any = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    preprocess = preprocess_for(fit, crop_pct, interpolation, channels, (33, 70))
    names = tuple(str(i) for i in range(33 * 70 * channels))
    card = ModelCard(architecture="pixels", arguments={}, classes=names, preprocess=preprocess)
    session = runtime.InferenceSession(onnx_bytes(nn.Flatten(), card), providers=["CPUExecutionProvider"])
    for height, width in SIDES:
        batch = np.stack([noise(height, width), 255 - noise(height, width)])
        expected = to_tensor(np.stack([decode(png(picture), preprocess)[0] for picture in batch]))
        shares = (expected.double() / 255 / 0.5).flatten(1).softmax(1)  # one step of a pixel changes its own by 0.8 %
        answers = session.run(["probabilities"], {"pixels": batch})[0]
        np.testing.assert_allclose(answers, shares.numpy(), rtol=1e-4, err_msg=f"{height}x{width}")
