"""Sizes, costs and refusals of one layer against PyTorch on shapes alone, and against figures worked by hand."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hubel.as_json import to_json
from hubel.errors import UsageError
from hubel.geometry.arithmetic import conv, conv_text
from hubel.geometry.layer_counts import dense_weights, effective_variance, stack_field, stack_weights, weights
from hubel.geometry.output_size import AxisSize, axis_size
from hubel.nn.zoo import build

SIZES = st.one_of(st.integers(1, 12), st.integers(1, 400))
SMALL = st.integers(1, 7)
PADDING = st.integers(0, 6)
MANY = settings(max_examples=200, deadline=None, database=None, derandomize=True)


def image(n: int, channels: int = 1) -> Tensor:
    return torch.empty(1, channels, n, n, device="meta")


def size_or_none(call: Callable[[], Tensor]) -> int | None:
    try:
        return call().shape[-1]
    except RuntimeError:
        return None


def ours_or_none(*arguments: int, **settings: Any) -> int | None:
    try:
        return evaluated(axis_size(*arguments, **settings))
    except UsageError:
        return None


def evaluated(axis: AxisSize) -> int:
    """The result, after every line of the derivation was worked out by Python."""
    names: dict[str, Any] = {"floor": math.floor, "ceil": math.ceil, "__builtins__": {}}
    before, after = axis.padding
    letters = {"n": axis.n, "k": axis.kernel, "s": axis.stride, "d": axis.dilation, "o": axis.output_padding}
    formula, *values = (eval(e, names, letters | {"p": before, "p0": before, "p1": after}) for e in lines(axis))
    assert values[-1] == axis.result
    assert all(value == formula for value in values[:-1])
    assert formula == axis.result or (formula == axis.result + 1 and "left out" in axis.remark)
    return axis.result


def lines(axis: AxisSize) -> tuple[str, ...]:
    return (axis.formula, *axis.steps)


@MANY
@given(n=SIZES, k=SMALL, s=SMALL, p=PADDING, d=st.integers(1, 4))
def test_convolution_has_pytorchs_size_or_is_refused_by_both(n: int, k: int, s: int, p: int, d: int) -> None:
    kernel = torch.empty(1, 1, k, k, device="meta")
    expected = size_or_none(lambda: F.conv2d(image(n), kernel, stride=s, padding=p, dilation=d))
    assert ours_or_none(n, k, stride=s, padding=p, dilation=d) == expected


@MANY
@given(n=SIZES, k=SMALL, s=SMALL, p=PADDING, d=st.integers(1, 4), ceil=st.booleans())
def test_pooling_has_pytorchs_size_or_is_refused_by_both(n: int, k: int, s: int, p: int, d: int, ceil: bool) -> None:
    expected = size_or_none(lambda: F.max_pool2d(image(n), k, s, p, d, ceil_mode=ceil))
    assert ours_or_none(n, k, stride=s, padding=p, dilation=d, ceil=ceil, operation="maxpool") == expected
    expected = size_or_none(lambda: F.avg_pool2d(image(n), k, s, p, ceil_mode=ceil))
    assert ours_or_none(n, k, stride=s, padding=p, ceil=ceil, operation="avgpool") == expected


@MANY
@given(n=SIZES, k=SMALL, s=SMALL, p=PADDING, d=st.integers(1, 4), o=st.integers(0, 5))
def test_transposed_has_pytorchs_size_or_is_refused_by_both(n: int, k: int, s: int, p: int, d: int, o: int) -> None:
    kernel = torch.empty(1, 1, k, k, device="meta")
    expected = size_or_none(lambda: F.conv_transpose2d(image(n), kernel, None, s, p, o, 1, d))
    given_to_us = {"stride": s, "padding": p, "dilation": d, "output_padding": o}
    assert ours_or_none(n, k, operation="transposed", **given_to_us) == expected


@MANY
@given(n=SIZES, k=SMALL, s=SMALL, d=st.integers(1, 4), ceil=st.booleans())
def test_same_gives_ceil_of_n_by_s_with_the_padding_that_it_names(n: int, k: int, s: int, d: int, ceil: bool) -> None:
    axis = axis_size(n, k, stride=s, dilation=d, padding="same")
    assert evaluated(axis) == math.ceil(n / s)
    kernel, both = torch.empty(1, 1, k, k, device="meta"), axis.padding * 2
    assert F.conv2d(F.pad(image(n), both), kernel, stride=s, dilation=d).shape[-1] == axis.result
    if s == 1 and d * (k - 1) % 2 == 0:  # PyTorch does the others too, with a warning
        assert F.conv2d(image(n), kernel, padding="same", dilation=d).shape[-1] == axis.result
    pool = axis_size(n, k, stride=s, padding="same", operation="avgpool", ceil=ceil)
    assert evaluated(pool) == math.ceil(n / s)
    if pool.padding[0] == pool.padding[1]:
        assert F.avg_pool2d(image(n), k, s, pool.padding[0], ceil_mode=ceil).shape[-1] == pool.result


@MANY
@given(n=SIZES, k=SMALL, s=SMALL, d=st.integers(1, 4))
def test_same_of_a_transposed_convolution_gives_n_times_s(n: int, k: int, s: int, d: int) -> None:
    try:
        axis = axis_size(n, k, stride=s, dilation=d, padding="same", operation="transposed")
    except UsageError:
        assert s == d == 1
        assert k % 2 == 0
        return
    kernel = torch.empty(1, 1, k, k, device="meta")
    made = F.conv_transpose2d(image(n), kernel, None, s, axis.padding[0], axis.output_padding, 1, d)
    assert evaluated(axis) == made.shape[-1] == n * s


@MANY
@given(n=SIZES, k=SMALL, s=SMALL, before=PADDING, after=PADDING, d=st.integers(1, 3))
def test_uneven_padding_is_padding_first(n: int, k: int, s: int, before: int, after: int, d: int) -> None:
    kernel, padded = torch.empty(1, 1, k, k, device="meta"), F.pad(image(n), (before, after, before, after))
    expected = size_or_none(lambda: F.conv2d(padded, kernel, stride=s, dilation=d))
    assert ours_or_none(n, k, stride=s, padding=(before, after), dilation=d) == expected


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(n=st.integers(1, 40), k=SMALL, s=SMALL, p=PADDING)
def test_unseen_inputs_are_those_whose_gradient_is_zero(n: int, k: int, s: int, p: int) -> None:
    if n + 2 * p < k or p >= k:
        return
    x = torch.ones(1, 1, n, requires_grad=True)
    F.conv1d(x, torch.ones(1, 1, k), stride=s, padding=p).sum().backward()
    assert x.grad is not None
    touched = x.grad[0, 0].nonzero()
    axis = axis_size(n, k, stride=s, padding=p)
    if s <= k:
        assert axis.unseen == n - 1 - int(touched.max())
        assert len(touched) + axis.unseen == n


IMPOSSIBLE = st.fixed_dictionaries(
    {
        "n": st.integers(1, 9),
        "kernel": st.integers(1, 12),
        "stride": st.integers(1, 3),
        "padding": st.integers(0, 9),
        "dilation": st.integers(1, 4),
        "output_padding": st.integers(0, 4),
        "ceil": st.booleans(),
    }
)
REMEDY = re.compile(r"(kernel|dilation|output padding|padding|input|stride) of at (?:most|least) (\d+)")


def complaint(operation: Any, asked: dict[str, Any]) -> str:
    try:
        axis_size(operation=operation, **asked)
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("operation", ["conv", "maxpool", "avgpool", "transposed"])
@MANY
@given(asked=IMPOSSIBLE)
def test_each_remedy_in_a_refusal_helps(operation: Any, asked: dict[str, Any]) -> None:
    asked = asked | ({"ceil": False} if operation in ("conv", "transposed") else {"output_padding": 0})
    asked |= {"dilation": 1} if operation == "avgpool" else {}
    asked |= {"output_padding": 0} if operation == "conv" else {}
    said = complaint(operation, asked)
    remedies = REMEDY.findall(said)
    assert bool(remedies) == bool(said), said
    for term, value in remedies:
        name = {"input": "n"}.get(term, term.replace(" ", "_"))
        assert int(value) != asked[name]
        # Another term may be wrong as well, but this complaint is gone.
        assert complaint(operation, asked | {name: int(value)})[:20] != said[:20], said


def test_figures_from_lectures() -> None:
    assert axis_size(224, 3, padding=1).result == 224
    assert axis_size(224, 3, stride=2).result == 111
    assert conv(64, kernel=3, padding=1, filters=16).shape == (16, 64, 64)
    assert conv(64, kernel=3, padding=1, stride=2, filters=16).shape == (16, 32, 32)
    assert F.conv2d(torch.empty(8, 3, 64, 64), torch.empty(16, 3, 3, 3), padding=1).shape == (8, 16, 64, 64)
    layer = conv(224, kernel=3, filters=16)
    assert (layer.parameters, layer.weights) == (448, 432)
    assert conv(224, kernel=3, filters=16, bias=False).parameters == 432
    assert dense_weights((3, 224, 224), (1000,)) == 150_528_000
    one = conv(224, kernel=3, filters=1)
    assert (one.weights, one.biases) == (27, 1)
    assert conv(28, kernel=3, channels=1, filters=1).weights == 9


def test_max_pooling_by_hand() -> None:
    grid = torch.tensor([[1, 3, 2, 1], [0, 1, 4, 2], [5, 1, 2, 3], [3, 0, 4, 1]]).float()
    assert F.max_pool2d(grid[None], 2)[0].tolist() == [[3, 4], [5, 4]]
    assert conv(4, kernel=2, channels=1, operation="maxpool").shape == (1, 2, 2)


def test_two_small_kernels_against_a_large_one() -> None:
    width = 48
    assert stack_weights(width, width, 3, layers=2) == 18 * width**2
    assert stack_weights(width, width, 5, layers=1) == 25 * width**2
    assert (stack_weights(3, 64, 3, layers=2), stack_weights(3, 64, 5, layers=1)) == (38_592, 4_800)
    assert stack_field([(3, 1, 1)] * 2) == stack_field([(5, 1, 1)]) == 5
    assert any("38,592 instead of 4,800" in tip for tip in conv(32, kernel=5, filters=64).tips)


def test_stacked_3x3_see_2l_plus_1() -> None:
    assert [stack_field([(3, 1, 1)] * layers) for layers in range(8)] == [2 * layers + 1 for layers in range(8)]


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(layers=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(1, 2)), max_size=4))
def test_receptive_field_is_what_the_gradient_of_one_output_touches(layers: list[tuple[int, int, int]]) -> None:
    size = 130
    x = torch.zeros(1, 1, size, requires_grad=True)
    y: Tensor = x
    for kernel, stride, dilation in layers:
        y = F.conv1d(y, torch.ones(1, 1, kernel), stride=stride, dilation=dilation)
    y[0, 0, y.shape[-1] // 2].backward()
    assert x.grad is not None
    touched = x.grad[0, 0].nonzero()
    assert int(touched.max() - touched.min()) + 1 == stack_field(layers)


@pytest.mark.parametrize("kernel", [2, 3, 5, 7])
def test_effective_variance_is_that_of_the_repeated_convolution(kernel: int) -> None:
    response = np.ones(1)
    for layers in range(1, 9):
        response = np.convolve(response, np.full(kernel, 1 / kernel))
        place = np.arange(len(response))
        variance = response @ place**2 - (response @ place) ** 2
        assert effective_variance(layers, kernel) == pytest.approx(variance)


@pytest.mark.parametrize(
    ("name", "size", "dense", "total"),
    [("simple-cnn-gap", (224, 224), (128, 256, 10), 129_290), ("simple-cnn", (32, 32), (2048, 256, 10), 620_810)],
)
def test_parameters_of_the_small_cnns_add_up(name: str, size: Any, dense: tuple[int, ...], total: int) -> None:
    pairs = ((3, 32), (32, 64), (64, 128))
    convolutions = sum(conv(32, kernel=3, channels=a, filters=b).parameters + 2 * b for a, b in pairs)  # 2: batch norm
    heads = sum(dense_weights((a,), (b,)) + b for a, b in itertools.pairwise(dense))
    assert convolutions + heads == total
    assert sum(p.numel() for p in build(name, classes=10, size=size).parameters()) == total


def test_parameters_of_the_two_block_network_add_up() -> None:
    first, second = conv(28, kernel=3, channels=1, filters=32), conv(14, kernel=3, channels=32, filters=64)
    head = dense_weights((64, 7, 7), (128,)) + 128 + dense_weights((128,), (10,)) + 10
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
    assert result.weights == layer.weight.numel() == weights(channels, filters, (k, k), groups=groups)
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
    code = "import sys, hubel.geometry.arithmetic, hubel.geometry.pixel"
    code += "; print('torch' in sys.modules, 'numpy' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False"]
