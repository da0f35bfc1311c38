"""Class activation maps: a layer's maps, weighted by what they mean to a class and summed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.explanation.attribution import (
    BATCH,
    NO_MAP,
    Attribution,
    Layer,
    Targets,
    explained_classes,
    explaining,
    finished,
    gradient_of,
    logits_of,
    map_of,
    scores_of,
)
from hubel.nn.hooks import evaluating, watch

SMALLEST_MAP = 4  # positions a side, below which a heatmap hardly points anywhere
POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.FractionalMaxPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d)
MOSTLY = 0.5  # more empty heatmaps than these, and the last layer is asked instead
LINEAR = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)  # what they give out still waits for its activation
Lazy = Callable[[], Tensor]  # computes the gradients of the targets' logits with respect to maps (N, K, h, w)
Combine = Callable[[Tensor, Lazy, Tensor], Tensor]  # maps, their gradients, targets (N,) → (N, h, w)


def grad_cam(model: nn.Module, images: Tensor, targets: Targets = None, *, layer: Layer = None) -> Attribution:
    """Grad-CAM: ReLU(Σ_k mean(∂y_c / ∂A_k) · A_k) for the layer's maps A. Selvaraju et al. 2017, equation 2.

    Like all methods of this room it works on frozen models and inside ``no_grad``; the model's gradients, train flags
    and hooks are left as they were. Without targets the predicted classes are explained.

    Args:
        images: (N, C, H, W) float32, normalised, on the model's device.
        targets: (N,) class indices.
        layer: name of a module whose output is (N, K, h, w), or (N, h, w, K); None chooses the last useful one, see
            `choose_layer`, or the very last, coarser one, where most heatmaps would be empty otherwise.

    Raises:
        UsageError: an unknown or unsuitable layer, a target outside the classes, or outputs that are not (N, K).
    """

    def combine(maps: Tensor, gradients: Lazy, _targets: Tensor) -> Tensor:
        return (gradients().mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1)

    return _explain("gradcam", combine, model, images, targets, layer)


def grad_cam_plus_plus(
    model: nn.Module, images: Tensor, targets: Targets = None, *, layer: Layer = None, epsilon: float = 1e-6
) -> Attribution:
    """Grad-CAM++: each position's gradient g counts by g² / (2g² + g³ ΣA). Chattopadhay et al. 2018, equation 19.

    Args:
        epsilon: added to that denominator. The default is pytorch-grad-cam's, and outweighs gradients below 0.001;
            with 0 it is the paper's formula.
    """

    def combine(maps: Tensor, gradients: Lazy, _targets: Tensor) -> Tensor:
        g = gradients()
        below = 2 * g**2 + g**3 * maps.sum(dim=(2, 3), keepdim=True) + epsilon
        shares = torch.where((g == 0) | (below == 0), 0.0, g**2 / below)
        return ((g.relu() * shares).sum(dim=(2, 3), keepdim=True) * maps).sum(dim=1)

    return _explain("gradcam++", combine, model, images, targets, layer)


def layer_cam(model: nn.Module, images: Tensor, targets: Targets = None, *, layer: Layer = None) -> Attribution:
    """Layer-CAM: ReLU(Σ_k ReLU(∂y_c / ∂A_k) · A_k), position by position. Jiang et al. 2021, equation 6."""

    def combine(maps: Tensor, gradients: Lazy, _targets: Tensor) -> Tensor:
        return (gradients().relu() * maps).sum(dim=1)

    return _explain("layercam", combine, model, images, targets, layer)


def eigen_cam(model: nn.Module, images: Tensor, targets: Targets = None, *, layer: Layer = None) -> Attribution:
    """Eigen-CAM: the maps along their first principal component, whatever the class. Muhammad & Yeasin 2020.

    The maps are centred first, as in pytorch-grad-cam. The sign, which the component leaves open, is the one that goes
    with the mean of all maps.
    """

    def combine(maps: Tensor, _gradients: Lazy, _targets: Tensor) -> Tensor:
        places = maps.float().flatten(2).transpose(1, 2)  # (N, h·w, K)
        places = places - places.mean(dim=1, keepdim=True)
        first = torch.linalg.svd(places, full_matrices=False).Vh[:, 0, :, None]
        along, mean = places @ first, places.mean(dim=2, keepdim=True)
        return torch.where((along * mean).sum(dim=1, keepdim=True) < 0, -along, along).view(-1, *maps.shape[2:])

    return _explain("eigencam", combine, model, images, targets, layer)


def score_cam(model: nn.Module, images: Tensor, targets: Targets = None, *, layer: Layer = None) -> Attribution:
    """Score-CAM: weights are the softmax of the class's logits for the image masked by each map. Wang et al. 2020.

    No gradients, but as many passes for an image as the layer has maps.
    """

    def combine(maps: Tensor, _gradients: Lazy, classes: Tensor) -> Tensor:
        weights = []
        for image, own, target in zip(images, maps, classes, strict=True):
            masked = (image * _masks(part, image.shape[1:]) for part in own[:, None].split(BATCH))
            weights.append(scores_of(model, masked, target).softmax(0))
        return (torch.stack(weights)[..., None, None] * maps).sum(dim=1)

    return _explain("scorecam", combine, model, images, targets, layer)


def _masks(maps: Tensor, size: torch.Size) -> Tensor:
    """(K, 1, h, w) → (K, 1, H, W), each from 0 to 1."""
    large = F.interpolate(maps, size=size, mode="bilinear", align_corners=True)
    low, high = large.amin(dim=(2, 3), keepdim=True), large.amax(dim=(2, 3), keepdim=True)
    return (large - low) / (high - low + 1e-8)


def _explain(
    method: str, combine: Combine, model: nn.Module, images: Tensor, targets: Targets, layer: Layer
) -> Attribution:
    with explaining(model, images) as (network, pixels):

        def at(name: str, reason: str) -> Attribution:
            maps, logits = _run(network, name, pixels)
            classes = explained_classes(targets, logits)

            def gradients() -> Tensor:
                why = f"layer {name!r}: the model cuts it off or doesn't use that layer's output; choose a later layer."
                return gradient_of(logits, classes, maps, why)

            return finished(combine(maps.detach(), gradients, classes), images, classes, method, name, reason)

        if layer is not None:
            return at(layer, "it was asked for")
        chosen = at(*choose_layer(network, pixels[:1]))
        if chosen.empty.float().mean() <= MOSTLY:
            return chosen
        last = at(*choose_layer(network, pixels[:1], smallest=2))
        return last if last.empty.sum() < chosen.empty.sum() else chosen


def _run(model: nn.Module, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the layer's maps (N, K, h, w), made the start of the graph, and the logits.

    That forces gradients through frozen layers and spares the backward pass below. What follows gets a copy, so an
    in-place activation can't change the maps.
    """
    kept: list[Tensor] = []

    def keep(_name: str, _module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Tensor | None:
        maps = map_of(output, images)
        if maps is None:
            return None
        kept.append(maps.detach().requires_grad_())
        with torch.enable_grad():
            return kept[-1].clone() if maps is output else kept[-1].permute(0, 2, 3, 1).clone()

    with watch(model, keep, [name]):
        logits = logits_of(model, images)
    if not kept:
        raise UsageError(NO_MAP.format(name=name))
    return kept[-1], logits


def choose_layer(model: nn.Module, image: Tensor, *, smallest: int = SMALLEST_MAP) -> tuple[str, str]:
    """Return the name of the layer that class activation maps should look at, and the reason in a sentence.

    It is the last one with a map of at least 4x4 positions, or failing that of more than 1x1. Results of pooling are
    passed over: what was pooled says the same in more places. So are bare convolutions and norms, where there is
    anything else: before the activation a map is mostly negative.

    Args:
        image: (1, C, H, W) float32.
        smallest: positions a side that are enough.

    Raises:
        UsageError: no module gives out such a map.
    """
    outputs: list[tuple[str, Tensor, Tensor]] = []
    linear: set[str] = set()
    pooled: list[Tensor] = []

    def look(name: str, module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        maps = map_of(output, image)
        if maps is not None and name:
            outputs.append((name, output, maps))
            if isinstance(module, LINEAR):
                linear.add(name)
            if isinstance(module, POOLING):
                pooled.append(output)

    with evaluating(model), torch.no_grad(), watch(model, look):
        model(image)
    # A container that ends in a pooling gives out the very same tensor, so it is passed over as well.
    passed_over = {id(output) for output in pooled}
    maps: dict[str, tuple[int, ...]] = {}
    for name, output, found in outputs:
        if id(output) not in passed_over and min(found.shape[2:]) > 1:
            maps.pop(name, None)  # a module that runs twice counts where it ran last
            maps[name] = tuple(found.shape[1:])
    if not maps:
        raise UsageError("no layer of this model gives out a map (N, K, h, w) of more than 1x1: name one with layer=.")
    large = [name for name, (_, h, w) in maps.items() if min(h, w) >= smallest]
    large = [name for name in large if name not in linear] or large
    name = large[-1] if large else list(maps)[-1]
    channels, height, width = maps[name]
    what = f"it gives out {channels} maps of {height}x{width}"
    if large:
        return name, f"{what}, the last ones of at least {smallest}x{smallest} positions before they are pooled"
    return name, f"{what}, the last ones of more than 1x1; on so few positions the heatmap is coarse"
