"""Layers take a faster kernel where it pays, where it is meant for their numbers, and nowhere else."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hubel.learning.config import Precision
from hubel.learning.kernels import dispatch, strips, winograd
from hubel.learning.kernels.dispatch import FasterConvolutions, faster
from hubel.learning.kernels.strips import SmallConvolution
from hubel.learning.kernels.winograd import WinogradConvolution


def in_strips() -> FasterConvolutions:
    return FasterConvolutions(strips.kernel_for, torch.bfloat16)


def in_tiles() -> FasterConvolutions:
    return FasterConvolutions(winograd.kernel_for, torch.float32)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the images that took one of the faster kernels."""
    found: list[torch.Size] = []

    def count(function: type[torch.autograd.Function]) -> None:
        real: Any = function.apply

        def counted(image: Tensor, *rest: object) -> Tensor:
            found.append(image.shape)
            return real(image, *rest)  # type: ignore[no-any-return]

        monkeypatch.setattr(function, "apply", counted)

    count(SmallConvolution)
    count(WinogradConvolution)
    return found


@pytest.mark.parametrize(
    ("layer", "side", "taken"),
    [
        (nn.Conv2d(256, 8, 3, padding=1), 4, True),
        (nn.Conv2d(128, 8, 3, padding=1, bias=False), 8, True),
        (nn.Conv2d(128, 8, 3, padding=1), 12, True),
        (nn.Conv2d(128, 8, 3, padding=1), 13, False),  # too wide a map
        (nn.Conv2d(128, 8, 3, stride=2, padding=1), 24, True),
        (nn.Conv2d(256, 8, 3), 6, False),  # without the zeros at the borders
        (nn.Conv2d(64, 8, 3, padding=1), 4, False),  # too few channels
        (nn.Conv2d(256, 8, 1), 4, False),  # a matrix product
        (nn.Conv2d(256, 256, 3, padding=1, groups=2), 4, False),
        (nn.Conv2d(256, 8, 3, padding=2, dilation=2), 4, False),
        (nn.Conv2d(256, 8, (3, 1), padding=(1, 0)), 4, False),
        (nn.Conv2d(256, 8, 3, padding="same"), 4, False),
        (nn.Conv2d(256, 8, 3, padding=1, padding_mode="circular"), 4, False),
    ],
)
def test_small_maps_are_laid_in_strips(layer: nn.Conv2d, side: int, taken: bool, calls: list[torch.Size]) -> None:
    image = torch.randn(2, layer.in_channels, side, side)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = layer(image)
        assert not calls
        with in_strips():
            found = layer(image)
    assert bool(calls) == taken
    assert found.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(("channels", "stride", "side"), [(64, 2, 7), (128, 3, 10), (32, 2, 8), (64, 1, 8)])
def test_filters_of_one_pixel_that_skip_others(channels: int, stride: int, side: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, 8, 1, stride=stride, bias=False)
    image = torch.randn(3, channels, side, side + 1, requires_grad=True)
    found: list[tuple[Tensor, ...]] = []
    for kernel in (in_strips(), nullcontext()):
        with torch.autocast("cpu", torch.bfloat16), kernel:
            maps = layer(image)
        found.append((maps, *torch.autograd.grad(maps.float().square().sum(), (image, layer.weight))))
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, atol=0.02 * float(theirs.detach().abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("layer", "side", "taken"),
    [
        (nn.Conv2d(128, 128, 3, padding=1), 8, True),
        (nn.Conv2d(64, 96, 3, padding=1, bias=False), 32, True),
        (nn.Conv2d(128, 128, 3, padding=1), 7, True),
        (nn.Conv2d(128, 128, 3, padding=1), 5, False),  # four tiles for 25 pixels
        (nn.Conv2d(64, 32, 3, padding=1), 8, False),  # too few filters,
        (nn.Conv2d(32, 64, 3, padding=1), 8, False),  # too few channels
        (nn.Conv2d(128, 128, 3, padding=1, stride=2), 8, False),
        (nn.Conv2d(128, 128, 5, padding=2), 8, False),
        (nn.Conv2d(128, 128, 3), 8, False),
        (nn.Conv2d(128, 128, 3, padding=2, dilation=2), 8, False),
        (nn.Conv2d(128, 128, 3, padding=1, groups=2), 8, False),
        (nn.Conv2d(128, 128, 3, padding=1).requires_grad_(False), 8, False),
    ],
)
def test_filters_of_three_pixels_take_tiles(layer: nn.Conv2d, side: int, taken: bool, calls: list[torch.Size]) -> None:
    image = torch.randn(2, layer.in_channels, side, side).contiguous(memory_format=torch.channels_last)
    wanted = layer(image)
    with in_tiles():
        found = layer(image)
    assert bool(calls) == taken
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_numbers_that_a_kernel_is_not_meant_for_compute_as_they_would(calls: list[torch.Size]) -> None:
    layer = nn.Conv2d(256, 128, 3, padding=1)
    image = torch.randn(2, 256, 4, 4).contiguous(memory_format=torch.channels_last)
    wanted = layer(image)
    with torch.autocast("cpu", torch.bfloat16), in_strips():
        with torch.autocast("cpu", enabled=False):
            exact = layer(image)
        assert layer(image[0]).shape == (128, 4, 4)
    torch.testing.assert_close(exact, wanted, rtol=0, atol=0)
    with in_tiles():
        with torch.autocast("cpu", torch.bfloat16):
            layer(image)
        layer(image.contiguous())
        layer.double()(image.double())
    assert not calls


@pytest.mark.parametrize(
    ("precision", "capability", "matrix_units", "choice"),
    [
        ("float32", "AVX2", False, winograd.kernel_for),
        ("float32", "AVX512", False, None),
        ("bfloat16", "AVX2", False, None),
        ("bfloat16", "AVX512", True, strips.kernel_for),
        ("float32", "AVX512", True, None),
        ("float16", "AVX2", False, None),
    ],
)
def test_kernels_are_those_measured_on_such_a_processor(
    precision: Precision, capability: str, matrix_units: bool, choice: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(dispatch, "has_matrix_units", lambda: matrix_units)
    assert getattr(faster(precision), "choose", None) is choice
