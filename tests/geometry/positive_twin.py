"""An oracle for receptive fields: which pixels a gradient reaches in a network where nothing can cancel.

The twin of a network has equal positive weights, no activations, no norms, and means for maxima, in float64. What comes
back through global pooling (squeeze-and-excitation) is left out, so this measures the local field.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from hubel.geometry.effective import Box, Place, Size, at_position, locate
from hubel.nn.dry_run import moved
from hubel.nn.hooks import evaluating, find_module


def gradient_support(model: nn.Module, input: Size, layer: str | None = None, position: Place | None = None) -> Box:
    """Return the pixels whose gradient isn't zero: ((top, bottom), (left, right)), all included, inside the image.

    Raises:
        ValueError: no gradient comes back at all.
    """
    name, field = locate(model, input, layer)
    image = torch.ones(1, *input, dtype=torch.float64, requires_grad=True)
    output = _twin_output(model, name, image)
    (gradient,) = torch.autograd.grad(at_position(output, field, position).sum(), image, allow_unused=True)
    if gradient is None or not gradient.any():
        raise ValueError(f"{name} doesn't depend on the image, or only through global pooling")
    seen = gradient[0].abs().sum(0) > 0
    return _extent(seen.any(1)), _extent(seen.any(0))


def _extent(seen: Tensor) -> tuple[int, int]:
    found = seen.nonzero().flatten()
    return int(found[0]), int(found[-1])


class _Reached(Exception):
    """The layer gave out its map; the rest of the network isn't needed."""


def _twin_output(model: nn.Module, name: str, image: Tensor) -> Tensor:
    """Run the positive twin up to a module."""
    found: list[Tensor] = []

    def stop(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        found.append(output)
        raise _Reached

    tensors = {key: _positive(value) for key, value in model.named_parameters()}
    tensors |= {key: moved(value, "cpu").to(_wide(value)).clone() for key, value in model.named_buffers()}
    handle = find_module(model, name).register_forward_hook(stop)
    try:
        with evaluating(model), torch.enable_grad(), contextlib.suppress(_Reached), _Positive():
            functional_call(model, tensors, (image,))
    finally:
        handle.remove()
    return found[-1]


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype.is_floating_point else tensor.dtype


def _positive(parameter: Tensor) -> Tensor:
    """Equal weights whose sum is 1 per output, so that gradients neither vanish nor overflow."""
    shape = parameter.shape
    return torch.full(shape, 1 / max(1, math.prod(shape[1:])), dtype=torch.float64)


class _Positive(TorchFunctionMode):
    """Replaces every operation that could make a gradient vanish by one that can't."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if name in IDENTITIES:
            return args[0]
        if name in SUBSTITUTES:
            return SUBSTITUTES[name](*args, **kwargs)
        output = func(*args, **kwargs)
        return output.detach() if isinstance(output, Tensor) and _pools(name, args, output) else output


IDENTITIES = {
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus"),
    *("sigmoid", "logsigmoid", "hardsigmoid", "tanh", "hardtanh", "hardswish", "softsign", "tanhshrink", "clamp"),
    *("batch_norm", "instance_norm", "layer_norm", "group_norm", "local_response_norm", "rms_norm"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),
}


def _mean_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """Average in place of maximum, with the same window."""
    assert not return_indices
    kernel, step, edge, apart = (_pair(v) for v in (kernel_size, stride or kernel_size, padding, dilation))
    if apart == (1, 1):
        return F.avg_pool2d(x, kernel, step, edge, ceil_mode)
    weight = torch.full((x.shape[-3], 1, *kernel), 1 / math.prod(kernel), dtype=x.dtype)
    more = [(s - 1) * ceil_mode for s in step]
    x = F.pad(x, (edge[1], edge[1] + more[1], edge[0], edge[0] + more[0]))
    return F.conv2d(x, weight, stride=step, dilation=apart, groups=x.shape[-3])


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


SUBSTITUTES: dict[str, Callable[..., Tensor]] = {
    "max_pool2d": _mean_pool,
    "adaptive_max_pool2d": lambda x, output_size, *_, **__: F.adaptive_avg_pool2d(x, output_size),
    "amax": lambda x, dim, keepdim=False: x.mean(dim, keepdim),
}


def _pools(name: str, args: Any, output: Tensor) -> bool:
    """Whether positions were pooled away just now."""
    if name not in ("mean", "adaptive_avg_pool2d") or not isinstance(args[0], Tensor) or args[0].ndim != 4:
        return False
    if name == "adaptive_avg_pool2d":
        return output.shape[-2:] == (1, 1)
    over = args[1] if len(args) > 1 else ()
    return {d % 4 for d in ((over,) if isinstance(over, int) else over)} >= {2, 3}
