"""Pillow's resizing in torch, equal in every bit, so that it can be exported together with a network.

Each pixel of the result is a sum over pixels of the source under a filter (a triangle, or a cubic) that is as wide as
the step from one result to the next, or as one pixel of the source where that is wider. The weights are worked out in
double, divided by their sum, and rounded to whole multiples of 1/2²²; the picture is resized first across, then down,
and rounded to 8 bits each time. Such sums stay below 2⁹, so doubles hold them exactly, in any order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hubel.dataset.decode import RADIUS
from hubel.records import Preprocess

UNIT = 1 << 22  # of a weight, as in Pillow: 8 more bits of the pixel and 2 for overshoot fill 32
BLOCK = 32  # pixels of the result that are made at a time, from few of the source
LUMA = (19595, 38470, 7471)  # of red, green and blue in Pillow's grey, in 1/65536 (ITU-R BT.601)


class Cut(NamedTuple):
    """What of an axis is shown: pixels `start` to `end` of the source become `size`, after `before` of background.

    These are tensors () float64, since the picture's size decides; the whole axis is `side` pixels long.
    """

    start: Tensor
    end: Tensor
    size: Tensor
    before: Tensor
    side: int


def fitted(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Do what `hubel.dataset.decode.decode` does once a picture is upright; all sizes go through the same operations.

    (N, H, W, 3) uint8 on the CPU → (N, C, height, width) uint8 of the preprocessing's size and channels.
    """
    height, width = (torch.scalar_tensor(length, dtype=torch.float64) for length in pixels.shape[1:3])
    rows, columns = preprocess.size
    down, across = _cut(height, width, rows, columns, preprocess), _cut(width, height, columns, rows, preprocess)
    if preprocess.fit == "crop":
        pixels, down = _needed_rows(pixels, down, RADIUS[preprocess.interpolation])
    count, tall, wide, _ = pixels.shape
    pixels = pixels.reshape(count * tall, wide * 3).T.reshape(wide, -1)  # transposing a matrix is fast
    pixels = _resized(pixels, across, preprocess.interpolation).reshape(-1, tall).T
    pixels = _resized(pixels, down, preprocess.interpolation).reshape(rows, columns, 3, count).permute(3, 2, 0, 1)
    if preprocess.fit == "pad":
        places = [torch.arange(cut.side) - cut.before for cut in (down, across)]
        shown = [(place >= 0) & (place < cut.size) for place, cut in zip(places, (down, across), strict=True)]
        background = torch.tensor(preprocess.background, dtype=torch.uint8).view(3, 1, 1)
        pixels = torch.where(shown[0][:, None] & shown[1], pixels, background)
    if preprocess.channels == 1:
        light = (pixels.int() * torch.tensor(LUMA, dtype=torch.int32).view(3, 1, 1)).sum(1, keepdim=True)
        pixels = ((light + (1 << 15)) // (1 << 16)).byte()
    return pixels.contiguous()


def _cut(length: Tensor, other: Tensor, side: int, other_side: int, preprocess: Preprocess) -> Cut:
    """Choose what is shown of an axis, given the other one's length too, by the same arithmetic as the decoder."""
    zero, whole = torch.zeros_like(length), torch.full_like(length, side)
    if preprocess.fit == "crop":
        share = torch.minimum(length, other * side / other_side) * preprocess.crop_pct
        start = (length - share) / 2
        return Cut(start, start + share, whole, zero, side)
    if preprocess.fit == "pad":
        size = (length * torch.minimum(side / length, other_side / other)).round().clamp(1, side)
        return Cut(zero, length, size, ((side - size) / 2).floor(), side)
    return Cut(zero, length, whole, zero, side)


def _needed_rows(pixels: Tensor, cut: Cut, radius: float) -> tuple[Tensor, Cut]:
    """Leave out the rows above and below that nothing will be made of."""
    margin = ((cut.end - cut.start) / cut.size).clamp(min=1) * radius
    above = (cut.start - margin).floor().clamp(min=0)
    below = (cut.end + margin).ceil().clamp(max=pixels.shape[1])
    rows = above + _counted(below - above)
    return pixels.index_select(1, rows.long()), cut._replace(start=cut.start - above, end=cut.end - above)


def _resized(pixels: Tensor, cut: Cut, interpolation: str) -> Tensor:
    """Resize the first axis: (L, M) uint8 → (side, M) uint8; beside the picture its borders are repeated."""
    start, end = cut.start.float(), cut.end.float()  # Pillow keeps the box, and its length, in single precision
    scale = (end - start).double() / cut.size
    support = scale.clamp(min=1) * RADIUS[interpolation]
    places = (torch.arange(cut.side + -cut.side % BLOCK) - cut.before).clamp(min=0)
    centres = ((torch.minimum(places, cut.size - 1) + 0.5) * scale + start.double()).view(-1, BLOCK, 1)
    first = (centres[:, 0] - support + 0.5).floor().clamp(min=0)
    last = (centres[:, -1] + support + 0.5).floor().clamp(max=pixels.shape[0])
    positions = first + _counted((last - first).max())  # (blocks, K) of the source, as many for each block
    weights = _filter((positions[:, None] - centres + 0.5).abs() * (1 / scale.clamp(min=1)), interpolation)
    weights = weights * (positions < pixels.shape[0])[:, None]
    share = weights / weights.cumsum(2)[..., -1:] * UNIT  # Pillow adds them one after the other, too
    whole = (share + share.sign() * 0.5).trunc() / UNIT  # halves away from zero
    made = [
        (weight @ pixels.index_select(0, rows).double() + 0.5).clamp(0, 255).byte()
        for weight, rows in zip(whole, positions.clamp(max=pixels.shape[0] - 1).long(), strict=True)
    ]
    return torch.cat(made)[: cut.side]


def _filter(distance: Tensor, interpolation: str) -> Tensor:
    """How much a pixel counts at that distance from the middle: a triangle, or Keys' cubic with a = -1/2 (1981)."""
    if interpolation == "bilinear":
        return (1 - distance).clamp(min=0)
    near = (distance * 1.5 - 2.5) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * -0.5
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def _counted(length: Tensor) -> Tensor:
    """0, 1, … below `length`."""
    return torch.arange(length.long().item(), dtype=torch.float64)
