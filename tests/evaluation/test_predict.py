"""Prediction equals the model called by hand, and leaves the model alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hubel.dataset.tensors import normalise, to_tensor
from hubel.errors import UsageError
from hubel.evaluation.predict import is_channels_last, predict
from hubel.nn.zoo import build
from hubel.records import Preprocess

RGB = Preprocess(size=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def pictures(n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)


def test_logits_equal_the_formula_whatever_the_batch_size() -> None:
    torch.manual_seed(0)
    model, images = build("simple-cnn", classes=4, size=(16, 16)).eval(), pictures(11)
    x = (torch.from_numpy(images).double() / 255 - torch.tensor(RGB.mean)) / torch.tensor(RGB.std)
    with torch.no_grad():
        expected = model(x.float().permute(0, 3, 1, 2))
    seen: list[int] = []
    logits = predict(model, images, RGB, batch_size=4, progress=seen.append)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(predict(model, images, RGB), logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(predict(model, images, RGB, batch_size=4), logits, rtol=0, atol=0)
    assert seen == [4, 8, 11]
    assert (logits.dtype, logits.is_inference() or logits.requires_grad) == (torch.float32, False)


def test_flags_statistics_and_gradients_are_left_alone() -> None:
    model = build("simple-cnn", classes=4, size=(16, 16)).train()
    model.block1.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [m.training for m in model.modules()]
    predict(model, pictures(3), RGB)
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_memory_map_gives_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = build("simple-cnn", classes=4, size=(16, 16)), pictures(5)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    torch.testing.assert_close(predict(model, mapped, RGB), predict(model, images, RGB), rtol=0, atol=0)


def test_batches_follow_the_weights_memory_format() -> None:
    class Look(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.seen: list[bool] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(x.is_contiguous(memory_format=torch.channels_last))
            return self.conv(x).mean(dim=(2, 3))

    model = Look()
    assert not is_channels_last(model)
    first = predict(model, pictures(2), RGB)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert is_channels_last(model)
    torch.testing.assert_close(predict(model, pictures(2), RGB), first, rtol=1e-4, atol=1e-5)
    assert model.seen == [False, True]


def test_autocast_answers_in_float32() -> None:
    torch.manual_seed(0)
    model, images = build("simple-cnn", classes=4, size=(16, 16)), pictures(4)
    half, full = predict(model, images, RGB, autocast=torch.bfloat16), predict(model, images, RGB)
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    torch.testing.assert_close(half, full, rtol=0.1, atol=0.1)


def test_what_can_not_be_predicted_is_refused() -> None:
    model = build("simple-cnn", classes=4, size=(16, 16))
    with pytest.raises(UsageError, match="nothing to predict"):
        predict(model, pictures(0), RGB)
    with pytest.raises(UsageError, match=r"must return logits \(N, K\)"):
        predict(nn.Conv2d(3, 2, 1), pictures(1), RGB)
    with pytest.raises(UsageError, match="have 1 channels"):
        predict(model, pictures(1)[..., :1], RGB)


def test_to_tensor_shares_memory_where_it_can() -> None:
    images = pictures(2)
    tensor = to_tensor(images)
    assert tensor.shape == (2, 3, 16, 16)
    assert tensor.data_ptr() == images.ctypes.data
    backwards = to_tensor(images[:, :, ::-1])
    assert torch.equal(backwards, tensor.flip(3))
    with pytest.raises(UsageError, match="uint8"):
        to_tensor(images.astype(np.float32))


def test_normalise_keeps_the_layout() -> None:
    tensor = to_tensor(pictures(2))
    x = normalise(tensor, RGB)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    planes = normalise(tensor.contiguous(), RGB)
    assert planes.is_contiguous()
    assert torch.equal(planes, x)
    for dtype in (torch.float32, torch.bfloat16):
        shares = (tensor / 255).to(dtype)
        assert torch.equal(normalise(shares, RGB), normalise(shares.contiguous(), RGB))
    assert float(x[0, 1, 2, 3]) == pytest.approx((int(tensor[0, 1, 2, 3]) / 255 - 0.5) / 0.3, abs=1e-5)
