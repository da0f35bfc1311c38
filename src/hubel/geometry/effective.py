"""Which pixels a position of a map can see, by arithmetic, and which of them matter to it, by the size of gradients.

Source of the effective field: Luo et al. 2016, "Understanding the Effective Receptive Field in Deep Convolutional
Neural Networks".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.geometry.field import Field
from hubel.geometry.rows import ForwardError
from hubel.geometry.trace import follow
from hubel.nn.hooks import capture, evaluating, find_module

MASS = 0.95  # of the gradient, inside of the effective radius
Size = tuple[int, int, int]
Place = tuple[int, int]
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


def patch(model: nn.Module, input: Size, layer: str | None = None, position: Place | None = None) -> Box:
    """Return the pixels that a position of a layer's map sees: ((top, bottom), (left, right)), all included.

    They may lie outside of the image, where windows reach over its edge.

    Args:
        input: channels, height, width of the image.
        layer: a module's name; the last one that gives out a map, before positions are pooled away, by default.
        position: row and column in the map; its centre by default.

    Raises:
        UsageError: the model can't take the image, the layer gives out no map, or the map has no such position.
    """
    return box_of(locate(model, input, layer)[1], position)


def box_of(field: Field, position: Place | None = None) -> Box:
    """Return the pixels that a position of a map with that field sees, as `patch` does."""
    top, bottom, left, right = (float(at_position(bound, field, position).max()) for bound in field.bounds)
    pairs = [(math.ceil(-a), math.floor(b)) if math.isfinite(a) else (0, -1) for a, b in ((top, bottom), (left, right))]
    return pairs[0], pairs[1]


def boxes(field: Field) -> tuple[list[Place], list[Place]]:
    """Return what each row of a map sees, (top, bottom), and each column, (left, right); one pair where all see alike.

    What is outside of the image is included. A row or column that sees nothing has its first pixel after its last.
    """
    pairs: list[list[Place]] = []
    for axis, along in enumerate(field.places):
        dim = max(along, default=axis - 2)
        first, last = (bound.movedim(dim, 0).flatten(1).amax(1) for bound in field.bounds[2 * axis : 2 * axis + 2])
        length = max(len(first), len(last))
        edges = zip((-first).expand(length).tolist(), last.expand(length).tolist(), strict=True)
        pairs.append([(math.ceil(a), math.floor(b)) if math.isfinite(a) else (0, -1) for a, b in edges])
    return pairs[0], pairs[1]


def locate(model: nn.Module, input: Size, layer: str | None) -> tuple[str, Field]:
    """Return the layer's name and what the positions of its map see; arguments and errors as in `patch`."""
    try:
        trace = follow(model, input)
    except ForwardError as error:
        raise UsageError(f"the model can't take an image of {'×'.join(map(str, input))}: {error}.") from error
    if layer is not None:
        find_module(model, layer)
    name = layer or trace.last_map_module()
    if name is None:
        raise UsageError("the network has no map whose positions see less than the whole image: name a layer.")
    field = trace.modules.get(name)
    if field is None or not field.is_map:
        raise UsageError(f"{name} gives out no map: what it sees is the whole image. Name an earlier layer.")
    return name, field


def at_position(values: Tensor, field: Field, position: Place | None = None) -> Tensor:
    """Return the numbers of a map, or of one of its field's bounds, at a position; at its centre by default.

    Raises:
        UsageError: the map has no such position.
    """
    dims = [max(along, default=axis - 2) for axis, along in enumerate(field.places)]
    size = [max(bound.shape[dim] for bound in field.bounds) for dim in dims]
    place = position or (size[0] // 2, size[1] // 2)
    if not all(0 <= index < n for index, n in zip(place, size, strict=True)):
        raise UsageError(f"position {place[0], place[1]} is outside of the map of {size[0]}×{size[1]}.")
    for dim, index in zip(dims, place, strict=True):
        values = values.narrow(dim, min(index, values.shape[dim] - 1), 1)  # a bound keeps one place where it is even
    return values


def effective_field(
    model: nn.Module, images: Tensor | Size, *, layer: str | None = None, samples: int = 8
) -> EffectiveField:
    """Measure on the model itself how much each pixel matters to the centre of a layer's map.

    The gradient of the sum over channels at the centre is taken with respect to the image; its absolute value, averaged
    over images, is read as a density. The model runs in eval mode with its own weights, and nothing in it changes.

    Args:
        images: (N, C, H, W) floats on the model's device, normalised; or a size (channels, height, width), for which
            `samples` images of noise are made.
        layer: as in `patch`.

    Raises:
        UsageError: as in `patch`; or no pixel has any influence.
    """
    if not isinstance(images, Tensor):
        like = next(model.parameters(), torch.zeros(()))
        images = torch.randn(samples, *images, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)
    channels, height, width = images.shape[1:]
    name, field = locate(model, (channels, height, width), layer)
    total = torch.zeros(height, width, dtype=torch.float64)
    with evaluating(model), torch.enable_grad():
        for one in images.detach().split(1):
            image = one.clone().requires_grad_()
            with capture(model, [name]) as activations:
                model(image)
            (gradient,) = torch.autograd.grad(at_position(activations[name], field).sum(), image)
            total += gradient[0].abs().sum(0).double().cpu()
    if not total.any() or not torch.isfinite(total).all():
        raise UsageError(f"no gradient comes back from {name}: its weights or activations are dead, or not finite.")
    return _measured(name, field, total / total.sum())


def _measured(name: str, field: Field, density: Tensor) -> EffectiveField:
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in density.shape)
    shares = (density.sum(1), density.sum(0))
    row, column = float(shares[0] @ rows), float(shares[1] @ columns)
    height, width = float(shares[0] @ (rows - row) ** 2), float(shares[1] @ (columns - column) ** 2)
    distance, order = torch.hypot(rows[:, None] - row, columns[None, :] - column).flatten().sort()
    inside = int((density.flatten()[order].cumsum(0) < MASS).sum())
    return EffectiveField(
        layer=name,
        density=density,
        centre=(row, column),
        variance=(height, width),
        deviation=(math.sqrt(height), math.sqrt(width)),
        radius=float(distance[min(inside, len(order) - 1)]),
        field=field.size,
    )
