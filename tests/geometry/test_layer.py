"""Costs, text and refusals of one layer against PyTorch on shapes alone, and against figures worked by hand."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from hubel.as_json import to_json
from hubel.errors import UsageError
from hubel.geometry.layer import conv, conv_text
from hubel.nn.zoo import build


def test_figures_from_lectures() -> None:
    assert conv(224, kernel=3, padding=1).shape[1:] == (224, 224)
    assert conv(224, kernel=3, stride=2).shape[1:] == (111, 111)
    assert conv(64, kernel=3, padding=1, filters=16).shape == (16, 64, 64)
    assert conv(64, kernel=3, padding=1, stride=2, filters=16).shape == (16, 32, 32)
    assert F.conv2d(torch.empty(8, 3, 64, 64), torch.empty(16, 3, 3, 3), padding=1).shape == (8, 16, 64, 64)
    layer = conv(224, kernel=3, filters=16)
    assert (layer.parameters, layer.weights) == (448, 432)
    assert conv(224, kernel=3, filters=16, bias=False).parameters == 432
    assert conv(224, kernel=224, filters=1000).dense_weights == 150_528_000
    one = conv(224, kernel=3, filters=1)
    assert (one.weights, one.biases) == (27, 1)
    assert conv(28, kernel=3, channels=1, filters=1).weights == 9


def test_max_pooling_by_hand() -> None:
    grid = torch.tensor([[1, 3, 2, 1], [0, 1, 4, 2], [5, 1, 2, 3], [3, 0, 4, 1]]).float()
    assert F.max_pool2d(grid[None], 2)[0].tolist() == [[3, 4], [5, 4]]
    assert conv(4, kernel=2, channels=1, operation="maxpool").shape == (1, 2, 2)


def test_two_small_kernels_against_a_large_one() -> None:
    width, first = 48, conv(32, kernel=3, filters=64, bias=False)
    twice, once = (conv(32, kernel=k, channels=width, filters=width, bias=False).weights for k in (3, 5))
    assert (2 * twice, once) == (18 * width**2, 25 * width**2)
    both = first.weights + conv(32, kernel=3, channels=64, filters=64).weights
    assert (both, conv(32, kernel=5, filters=64).weights) == (38_592, 4_800)
    assert any("38,592 instead of 4,800" in tip for tip in conv(32, kernel=5, filters=64).tips)


@pytest.mark.parametrize(
    ("name", "size", "dense", "total"),
    [("simple-cnn-gap", (224, 224), (128, 256, 10), 129_290), ("simple-cnn", (32, 32), (2048, 256, 10), 620_810)],
)
def test_parameters_of_the_small_cnns_add_up(name: str, size: Any, dense: tuple[int, ...], total: int) -> None:
    pairs = ((3, 32), (32, 64), (64, 128))
    convolutions = sum(conv(32, kernel=3, channels=a, filters=b).parameters + 2 * b for a, b in pairs)  # 2: batch norm
    heads = sum(a * b + b for a, b in itertools.pairwise(dense))
    assert convolutions + heads == total
    assert sum(p.numel() for p in build(name, classes=10, size=size).parameters()) == total


def test_parameters_of_the_two_block_network_add_up() -> None:
    first, second = conv(28, kernel=3, channels=1, filters=32), conv(14, kernel=3, channels=32, filters=64)
    head = 64 * 7 * 7 * 128 + 128 + 128 * 10 + 10
    assert first.parameters + 2 * 32 + second.parameters + head == 421_706
    built = build("two-block", classes=10, channels=1, size=(28, 28))
    assert sum(p.numel() for p in built.parameters()) == 421_706


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    n=st.integers(4, 30),
    k=st.integers(1, 4),
    s=st.integers(1, 3),
    p=st.integers(0, 1),
    groups=st.integers(1, 4),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    transposed=st.booleans(),
    bias=st.booleans(),
)
def test_costs_equal_those_of_pytorchs_layer(
    n: int, k: int, s: int, p: int, groups: int, inputs: int, outputs: int, transposed: bool, bias: bool
) -> None:
    channels, filters = inputs * groups, outputs * groups
    kind = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
    with torch.device("meta"):
        layer = kind(channels, filters, k, stride=s, padding=p, groups=groups, bias=bias)
    result = conv(
        (n, n + 3),
        kernel=k,
        stride=s,
        padding=p,
        channels=channels,
        filters=filters,
        groups=groups,
        bias=bias,
        operation="transposed" if transposed else "conv",
    )
    with FlopCounterMode(display=False) as counter:
        y = layer(torch.empty(1, channels, n, n + 3, device="meta"))
    assert result.shape == tuple(y.shape[1:])
    assert result.parameters == sum(q.numel() for q in layer.parameters())
    assert result.weights == layer.weight.numel()
    assert 2 * result.macs == counter.get_total_flops()
    assert result.activation_bytes == y.numel() * y.element_size()


def test_height_and_width_are_settled_apart() -> None:
    result = conv((10, 20), kernel=(3, 5), stride=(1, 2), padding=(0, 2), dilation=(2, 1), channels=2, filters=3)
    y = F.conv2d(torch.empty(1, 2, 10, 20), torch.empty(3, 2, 3, 5), None, (1, 2), (0, 2), (2, 1))
    assert result.shape == tuple(y.shape[1:])
    four = conv((10, 20), kernel=3, padding=(1, 2, 3, 4))
    assert (four.height.padding, four.width.padding) == ((1, 2), (3, 4))


TEXT = """\
Convolution: 3 × 224 × 224 → 16 × 111 × 111

height and width:  n = 224, k = 3, s = 2, d = 1, p = 0
  = floor((n + 2*p - d*(k - 1) - 1) / s) + 1
  = floor((224 + 2*0 - 1*(3 - 1) - 1) / 2) + 1
  = floor(221 / 2) + 1
  = 110 + 1
  = 111

parameters  16 filters × (3 × 3 × 3 weights + 1 bias): 432 weights + 16 biases = 448
operations  16 × 12,321 outputs × 3 × 3 × 3 products = 5,322,672 multiply-accumulates
output      197,136 numbers, 788,544 bytes in float32
instead of  29,674,487,808 weights in a dense layer between the same shapes
note        no window sees 1 row at the bottom and 1 column at the right; PyTorch drops them silently."""


def test_text_of_the_lectures_example() -> None:
    assert conv_text(conv(224, kernel=3, stride=2)) == TEXT


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"kernel": 1, "stride": 2}, "only 1 of every 2 rows and 1 of every 2 columns are read"),
        ({"kernel": 3, "stride": 2, "padding": "same"}, "'same' exists for convolutions at stride 1 only"),
        ({"kernel": 3, "stride": 2, "padding": "same"}, "F.pad(x, (0, 1, 0, 1)) first"),
        ({"kernel": 3, "operation": "maxpool", "padding": "same", "stride": 2}, "value=float('-inf')"),
        ({"kernel": 3, "operation": "transposed", "stride": 2}, "a kernel of 4 does not"),
        ({"kernel": 3, "operation": "transposed", "stride": 2, "padding": "same"}, "output padding 1"),
        ({"kernel": 3, "operation": "transposed", "padding": (1, 0, 1, 0)}, "slice the rest off"),
        ({"kernel": 3}, "a padding of 1 would keep the size"),
        ({"kernel": 2, "operation": "maxpool"}, "pooling learns nothing"),
        ({"kernel": 3, "padding": (0, 1, 0, 1)}, "p0 = 0 is the padding before, p1 = 1 the padding after"),
        ({"kernel": 2, "stride": 3, "padding": 1, "operation": "maxpool", "ceil": True}, "so it is left out"),
    ],
)
def test_what_is_easily_overlooked_is_said(asked: Any, says: str) -> None:
    assert says in conv_text(conv(224, **asked))


def test_nothing_is_noted_where_nothing_is_special() -> None:
    assert not conv(224, kernel=3, padding=1).tips
    assert not conv(224, kernel=2, operation="maxpool").tips


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"size": 2, "kernel": 5}, "kernel of at most 2, a padding of at least 2 or an input of at least 5"),
        ({"size": 4, "kernel": 3, "dilation": 2}, "with dilation 2 spans 5"),
        ({"size": 9, "kernel": 3, "operation": "maxpool", "padding": 2}, "padding of at most 1 and not 2"),
        ({"size": 9, "kernel": 3, "operation": "transposed", "output_padding": 1}, "output padding of at most 0"),
        ({"size": 1, "kernel": 2, "operation": "transposed", "padding": 3}, "padding cuts off 6 of the 2 rows"),
        ({"size": 9, "kernel": 2, "operation": "transposed", "padding": "same"}, "use a kernel of 3"),
        ({"size": 9, "kernel": 3, "operation": "transposed", "padding": "same", "output_padding": 1}, "settles"),
        ({"size": 9, "kernel": 3, "ceil": True}, "only pooling has a ceil mode"),
        ({"size": 9, "kernel": 3, "output_padding": 1}, "only a transposed convolution has an output padding"),
        ({"size": 9, "kernel": 3, "operation": "avgpool", "dilation": 2}, "has no dilation"),
        ({"size": 9, "kernel": 3, "operation": "pool"}, "unknown operation 'pool'"),
        ({"size": 9, "kernel": 3, "padding": "full"}, "unknown padding 'full'"),
        ({"size": 9, "kernel": 3, "padding": (1, 2, 3)}, "padding takes one number, two"),
        ({"size": (9, 9, 9), "kernel": 3}, "input takes one number, or two"),
        ({"size": 9, "kernel": 0}, "kernel must be a whole number from 1"),
        ({"size": 9, "kernel": 3, "padding": -1}, "padding must be a whole number from 0"),
        ({"size": 10**12, "kernel": 3}, "to a billion, got a larger one"),
        ({"size": 9, "kernel": 2.5}, "got 2.5"),
        ({"size": 9, "kernel": 3, "groups": 2}, "the largest number that does is 1"),
        ({"size": 9, "kernel": 3, "filters": 0}, "filters must be"),
        ({"size": 9, "kernel": 3, "operation": "maxpool", "filters": 8}, "pooling keeps its 3 channels apart"),
    ],
)
def test_what_is_impossible_is_refused_in_one_sentence(asked: Any, says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        conv(**asked)


def test_the_record_is_json() -> None:
    said = json.loads(json.dumps(to_json(conv(224, kernel=3, stride=2))))
    assert said["shape"] == [16, 111, 111]
    assert said["height"]["steps"][-1] == "110 + 1"


def test_it_loads_no_torch() -> None:
    code = "import sys, hubel.geometry.layer"
    code += "; print('torch' in sys.modules, 'numpy' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False"]
