"""Occlusion: how much the answer suffers where a part of the image is hidden."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.explanation.attribution import (
    BATCH,
    Attribution,
    Layer,
    Targets,
    explained_classes,
    explaining,
    finished,
    logits_of,
    scores_of,
)

Sides = tuple[int, int]
Window = tuple[slice, slice]
PARTS = 7  # windows along a side by default, without their overlap


def occlusion(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    layer: Layer = None,
    window: Sides | None = None,
    stride: Sides | None = None,
    baseline: float | Tensor = 0.0,
) -> Attribution:
    """Occlusion: by how much the class's logit falls where a window is hidden. Zeiler & Fergus 2014, section 4.2.

    A pixel gets the mean of all windows over it; those that reach over the right and lower edge are cut off.

    Args:
        window: (height, width) in pixels; a seventh of the image by default. stride: down and to the right, from one
            window to the next; half a window by default.
        baseline: what hides, broadcast to an image (C, H, W); 0 is the mean color where images are normalised.

    Raises:
        UsageError: a stride that leaves gaps, or a window larger than the image; and as in `grad_cam`.
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
        maps = torch.zeros(len(pixels), *size)
        counts = torch.zeros(*size)
        for rows, columns in windows:
            counts[rows, columns] += 1
        for n, (image, target) in enumerate(zip(pixels, classes, strict=True)):
            hiding = torch.as_tensor(baseline).to(image).expand(image.shape)
            left = scores_of(network, _hidden(image, windows, hiding), target)
            for (rows, columns), drop in zip(windows, (logits[n, target] - left).tolist(), strict=True):
                maps[n, rows, columns] += drop
        return finished(maps / counts, images, classes, "occlusion")


def _hidden(image: Tensor, windows: list[Window], hiding: Tensor) -> Iterator[Tensor]:
    """Yield batches of the image (C, H, W) with one window hidden in each."""
    for start in range(0, len(windows), BATCH):
        part = windows[start : start + BATCH]
        batch = image.repeat(len(part), 1, 1, 1)
        for one, (rows, columns) in zip(batch, part, strict=True):
            one[:, rows, columns] = hiding[:, rows, columns]
        yield batch
