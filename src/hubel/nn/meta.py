"""Shapes of the most frequent operations on meta tensors, without torch's own shape code.

Torch's meta kernels import its symbolic mathematics and its compiler on the first call, which takes longer than
following a network. What isn't sure here (another type, an illegal shape) is left to them: None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from hubel.nn.ops import per_axis, tensors_in

# Elementwise, and of the type of their inputs.
POINTWISE = {
    *("add", "sub", "mul", "div", "maximum", "minimum", "relu", "hardtanh"),
    *("sigmoid", "tanh", "silu", "gelu", "elu", "mish", "leaky_relu", "hardswish", "hardsigmoid"),
    *("clamp", "clamp_min", "clamp_max", "exp", "sqrt", "rsqrt", "neg"),
}
FILLS = {"normal_", "uniform_", "fill_", "zero_", "erfinv_"}  # of initialisation: numbers change, shapes don't
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
Arguments = dict[str, Any]


def output_of(function: OpOverload[..., Any], arguments: Arguments) -> Any | None:
    """Return what the operation gives for these arguments (by schema name) on the meta device; None if not known."""
    packet = function.overloadpacket.__name__
    name = packet.strip("_")
    tensors = tensors_in(arguments)
    if not tensors or len({t.dtype for t in tensors}) > 1 or tensors[0].dtype not in FLOATING or "out" in arguments:
        return None
    if not all(t.is_meta for t in tensors) or arguments.get("dtype") is not None:
        return None
    if packet in FILLS:
        return arguments["self"]
    if name in POINTWISE:
        return _pointwise(tensors, in_place=packet.endswith("_"))
    rule = RULES.get(name)
    return None if rule is None else rule(arguments)


def _like(tensor: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype or tensor.dtype, device="meta")


def _pointwise(tensors: list[Tensor], *, in_place: bool) -> Tensor | None:
    ndim = max(t.ndim for t in tensors)
    padded = [(1,) * (ndim - t.ndim) + tuple(t.shape) for t in tensors]
    shape = tuple(next((n for n in sizes if n != 1), 1) for sizes in zip(*padded, strict=True))
    if any(n not in (1, full) for sizes in padded for n, full in zip(sizes, shape, strict=True)):
        return None
    if in_place:
        return tensors[0] if tuple(tensors[0].shape) == shape else None
    return _like(tensors[0], shape)


def _convolution(a: Arguments) -> Tensor | None:
    x, weight, transposed = a["input"], a["weight"], a["transposed"]
    axes = weight.ndim - 2
    if x.ndim != weight.ndim or axes < 1 or any(len(a[key]) != axes for key in ("stride", "padding", "dilation")):
        return None
    sizes = []
    for n, k, s, p, d, more in zip(
        x.shape[2:], weight.shape[2:], a["stride"], a["padding"], a["dilation"], a["output_padding"], strict=True
    ):
        reach = d * (k - 1)
        sizes.append((n - 1) * s - 2 * p + reach + more + 1 if transposed else (n + 2 * p - reach - 1) // s + 1)
    first, second = weight.shape[0], weight.shape[1] * a["groups"]
    inputs, outputs = (first, second) if transposed else (second, first)
    legal = x.shape[1] == inputs and min(sizes) > 0 and outputs > 0 and x.numel() > 0
    return _like(x, (x.shape[0], outputs, *sizes)) if legal else None


def _norm(a: Arguments) -> tuple[Tensor, Tensor, Tensor] | None:
    """Batch norm in eval mode, layer norm and group norm. The statistics behind the result are for gradients only."""
    x, over = a["input"], tuple(a.get("normalized_shape", ()))
    if "training" in a and (a["training"] or a["running_mean"] is None or len(a["running_mean"]) != x.shape[1]):
        return None
    if tuple(x.shape[x.ndim - len(over) :]) != over or x.shape[1] % a.get("group", 1):
        return None
    return _like(x, x.shape), _like(x, (0,)), _like(x, (0,))


def _pooled(a: Arguments) -> Tensor | None:
    x = a["self"]
    kernel = per_axis(a["kernel_size"], 2)
    stride = per_axis(a["stride"], 2) if a["stride"] else kernel
    padding, dilation = per_axis(a["padding"], 2), per_axis(a.get("dilation", 1), 2)
    sizes = []
    for n, k, s, p, d in zip(x.shape[-2:], kernel, stride, padding, dilation, strict=True):
        span = n + 2 * p - d * (k - 1) - 1
        count = (-(-span // s) if a["ceil_mode"] else span // s) + 1
        if a["ceil_mode"] and (count - 1) * s >= n + p:
            count -= 1
        if span < 0 or count < 1 or 2 * p > k:
            return None
        sizes.append(count)
    return _like(x, (*x.shape[:-2], *sizes)) if x.ndim == 4 and x.numel() else None


def _max_pool(a: Arguments) -> tuple[Tensor, Tensor] | None:
    out = _pooled(a)
    return None if out is None else (out, _like(out, out.shape, torch.int64))


def _adaptive(a: Arguments) -> Tensor | None:
    x = a["self"]
    return _like(x, (*x.shape[:-2], *a["output_size"])) if x.ndim == 4 and x.numel() else None


def _reduced(a: Arguments) -> Tensor | None:
    x, over = a["self"], a.get("dim")
    over = [over] if isinstance(over, int) else over
    if not over or not x.numel() or any(not -x.ndim <= d < x.ndim for d in over):
        return None
    gone = {d % x.ndim for d in over}
    keep = bool(a.get("keepdim"))
    return _like(x, [1 if d in gone else n for d, n in enumerate(x.shape) if keep or d not in gone])


def _dense(a: Arguments) -> Tensor | None:
    x, weight = a["mat1"] if "mat1" in a else a["self"], a["mat2"]
    legal = x.ndim == weight.ndim == 2 and x.shape[1] == weight.shape[0]
    if "mat1" in a and tuple(a["self"].shape) != (weight.shape[-1],):
        return None
    return _like(x, (x.shape[0], weight.shape[1])) if legal else None


def _cat(a: Arguments) -> Tensor | None:
    tensors, dim = a["tensors"], a["dim"]
    first = tensors[0]
    if len({t.ndim for t in tensors}) > 1 or not -first.ndim <= dim < first.ndim or not all(map(Tensor.numel, tensors)):
        return None
    dim %= first.ndim
    rest = {(*t.shape[:dim], *t.shape[dim + 1 :]) for t in tensors}
    total = sum(t.shape[dim] for t in tensors)
    return _like(first, (*first.shape[:dim], total, *first.shape[dim + 1 :])) if len(rest) == 1 else None


RULES: dict[str, Callable[[Arguments], Any]] = {
    "convolution": _convolution,
    "native_batch_norm": _norm,
    "native_layer_norm": _norm,
    "native_group_norm": _norm,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _pooled,
    "adaptive_avg_pool2d": _adaptive,
    "mean": _reduced,
    "amax": _reduced,
    "addmm": _dense,
    "mm": _dense,
    "cat": _cat,
}
