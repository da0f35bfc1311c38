"""Find copies: files of the same bytes, and pictures that were saved again, resized, brightened or slightly cropped.

Candidates for the latter come from 8x8 thumbnails: each image is compared with those that correlate most with it. They
are ranked by how much of their difference a small shift and stretch explains, to first order (the tangent distance of
Simard, LeCun and Denker, 1993), and confirmed on 32x32 pixels after moving one onto the other (Lucas and Kanade, 1981).
What counts as the same picture depends on how alike the class is: trousers on black need a closer match than
photographs. A residual is the share of the variance that remains unexplained: 0 for a copy, near 1 for unrelated ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from hubel.dataset.decode import Pixels
from hubel.dataset.find import Catalog
from hubel.dataset.folder import few, grouped
from hubel.dataset.groups import components
from hubel.dataset.pack import Facts
from hubel.records import PARTS, Finding

Floats: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int64]

GRID = 8  # side of the thumbnails that candidates are searched with, in pixels
FLAT = 3.0  # a thumbnail with less standard deviation (of 255) shows nothing that could be compared
DIRECTIONS = 24  # of the thumbnails' 64 that candidates are searched in
NEIGHBOURS = 4  # candidates per image
ROUGHLY = 0.5  # candidates may be so much further away than the nearest: ten times faster
TANGENT = 0.25  # candidates above are dropped; copies cropped by 5 % reach 0.12, those by 10 % 0.3
CLOSEST = 12_000  # candidates that are confirmed at most
RESIDUAL = 0.05  # confirmed below, in classes of dissimilar pictures; CIFAR-10's pairs up to 0.06 are one photograph
ALIKE = 0.15  # and below this share of what is typical of the class's closest pairs
PAIRS = 1200  # that this is estimated from
ALIGN, DETAIL = 24, 32  # sides of the pictures for alignment and for confirmation, in pixels
DAMPING = 1e-4  # of least squares, relative to the columns' lengths


def copies_of(
    catalog: Catalog, images: Pixels, facts: Facts, usable: Indices, parts: Sequence[str] | None
) -> Iterator[Finding]:
    """Findings about files of the same bytes, and then about images that show the same picture.

    Args:
        images: (N, H, W, C) uint8; facts: (N,); usable: indices of the images that were decoded.
        parts: the part of each image; None if the data isn't split.
    """
    digests = facts["sha256"]
    groups = grouped(usable.tolist(), lambda i: bytes(digests[i]))
    same = [np.array(group) for digest, group in groups.items() if digest and len(group) > 1]
    for group in same:
        yield _finding(catalog, group, parts, None)
    first = np.setdiff1d(usable, np.concatenate([usable[:0], *(group[1:] for group in same)]))
    pairs, residuals = near_pairs(images, catalog.labels, first)
    component = components(len(catalog.paths), pairs.tolist())
    for name in np.unique(component[pairs]):
        inside = component[pairs[:, 0]] == name
        yield _finding(catalog, np.unique(pairs[inside]), parts, float(residuals[inside].max()))


def groups_from(findings: Iterable[Finding], catalog: Catalog) -> Indices:
    """(N,) group of each image: copies of any kind, and the groups of a CSV, belong on the same side of a split."""
    index = {path: i for i, path in enumerate(catalog.paths)}
    copies = [[index[path] for path in f.paths if path in index] for f in findings if f.code in SAYINGS]
    members = [] if catalog.groups is None else grouped(range(len(index)), catalog.groups.__getitem__).values()
    return components(len(index), [*members, *copies])


# Of copies: the image or nearly the image, then its labels, parts or number, its paths and the part to keep out
SAYINGS = {
    "label-conflict": "The same image is labelled {labels}: {names}; keep the right one.",
    "leak": "The same image is in {held}: {names}; the score counts it as new although it was learned: leave the copy "
    "in {lower} out.",
    "duplicate": "{n} files are the same image: {names}; keep one.",
    "near-conflict": "Nearly the same image is labelled {labels}: {names}; look which is right.",
    "near-leak": "Nearly the same image is in {held}: {names}; the score may count as new what was learned: leave the "
    "one in {lower} out.",
    "near-duplicate": "{n} images are nearly the same: {names}; they count as one when the data is split.",
}


def _finding(catalog: Catalog, same: Indices, parts: Sequence[str] | None, residual: float | None) -> Finding:
    """Say of copies what is wrong with them; `residual` is the least alike pair's, None for files of the same bytes."""
    paths = tuple(catalog.paths[i] for i in same)
    labels = [catalog.classes[k] for k in np.unique(catalog.labels[same])]
    held = [] if parts is None else [part for part in PARTS if part in {parts[i] for i in same}]
    lower = () if parts is None else tuple(catalog.paths[i] for i in same if parts[i] != held[-1])
    evidence: dict[str, Any] = {"n": len(paths), "labels": labels, "parts": held}
    conflict, leak, duplicate = list(SAYINGS)[:3] if residual is None else list(SAYINGS)[3:]
    if residual is not None:
        evidence["residual"] = round(residual, 4)
    if len(labels) > 1 and (residual is None or not lower):
        code, exclude = conflict, paths if residual is None else ()
    else:
        code, exclude = (leak, lower) if lower else (duplicate, paths[1:])
    said = {"labels": " and ".join(labels), "held": " and ".join(held), "lower": " and ".join(held[:-1])}
    return Finding(
        code=code,
        severity="note" if code == "near-duplicate" else "warning",
        message=SAYINGS[code].format(n=len(paths), names=few(paths), **said),
        paths=paths,
        exclude=exclude,
        evidence=evidence,
    )


# Pictures that are nearly the same


def near_pairs(images: Pixels, labels: Indices, members: Indices) -> tuple[Indices, Floats]:
    """Pairs of members that show the same picture.

    Args:
        images: (N, H, W, C) uint8, may be a memory map.
        labels: (N,) class of each.
        members: indices of the images to compare.

    Returns:
        (P, 2) indices, the smaller first, and (P,) residuals, ascending.
    """
    thumbs = _shrunk(images, members, (GRID, GRID), "F")
    seen = thumbs.std((1, 2, 3)) >= FLAT
    members, thumbs = members[seen], thumbs[seen]
    pairs = members[_candidates(thumbs)] if len(members) > 1 else np.empty((0, 2), np.int64)
    if not len(pairs):
        return pairs, np.empty(0, np.float32)
    limits = _limits(images, labels, members, pairs)
    pairs = pairs[:CLOSEST]
    limit = limits[labels[pairs]].min(1)
    residuals = _residuals(images, pairs, limit)
    chosen = np.flatnonzero(residuals < limit)
    chosen = chosen[np.argsort(residuals[chosen], kind="stable")]
    return pairs[chosen], residuals[chosen]


def _candidates(thumbs: Floats) -> Indices:
    """(P, 2) nearest neighbours by correlation, apart from what all share, that tangents explain; the closest first."""
    from scipy.spatial import cKDTree

    points = thumbs.reshape(len(thumbs), -1) - thumbs.mean((1, 2))
    points = points / np.linalg.norm(points, axis=1, keepdims=True)
    points = points - points.mean(0)
    points = points @ np.linalg.eigh(points.T @ points)[1][:, -DIRECTIONS:]  # where most of the difference lies
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-6)
    near = cKDTree(points).query(points, NEIGHBOURS + 1, eps=ROUGHLY, workers=-1)[1]
    pairs = np.stack([np.repeat(np.arange(len(points)), NEIGHBOURS + 1), near.ravel()], axis=1)
    pairs = pairs[(pairs[:, 1] < len(points)) & (pairs[:, 0] != pairs[:, 1])]  # fewer images have fewer neighbours
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    left = np.empty(len(pairs), np.float32)
    for block in _blocks(len(pairs), 8192):
        first, other = pairs[block].T
        left[block] = _fitted(_tangent_basis(thumbs[first]), thumbs[other], np.ones_like(thumbs[first]))[1]
    order = np.argsort(left, kind="stable")
    return pairs[order[: np.searchsorted(left[order], TANGENT)]]


def _limits(images: Pixels, labels: Indices, members: Indices, pairs: Indices) -> Floats:
    """Residual below which two pictures count as the same, for each class.

    It is a share of the median residual of closest pairs, or of a tenth of the residual of random pairs if that is
    more: where most pictures have a copy, closest pairs are copies.

    Args:
        pairs: candidates, the closest first.
    """
    rng = np.random.default_rng(0)
    ends, place = np.unique(pairs, return_index=True)  # the first, which is the closest, pair of each image
    closest = dict(zip(ends.tolist(), pairs[place // 2], strict=True))

    def limit(among: Indices, count: int) -> float:
        chosen = rng.choice(among, min(count, len(among)), replace=False)
        random = np.stack([chosen, rng.permutation(among)[: len(chosen)]], axis=1)
        random = random[(random[:, 0] != random[:, 1]) & (labels[random[:, 0]] == labels[random[:, 1]])]
        known = [closest[i] for i in chosen.tolist() if i in closest]
        close = np.ones(len(chosen), np.float32)
        close[: len(known)] = _residuals(images, np.array(known, np.int64).reshape(-1, 2))
        apart = float(np.quantile(_residuals(images, random), 0.1)) if len(random) else 0.0
        return min(RESIDUAL, ALIKE * max(float(np.median(close)), 0.1 * apart))

    classes = np.unique(labels[members])
    count = min(60, PAIRS // len(classes))
    limits = np.full(int(labels.max()) + 1, limit(members, 200), np.float32)
    for name in classes if count >= 20 else ():
        inside = members[labels[members] == name]
        if len(inside) >= 20:
            limits[name] = limit(inside, count)
    return limits


# Comparing two pictures after moving one onto the other, many pairs at once


def _residuals(images: Pixels, pairs: Indices, limit: Floats | None = None) -> Floats:
    """(P,) residuals: of ALIGN pixels of luma, and for pairs that come near their limit of DETAIL pixels in colour."""
    residuals = np.ones(len(pairs), np.float32)
    indices, place = np.unique(pairs, return_inverse=True)
    place = place.reshape(pairs.shape)
    grey = _shrunk(images, indices, (ALIGN, ALIGN), "F")
    for block in _blocks(len(pairs), 256):
        first, other = (grey[side] for side in place[block].T)
        warp, lying = _aligned(first, other), _unexplained(first, np.ones_like(first[..., 0]), other)
        moved = _unexplained(*_warped(first, warp), other)
        warp[lying <= moved] = 0
        residuals[block] = np.minimum(lying, moved)
        near = np.arange(len(pairs))[block][residuals[block] < 3 * limit[block]] if limit is not None else ()
        if len(near):
            sides, mode = (
                (min(images.shape[1], DETAIL), min(images.shape[2], DETAIL)),
                "L" if images.shape[3] == 1 else "RGB",
            )
            first, other = (_shrunk(images, side, sides, mode) for side in pairs[near].T)
            residuals[near] = _unexplained(*_warped(first, warp[near - block.start]), other)
    return residuals


def _aligned(first: Floats, other: Floats) -> Floats:
    """(n, 4) stretch and shift, along width and height each, under which `first` looks most like `other`."""
    warp = np.zeros((len(first), 4), np.float32)
    for _ in range(3):
        moved, inside = _warped(first, warp)
        step, _ = _fitted(_tangent_basis(moved), other, inside)
        contrast = np.where(np.abs(step[:, 1]) < 0.3, 1, step[:, 1])
        warp = np.clip(warp + step[:, 2:] / contrast[:, None], -0.25, 0.25).astype(np.float32)
    return warp


def _warped(pictures: Floats, warp: Floats) -> tuple[Floats, Floats]:
    """The pictures (n, H, W, C) stretched and shifted, and where (n, H, W) they are known, as 0 or 1."""
    n, height, width, _ = pictures.shape
    rows, row_inside = _sampling(height, warp[:, 1::2])
    columns, column_inside = _sampling(width, warp[:, ::2])
    lines = np.matmul(rows, pictures.reshape(n, height, -1)).reshape(pictures.shape)
    return np.matmul(columns[:, None], lines), row_inside[:, :, None] * column_inside[:, None]


def _sampling(size: int, warp: Floats) -> tuple[Floats, Floats]:
    """(n, size, size) weights that interpolate a line linearly, and (n, size) whether a sample lies inside."""
    half = (size - 1) / 2
    places = (np.linspace(-1, 1, size) * (1 + warp[:, :1]) + warp[:, 1:]) * half
    weights = 1 - np.abs(places.clip(-half, half)[..., None] + half - np.arange(size))
    return np.maximum(weights, 0).astype(np.float32), (np.abs(places) < half + 0.01).astype(np.float32)


def _unexplained(first: Floats, inside: Floats, other: Floats) -> Floats:
    """Share of the variance of `other` (n, H, W, C) that `first` doesn't explain by contrast, brightness and sharpness.

    It is 1 where they share less than three quarters of the area, or the contrast would have to change twofold.
    """
    padded = np.pad(first, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")  # what a slight blur takes away is detail
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    columns = np.stack([np.ones_like(first), first, first - around * np.float32(0.25)], axis=-1)
    (plain, rest), (sharpened, less) = (_fitted(columns[..., :k], other, inside) for k in (2, 3))
    comparable = (inside.mean((1, 2)) > 0.75) & (plain[:, 1] > 0.5) & (plain[:, 1] < 2)
    residuals: Floats = np.where(comparable, np.where(np.abs(sharpened[:, 2]) < 2, less, rest), np.float32(1))
    return residuals


def _fitted(columns: Floats, target: Floats, inside: Floats) -> tuple[Floats, Floats]:
    """Fit columns (n, H, W, C, k) to the target (n, H, W, C) by least squares, where (n, H, W) `inside` is 1.

    Returns:
        (n, k) coefficients; (n,) share of the target's variance that is left, 1 where it has next to none.
    """
    n, k = len(target), columns.shape[-1]
    columns, target = columns.reshape(n, -1, k), target.reshape(n, -1, 1)
    weight = np.repeat(inside.reshape(n, -1, 1), target.shape[1] // inside[0].size, axis=1)
    weighted = (columns * weight).swapaxes(1, 2)
    gram = weighted @ columns
    scale = np.sqrt(np.maximum(np.einsum("nkk->nk", gram), 1e-6))[..., None]
    unit = gram / (scale * scale.swapaxes(1, 2)) + DAMPING * np.eye(k, dtype=np.float32)
    found = np.linalg.solve(unit, weighted @ target / scale) / scale
    count = np.maximum(weight.sum((1, 2)), 1)
    centred = target - ((target * weight).sum((1, 2)) / count)[:, None, None]
    left, variance = (((x**2) * weight).sum((1, 2)) for x in (target - columns @ found, centred))
    return found[..., 0], np.where(variance > count, left / np.maximum(variance, 1e-3), 1).astype(np.float32)


def _tangent_basis(pictures: Floats) -> Floats:
    """(n, S, S, 1, 6): constant, picture, and how the picture changes with stretch and shift along either axis."""
    across = np.linspace(-1, 1, pictures.shape[1], dtype=np.float32)[:, None]
    half = np.float32((pictures.shape[1] - 1) / 2)  # derivatives are by coordinates in [-1, 1]
    down, right = (np.gradient(pictures, axis=axis) * half for axis in (1, 2))
    return np.stack((np.ones_like(pictures), pictures, right * across, down * across[:, None], right, down), axis=-1)


def _shrunk(images: Pixels, indices: Indices, sides: tuple[int, int], mode: str) -> Floats:
    """(n, *sides, K) of the given images, averaged over areas; `mode` is Pillow's: ``RGB``, ``L``, or ``F`` of grey."""
    shrunk = np.empty((len(indices), *sides, 3 if mode == "RGB" else 1), np.float32)
    for place, index in enumerate(indices):
        picture = Image.fromarray(images[index] if images.shape[3] > 1 else images[index][..., 0])
        picture = picture.convert("L" if mode == "F" else mode).convert(mode)
        shrunk[place] = np.asarray(picture.resize(sides[::-1], Image.Resampling.BILINEAR)).reshape(shrunk.shape[1:])
    return shrunk


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
