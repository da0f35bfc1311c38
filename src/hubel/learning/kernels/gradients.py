"""The gradients of a convolution: oneDNN's, and that of the filters as one matrix product."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def plain_gradient(
    gradient: Tensor, image: Tensor, weight: Tensor, stride: int, padding: int, *, of_image: bool, groups: int = 1
) -> Tensor:
    """The gradient of a convolution's image, or of its filters, by oneDNN."""
    settings = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, [of_image, not of_image, False])
    found: Tensor = torch.ops.aten.convolution_backward(gradient, image, weight, None, *settings)[not of_image]
    return found


def patch_gradient(gradient: Tensor, image: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """The gradient of a convolution's filters, channels last, from the patches that they were laid on, all at once."""
    filters, channels, kernel, _ = weight.shape
    padded = F.pad(image.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    patches = padded.unfold(1, kernel, stride).unfold(2, kernel, stride).permute(0, 1, 2, 4, 5, 3)
    slopes = gradient.permute(0, 2, 3, 1).flatten(0, 2)
    found = slopes.T @ patches.reshape(len(slopes), -1)
    return found.view(filters, kernel, kernel, channels).permute(0, 3, 1, 2)
