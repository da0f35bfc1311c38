"""One operation of a network as a block of a picture: its kind, its label, its channels and the size of its map."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from hubel.records import Layer

Kind = Literal["image", "conv", "depthwise", "up", "pool", "dense", "attention", "gate", "other"]
Shape = tuple[int, tuple[int, int] | None]  # channels, and height and width; None for a vector
DENSE = {"linear", "addmm", "bilinear", "lazylinear"}
PRODUCTS = {"mm", "bmm", "matmul", "einsum"}


@dataclass(frozen=True, kw_only=True)
class Block:
    """One operation as drawn.

    Attributes:
        label: its settings in a few characters (``3×3, 64``); title: everything about it in a sentence.
        inputs, channels: channels in and out. size: height and width of the map that comes out, None for a vector.
        macs: multiply-accumulates.
    """

    kind: Kind
    label: str
    title: str
    inputs: int
    channels: int
    size: tuple[int, int] | None
    macs: int = 0


def kind_of(layer: Layer) -> Kind | None:
    """What a layer is drawn as; None where it is drawn as nothing."""
    name = layer.kind.lower()
    if "attention" in name:
        return "attention"
    if "convtranspose" in name or "conv_transpose" in name or "upsample" in name or name in ("interpolate", "fold"):
        return "up"
    if name.startswith(("conv", "lazyconv")):
        return "depthwise" if "depthwise" in layer.detail else "conv"
    if name in DENSE or name in PRODUCTS:
        return "dense" if name in DENSE else "attention"
    if "unpool" in name:
        return "up"
    if "pool" in name or (name in ("mean", "amax", "max") and prod(layer.shape) < prod(layer.input_shape)):
        return "pool"
    return "other" if layer.macs else None


def channels_and_size(shape: Sequence[int], *, dense: bool = False) -> Shape:
    """Channels, height and width of a tensor; tokens count as a square map, and channels may come last."""
    if len(shape) < 2:
        return (shape[0] if shape else 1), None
    if len(shape) == 2:
        side = max(1, round(shape[0] ** 0.5))
        return shape[1], (side, side)
    first, *_, height, width = shape
    if len(shape) == 3 and (dense or (shape[0] == shape[1] != shape[2])):
        return shape[2], (shape[0], shape[1])
    return first, (height, width)


def block_of(layer: Layer, kind: Kind) -> Block:
    channels, size = channels_and_size(layer.shape, dense=kind in ("dense", "attention"))
    kernel = re.match(r"\d+(?:×\d+)*", layer.detail)
    stride = re.search(r"stride (\d+(?:×\d+)*)", layer.detail)
    window = kernel.group() if kernel else ""
    step = f" /{stride.group(1)}" if stride and stride.group(1) not in ("1", "1×1") else ""
    words = {
        "conv": f"{window}{step}, {channels}",
        "depthwise": f"{window}{step} depthwise",
        "up": f"{window or 'up'}{step}, {channels}",
        "pool": _pooled(layer, window, step),
        "dense": f"dense {channels}",
        "attention": "attention",
    }
    shown = f"{layer.kind} {layer.detail}".strip()
    title = f"{layer.name}: {shown}, {times(layer.input_shape)} → {times(layer.shape)}, {layer.parameters:,} parameters"
    inputs, _ = channels_and_size(layer.input_shape, dense=kind in ("dense", "attention"))
    label = words.get(kind, layer.kind).removeprefix(", ")
    return Block(kind=kind, label=label, title=title, inputs=inputs, channels=channels, size=size, macs=layer.macs)


def _pooled(layer: Layer, window: str, step: str) -> str:
    word = "max" if "max" in layer.kind.lower() else "mean"
    _, size = channels_and_size(layer.shape)
    if not window:
        return f"global {word}" if size in (None, (1, 1)) else f"{word} to {times(size)}"
    return f"{word} {window}{step}"


def times(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))
