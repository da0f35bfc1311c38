"""Random changes to a batch of training images, drawn per image and computed for the whole batch on its device.

All randomness is a function of (seed, epoch, sample), so that an image meets the same fate whatever batch it is in,
on whichever device, and whether or not a run was interrupted before.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hubel.dataset.config import Augmentation

MIRROR = 3  # the column of `draws_for` that decides about mirroring
DRAWS = 24  # random numbers per image and epoch; each change has its own columns, so that they stay independent


def uniform(seed: int, epoch: int, ids: Tensor, columns: int = DRAWS) -> Tensor:
    """Return (N, columns) float32 in [0, 1) that depend on nothing but (seed, epoch, id, column).

    A counter is mixed with the finaliser of SplitMix64 (Steele, Lea and Flood 2014), in wrapping 64-bit integers.

    Args:
        ids: (N,) int64.
    """
    counter = ids[:, None] * columns + torch.arange(columns, device=ids.device)
    key = _mix(torch.tensor(seed * 1_000_003 + epoch, device=ids.device))
    return _fraction(_mix(_mix(counter) ^ key))


def draws_for(seed: int, epoch: int, ids: Tensor) -> Tensor:
    """Return (N, DRAWS) like `uniform`, but for the mirror's column: drawn once, and turned over every other epoch.

    Whoever was mirrored is not in the next epoch, so that two epochs show all images and all mirror images (Jordan
    2024, "alternating flip").
    """
    draws, coin = uniform(seed, epoch, ids), uniform(seed, 0, ids)[:, MIRROR]
    draws[:, MIRROR] = coin if epoch % 2 == 0 else 1 - coin
    return draws


def _fraction(bits: Tensor) -> Tensor:
    return ((bits >> 40) & 0xFFFFFF).float() / 2**24


def _mix(x: Tensor) -> Tensor:
    x = x + (0x9E3779B97F4A7C15 - (1 << 64))
    x = (x ^ _shift(x, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ _shift(x, 27)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical, not arithmetic


def augment(images: Tensor, how: Augmentation, draws: Tensor, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Change a batch of images; colours stay in [0, 1].

    Args:
        images: (N, C, H, W) uint8. draws: (N, DRAWS) from `uniform`. size: side of the result in pixels.
        dtype: of the result: float32, or bfloat16, in which crops are sampled faster: to half a step of 255 on average.

    Returns:
        (N, C, size, size) in [0, 1].
    """
    if how.policy != "none":
        images = _policy(images, how.policy, draws[:, 16:22])
    if how.crop:
        how = replace(how, shift=how.shift + how.crop / images.shape[-1])
    x = _place(images, how, draws[:, 0:7], size, dtype)
    x = _recolour(x, how, draws[:, 7:10])
    if how.cutout:
        x = _cut_out(x, draws[:, 10], draws[:, 11], how.cutout)
    if how.erase:
        erased = draws[:, 13] < how.erase
        x = torch.where(erased[:, None, None, None] & _rectangles(draws, size), _noise(x, draws), x)
    return x


def is_mirrored(draws: Tensor) -> Tensor:
    """Return (N,) bool: which images are mirrored, where flips are on, given their draws (N, ≥ 4)."""
    return draws[:, MIRROR] < 0.5


def _place(images: Tensor, how: Augmentation, u: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Flip, shift, crop, rotate and resize with mirrored borders; from uint8 to values in [0, 1]."""
    zoom = _zoom(how, u[:, 0], u[:, 1])
    if how.scale is None and not how.rotate and images.shape[-1] == size == images.shape[-2]:
        return _shift_and_flip(images, how, u).to(dtype) * (1 / 255)
    angle = math.radians(how.rotate) * (2 * u[:, 2] - 1)
    mirror = torch.where(is_mirrored(u), -1.0, 1.0) if how.flip else torch.ones_like(angle)
    room = (1 - zoom).clamp(min=0) + 2 * how.shift
    centre = room * (2 * u[:, 4:6] - 1)
    shrink = images.shape[-1] // size
    if not how.rotate and shrink < 2 and dtype == torch.bfloat16:
        return _cropped(images, centre, torch.stack([zoom[:, 0] * mirror, zoom[:, 1]], 1), size)
    cos, sin = angle.cos(), angle.sin()
    row_x = torch.stack([zoom[:, 0] * cos * mirror, -zoom[:, 0] * sin, centre[:, 0]], 1)
    row_y = torch.stack([zoom[:, 1] * sin * mirror, zoom[:, 1] * cos, centre[:, 1]], 1)
    x = images * (1 / 255)
    grid = torch.stack([_positions(row_x, size), _positions(row_y, size)], -1)
    if shrink >= 2:  # sampling alone would alias
        x = F.avg_pool2d(x, shrink)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False).to(dtype)


def _positions(row: Tensor, size: int) -> Tensor:
    """One coordinate of an affine grid, (N, size, size), of its rows (N, 3): faster than `F.affine_grid`'s product."""
    place = _centres(size, row.device)
    across, down = row[:, :1] * place, row[:, 1:2] * place + row[:, 2:]
    return across[:, None, :] + down[:, :, None]


def _cropped(images: Tensor, centre: Tensor, zoom: Tensor, size: int) -> Tensor:
    """Sample upright rectangles as two matrix products: weights of rows, then of columns.

    Args:
        images: (N, C, H, W) uint8, fastest in channels-last order.
        centre, zoom: (N, 2) of x and y, as in an affine grid: an image spans -1 to 1, a negative zoom mirrors.

    Returns:
        (N, C, size, size) bfloat16 in [0, 1].
    """
    n, channels, height, width = images.shape
    columns = _weights(centre[:, 0], zoom[:, 0], width, size).bfloat16()
    rows = (_weights(centre[:, 1], zoom[:, 1], height, size) / 255).bfloat16()
    pixels = images.permute(0, 2, 3, 1).bfloat16()  # 0 to 255 are exact
    lines = (rows @ pixels.reshape(n, height, -1)).view(n, size, width, channels)
    planes = lines.permute(0, 3, 1, 2).reshape(n, channels * size, width)
    return (planes @ columns.mT).view(n, channels, size, size)


def _weights(centre: Tensor, zoom: Tensor, length: int, size: int) -> Tensor:
    """(N, size, length) float32: how much each of `length` pixels counts for each of `size` samples, bilinearly."""
    position = ((zoom[:, None] * _centres(size, zoom.device) + centre[:, None] + 1) * length - 1) / 2
    position = (position + 0.5).abs()  # mirrored at the borders, which lie half a pixel outside of the first and last
    position = (length - (length - position % (2 * length)).abs() - 0.5).clamp(0, length - 1)
    first = position.long().clamp(max=length - 2)
    share = (position - first)[..., None]
    weights = torch.zeros(len(zoom), size, length, device=zoom.device)
    return weights.scatter_(2, first[..., None], 1 - share).scatter_(2, first[..., None] + 1, share)


def _centres(size: int, device: torch.device) -> Tensor:
    """Where the pixels of a row lie that spans -1 to 1."""
    return (2 * torch.arange(size, device=device) + 1) / size - 1


def _zoom(how: Augmentation, u: Tensor, v: Tensor) -> Tensor:
    """Return (N, 2): which share of width and height is seen."""
    if how.scale is None:
        return torch.ones(len(u), 2, device=u.device)
    area = how.scale[0] + (how.scale[1] - how.scale[0]) * u
    aspect = torch.exp((2 * v - 1) * math.log(how.ratio) / 2)
    sides = torch.stack([area.sqrt() * aspect, area.sqrt() / aspect], 1)
    return sides.clamp(max=max(1.0, how.scale[1]))


def _shift_and_flip(x: Tensor, how: Augmentation, u: Tensor) -> Tensor:
    """Shift by whole pixels with mirrored borders, exact and cheaper than sampling."""
    if not how.shift and not how.flip:
        return x
    n, channels, height, width = x.shape
    reach = round(how.shift * width)
    top = (u[:, 4] * (2 * reach + 1)).long() - reach
    left = (u[:, 5] * (2 * reach + 1)).long() - reach
    rows = _mirrored(torch.arange(height, device=x.device) + top[:, None], height)
    columns = _mirrored(torch.arange(width, device=x.device) + left[:, None], width)
    if how.flip:
        columns = torch.where(is_mirrored(u)[:, None], columns.flip(1), columns)
    flat = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1).expand(n, channels, -1)
    return x.reshape(n, channels, -1).gather(2, flat).view(n, channels, height, width)


def _mirrored(position: Tensor, length: int) -> Tensor:
    """Fold positions outside of 0..length-1 back in, without repeating the border pixel."""
    position = position.abs()
    return torch.where(position >= length, 2 * (length - 1) - position, position).clamp(0, length - 1)


def _recolour(x: Tensor, how: Augmentation, u: Tensor) -> Tensor:
    """Brightness, contrast and saturation: together one affine map of an image's colours, (C, C) and (C, 1)."""
    if not (how.brightness or how.contrast or how.saturation):
        return x
    n, channels = x.shape[:2]
    brightness, contrast, saturation = (
        (1 + strength * (2 * u[:, i] - 1)).view(-1, 1, 1)
        for i, strength in enumerate((how.brightness, how.contrast, how.saturation))
    )
    colours = torch.eye(channels, device=x.device).expand(n, -1, -1)
    if how.saturation and channels == 3:  # towards the mean of the channels and away from it
        colours = 1 / 3 + (colours - 1 / 3) * saturation
    planes = x.reshape(n, channels, -1)
    mean = planes.sum((1, 2)).float() / planes[0].numel()  # `mean` would copy bfloat16 to float32
    mean = mean.view(-1, 1, 1) * brightness  # saturation and contrast leave it as it is
    offset, colours = mean * (1 - contrast), colours * (brightness * contrast)
    changed = torch.bmm(colours.to(x.dtype), planes).add_(offset.to(x.dtype))
    return changed.clamp_(0, 1).view(x.shape)


def _cut_out(x: Tensor, u: Tensor, v: Tensor, side: float) -> Tensor:
    """Blank a square an image, centred at (u, v), with grey (DeVries and Taylor 2017); part of it may lie outside."""
    rows, columns = ((torch.arange(n, device=x.device) + 0.5) / n for n in x.shape[-2:])
    down, across = (rows - u[:, None]).abs() < side / 2, (columns - v[:, None]).abs() < side / 2
    return x.masked_fill(down[:, None, :, None] & across[:, None, None, :], 0.5)


def _rectangles(draws: Tensor, size: int) -> Tensor:
    """(N, 1, size, size) bool: a rectangle an image, all of it inside, to be erased (Zhang et al. 2020).

    Its area is 2 to 33 % of the image's, its aspect ratio 0.3 to 3.3, or less where that would not fit.
    """
    area = 0.02 + 0.31 * draws[:, 12]
    aspect = torch.exp((2 * draws[:, 22] - 1) * math.log(3.3)).clamp(area, 1 / area)
    height = (size * (area * aspect).sqrt()).round().clamp(1, size)
    width = (size * size * area / height).round().clamp(1, size)
    rows, columns = (
        (place >= first[:, None]) & (place < (first + length)[:, None])
        for length, u in ((height, draws[:, 14]), (width, draws[:, 15]))
        for place, first in ((torch.arange(size, device=u.device), (u * (size - length + 1)).floor()),)
    )
    return rows[:, None, :, None] & columns[:, None, None, :]


def _noise(x: Tensor, draws: Tensor) -> Tensor:
    """Noise of x's shape in [0, 1), a value for each pixel and channel that depends on the image's draws alone."""
    key = (draws[:, 23] * 2**24).long() << 24 | (draws[:, 13] * 2**24).long()
    place = torch.arange(x[0].numel(), device=x.device)
    return _fraction(_mix(_mix(key)[:, None] + place)).view(x.shape).to(x.dtype)


BINS = 31  # steps that a magnitude is drawn from
MAGNITUDE = 9  # the step that RandAugment takes


@functools.cache
def torchvisions(policy: str) -> Any:
    """RandAugment or TrivialAugment of torchvision, whose table of operations and whose operations are called.

    torchvision is imported here and not above: it takes longer than torch itself, and most runs don't need it.
    """
    from torchvision.transforms import v2

    return v2.RandAugment() if policy == "rand" else v2.TrivialAugmentWide()


def _policy(images: Tensor, policy: str, u: Tensor) -> Tensor:
    """TrivialAugment: an operation of any magnitude (Müller and Hutter 2021). RandAugment: two of one (Cubuk 2020)."""
    if policy == "trivial":
        return _one_operation(images, policy, u[:, 0], (u[:, 1] * BINS).long(), u[:, 2])
    for i in (0, 2):
        steps = torch.full((len(u),), MAGNITUDE, device=u.device)
        images = _one_operation(images, policy, u[:, i], steps, u[:, i + 1])
    return images


def _one_operation(images: Tensor, policy: str, which: Tensor, steps: Tensor, sign: Tensor) -> Tensor:
    """Images that drew the same operation, magnitude and sign are changed together."""
    theirs, space = torchvisions(policy), list(torchvisions(policy)._AUGMENTATION_SPACE.items())
    alike: dict[tuple[str, float], list[int]] = {}
    drawn = zip((which * len(space)).long().tolist(), steps.tolist(), (sign < 0.5).tolist(), strict=True)
    for i, (place, step, negative) in enumerate(drawn):
        name, (magnitudes, signed) = space[place]
        table = magnitudes(BINS, *images.shape[-2:])
        size = 0.0 if table is None else float(table[step])
        alike.setdefault((name, -size if signed and negative else size), []).append(i)
    result = images.clone()
    for (name, size), chosen in alike.items():
        how = {"interpolation": theirs.interpolation, "fill": theirs._fill}
        result[chosen] = theirs._apply_image_or_video_transform(images[chosen], name, size, **how)
    return result


def mix(images: Tensor, targets: Tensor, how: Augmentation, seed: int, epoch: int, first: int) -> tuple[Tensor, Tensor]:
    """MixUp (Zhang et al. 2018) or CutMix (Yun et al. 2019) of each image with its neighbour in the batch.

    Args:
        images: (N, C, H, W) float. targets: (N, K) float, rows sum to 1. first: id of the batch's first sample.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) * 1_000_003 + first)
    coin = float(torch.rand((), generator=generator))
    cut = bool(how.cutmix) and (not how.mixup or coin < 0.5)
    alpha = how.cutmix if cut else how.mixup
    if not alpha:
        return images, targets
    gamma = torch._standard_gamma(torch.full((2,), alpha), generator=generator)
    share = float(gamma[0] / gamma.sum())
    if cut:
        height, width = images.shape[-2:]
        side = math.sqrt(1 - share)
        u, v = torch.rand(2, generator=generator).tolist()
        top, bottom = (round(min(max(u + s * side / 2, 0), 1) * height) for s in (-1, 1))
        left, right = (round(min(max(v + s * side / 2, 0), 1) * width) for s in (-1, 1))
        images = images.clone()
        images[:, :, top:bottom, left:right] = images.roll(1, 0)[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        images = share * images + (1 - share) * images.roll(1, 0)
    return images, share * targets + (1 - share) * targets.roll(1, 0)


def describe(how: Augmentation) -> str:
    """Say in words what is done to training images."""
    said = [
        how.flip and "mirrored left and right",
        how.shift and f"moved by up to {how.shift:.0%} of the side",
        how.crop and f"moved by up to {how.crop} pixels",
        how.scale and f"zoomed to {how.scale[0]:.0%} to {how.scale[1]:.0%} of the area",
        how.rotate and f"rotated by up to {how.rotate:g}° either way",
        (how.brightness or how.contrast or how.saturation) and "brightness, contrast and saturation changed",
        how.cutout and f"a square of {how.cutout:.0%} of the side blanked",
        how.erase and f"a random rectangle erased in {how.erase:.0%} of the images",
        how.mixup and "blended with another image (MixUp)",
        how.cutmix and "a rectangle replaced from another image (CutMix)",
        how.policy != "none" and {"rand": "RandAugment", "trivial": "TrivialAugment"}.get(how.policy),
    ]
    return ", ".join(str(s) for s in said if s) or "nothing is changed"
