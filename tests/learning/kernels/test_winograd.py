"""Convolutions in fewer multiplications give the sums of plain ones, to the last bits where these are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hubel.learning.kernels import winograd
from hubel.learning.kernels.winograd import WinogradConvolution

SHAPES = [  # images, channels, filters, height and width
    (3, 5, 7, 8, 8),
    (2, 3, 4, 7, 5),  # tiles stand out
    (1, 2, 2, 1, 3),
    (70, 64, 80, 4, 4),  # with less than 128 channels only the filters' gradient takes it
    (9, 130, 129, 14, 13),
    (40, 128, 128, 16, 16),  # transformed in several goes
]
WITHIN = {torch.float64: 1e-13, torch.float32: 5e-6}  # of the norm


@pytest.mark.parametrize("dtype", WITHIN)
@pytest.mark.parametrize("shape", SHAPES)
def test_sums_are_those_of_a_convolution(
    shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, channels, filters, height, width = shape
    if channels < 64:
        monkeypatch.setattr(winograd, "EVERYTHING", 1)
    torch.manual_seed(0)
    image = torch.randn(images, channels, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(filters, channels, 3, 3, dtype=dtype)
    found, wanted = (maps_and_gradients(kernel, image, weight) for kernel in ("winograd", "plain"))
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - theirs).norm() < WITHIN[dtype] * theirs.norm()


def maps_and_gradients(kernel: str, image: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    if kernel == "plain":
        image, weight = image.double(), weight.double()
    image, weight = image.clone().requires_grad_(), weight.clone().requires_grad_()
    maps = F.conv2d(image, weight, None, 1, 1) if kernel == "plain" else WinogradConvolution.apply(image, weight)
    towards = torch.randn(maps.shape, generator=torch.Generator().manual_seed(1)).to(maps)
    return (maps, *torch.autograd.grad(maps, (image, weight), towards))


def test_rounding_is_a_few_times_that_of_plain_sums() -> None:
    torch.manual_seed(0)
    image = torch.randn(8, 256, 8, 8).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3)
    exact = F.conv2d(image.double(), weight.double(), None, 1, 1)
    plain, ours = F.conv2d(image, weight, None, 1, 1), WinogradConvolution.apply(image, weight)
    assert (ours - exact).norm() < 10 * (plain - exact).norm()


def test_everything_stays_in_channels_last_order() -> None:
    image = torch.randn(2, 128, 7, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(128, 128, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    maps = WinogradConvolution.apply(image, weight)
    for tensor in (maps, *torch.autograd.grad(maps.sum(), (image, weight))):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_an_image_without_gradient() -> None:
    weight = torch.randn(128, 64, 3, 3, requires_grad=True)
    WinogradConvolution.apply(torch.randn(2, 64, 4, 4), weight).sum().backward()
    assert weight.grad is not None
