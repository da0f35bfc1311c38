"""Convolutions of images laid side by side give the sums of ordinary ones, where they are meant to be."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.learning import strips
from hubel.learning.strips import SmallConvolution, SmallMaps

SHAPES = [  # images, channels, filters, height and width, kernel, stride
    (3, 8, 3, 4, 4, 3, 1),  # a product of patches
    (3, 8, 5, 8, 7, 3, 2),
    (14, 8, 2, 6, 5, 3, 1),  # all in strips: 5, 5 and 4 images
    (7, 8, 2, 9, 9, 5, 2),
    (10, 6, 4, 7, 7, 3, 1),  # the filters' gradient alone
    (2, 6, 4, 5, 12, 5, 1),
    (3, 6, 4, 11, 23, 3, 2),
    (1, 6, 4, 40, 7, 7, 1),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_are_those_of_a_convolution(shape: tuple[int, ...]) -> None:
    images, channels, filters, height, width, kernel, stride = shape
    padding = kernel // 2
    torch.manual_seed(0)
    image = torch.randn(images, channels, height, width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(filters, channels, kernel, kernel, dtype=torch.float64, requires_grad=True)
    wanted = F.conv2d(image, weight, None, stride, padding)
    found = SmallConvolution.apply(image, weight, stride, padding)
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-12)
    towards = torch.randn_like(wanted)
    for ours, theirs in zip(
        torch.autograd.grad(found, (image, weight), towards),
        torch.autograd.grad(wanted, (image, weight), towards),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-12)


def test_an_image_without_gradient() -> None:
    weight = torch.randn(4, 256, 3, 3, requires_grad=True)
    SmallConvolution.apply(torch.randn(2, 256, 4, 4), weight, 1, 1).sum().backward()
    assert weight.grad is not None


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
def test_layers_take_the_faster_road_where_it_pays(
    layer: nn.Conv2d, side: int, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.Size] = []
    real = SmallConvolution.apply

    def counted(image: Tensor, *rest: object) -> Tensor:
        calls.append(image.shape)
        return real(image, *rest)  # type: ignore[no-any-return]

    monkeypatch.setattr(strips.SmallConvolution, "apply", counted)
    image = torch.randn(2, layer.in_channels, side, side)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = layer(image)
        assert not calls
        with SmallMaps():
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
    for road in (SmallMaps(), nullcontext()):
        with torch.autocast("cpu", torch.bfloat16), road:
            maps = layer(image)
        found.append((maps, *torch.autograd.grad(maps.float().square().sum(), (image, layer.weight))))
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, atol=0.02 * float(theirs.detach().abs().max()), rtol=0)


def test_layers_that_leave_autocast_or_see_one_image_compute_as_they_would() -> None:
    layer = nn.Conv2d(256, 8, 3, padding=1)
    image = torch.randn(2, 256, 4, 4)
    with torch.autocast("cpu", torch.bfloat16), SmallMaps():
        with torch.autocast("cpu", enabled=False):
            exact = layer(image)
        assert layer(image[0]).shape == (8, 4, 4)
    assert exact.dtype == torch.float32
    torch.testing.assert_close(exact, layer(image), rtol=0, atol=0)
