"""Shapes of the most frequent operations on meta tensors, without torch's own shape code.

Torch's meta kernels import its symbolic mathematics and its compiler on the first call, which takes longer than
following a network. Its kernels for the processor know the shapes, too, and compute nothing for a batch of no images.
What isn't sure here (another type, an illegal shape) is left to the meta kernels: None.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_map_only

from hubel.nn.ops import tensors_in

# Elementwise, and of the type of their inputs.
POINTWISE = {
    *("add", "sub", "mul", "div", "maximum", "minimum", "relu", "hardtanh"),
    *("sigmoid", "tanh", "silu", "gelu", "elu", "mish", "leaky_relu", "hardswish", "hardsigmoid"),
    *("clamp", "clamp_min", "clamp_max", "exp", "sqrt", "rsqrt", "neg"),
}
FILLS = {"normal_", "uniform_", "fill_", "zero_", "erfinv_"}  # of initialisation: numbers change, shapes don't
# Operations on a batch: what they do to an image is the same for any number of images.
BATCHED = {
    *("convolution", "native_batch_norm", "native_layer_norm", "native_group_norm", "addmm", "mm", "cat"),
    *("max_pool2d_with_indices", "avg_pool2d", "adaptive_avg_pool2d", "mean", "amax", "softmax"),
}
FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
MOST = 2**26  # weights of a layer that the processor's kernels are asked about: they lay them out in memory
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
    return _of_no_images(function, arguments, tensors) if name in BATCHED else None


def _pointwise(tensors: list[Tensor], *, in_place: bool) -> Tensor | None:
    try:
        shape = np.broadcast_shapes(*(tuple(t.shape) for t in tensors))
    except ValueError:
        return None
    if in_place:
        return tensors[0] if tuple(tensors[0].shape) == shape else None
    return torch.empty(shape, dtype=tensors[0].dtype, device="meta")


def _of_no_images(function: OpOverload[..., Any], arguments: Arguments, tensors: list[Tensor]) -> Any | None:
    """What the operation gives on the processor for a batch of no images, with the number of images put in again."""
    image, dims = arguments.get("mat1", tensors[0]), arguments.get("dim", ())
    if image.ndim < 2 or not image.numel() or dims is None or arguments.get("training"):
        return None
    batched = {id(tensor): tensor for tensor in (tensors if "tensors" in arguments else [image])}
    along_images = {0, -image.ndim} & set(dims if isinstance(dims, (list, tuple)) else [dims])
    if along_images or any(tensor.shape[:1] != image.shape[:1] for tensor in batched.values()):
        return None
    if any(tensor.numel() > MOST for tensor in tensors if id(tensor) not in batched):
        return None

    def without_images(tensor: Tensor) -> Tensor:
        shape = (0, *tensor.shape[1:]) if id(tensor) in batched else tensor.shape
        return torch.empty((), dtype=tensor.dtype).expand(shape)

    def with_images(tensor: Tensor) -> Tensor:
        shape = (len(image), *tensor.shape[1:]) if tensor.shape[:1] == (0,) else tensor.shape
        return torch.empty(shape, dtype=tensor.dtype, device="meta")

    given = tree_map_only(Tensor, without_images, arguments | ({"N": 0} if "N" in arguments else {}))
    try:
        return tree_map_only(Tensor, with_images, function(**given))
    except (RuntimeError, IndexError):
        return None
