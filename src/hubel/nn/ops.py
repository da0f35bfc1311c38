"""One call of a tensor operation: its name, its arithmetic, and its settings in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

NAMES = {
    "addmm": "linear",
    "mm": "linear",
    "bmm": "matmul",
    "baddbmm": "matmul",
    "constant_pad_nd": "pad",
    "native_group_norm": "group_norm",
    "native_layer_norm": "layer_norm",
    "safe_softmax": "softmax",
}
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


@dataclass(frozen=True, kw_only=True)
class Window:
    """What slides over a map, per spatial axis. bias: whether a number is added; groups: 1 for pooling."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    depthwise: bool = False
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of an aten operation.

    Attributes:
        name: as a user would call it (``conv2d``, ``linear``, ``relu``); raw: aten's own name without its underscores.
        arguments: by the names of aten's schema, defaults included.
        outputs: the tensors that came out; written: those among the arguments that were changed in place.
        pointwise: whether each output number depends on the input numbers at its own place only.
    """

    name: str
    raw: str
    arguments: dict[str, Any]
    outputs: tuple[Tensor, ...]
    written: tuple[Tensor, ...]
    pointwise: bool

    @property
    def tensors(self) -> list[Tensor]:
        """Tensors among the arguments, also those in lists."""
        return tensors_in(self.arguments)


def tensors_in(arguments: dict[str, Any]) -> list[Tensor]:
    """Return the tensors among the arguments of a call, also those in lists."""
    values = [v for a in arguments.values() for v in (a if isinstance(a, (list, tuple)) else (a,))]
    return [v for v in values if isinstance(v, Tensor)]


def named(function: OpOverload[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by the names of aten's schema and in its order, defaults included."""
    schema = function._schema.arguments
    given = dict(zip((a.name for a in schema), args, strict=False)) | kwargs
    return {a.name: given.get(a.name, a.default_value) for a in schema}


def make_call(function: OpOverload[..., Any], arguments: dict[str, Any], output: Any) -> Call:
    """Sort what went into a call and what came out."""
    schema = function._schema.arguments
    written = [arguments[a.name] for a in schema if a.alias_info is not None and a.alias_info.is_write]
    raw = function.overloadpacket.__name__.strip("_")
    outputs = output if isinstance(output, (list, tuple)) else (output,)
    return Call(
        name=_name(raw, arguments),
        raw=raw,
        arguments=arguments,
        outputs=tuple(o for o in outputs if isinstance(o, Tensor)),
        written=tuple(t for t in written if isinstance(t, Tensor)),
        pointwise=torch.Tag.pointwise in function.tags,
    )


def _name(raw: str, arguments: dict[str, Any]) -> str:
    if raw == "convolution":
        return f"conv{'_transpose' * arguments['transposed']}{arguments['weight'].ndim - 2}d"
    if raw.startswith("scaled_dot_product"):
        return "attention"
    return "batch_norm" if "batch_norm" in raw else NAMES.get(raw, raw.removesuffix("_with_indices"))


def window(call: Call) -> Window | None:
    """What a convolution or a pooling slides over the map; None for other operations."""
    a, convolves = call.arguments, call.name in CONVOLUTIONS + TRANSPOSED
    if not convolves and call.name[:-2] not in ("max_pool", "avg_pool"):
        return None
    axes, groups = int(call.name[-2]), a.get("groups", 1)
    kernel = tuple(a["weight"].shape[2:]) if convolves else per_axis(a["kernel_size"], axes)
    return Window(
        kernel=kernel,
        stride=per_axis(a.get("stride") or kernel, axes),
        padding=per_axis(a["padding"], axes),
        dilation=per_axis(a.get("dilation", 1), axes),
        groups=groups,
        depthwise=groups > 1 and groups == a["input"].shape[-axes - 1],
        bias=a.get("bias") is not None,
    )


def per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """Return one number for each axis, where one may stand for all.

    >>> per_axis(3, 2), per_axis([1, 2], 2)
    ((3, 3), (1, 2))
    """
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


def macs(call: Call) -> int:
    """Multiply-accumulates of a convolution, a dense layer or a matrix product; 0 for other operations."""
    if call.name in CONVOLUTIONS + TRANSPOSED:
        weight: Tensor = call.arguments["weight"]
        places: Tensor = call.arguments["input"] if call.name in TRANSPOSED else call.outputs[0]
        return places.numel() * weight.numel() // max(weight.shape[0], 1)
    if call.name in ("linear", "matmul"):
        return call.outputs[0].numel() * int(factors(call)[0].shape[-1])
    if call.name == "attention":
        query, key, value = (tuple(map(int, call.arguments[name].shape)) for name in ("query", "key", "value"))
        return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return 0


def factors(call: Call) -> tuple[Tensor, Tensor]:
    """The two factors of a product."""
    a = call.arguments
    for left, right in (("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2"), ("input", "weight")):
        if left in a and right in a:
            return a[left], a[right]
    raise AssertionError(f"{call.raw} is no matrix product")


def detail(call: Call) -> str:
    """Say the settings in a few words: ``3×3, stride 2, padding 1``; empty where there are none."""
    found = window(call)
    if found is not None:
        return _window_words(found)
    if call.name == "linear":
        left, _ = factors(call)
        bias = ", bias" if call.raw == "addmm" or call.arguments.get("bias") is not None else ""
        return f"{left.shape[-1]:,} → {call.outputs[0].shape[-1]:,}{bias}"
    if call.raw.lstrip("_").startswith("adaptive"):
        return "to " + _times(per_axis(call.arguments["output_size"], 1))
    return ""


def _window_words(found: Window) -> str:
    words = [_times(found.kernel)]
    for name, usual in (("stride", 1), ("padding", 0), ("dilation", 1)):
        values = getattr(found, name)
        if set(values) != {usual}:
            words.append(f"{name} {values[0] if len(set(values)) == 1 else _times(values)}")
    if found.groups > 1:
        words.append("depthwise" if found.depthwise else f"groups {found.groups}")
    if found.bias:
        words.append("bias")
    return ", ".join(words)


def _times(values: Sequence[int]) -> str:
    return "×".join(map(str, values))
