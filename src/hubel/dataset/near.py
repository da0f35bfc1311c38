"""Find images that show the same picture though their files differ: re-encoded, resized, brightened, slightly cropped.

Candidates come from 8x8 thumbnails: each image is compared with those that share one of its nearest landmarks. They
are ranked by how much of their difference a small shift and stretch explains, to first order (the tangent distance of
Simard, LeCun and Denker, 1993), and confirmed on 32x32 pixels after alignment (Lucas and Kanade, 1981). What counts as
the same picture depends on how alike the class is: trousers on black need a closer match than photographs.
"""

from __future__ import annotations

import itertools
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hubel.dataset.align import LUMA, averaging, blocks, confirm, tangent_basis

Pixels: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int64]

GRID = 8  # side of the thumbnails that candidates are searched with, in pixels
FLAT = 3.0  # a thumbnail with less standard deviation (of 255) shows nothing that could be compared
DIRECTIONS = 24  # of the thumbnails' 64 that candidates are searched in
LANDMARKS, NEIGHBOURS, CELL = 4, 3, 4000  # landmarks per image, candidates per landmark, images compared at once
TANGENT = 0.25  # candidates above are dropped; copies cropped by 5 % reach 0.12, those by 10 % 0.3
CLOSEST = 12_000  # candidates that are confirmed at most
RESIDUAL = 0.05  # confirmed below, in classes of dissimilar pictures; CIFAR-10's pairs up to 0.06 are one photograph
ALIKE = 0.15  # and below this share of what is typical of the class's closest pairs
PAIRS = 1200  # that this is estimated from


def near_pairs(images: Pixels, labels: Indices, members: Indices) -> tuple[Indices, Floats]:
    """Pairs of members that show the same picture.

    Args:
        images: (N, H, W, C) uint8, may be a memory map.
        labels: (N,) class of each.
        members: indices of the images to compare.

    Returns:
        (P, 2) indices, the smaller first, and (P,) residuals, ascending.
    """
    thumbs = _thumbnails(images, members)
    seen = thumbs.std((1, 2)) >= FLAT
    members, thumbs = members[seen], thumbs[seen]
    pairs = members[_by_tangent(thumbs, _candidates(thumbs))]
    if not len(pairs):
        return pairs, np.empty(0, np.float32)
    limits = _limits(images, labels, members, pairs)
    pairs = pairs[:CLOSEST]
    limit = np.minimum(limits[labels[pairs[:, 0]]], limits[labels[pairs[:, 1]]])
    residuals = confirm(images, pairs, limit)
    chosen = np.flatnonzero(residuals < limit)
    chosen = chosen[np.argsort(residuals[chosen], kind="stable")]
    return pairs[chosen], residuals[chosen]


# Thumbnails


def _thumbnails(images: Pixels, members: Indices) -> Floats:
    """(M, GRID, GRID) luma. Of large images every k-th pixel is enough for an average over a 64th of the area."""
    _, height, width, channels = images.shape
    step = max(1, min(height, width) // 64)
    rows = averaging(len(range(0, height, step)), GRID)
    weights = LUMA if channels == 3 else np.ones(channels, np.float32) / channels
    columns = np.kron(averaging(len(range(0, width, step)), GRID), weights[:, None])
    thumbs = np.empty((len(members), GRID, GRID), np.float32)
    for block in blocks(len(members), max(1, (1 << 24) // (height * width * channels))):
        chosen = members[block]
        span = images[chosen[0] : chosen[-1] + 1, ::step, ::step]
        taken = span if len(span) == len(chosen) else span[chosen - chosen[0]]
        lines = taken.reshape(len(chosen) * rows.shape[0], -1).astype(np.float32) @ columns
        thumbs[block] = np.matmul(rows.T, lines.reshape(len(chosen), -1, GRID))
    return thumbs


# Candidates


def _candidates(thumbs: Floats) -> Indices:
    """(P, 2) pairs of thumbnails that are among each other's nearest by correlation, apart from what all share."""
    if len(thumbs) < 2:
        return np.empty((0, 2), np.int64)
    points = _projected(_centred(thumbs))
    rng = np.random.default_rng(0)
    marks = points[rng.permutation(len(points))[: int(2 * len(points) ** 0.5)]]
    nearest = np.concatenate([_top(points[block] @ marks.T, LANDMARKS) for block in blocks(len(points), 4096)])
    owner = np.argsort(nearest.ravel(), kind="stable")
    bounds = np.searchsorted(nearest.ravel()[owner], np.arange(len(marks) + 1))
    found = [np.empty((0, 2), np.int64)]
    for start, stop in itertools.pairwise(bounds.tolist()):
        cell = owner[start:stop] // nearest.shape[1]
        for block in blocks(len(cell), CELL):
            found += _neighbours(points, cell[block])
    pairs = np.concatenate(found)
    keys = np.unique(pairs.min(1) * len(points) + pairs.max(1))  # sorted by the first image
    return np.stack([keys // len(points), keys % len(points)], axis=1)


def _projected(points: Floats) -> Floats:
    """The directions in which most of the difference between the images lies, scaled to length 1."""
    points = points - points.mean(0)
    _, directions = np.linalg.eigh(points.T @ points)
    points = points @ directions[:, -DIRECTIONS:]
    unit: Floats = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-6)
    return unit


def _centred(thumbs: Floats) -> Floats:
    """(M, GRID²) with mean 0 and length 1."""
    points = thumbs.reshape(len(thumbs), GRID * GRID) - thumbs.mean((1, 2))[:, None]
    unit: Floats = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-6)
    return unit


def _top(similarity: Floats, count: int) -> Indices:
    """(rows, count) columns of the largest values, largest first; `similarity` is spoilt."""
    rows = np.arange(len(similarity))
    best = np.empty((len(similarity), min(count, similarity.shape[1])), np.int64)
    for place in range(best.shape[1]):
        best[:, place] = similarity.argmax(1)
        similarity[rows, best[:, place]] = -2
    return best


def _neighbours(points: Floats, cell: Indices) -> list[Indices]:
    found = []
    inside = points[cell]
    for block in blocks(len(cell), 1024):
        similarity = inside[block] @ inside.T
        rows = np.arange(len(similarity))
        similarity[rows, rows + block.start] = -2
        best = _top(similarity, min(NEIGHBOURS, len(cell) - 1))
        found.append(np.stack([np.repeat(cell[block], best.shape[1]), cell[best.ravel()]], axis=1))
    return found


def _by_tangent(thumbs: Floats, pairs: Indices) -> Indices:
    """The pairs whose difference is explained by brightness, contrast, shift and stretch, the closest first."""
    points = _centred(thumbs)
    tangents = np.empty(len(pairs), np.float32)
    for block in blocks(len(pairs), 8192):  # sorted by their first image
        first, place = np.unique(pairs[block, 0], return_inverse=True)
        basis = np.linalg.qr(tangent_basis(thumbs[first])).Q
        shares = np.matmul(points[pairs[block, 1]][:, None], basis[place.ravel()])
        tangents[block] = 1 - (shares**2).sum((1, 2))
    order = np.argsort(tangents, kind="stable")
    return pairs[order[: np.searchsorted(tangents[order], TANGENT)]]


# What counts as the same


def _limits(images: Pixels, labels: Indices, members: Indices, pairs: Indices) -> Floats:
    """Residual below which two pictures count as the same, for each class.

    It is a quarter of the median residual of closest pairs, or of a tenth of the residual of random pairs if that is
    more: where most pictures have a copy, closest pairs are copies.

    Args:
        pairs: candidates, the closest first.
    """
    rng = np.random.default_rng(0)
    classes = np.unique(labels[members])
    count = min(60, PAIRS // len(classes))
    limits = np.full(int(labels.max()) + 1, _limit(images, labels, members, pairs, 200, rng), np.float32)
    for name in classes if count >= 20 else ():
        inside = members[labels[members] == name]
        if len(inside) >= 20:
            limits[name] = _limit(images, labels, inside, pairs, count, rng)
    return limits


def _limit(
    images: Pixels, labels: Indices, members: Indices, pairs: Indices, count: int, rng: np.random.Generator
) -> float:
    chosen = rng.choice(members, min(count, len(members)), replace=False)
    random = np.stack([chosen, rng.permutation(members)[: len(chosen)]], axis=1)
    random = random[(random[:, 0] != random[:, 1]) & (labels[random[:, 0]] == labels[random[:, 1]])]
    ends, place = np.unique(pairs, return_index=True)  # the first, which is the closest, pair of each image
    at = np.searchsorted(ends, chosen).clip(max=max(len(ends) - 1, 0))
    closest = pairs[place[at[ends[at] == chosen]] // 2] if len(ends) else pairs
    apart, close = (confirm(images, p, np.zeros(len(p), np.float32)) for p in (random, closest))
    close = np.concatenate([close, np.ones(len(chosen) - len(close), np.float32)])
    typical = max(float(np.median(close)), 0.1 * float(np.quantile(apart, 0.1)) if len(apart) else 0.0)
    return min(RESIDUAL, ALIKE * typical)
