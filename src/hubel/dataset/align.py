"""Compare two pictures after moving one onto the other (Lucas and Kanade, 1981), many pairs at once.

All residuals are shares of the variance that remain unexplained: 0 for a copy, near 1 for unrelated pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int64]

ALIGN, DETAIL = 24, 32  # sides of the pictures for alignment and for confirmation, in pixels
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def confirm(images: Pixels, pairs: Indices, limit: Floats) -> Floats:
    """(P,) residuals: of ALIGN pixels of luma, and for pairs that come near their limit of DETAIL pixels in colour."""
    if not len(pairs):
        return np.empty(0, np.float32)
    indices, place = np.unique(pairs, return_inverse=True)
    small, place = _shrunk(images, indices), place.reshape(pairs.shape)
    grey = np.concatenate([_grey(small[block]) for block in blocks(len(small), 1024)])
    residuals = np.ones(len(pairs), np.float32)
    for block in blocks(len(pairs), 256):
        first, other = place[block].T
        warp, rough = _aligned(grey[first], grey[other], limit[block])
        near = np.flatnonzero(rough < 3 * limit[block])
        pictures, targets = small[first[near]].astype(np.float32), small[other[near]].astype(np.float32)
        rough[near] = _unexplained(*_warped(pictures, warp[near]), targets)
        residuals[block] = rough
    return residuals


def _grey(pictures: Pixels) -> Floats:
    """(n, ALIGN, ALIGN, 1) luma of (n, H, W, C)."""
    _, height, width, channels = pictures.shape
    grey = pictures.astype(np.float32) @ (LUMA if channels == 3 else np.ones(channels, np.float32) / channels)
    small: Floats = np.matmul(np.matmul(averaging(height, ALIGN).T, grey), averaging(width, ALIGN))
    return small[..., None]


def _aligned(first: Floats, other: Floats, limit: Floats) -> tuple[Floats, Floats]:
    """Warp (n, 4) and residual (n,); pairs that are below their limit as they lie aren't moved."""
    warp = np.zeros((len(first), 4), np.float32)
    residual = _unexplained(first, np.ones(first.shape[:3], np.float32), other)
    rest = np.flatnonzero(residual >= limit)
    moved = _align(first[rest], other[rest])
    after = _unexplained(*_warped(first[rest], moved), other[rest])
    better = after < residual[rest]
    warp[rest[better]], residual[rest[better]] = moved[better], after[better]
    return warp, residual


def _align(first: Floats, other: Floats) -> Floats:
    """(n, 4) stretch and shift, along width and height each, under which `first` looks most like `other`."""
    warp = np.zeros((len(first), 4), np.float32)
    damping = 1e-3 * np.eye(6, dtype=np.float32)
    for _ in range(3):
        moved, inside = _warped(first, warp)
        columns = tangent_basis(moved[..., 0])
        weighted = (columns * inside.reshape(len(first), ALIGN * ALIGN, 1)).transpose(0, 2, 1)
        gram = np.matmul(weighted, columns)
        right = np.matmul(weighted, other.reshape(len(first), ALIGN * ALIGN, 1))
        scale = np.sqrt(np.maximum(np.einsum("nii->ni", gram), 1e-6))
        unit = gram / (scale[:, :, None] * scale[:, None, :]) + damping
        step = np.linalg.solve(unit, right / scale[..., None])[..., 0] / scale
        contrast = np.where(np.abs(step[:, 1]) < 0.3, 1, step[:, 1])
        warp = np.clip(warp + step[:, 2:] / contrast[:, None], -0.25, 0.25).astype(np.float32)
    return warp


def _warped(pictures: Floats, warp: Floats) -> tuple[Floats, Floats]:
    """The pictures (n, H, W, C) stretched and shifted, and where (n, H, W) they are known."""
    rows, row_inside = _places(pictures.shape[1], warp[:, 1], warp[:, 3])
    columns, column_inside = _places(pictures.shape[2], warp[:, 0], warp[:, 2])
    moved = _sampled(pictures, rows)
    moved = _sampled(moved.swapaxes(1, 2), columns).swapaxes(1, 2)
    inside = (row_inside[:, :, None] & column_inside[:, None, :]).astype(np.float32)
    return moved, inside


def _places(size: int, stretch: Floats, shift: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(n, size) where to sample, in pixels, and whether that lies inside."""
    across = np.linspace(-1, 1, size, dtype=np.float32)
    places = (across * (1 + stretch[:, None]) + shift[:, None] + 1) * ((size - 1) / 2)
    inside = (places > -0.01) & (places < size - 0.99)
    return np.clip(places, 0, size - 1).astype(np.float32), inside


def _sampled(pictures: Floats, places: Floats) -> Floats:
    """Linear interpolation of (n, H, …) along its second axis."""
    below = np.minimum(places.astype(np.int64), max(pictures.shape[1] - 2, 0))
    weight = (places - below)[..., None, None]
    rows = np.arange(len(pictures))[:, None]
    above = np.minimum(below + 1, pictures.shape[1] - 1)
    sampled: Floats = pictures[rows, below] * (1 - weight) + pictures[rows, above] * weight
    return sampled


def _unexplained(first: Floats, inside: Floats, other: Floats) -> Floats:
    """Share of the variance of `other` (n, H, W, C) that `first` doesn't explain by contrast, brightness and sharpness.

    It is 1 where they share less than three quarters of the area, or the contrast would have to change twofold.
    """
    shape = (len(first), first.size // max(len(first), 1))
    weight = np.broadcast_to(inside[..., None], first.shape).reshape(shape)
    total = np.maximum(weight.sum(1), 1)

    def centred(pictures: Floats) -> Floats:
        flat = pictures.reshape(shape) * weight
        flat -= (flat.sum(1) / total)[:, None] * weight
        return flat

    a, detail, b = centred(first), centred(_details(first)), centred(other)
    aa, bb, dd, ab, ad, bd = (
        np.einsum("np,np->n", x, y) for x, y in ((a, a), (b, b), (detail, detail), (a, b), (a, detail), (b, detail))
    )
    determinant = np.maximum(aa * dd - ad * ad, 1e-3)
    contrast, sharpness = (ab * dd - bd * ad) / determinant, (bd * aa - ab * ad) / determinant
    plain = ab / np.maximum(aa, 1e-3)
    comparable = (inside.mean((1, 2)) > 0.75) & (plain > 0.5) & (plain < 2) & (bb > total)
    left = np.where(np.abs(sharpness) < 2, bb - contrast * ab - sharpness * bd, bb - plain * ab)
    residuals: Floats = np.where(comparable, np.maximum(left, 0) / np.maximum(bb, 1e-3), 1).astype(np.float32)
    return residuals


def _details(pictures: Floats) -> Floats:
    """What a slight blur takes away from (n, H, W, C)."""
    padded = np.pad(pictures, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    detail: Floats = pictures - around * np.float32(0.25)
    return detail


# Sizes and derivatives


def averaging(size: int, side: int) -> Floats:
    """(size, side) weights that average `size` pixels to `side`."""
    edges = np.linspace(0, size, side + 1)
    low, high = np.maximum.outer(np.arange(size), edges[:-1]), np.minimum.outer(np.arange(1, size + 1), edges[1:])
    overlap = np.maximum(high - low, 0)
    weights: Floats = (overlap / overlap.sum(0)).astype(np.float32)
    return weights


def blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _shrunk(images: Pixels, indices: Indices) -> Pixels:
    """(P, side, side, C) of the given images; the side is DETAIL unless the images are smaller."""
    _, height, width, channels = images.shape
    if max(height, width) <= DETAIL:
        return images[indices]
    rows, columns = averaging(height, min(height, DETAIL)).T, averaging(width, min(width, DETAIL)).T
    small = np.empty((len(indices), len(rows), len(columns), channels), np.uint8)
    for block in blocks(len(indices), max(1, (1 << 22) // (height * width * channels))):
        taken = images[indices[block]].astype(np.float32)
        taken = np.matmul(rows, taken.reshape(len(taken), height, -1)).reshape(len(taken), len(rows), width, channels)
        small[block] = np.rint(np.matmul(columns, taken))
    return small


def tangent_basis(pictures: Floats) -> Floats:
    """(n, side², 6): constant, picture, and how the picture changes with stretch and shift along either axis."""
    side = pictures.shape[1]
    across = np.linspace(-1, 1, side, dtype=np.float32)
    half = np.float32((side - 1) / 2)  # derivatives are by coordinates in [-1, 1]
    down = np.gradient(pictures, axis=1) * half
    right = np.gradient(pictures, axis=2) * half
    columns = (np.ones_like(pictures), pictures, right * across, down * across[:, None], right, down)
    return np.stack(columns, axis=-1).reshape(len(pictures), side * side, 6)
