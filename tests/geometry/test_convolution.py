"""Three ways to convolve against PyTorch's, and one pixel worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hubel.errors import UsageError
from hubel.geometry.convolution import direct, explain_pixel, fft, im2col, pixel_text

WAYS = [direct, im2col, fft]
GRID = torch.tensor([[1, 2, 3, 0, 1], [0, 1, 2, 1, 0], [1, 0, 1, 2, 1], [2, 1, 0, 1, 2], [0, 2, 1, 0, 1]]).double()
CROSS = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1]]).double()
PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    size=st.tuples(st.integers(7, 11), st.integers(7, 11)),
    kernel=PAIR,
    stride=PAIR,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=PAIR,
    groups=st.integers(1, 3),
    bias=st.booleans(),
)
def test_each_way_equals_pytorch(
    way: Any, seed: int, size: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int, bias: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 2 * groups, *size, dtype=torch.float64, generator=generator)
    w = torch.randn(2 * groups, 2, *kernel, dtype=torch.float64, generator=generator)
    b = torch.randn(2 * groups, dtype=torch.float64, generator=generator) if bias else None
    ours = way(x, w, b, stride=stride, padding=padding, dilation=dilation, groups=groups)
    torch.testing.assert_close(ours, F.conv2d(x, w, b, stride, padding, dilation, groups), rtol=0, atol=1e-10)


@pytest.mark.parametrize("way", WAYS)
def test_depthwise_and_large_kernels(way: Any) -> None:
    x, w = torch.randn(1, 6, 12, 11, dtype=torch.float64), torch.randn(6, 1, 9, 10, dtype=torch.float64)
    torch.testing.assert_close(way(x, w, padding=4, groups=6), F.conv2d(x, w, padding=4, groups=6), rtol=0, atol=1e-10)


@pytest.mark.parametrize("way", WAYS)
def test_it_is_cross_correlation_and_not_the_convolution_of_mathematics(way: Any) -> None:
    spike = torch.zeros(1, 1, 5, 5)
    spike[0, 0, 2, 2] = 1
    kernel = torch.arange(9.0).view(1, 1, 3, 3)
    torch.testing.assert_close(way(spike, kernel), kernel.flip(2, 3))  # convolution would give the kernel as it is


@pytest.mark.parametrize("way", WAYS)
def test_the_lectures_grid(way: Any) -> None:
    expected = torch.tensor([[7, 6, 7], [4, 5, 6], [4, 4, 5]]).double()
    torch.testing.assert_close(way(GRID[None, None], CROSS[None, None])[0, 0], expected)


TEXT = """\
Row 0, column 0 of filter 0: the kernel lies on rows 0, 1, 2 and columns 0, 1, 2 of the input.

channel 0: patch × kernel = products
  1 2 3     1 0 1     1 0 3
  0 1 2  ×  0 1 0  =  0 1 0
  1 0 1     1 0 1     1 0 1
sum of the products: 1 + 0 + 3 + 0 + 1 + 0 + 1 + 0 + 1 = 7

plus the bias: 7 + 0 = 7"""


def test_the_lectures_pixel_is_7_and_not_4() -> None:
    pixel = explain_pixel(GRID[None, None], CROSS[None, None], row=0, column=0)
    assert pixel.value == 7
    assert pixel.products == (((1, 0, 3), (0, 1, 0), (1, 0, 1)),)
    assert pixel_text(pixel) == TEXT


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    stride=PAIR,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=PAIR,
    groups=st.sampled_from([1, 2, 4]),
    place=st.tuples(*[st.floats(0, 0.999)] * 4),
)
def test_any_pixel_adds_up_to_pytorchs(
    seed: int, stride: Any, padding: Any, dilation: Any, groups: int, place: tuple[float, ...]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 4, 8, 9, dtype=torch.float64, generator=generator)
    w = torch.randn(4, 4 // groups, 3, 2, dtype=torch.float64, generator=generator)
    b = torch.randn(4, dtype=torch.float64, generator=generator)
    y = F.conv2d(x, w, b, stride, padding, dilation, groups)
    image, filter, row, column = (int(share * count) for share, count in zip(place, y.shape, strict=True))
    pixel = explain_pixel(
        x,
        w,
        b,
        image=image,
        filter=filter,
        row=row,
        column=column,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    assert pixel.value == pytest.approx(float(y[image, filter, row, column]), abs=1e-10)
    assert sum(pixel.sums) + pixel.bias == pytest.approx(pixel.value)
    for channel, plane in zip(pixel.channels, pixel.patch, strict=True):
        for r, line in zip(pixel.rows, plane, strict=True):
            for c, value in zip(pixel.columns, line, strict=True):
                inside = 0 <= r < 8 and 0 <= c < 9
                assert value == (float(x[image, channel, r, c]) if inside else 0)


def test_text_of_many_channels_writes_out_the_first_and_adds_the_rest() -> None:
    x, w, b = torch.ones(1, 5, 3, 3), torch.ones(2, 5, 3, 3), torch.tensor([0.0, -0.5])
    text = pixel_text(explain_pixel(x, w, b, filter=1, row=0, column=0, padding=1), most=2)
    assert "What lies outside of the input is padding: zeros." in text
    assert "channel 1:" in text
    assert "channel 2:" not in text
    assert "sum of the channels (the last is of the other 3 channels): 4 + 4 + 12 = 20" in text
    assert text.endswith("plus the bias: 20 - 0.5 = 19.5")


@pytest.mark.parametrize(
    ("shapes", "asked", "says"),
    [
        (((3, 8, 8), (4, 3, 3, 3)), {}, "x must be"),
        (((1, 3, 8, 8), (4, 2, 3, 3)), {}, "make w \\(4, 3, 3, 3\\)"),
        (((1, 3, 8, 8), (4, 3, 9, 9)), {}, "kernel of at most 8"),
        (((1, 4, 8, 8), (4, 1, 3, 3)), {"groups": 3}, "groups must divide"),
        (((1, 3, 8, 8), (4, 3, 3, 3)), {"padding": "same"}, "padding must be one number"),
        (((1, 3, 8, 8), (4, 3, 3, 3)), {"b": torch.zeros(3)}, "one number for each of the 4 filters"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: Any, asked: Any, says: str) -> None:
    x, w = (torch.zeros(*shape) for shape in shapes)
    for way in WAYS:
        with pytest.raises(UsageError, match=says):
            way(x, w, **asked)


@pytest.mark.parametrize("place", [{"row": 6, "column": 0}, {"row": 0, "column": -1}])
@pytest.mark.parametrize("more", [{}, {"filter": 9}, {"image": 1}])
def test_a_pixel_that_does_not_exist_is_refused(place: Any, more: Any) -> None:
    with pytest.raises(UsageError, match="must be from 0 to"):
        explain_pixel(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3), **place, **more)
