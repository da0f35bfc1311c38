"""Which pixels a position of a map sees: by arithmetic, by the support of gradients, and by their size.

Source of the effective field: Luo et al. 2016, "Understanding the Effective Receptive Field in Deep Convolutional
Neural Networks".
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from hubel.errors import UsageError
from hubel.geometry.reach import Reach
from hubel.geometry.rows import ForwardError, Trace
from hubel.geometry.sight import Sight
from hubel.geometry.trace import follow
from hubel.nn.dry_run import moved
from hubel.nn.hooks import capture, evaluating, find_module

MASS = 0.95  # of the gradient, inside of the effective radius
Size = tuple[int, int, int]
Box = tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class EffectiveField:
    """How much each pixel matters to the centre of a map.

    Attributes:
        layer: name of the module whose map was looked at.
        density: (H, W) float64 on the CPU, mean absolute gradient over images and channels, with sum 1.
        centre: its mean, (row, column) in pixels. variance: about that mean, per axis, in square pixels.
        deviation: square roots of the variances.
        radius: of the disc around the centre that holds 95 % of the density, in pixels.
        field: what arithmetic allows at most (height, width).
    """

    layer: str
    density: Tensor
    centre: tuple[float, float]
    variance: tuple[float, float]
    deviation: tuple[float, float]
    radius: float
    field: tuple[int, int]


def patch(model: nn.Module, input: Size, layer: str | None = None, position: tuple[int, int] | None = None) -> Box:
    """Return the pixels that a position of a layer's map sees: ((top, bottom), (left, right)), all included.

    They may lie outside of the image, where windows reach over its edge.

    Args:
        input: channels, height, width of the image.
        layer: a module's name; the last map before positions are pooled away by default.
        position: row and column in the map; its centre by default.

    Raises:
        UsageError: the model can't take the image, or the layer gives out no map.
    """
    _, sight = _located(model, input, layer)
    height, width = _axes(sight)
    row, column = position or (len(height) // 2, len(width) // 2)
    if not (0 <= row < len(height) and 0 <= column < len(width)):
        raise UsageError(f"position {row, column} is outside of the map of {len(height)}×{len(width)}.")
    return _ends(height, row), _ends(width, column)


def _ends(reach: Reach, position: int) -> tuple[int, int]:
    first, last = float(reach.first[position]), float(reach.last[position])
    return (math.ceil(first), math.floor(last)) if math.isfinite(first) else (0, -1)


def _located(model: nn.Module, input: Size, layer: str | None) -> tuple[str, Sight]:
    """Find the layer and what its output sees."""
    try:
        trace: Trace = follow(model, input)
    except ForwardError as error:
        raise UsageError(f"the model can't take an image of {'×'.join(map(str, input))}: {error}.") from error
    if layer is not None:
        find_module(model, layer)
    name = layer or trace.last_map_module()
    if name is None:
        raise UsageError("the network has no map whose positions see less than the whole image: name a layer.")
    sight = trace.modules.get(name)
    if sight is None or not sight.is_map:
        raise UsageError(f"{name} gives out no map: what it sees is the whole image. Name an earlier layer.")
    return name, sight


def _axes(sight: Sight) -> tuple[Reach, Reach]:
    axes = sight.axes
    assert axes is not None
    return axes


def _at(output: Tensor, sight: Sight, position: tuple[int, int] | None) -> Tensor:
    """Return the numbers of a map at one position, its centre by default, whichever axes the map lies along."""
    for axis in (0, 1):
        along = next(d for d, dim in enumerate(sight.dims) if any(isinstance(a, Reach) and a.axis == axis for a in dim))
        index = output.shape[along] // 2 if position is None else position[axis]
        output = output.narrow(along, index, 1)
    return output


# ---- by the support of gradients ----------------------------------------------------------------------------------


def gradient_support(
    model: nn.Module, input: Size, layer: str | None = None, position: tuple[int, int] | None = None
) -> Box:
    """Return the pixels whose gradient isn't zero: ((top, bottom), (left, right)), all included, inside the image.

    It runs a twin of the network in which nothing can cancel: equal positive weights, no activations, no norms, means
    for maxima, float64. What comes back through global pooling (squeeze-and-excitation) is left out, so this measures
    the local field. Arguments and errors as in `patch`.
    """
    name, sight = _located(model, input, layer)
    image = torch.ones(1, *input, dtype=torch.float64, requires_grad=True)
    output = _twin_output(model, name, image)
    (gradient,) = torch.autograd.grad(_at(output, sight, position).sum(), image, allow_unused=True)
    if gradient is None or not gradient.any():
        raise UsageError(f"{name} doesn't depend on the image, or only through global pooling: name an earlier layer.")
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
    if return_indices:
        raise UsageError("a network that uses the places of its maxima has no positive twin.")
    kernel, step, edge, apart = (_pair(v) for v in (kernel_size, stride or kernel_size, padding, dilation))
    if apart == (1, 1):
        return F.avg_pool2d(x, kernel, step, edge, ceil_mode)
    weight = torch.full((x.shape[-3], 1, *kernel), 1 / math.prod(kernel), dtype=x.dtype)
    more = [(s - 1) * ceil_mode for s in step]
    x = F.pad(x, (edge[1], edge[1] + more[1], edge[0], edge[0] + more[0]))
    return F.conv2d(x, weight, stride=step, dilation=apart, groups=x.shape[-3])


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def _mean(x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    return x.mean(dim, keepdim)


SUBSTITUTES: dict[str, Callable[..., Tensor]] = {
    "max_pool2d": _mean_pool,
    "adaptive_max_pool2d": lambda x, output_size, *_, **__: F.adaptive_avg_pool2d(x, output_size),
    "amax": _mean,
}


def _pools(name: str, args: Any, output: Tensor) -> bool:
    """Whether positions were pooled away just now."""
    if name not in ("mean", "adaptive_avg_pool2d") or not isinstance(args[0], Tensor) or args[0].ndim != 4:
        return False
    if name == "adaptive_avg_pool2d":
        return output.shape[-2:] == (1, 1)
    over = args[1] if len(args) > 1 else ()
    return {d % 4 for d in ((over,) if isinstance(over, int) else over)} >= {2, 3}


# ---- by the size of gradients ---------------------------------------------------------------------------------------


def effective_field(
    model: nn.Module, images: Tensor | Size, *, layer: str | None = None, samples: int = 8
) -> EffectiveField:
    """Measure on the model itself how much each pixel matters to the centre of a layer's map.

    The gradient of the sum over channels at the centre is taken with respect to the image; its absolute value, averaged
    over images, is read as a density. The model runs in eval mode with its own weights, and nothing in it changes.

    Args:
        images: (N, C, H, W) floats on the model's device, normalised; or a size (channels, height, width), for which
            `samples` images of noise are made.
        layer: a module's name; the last map before positions are pooled away by default.

    Raises:
        UsageError: as in `patch`; or no pixel has any influence.
    """
    batch = images if isinstance(images, Tensor) else _noise(model, images, samples)
    channels, height, width = batch.shape[1:]
    name, sight = _located(model, (channels, height, width), layer)
    total = torch.zeros(batch.shape[-2:], dtype=torch.float64)
    with evaluating(model), torch.enable_grad():
        for one in batch.detach().split(1):
            image = one.clone().requires_grad_()
            with capture(model, [name]) as activations:
                model(image)
            (gradient,) = torch.autograd.grad(_at(activations[name], sight, None).sum(), image)
            total += gradient[0].abs().sum(0).double().cpu()
    if not total.any() or not torch.isfinite(total).all():
        raise UsageError(f"no gradient comes back from {name}: its weights or activations are dead, or not finite.")
    return _measured(name, sight, total / total.sum())


def _noise(model: nn.Module, size: Size, samples: int) -> Tensor:
    like = next(model.parameters(), torch.zeros(()))
    noise = torch.randn(samples, *size, generator=torch.Generator().manual_seed(0))
    return noise.to(like.device, like.dtype)


def _measured(name: str, sight: Sight, density: Tensor) -> EffectiveField:
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in density.shape)
    centre = float(density.sum(1) @ rows), float(density.sum(0) @ columns)
    variance = (
        float(density.sum(1) @ (rows - centre[0]) ** 2),
        float(density.sum(0) @ (columns - centre[1]) ** 2),
    )
    distance = ((rows[:, None] - centre[0]) ** 2 + (columns[None, :] - centre[1]) ** 2).sqrt().flatten()
    order = distance.argsort()
    inside = int((density.flatten()[order].cumsum(0) < MASS).sum())
    height, width = _axes(sight)
    return EffectiveField(
        layer=name,
        density=density,
        centre=centre,
        variance=variance,
        deviation=(math.sqrt(variance[0]), math.sqrt(variance[1])),
        radius=float(distance[order[min(inside, len(order) - 1)]]),
        field=(height.size, width.size),
    )
