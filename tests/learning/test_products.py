"""Convolutions as matrix products give the sums of ordinary ones, and are taken where they are meant to be."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.learning import products
from hubel.learning.products import SmallConvolution, SmallMaps

SHAPES = [  # channels, filters, side of the image, kernel, stride, padding
    (256, 3, 4, 3, 1, 1),  # all three as products
    (256, 5, 8, 3, 2, 1),
    (256, 2, 5, 4, 1, 0),
    (256, 2, 7, 2, 3, 1),  # the last row and column are never seen
    (6, 4, 7, 3, 1, 1),  # the filters' gradient alone
    (6, 4, 9, 5, 2, 2),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_are_those_of_a_convolution(shape: tuple[int, ...]) -> None:
    channels, filters, side, kernel, stride, padding = shape
    torch.manual_seed(0)
    image = torch.randn(3, channels, side, side + 1, dtype=torch.float64, requires_grad=True)
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
        (nn.Conv2d(128, 8, 3, padding=1), 9, False),  # too large a map
        (nn.Conv2d(64, 8, 3, padding=1), 4, False),  # too few channels
        (nn.Conv2d(256, 8, 1), 4, False),  # a matrix product already
        (nn.Conv2d(256, 256, 3, padding=1, groups=2), 4, False),
        (nn.Conv2d(256, 8, 3, padding=2, dilation=2), 4, False),
        (nn.Conv2d(256, 8, (3, 1), padding=(1, 0)), 4, False),
        (nn.Conv2d(256, 8, 3, padding="same"), 4, False),
        (nn.Conv2d(256, 8, 3, padding=1, padding_mode="circular"), 4, True),  # padded before
    ],
)
def test_layers_take_the_faster_road_where_it_pays(
    layer: nn.Conv2d, side: int, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.Size] = []
    real = SmallConvolution.apply

    def counted(image: Tensor, *rest: object) -> Tensor:
        calls.append(image.shape)
        return real(image, *rest)

    monkeypatch.setattr(products.SmallConvolution, "apply", counted)
    image = torch.randn(2, layer.in_channels, side, side)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = layer(image)
        assert not calls
        with SmallMaps():
            found = layer(image)
    assert bool(calls) == taken
    assert found.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)


def test_layers_that_leave_autocast_or_see_one_image_compute_as_they_would() -> None:
    layer = nn.Conv2d(256, 8, 3, padding=1)
    image = torch.randn(2, 256, 4, 4)
    with torch.autocast("cpu", torch.bfloat16), SmallMaps():
        with torch.autocast("cpu", enabled=False):
            exact = layer(image)
        assert layer(image[0]).shape == (8, 4, 4)
    assert exact.dtype == torch.float32
    torch.testing.assert_close(exact, layer(image), rtol=0, atol=0)
