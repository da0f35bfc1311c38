"""Numbers about convolutions that need no tensor: weights and fields of view; no torch."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod


def weights(channels: int, filters: int, kernel: tuple[int, int], *, groups: int = 1) -> int:
    """Weights of a convolution without its biases: each filter sees channels / groups of the channels.

    >>> weights(3, 16, (3, 3)), weights(3, 1, (3, 3))
    (432, 27)
    """
    return filters * (channels // groups) * prod(kernel)


def stack_weights(channels: int, filters: int, kernel: int, layers: int) -> int:
    """Weights of several k×k convolutions in a row, the first from `channels` and all to `filters` channels.

    >>> stack_weights(3, 64, 3, layers=2), stack_weights(3, 64, 5, layers=1)
    (38592, 4800)
    """
    square = (kernel, kernel)
    return weights(channels, filters, square) + (layers - 1) * weights(filters, filters, square)


def dense_weights(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> int:
    """Weights of a fully connected layer between two shapes.

    >>> dense_weights((3, 224, 224), (1000,))
    150528000
    """
    return prod(inputs) * prod(outputs)


def stack_field(layers: Iterable[tuple[int, int, int]]) -> int:
    """Receptive field of layers in a row, each (kernel, stride, dilation): 1 + Σ d(k-1) · the strides before it.

    >>> [stack_field([(3, 1, 1)] * count) for count in (1, 2, 3)]
    [3, 5, 7]
    """
    field, jump = 1, 1
    for kernel, stride, dilation in layers:
        field += dilation * (kernel - 1) * jump
        jump *= stride
    return field


def effective_variance(layers: int, kernel: int) -> float:
    """Variance, in pixels squared, of the effective receptive field of uniform linear k×k layers at stride 1.

    Each adds the variance of a uniform distribution over k pixels, so it is n(k² - 1) / 12, and the field that matters
    grows with √n only (Luo et al. 2016, "Understanding the effective receptive field in deep convolutional neural
    networks").
    """
    return layers * (kernel**2 - 1) / 12
