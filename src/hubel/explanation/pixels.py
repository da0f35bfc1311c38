"""Methods that look at pixels: gradients with respect to them, and what the answer loses where they are hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hubel.errors import UsageError
from hubel.explanation.attribution import (
    BATCH,
    Attribution,
    Layer,
    Targets,
    explained_classes,
    explaining,
    finished,
    gradient_of,
    logits_of,
    scores_of,
)

PARTS = 7  # windows along a side by default, without their overlap
Gradient = Callable[[Tensor], Tensor]  # images → the gradient of their targets' logits, both (N, C, H, W)
Maps = Callable[[Gradient, Tensor], Tensor]
NOT_RELU = {"celu", "elu", "gelu", "hardswish", "leaky_relu", "mish", "prelu", "rrelu", "selu", "silu", "softplus"}


def saliency(model: nn.Module, images: Tensor, targets: Targets = None, *, layer: Layer = None) -> Attribution:
    """Saliency: the largest absolute gradient over a pixel's channels. Simonyan et al. 2014, section 3.1."""
    return _explain("saliency", lambda gradient, pixels: gradient(pixels).abs().amax(1), model, images, targets, layer)


def smooth_grad(
    model: nn.Module, images: Tensor, targets: Targets = None, *, layer: Layer = None, n: int = 50, noise: float = 0.15
) -> Attribution:
    """SmoothGrad: the mean gradient of noisy copies, then as in `saliency`. Smilkov et al. 2017.

    Args:
        n: copies; all images get the same noise, the same in each call.
        noise: its standard deviation, as a share of an image's range.
    """

    def maps(gradient: Gradient, pixels: Tensor) -> Tensor:
        random = torch.Generator().manual_seed(0)
        deviation = noise * (pixels.amax(dim=(1, 2, 3), keepdim=True) - pixels.amin(dim=(1, 2, 3), keepdim=True))
        total = torch.zeros_like(pixels)
        for _ in range(n):
            total += gradient(pixels + deviation * torch.randn(pixels.shape[1:], generator=random).to(pixels))
        return (total / n).abs().amax(dim=1)

    return _explain("smoothgrad", maps, model, images, targets, layer)


def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    layer: Layer = None,
    steps: int = 50,
    baseline: float | Tensor = 0.0,
) -> Attribution:
    """Integrated gradients: (x - x') times the mean gradient on the way from x' to x. Sundararajan et al. 2017.

    Summed over channels. A map adds up to the difference between the logits of the image and of the baseline.

    Args:
        steps: of Gauss-Legendre quadrature.
        baseline: x', broadcast to the images; 0 is the mean color where images are normalised.
    """

    def maps(gradient: Gradient, pixels: Tensor) -> Tensor:
        change, total = pixels - baseline, torch.zeros_like(pixels)
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            total += weight / 2 * gradient(baseline + (1 + node) / 2 * change)
        return (change * total).sum(dim=1)

    return _explain("integrated-gradients", maps, model, images, targets, layer)


def guided_backprop(model: nn.Module, images: Tensor, targets: Targets = None, *, layer: Layer = None) -> Attribution:
    """Guided backprop: the gradient, of which each ReLU lets only positive parts back. Springenberg et al. 2015.

    Summed over channels. ReLUs are modules or functions, ReLU6 is one too; a ``clamp`` isn't recognised as one.
    Networks without ReLUs or with other activations, for which the method isn't defined, are refused.
    """

    def maps(gradient: Gradient, pixels: Tensor) -> Tensor:
        with _Guided() as guided:
            found = gradient(pixels)
        other = min(guided.seen & NOT_RELU, default=None if "relu" in guided.seen else "none")
        if other:
            raise UsageError(
                f"guided backprop is defined for networks of ReLUs, and this one has {other}: take "
                "integrated-gradients, which asks the same of any network."
            )
        return found.sum(dim=1)

    return _explain("guided-backprop", maps, model, images, targets, layer)


def occlusion(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    layer: Layer = None,
    window: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    baseline: float | Tensor = 0.0,
) -> Attribution:
    """Occlusion: by how much the class's logit falls where a window is hidden. Zeiler & Fergus 2014, section 4.2.

    A pixel gets the mean of all windows over it; those that reach over the right and lower edge are cut off.

    Args:
        window: (height, width) in pixels, a seventh of the image by default. stride: from one window to the next, down
            and to the right, half a window by default; larger ones than a window are refused.
        baseline: what hides, broadcast to an image (C, H, W); 0 is the mean color where images are normalised.
    """
    with explaining(model, images, layer) as (network, pixels):
        size = pixels.shape[2:]
        sides = window or (max(size[0] // PARTS, 1), max(size[1] // PARTS, 1))
        steps = stride or (max(sides[0] // 2, 1), max(sides[1] // 2, 1))
        if not all(1 <= step <= side <= whole for step, side, whole in zip(steps, sides, size, strict=True)):
            raise UsageError(
                f"windows of {sides[0]}x{sides[1]} pixels, {steps[0]} and {steps[1]} apart, don't cover an image of "
                f"{size[0]}x{size[1]}: expected 1 ≤ stride ≤ window ≤ image."
            )
        starts = [range(0, whole - side + step, step) for whole, side, step in zip(size, sides, steps, strict=True)]
        windows = [(slice(y, y + sides[0]), slice(x, x + sides[1])) for y in starts[0] for x in starts[1]]
        with torch.no_grad():
            logits = logits_of(network, pixels)
        classes = explained_classes(targets, logits)
        maps, counts = torch.zeros(len(pixels), *size), torch.zeros(*size)
        for rows, columns in windows:
            counts[rows, columns] += 1
        for n, (image, target) in enumerate(zip(pixels, classes, strict=True)):
            hiding = torch.as_tensor(baseline).to(image).expand(image.shape)
            left = scores_of(network, _hidden(image, windows, hiding), target)
            for (rows, columns), drop in zip(windows, (logits[n, target] - left).tolist(), strict=True):
                maps[n, rows, columns] += drop
        return finished(maps / counts, images, classes, "occlusion")


class _Guided(TorchFunctionMode):
    """Keeps negative gradients from going back through ReLUs, whoever calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()  # names of functions

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output, name = function(*args, **kwargs), getattr(function, "__name__", "").rstrip("_")
        if name == "relu6" or (name == "hardtanh" and kwargs.get("min_val") == 0):
            name = "relu"
        if name == "relu" and output.requires_grad:
            output.register_hook(lambda gradient: gradient.clamp(min=0))
        self.seen.add(name)
        return output


def _explain(method: str, maps: Maps, model: nn.Module, images: Tensor, targets: Targets, layer: Layer) -> Attribution:
    with explaining(model, images, layer) as (network, pixels):
        with torch.no_grad():
            classes = explained_classes(targets, logits_of(network, pixels))

        def gradient(at: Tensor) -> Tensor:
            at = at.detach().requires_grad_()
            why = f"the pixels, because the model cuts it off: {method} needs one, occlusion does not."
            return gradient_of(logits_of(network, at), classes, at, why)

        return finished(maps(gradient, pixels), images, classes, method)


def _hidden(image: Tensor, windows: list[tuple[slice, slice]], hiding: Tensor) -> Iterator[Tensor]:
    """Yield batches of the image (C, H, W) with one window hidden in each."""
    for start in range(0, len(windows), BATCH):
        part = windows[start : start + BATCH]
        batch = image.repeat(len(part), 1, 1, 1)
        for one, (rows, columns) in zip(batch, part, strict=True):
            one[:, rows, columns] = hiding[:, rows, columns]
        yield batch
