"""Convolutions of images laid side by side, and gradients from patches, give the sums of ordinary ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hubel.learning.kernels.strips import SmallConvolution

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
