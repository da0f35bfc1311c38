"""Gradients of a class's logit with respect to pixels, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hubel.errors import UsageError
from hubel.explanation.attribution import (
    Attribution,
    Layer,
    Targets,
    explained_classes,
    explaining,
    finished,
    gradient_of,
    logits_of,
)

Gradient = Callable[[Tensor], Tensor]  # images → the gradient of their targets' logits, both (N, C, H, W)
NOT_RELU = {"celu", "elu", "gelu", "hardswish", "leaky_relu", "mish", "prelu", "rrelu", "selu", "silu", "softplus"}


def saliency(model: nn.Module, images: Tensor, targets: Targets = None, *, layer: Layer = None) -> Attribution:
    """Saliency: the largest absolute gradient over a pixel's channels. Simonyan et al. 2014, section 3.1."""
    return _explain("saliency", lambda gradient, pixels: _largest(gradient(pixels)), model, images, targets, layer)


def smooth_grad(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    layer: Layer = None,
    samples: int = 50,
    noise: float = 0.15,
) -> Attribution:
    """SmoothGrad: the mean gradient of noisy copies, then as in `saliency`. Smilkov et al. 2017.

    Args:
        samples: copies; all images get the same noise, the same in each call.
        noise: its standard deviation, as a share of an image's range.
    """

    def maps(gradient: Gradient, pixels: Tensor) -> Tensor:
        random = torch.Generator().manual_seed(0)
        deviation = noise * (pixels.amax(dim=(1, 2, 3), keepdim=True) - pixels.amin(dim=(1, 2, 3), keepdim=True))
        total = torch.zeros_like(pixels)
        for _ in range(samples):
            total += gradient(pixels + deviation * torch.randn(pixels.shape[1:], generator=random).to(pixels))
        return _largest(total / samples)

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

    Raises:
        UsageError: the network has no ReLUs, or other activations, for which the method isn't defined.
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


def _largest(gradients: Tensor) -> Tensor:
    return gradients.abs().amax(dim=1)


def _explain(
    method: str,
    maps: Callable[[Gradient, Tensor], Tensor],
    model: nn.Module,
    images: Tensor,
    targets: Targets,
    layer: Layer,
) -> Attribution:
    with explaining(model, images, layer) as (network, pixels):
        with torch.no_grad():
            classes = explained_classes(targets, logits_of(network, pixels))

        def gradient(at: Tensor) -> Tensor:
            at = at.detach().requires_grad_()
            why = f"the pixels, because the model cuts it off: {method} needs one, occlusion does not."
            return gradient_of(logits_of(network, at), classes, at, why)

        return finished(maps(gradient, pixels), images, classes, method)
