"""What all explanation methods have in common: what they are given, how the network runs, and what they give back."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.nn.dry_run import bare
from hubel.nn.hooks import evaluating

Targets = Tensor | None  # (N,) class indices; None: the predicted ones
Layer = str | None  # a module's name; None: the method chooses
BATCH = 32  # images that a method of its own accord runs at once
ROUNDING = 1e-5  # of a map's largest magnitude: smaller differences are rounding
OFF = math.log(1.25)  # how far a map's aspect may be from the image's
NO_MAP = "layer {name!r} gives out no map (N, K, h, w): choose a convolution or a stage before the head."
NEGATIVE = "nothing speaks for this class at this layer (the map is negative everywhere)"
CONSTANT = "the map is the same everywhere, so it points nowhere"
NOT_FINITE = "the map holds numbers that are not finite: the network's answer or its gradients overflow"


@dataclass(frozen=True)
class Attribution:
    """Maps that say where in some images the answer for a class comes from.

    Attributes:
        maps: (N, h, w) float32 on the CPU, signed, as the method computes them: of the layer's size, before a ReLU
            that is the method's last step; of the image's size for methods that look at pixels.
        heatmaps: (N, H, W) float32 in [0, 1] for display: what is positive, enlarged bilinearly, largest value 1.
        targets: (N,) int64, the classes that were explained. method: its name in `METHODS`.
        layer: name of the module looked at, "" for pixels; `reason` says in a sentence why that one.
        empty: (N,) bool: the map is negative everywhere, constant or not finite, so the heatmap is all zero.
    """

    maps: Tensor
    heatmaps: Tensor
    targets: Tensor
    method: str
    layer: str
    reason: str
    empty: Tensor

    @property
    def notes(self) -> tuple[str, ...]:
        """Why an image's map shows nothing, in a sentence; "" where it shows something."""
        return tuple(_why_empty(one) for one in self.maps)

    def _repr_html_(self) -> str:
        """Show the heatmaps in a notebook, bright where the class comes from."""
        shown = []
        for heat, target, note in zip(self.heatmaps, self.targets.tolist(), self.notes, strict=True):
            file = io.BytesIO()
            Image.fromarray(heat.mul(255).round().byte().numpy()).resize((160, 160)).save(file, "PNG")
            uri, words = b64encode(file.getvalue()).decode(), note or f"class {target}"
            img = f'<img alt="{words}" src="data:image/png;base64,{uri}">'
            shown.append(f"<figure>{img}<figcaption>{words}</figcaption></figure>")
        return f'<div style="display:flex;flex-wrap:wrap">{"".join(shown)}</div>{self.method} {self.layer}'


def finished(
    maps: Tensor, images: Tensor, targets: Tensor, method: str, layer: str = "", reason: str = ""
) -> Attribution:
    """Make the record of raw maps (N, h, w) for images (N, C, H, W)."""
    maps, targets = maps.detach().float().cpu(), targets.cpu()
    empty = torch.tensor([bool(_why_empty(one)) for one in maps])
    positive = F.interpolate(maps.relu()[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    largest = positive.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    heatmaps = torch.where(empty[:, None, None], 0.0, positive / largest)
    return Attribution(maps, heatmaps, targets, method, layer, reason, empty)


def _why_empty(one: Tensor) -> str:
    low, high = float(one.min()), float(one.max())
    if not math.isfinite(high - low):
        return NOT_FINITE
    if high - low <= ROUNDING * max(high, -low):
        return CONSTANT
    return NEGATIVE if high <= 0 else ""


@contextmanager
def explaining(model: nn.Module, images: Tensor, layer: Layer = None) -> Iterator[tuple[nn.Module, Tensor]]:
    """Run the block in eval mode with gradients of everything but parameters, and give all flags back.

    Yields the model out of torch's wrappers, and images that may get gradients, also inside of ``inference_mode``.
    """
    if layer is not None:
        raise UsageError("this method looks at pixels, so it takes no layer: the class activation maps do.")
    learning = [p for p in model.parameters() if p.requires_grad and not p.is_inference()]
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        try:
            for parameter in learning:
                parameter.requires_grad_(False)
            yield bare(model), check_images(images).detach().clone()
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)


def check_images(images: Tensor) -> Tensor:
    """Refuse what is no batch of images."""
    if images.ndim != 4 or len(images) == 0 or not images.is_floating_point():
        got = f"{images.dtype} {tuple(images.shape)}"
        raise UsageError(f"expected at least one image as floats (N, C, H, W), got {got}.")
    return images


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return the model's answer (N, K); anything else is refused."""
    logits = model(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(f"an explanation needs a model that returns logits (N, K), this one returned {got}.")
    return logits


def scores_of(model: nn.Module, batches: Iterable[Tensor], target: Tensor) -> Tensor:
    """Return one class's logits for batches of images, (M,), without gradients."""
    with torch.no_grad():
        return torch.cat([logits_of(model, batch)[:, int(target)] for batch in batches])


def explained_classes(targets: Targets, logits: Tensor) -> Tensor:
    """Return the targets (N,) on the logits' device, the predicted ones where none are given."""
    if targets is None:
        return logits.argmax(dim=1)
    if targets.shape != logits.shape[:1]:
        raise UsageError(f"expected one target for each of {len(logits)} images, got {tuple(targets.shape)}.")
    low, high, classes = int(targets.min()), int(targets.max()), logits.shape[1]
    if low < 0 or high >= classes:
        raise UsageError(f"targets must lie in 0..{classes - 1}, got {low}..{high}.")
    return targets.to(logits.device, torch.int64)


def gradient_of(logits: Tensor, targets: Tensor, at: Tensor, otherwise: str) -> Tensor:
    """Return the gradient of the targets' logits with respect to a tensor; `otherwise` is said if there is none."""
    score = logits.gather(1, targets[:, None]).sum()
    found = torch.autograd.grad(score, at, allow_unused=True)[0] if score.requires_grad else None
    if found is None:
        raise UsageError(f"no gradient gets from the answer to {otherwise}")
    return found


def map_of(output: Any, images: Tensor) -> Tensor | None:
    """Return a module's output as (N, K, h, w), None if it is no map.

    It lies as (N, h, w, K), as in Swin transformers, where only so its aspect is that of the images.
    """
    if not isinstance(output, Tensor) or output.ndim != 4 or 0 in output.shape:
        return None
    _, first, second, third = output.shape
    aspect = math.log(images.shape[2] / images.shape[3])
    off, turned = abs(math.log(second / third) - aspect), abs(math.log(first / second) - aspect)
    return output.permute(0, 3, 1, 2) if off > OFF >= turned else output
