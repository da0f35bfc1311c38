"""Find copies: files of the same bytes, and pictures that were saved again, resized, brightened or slightly cropped.

Candidates for the latter come from 8x8 thumbnails: each image is compared with those that share one of its nearest
landmarks. They are ranked by how much of their difference a small shift and stretch explains, to first order (the
tangent distance of Simard, LeCun and Denker, 1993), and confirmed on 32x32 pixels after moving one onto the other
(Lucas and Kanade, 1981). What counts as the same picture depends on how alike the class is: trousers on black need a
closer match than photographs. A residual is the share of the variance that remains unexplained: 0 for a copy, near 1
for unrelated pictures.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hubel.dataset.find import Catalog
from hubel.dataset.folder import few
from hubel.dataset.pack import Facts
from hubel.records import PARTS, Finding

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
ALIGN, DETAIL = 24, 32  # sides of the pictures for alignment and for confirmation, in pixels
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def copies_of(
    catalog: Catalog, images: Pixels, facts: Facts, usable: Indices, parts: Sequence[str] | None
) -> Iterator[Finding]:
    """Findings about files of the same bytes, and then about images that show the same picture.

    Args:
        images: (N, H, W, C) uint8; facts: (N,); usable: indices of the images that were decoded.
        parts: the part of each image; None if the data isn't split.
    """
    same = _same_bytes(facts[usable], usable)
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
    groups: list[list[int]] = []
    if catalog.groups is not None:
        members: dict[str, list[int]] = {}
        for i, name in enumerate(catalog.groups):
            members.setdefault(name, []).append(i)
        groups += members.values()
    for finding in findings:
        if finding.code in SAYINGS:
            groups.append([index[path] for path in finding.paths if path in index])
    return components(len(catalog.paths), groups)


def _same_bytes(known: Facts, usable: Indices) -> list[Indices]:
    """The images of each digest that occurs more than once, in the order of the first of each."""
    digests = known["sha256"]
    _, which, times = np.unique(digests, return_inverse=True, return_counts=True)
    several = np.flatnonzero((times[which] > 1) & (digests != b""))
    several = several[np.argsort(which[several], kind="stable")]
    groups = np.split(usable[several], np.flatnonzero(np.diff(which[several])) + 1)
    return sorted((same for same in groups if len(same)), key=lambda same: int(same[0]))


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
    inside = set() if parts is None else {parts[i] for i in same}
    held = [part for part in PARTS if part in inside]
    lower = () if parts is None else tuple(catalog.paths[i] for i in same if parts[i] != held[-1])
    evidence: dict[str, Any] = {"n": len(paths), "labels": labels, "parts": held}
    if residual is None:
        code, exclude = "label-conflict", paths
        if len(labels) == 1:
            code, exclude = ("leak", lower) if lower else ("duplicate", paths[1:])
    else:
        evidence["residual"] = round(residual, 4)
        code, exclude = ("near-leak", lower) if lower else ("near-conflict", ())
        if not lower and len(labels) == 1:
            code, exclude = "near-duplicate", paths[1:]
    said = {"labels": " and ".join(labels), "held": " and ".join(held), "lower": " and ".join(held[:-1])}
    return Finding(
        code=code,
        severity="note" if code == "near-duplicate" else "warning",
        message=SAYINGS[code].format(n=len(paths), names=few(paths), **said),
        paths=paths,
        exclude=exclude,
        evidence=evidence,
    )


def components(number: int, groups: Iterable[Sequence[int]]) -> Indices:
    """(number,) consecutive ids, equal for indices that are connected through the groups."""
    parent = list(range(number))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for group in groups:
        for i in group[1:]:
            a, b = root(group[0]), root(i)
            parent[max(a, b)] = min(a, b)
    return np.unique([root(i) for i in range(number)], return_inverse=True)[1].astype(np.int64).reshape(number)


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
    thumbs = _shrunk(images, members, (GRID, GRID), _luma(images), np.float32)[..., 0]
    seen = thumbs.std((1, 2)) >= FLAT
    members, thumbs = members[seen], thumbs[seen]
    pairs = members[_by_tangent(thumbs, _candidates(thumbs))]
    if not len(pairs):
        return pairs, np.empty(0, np.float32)
    limits = _limits(images, labels, members, pairs)
    pairs = pairs[:CLOSEST]
    limit = limits[labels[pairs]].min(1)
    residuals = _confirm(images, pairs, limit)
    chosen = np.flatnonzero(residuals < limit)
    chosen = chosen[np.argsort(residuals[chosen], kind="stable")]
    return pairs[chosen], residuals[chosen]


# Candidates


def _candidates(thumbs: Floats) -> Indices:
    """(P, 2) pairs of thumbnails that are among each other's nearest by correlation, apart from what all share."""
    if len(thumbs) < 2:
        return np.empty((0, 2), np.int64)
    points = _centred(thumbs) - _centred(thumbs).mean(0)
    points = _unit(points @ np.linalg.eigh(points.T @ points)[1][:, -DIRECTIONS:])  # where most of the difference lies
    rng = np.random.default_rng(0)
    marks = points[rng.permutation(len(points))[: int(2 * len(points) ** 0.5)]]
    nearest = np.concatenate([_top(points[block] @ marks.T, LANDMARKS) for block in _blocks(len(points), 4096)])
    owner = np.argsort(nearest.ravel(), kind="stable")
    bounds = np.searchsorted(nearest.ravel()[owner], np.arange(len(marks) + 1))
    found = [np.empty((0, 2), np.int64)]
    for start, stop in itertools.pairwise(bounds.tolist()):
        cell = owner[start:stop] // nearest.shape[1]
        for block in _blocks(len(cell), CELL):
            found += _neighbours(points, cell[block])
    pairs = np.concatenate(found)
    keys = np.unique(pairs.min(1) * len(points) + pairs.max(1))  # sorted by the first image
    return np.stack([keys // len(points), keys % len(points)], axis=1)


def _centred(thumbs: Floats) -> Floats:
    """(M, GRID²) with mean 0 and length 1."""
    return _unit(thumbs.reshape(len(thumbs), GRID * GRID) - thumbs.mean((1, 2))[:, None])


def _unit(points: Floats) -> Floats:
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
    for block in _blocks(len(cell), 1024):
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
    for block in _blocks(len(pairs), 8192):  # sorted by their first image
        first, place = np.unique(pairs[block, 0], return_inverse=True)
        basis = np.linalg.qr(_tangent_basis(thumbs[first])).Q
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
    apart, close = (_confirm(images, p, np.zeros(len(p), np.float32)) for p in (random, closest))
    close = np.concatenate([close, np.ones(len(chosen) - len(close), np.float32)])
    typical = max(float(np.median(close)), 0.1 * float(np.quantile(apart, 0.1)) if len(apart) else 0.0)
    return min(RESIDUAL, ALIKE * typical)


# Comparing two pictures after moving one onto the other, many pairs at once


def _confirm(images: Pixels, pairs: Indices, limit: Floats) -> Floats:
    """(P,) residuals: of ALIGN pixels of luma, and for pairs that come near their limit of DETAIL pixels in colour."""
    if not len(pairs):
        return np.empty(0, np.float32)
    indices, place = np.unique(pairs, return_inverse=True)
    place, sides = place.reshape(pairs.shape), [min(side, DETAIL) for side in images.shape[1:3]]
    small: Pixels = _shrunk(images, indices, sides, np.eye(images.shape[3], dtype=np.float32), np.uint8)
    grey: Floats = _shrunk(small, np.arange(len(small)), (ALIGN, ALIGN), _luma(images), np.float32)
    residuals = np.ones(len(pairs), np.float32)
    for block in _blocks(len(pairs), 256):
        first, other = place[block].T
        warp = np.zeros((len(first), 4), np.float32)
        rough = _unexplained(grey[first], np.ones((len(first), ALIGN, ALIGN), np.float32), grey[other])
        rest = np.flatnonzero(rough >= limit[block])  # those below their limit as they lie aren't moved
        moved = _align(grey[first[rest]], grey[other[rest]])
        after = _unexplained(*_warped(grey[first[rest]], moved), grey[other[rest]])
        better = after < rough[rest]
        warp[rest[better]], rough[rest[better]] = moved[better], after[better]
        near = np.flatnonzero(rough < 3 * limit[block])
        pictures, targets = small[first[near]].astype(np.float32), small[other[near]].astype(np.float32)
        rough[near] = _unexplained(*_warped(pictures, warp[near]), targets)
        residuals[block] = rough
    return residuals


def _align(first: Floats, other: Floats) -> Floats:
    """(n, 4) stretch and shift, along width and height each, under which `first` looks most like `other`."""
    warp = np.zeros((len(first), 4), np.float32)
    damping = 1e-3 * np.eye(6, dtype=np.float32)
    for _ in range(3):
        moved, inside = _warped(first, warp)
        columns = _tangent_basis(moved[..., 0])
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

    padded = np.pad(first, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")  # what a slight blur takes away is detail
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    a, detail, b = centred(first), centred(first - around * np.float32(0.25)), centred(other)
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


def _averaging(size: int, side: int) -> Floats:
    """(size, side) weights that average `size` pixels to `side`."""
    edges = np.linspace(0, size, side + 1)
    low, high = np.maximum.outer(np.arange(size), edges[:-1]), np.minimum.outer(np.arange(1, size + 1), edges[1:])
    overlap = np.maximum(high - low, 0)
    weights: Floats = (overlap / overlap.sum(0)).astype(np.float32)
    return weights


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _shrunk(images: Pixels, indices: Indices, sides: Sequence[int], mixing: Floats, dtype: type[Any]) -> Any:
    """(n, *sides, K) of the given images, averaged over areas, their channels mixed by (C, K) weights.

    Of large images every k-th pixel is enough for an average over so many.
    """
    _, height, width, channels = images.shape
    step = max(1, min(height, width) // (8 * max(sides)))
    rows = _averaging(len(range(0, height, step)), sides[0]).T
    columns = np.kron(_averaging(len(range(0, width, step)), sides[1]), mixing)
    small = np.empty((len(indices), *sides, mixing.shape[1]), dtype)
    for block in _blocks(len(indices), max(1, (1 << 24) // (height * width * channels))):
        chosen = indices[block]
        span = images[chosen[0] : chosen[-1] + 1, ::step, ::step]
        taken = (span if len(span) == len(chosen) else span[chosen - chosen[0]]).astype(np.float32)
        lines = np.matmul(rows, taken.reshape(len(chosen), rows.shape[1], -1))
        mixed = np.matmul(lines, columns).reshape(small[block].shape)
        small[block] = np.rint(mixed) if dtype is np.uint8 else mixed
    return small


def _luma(images: Pixels) -> Floats:
    """(C, 1) weights of the channels in a pixel's brightness."""
    channels = images.shape[3]
    return (LUMA if channels == 3 else np.full(channels, 1 / channels, np.float32))[:, None]


def _tangent_basis(pictures: Floats) -> Floats:
    """(n, side², 6): constant, picture, and how the picture changes with stretch and shift along either axis."""
    side = pictures.shape[1]
    across = np.linspace(-1, 1, side, dtype=np.float32)
    half = np.float32((side - 1) / 2)  # derivatives are by coordinates in [-1, 1]
    down = np.gradient(pictures, axis=1) * half
    right = np.gradient(pictures, axis=2) * half
    columns = (np.ones_like(pictures), pictures, right * across, down * across[:, None], right, down)
    return np.stack(columns, axis=-1).reshape(len(pictures), side * side, 6)
