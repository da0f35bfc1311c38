"""A filter for each channel: maps and gradients are those of torch's own float64 convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hubel.learning.kernels import depthwise
from hubel.learning.kernels.depthwise import DepthwiseConvolution
from hubel.learning.kernels.dispatch import faster


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padded", ["none", "half", "most"])
@pytest.mark.parametrize("size", [(8, 9), (7, 12)])
def test_maps_and_gradients_are_those_of_a_plain_convolution(
    kernel: int, stride: int, padded: str, size: tuple[int, int]
) -> None:
    torch.manual_seed(kernel + stride)
    padding = {"none": 0, "half": kernel // 2, "most": kernel - 1}[padded]
    image = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    wanted = torch.nn.functional.conv2d(image, weight, None, stride, padding, groups=3)
    found = DepthwiseConvolution.apply(image, weight, stride, padding)
    slopes = torch.randn_like(wanted)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(found, (image, weight), slopes),
        torch.autograd.grad(wanted, (image, weight), slopes),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("layer", "taken"),
    [
        (nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8), True),
        (nn.Conv2d(8, 8, 5, padding=2, groups=8), True),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), False),  # which oneDNN is fast at
        (nn.Conv2d(8, 16, 5, padding=2, groups=8), False),
        (nn.Conv2d(8, 8, 5, padding=2, groups=4), False),
        (nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=8), False),
        (nn.Conv2d(8, 8, (5, 3), padding=(2, 1), groups=8), False),
        (nn.Conv2d(8, 8, 4, stride=2, padding=1, groups=8), False),
        (nn.Conv2d(8, 8, 5, padding=2, groups=8).requires_grad_(False), False),
    ],
)
def test_layers_in_bfloat16_take_it_where_it_is_faster(
    layer: nn.Conv2d, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.Size] = []
    choose = depthwise.kernel_for

    def counted(image: torch.Tensor, *rest: object) -> object:
        kernel = choose(image, *rest)  # type: ignore[arg-type]
        calls.extend([image.shape] if kernel else [])
        return kernel

    monkeypatch.setattr(depthwise, "kernel_for", counted)
    image = torch.randn(2, 8, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = layer(image)
        with faster("bfloat16"):
            found = layer(image)
    assert bool(calls) == taken
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)


def test_frozen_images_and_filters_get_no_gradient() -> None:
    image, weight = torch.randn(1, 2, 6, 6), torch.randn(2, 1, 5, 5, requires_grad=True)
    DepthwiseConvolution.apply(image, weight, 1, 2).sum().backward()
    assert image.grad is None
    assert weight.grad is not None
