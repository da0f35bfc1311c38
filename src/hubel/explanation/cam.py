"""Grad-CAM: which places of an image spoke for a class.

Source: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.nn.hooks import evaluating, find_module

SMALLEST_MAP = 4  # positions a side, below which a heatmap hardly points anywhere
POOLING = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.LPPool2d,
    nn.FractionalMaxPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveAvgPool2d,
)
MOSTLY = 0.5  # more empty heatmaps than these, and the last layer is asked instead
LINEAR = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)  # what they give out still waits for its activation


@dataclass(frozen=True, kw_only=True)
class Cam:
    """Heatmaps of some images.

    Attributes:
        heatmaps: (N, H, W) float32 in [0, 1] on the CPU, of the images' size; each one's largest value is 1.
        targets: (N,) int64, the classes that were explained.
        layer: name of the module looked at; `reason` says in a sentence why that one.
        empty: (N,) bool: no place spoke for the class (the map is negative everywhere), so the heatmap is all zero.
    """

    heatmaps: Tensor
    targets: Tensor
    layer: str
    reason: str
    empty: Tensor


def grad_cam(model: nn.Module, images: Tensor, targets: Tensor | None = None, *, layer: str | None = None) -> Cam:
    """Explain what speaks for `targets`, or else for the predicted classes.

    Heatmap = ReLU(Σ_k mean(∂y_c / ∂A_k) · A_k) for the layer's maps A, enlarged bilinearly. It works on frozen models
    and inside ``no_grad``; the model's gradients, train flags and hooks are left as they were.

    Args:
        images: (N, C, H, W) float32, normalised, on the model's device.
        targets: (N,) class indices.
        layer: module name whose output is (N, K, h, w); None chooses the last useful one, see `choose_layer`, or the
            very last, coarser one, where most heatmaps would be empty otherwise.

    Raises:
        UsageError: an unknown or unsuitable layer, a target outside the classes, or outputs that are not (N, K).
    """
    if images.ndim != 4 or len(images) == 0:
        raise UsageError(f"expected at least one image as (N, C, H, W), got {tuple(images.shape)}.")
    if targets is not None and targets.shape != (len(images),):
        raise UsageError(f"expected one target for each of {len(images)} images, got {tuple(targets.shape)}.")
    if layer is not None:
        return _explain(model, images, targets, layer, "it was asked for")
    chosen = _explain(model, images, targets, *choose_layer(model, images[:1]))
    if chosen.empty.float().mean() <= MOSTLY:
        return chosen
    last = _explain(model, images, targets, *choose_layer(model, images[:1], smallest=2))
    return last if last.empty.float().mean() < chosen.empty.float().mean() else chosen


def _explain(model: nn.Module, images: Tensor, targets: Tensor | None, name: str, reason: str) -> Cam:
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        images = images.detach().clone()
        maps, logits = _run(model, name, images)
        targets = logits.argmax(dim=1) if targets is None else targets.to(logits.device, torch.int64)
        _check_targets(targets, logits.shape[1])
        score = logits.gather(1, targets[:, None]).sum()
        gradients = _gradients(score, maps, name)
    weighted = (gradients.mean(dim=(2, 3), keepdim=True) * maps.detach()).sum(dim=1).float()
    heatmaps, empty = _as_heatmaps(weighted, images.shape[2:])
    return Cam(heatmaps=heatmaps, targets=targets.cpu(), layer=name, reason=reason, empty=empty)


def choose_layer(model: nn.Module, image: Tensor, *, smallest: int = SMALLEST_MAP) -> tuple[str, str]:
    """Return the name of the layer Grad-CAM should look at, and the reason in a sentence.

    It is the last one with a map of at least 4x4 positions, or failing that of more than 1x1. Results of pooling are
    passed over: what was pooled says the same in more places. So are bare convolutions and norms, where there is
    anything else: before the activation a map is mostly negative.

    Args:
        image: (1, C, H, W) float32.
        smallest: positions a side that are enough.

    Raises:
        UsageError: no module gives out such a map.
    """
    outputs: list[tuple[str, Tensor]] = []
    linear: set[str] = set()
    pooled: list[Tensor] = []

    def look(name: str, module: nn.Module, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            outputs.append((name, output))
            if isinstance(module, LINEAR):
                linear.add(name)
            if isinstance(module, POOLING):
                pooled.append(output)

    with evaluating(model), torch.no_grad(), _watching(model, look):
        model(image)
    # A container that ends in a pooling gives out the very same tensor, so it is passed over as well.
    passed_over = {id(output) for output in pooled}
    maps: dict[str, tuple[int, ...]] = {}
    for name, output in outputs:
        if id(output) not in passed_over and min(output.shape[2:]) > 1:
            maps.pop(name, None)  # a module that runs twice counts where it ran last
            maps[name] = tuple(output.shape[1:])
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


@contextmanager
def _watching(model: nn.Module, look: Callable[[str, nn.Module, Any], None]) -> Iterator[None]:
    """Call `look` with the name, the module and the output of every module inside the model as it finishes."""
    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: look(name, module, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run(model: nn.Module, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the layer's maps, made the start of the graph, and the logits.

    Starting the graph there forces gradients through frozen layers and spares the backward pass below. What follows
    gets a copy, so an in-place activation can't change the maps.
    """
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> Tensor | None:  # noqa: ARG001
        if not isinstance(output, Tensor) or output.ndim != 4:
            return None
        kept.append(output.detach().requires_grad_())
        with torch.enable_grad():
            return kept[-1].clone()

    handle = find_module(model, name).register_forward_hook(keep)
    try:
        logits = model(images)
    finally:
        handle.remove()
    if not kept:
        raise UsageError(
            f"layer {name!r} gives out no map (N, K, h, w): choose a convolution or a stage before the head."
        )
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        raise UsageError(
            f"Grad-CAM needs a model that returns logits (N, K), this one returned {type(logits).__name__}."
        )
    return kept[-1], logits


def _gradients(score: Tensor, maps: Tensor, name: str) -> Tensor:
    gradients = torch.autograd.grad(score, maps, allow_unused=True)[0] if score.requires_grad else None
    if gradients is None:
        raise UsageError(
            f"no gradient gets from the answer to layer {name!r}: the model cuts it off or doesn't use that layer's "
            "output; choose a later layer."
        )
    return gradients


def _check_targets(targets: Tensor, classes: int) -> None:
    if int(targets.min()) < 0 or int(targets.max()) >= classes:
        raise UsageError(f"targets must lie in 0..{classes - 1}, got {int(targets.min())}..{int(targets.max())}.")


def _as_heatmaps(weighted: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
    """(N, h, w) of any sign → (N, H, W) in [0, 1], and (N,) whether nothing was positive."""
    positive = F.interpolate(weighted.relu()[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    largest = positive.amax(dim=(1, 2), keepdim=True)
    empty = ~(largest > 0)  # also where it is NaN
    return torch.where(empty, 0.0, positive / largest).cpu(), empty.flatten().cpu()
