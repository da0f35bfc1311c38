"""Sizes along one axis against PyTorch's on shapes alone, and each remedy in a refusal tried."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hubel.errors import UsageError
from hubel.geometry.layer import conv
from hubel.geometry.size import AxisSize

SIZES = st.one_of(st.integers(1, 12), st.integers(1, 400))
SMALL = st.integers(1, 7)
PADDING = st.integers(0, 6)
MANY = settings(max_examples=200, deadline=None, database=None, derandomize=True)


def image(n: int, channels: int = 1) -> Tensor:
    return torch.empty(1, channels, n, n, device="meta")


def axis_size(n: int, kernel: int, **asked: Any) -> AxisSize:
    """The height of a square layer; a pair is the padding before and after."""
    if isinstance(asked.get("padding"), tuple):
        asked["padding"] *= 2
    return conv(n, kernel=kernel, **asked).height


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
