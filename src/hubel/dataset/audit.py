"""Look at the decoded images before anybody trains on them, and say what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hubel.as_json import from_json
from hubel.dataset.census import about_classes, about_kinds, about_one_colour, about_sizes
from hubel.dataset.facts import Facts
from hubel.dataset.find import Catalog
from hubel.dataset.folder import few
from hubel.dataset.near import near_pairs
from hubel.errors import DataError
from hubel.records import PARTS, Finding, Severity

Pixels: TypeAlias = npt.NDArray[np.uint8]
Indices: TypeAlias = npt.NDArray[np.int64]

COPIES = ("duplicate", "label-conflict", "leak", "near-duplicate", "near-conflict", "near-leak")


def audit(
    catalog: Catalog,
    images: Pixels,
    facts: Facts,
    reasons: Mapping[int, str],
    *,
    parts: Sequence[str] | None,
) -> tuple[Finding, ...]:
    """Findings about single images, copies, classes, sizes and kinds of images.

    Args:
        images: (N, H, W, C) uint8 in the order of ``catalog.paths``, may be a memory map.
        facts: (N,) of each image; the reason why one isn't usable is in `reasons`.
        parts: the part of each image; None if the data isn't split, or as the catalog has it.
    """
    parts = catalog.parts if parts is None else parts
    usable = np.flatnonzero(facts["usable"])
    known = facts[usable]
    copies = _same_bytes(known, usable)
    first = np.setdiff1d(usable, np.concatenate([usable[:0], *(same[1:] for same in copies)]))
    return (
        *_unusable(catalog, reasons),
        *(_copy_finding(catalog, same, parts) for same in copies),
        *_near_findings(catalog, images, first, parts),
        *about_classes(catalog, usable, parts),
        *about_sizes(catalog, usable, known),
        *about_kinds(catalog, usable, known),
        *about_one_colour(catalog, images, usable),
    )


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
        if finding.code in COPIES:
            groups.append([index[path] for path in finding.paths if path in index])
    return _components(len(catalog.paths), groups)


def read_exclusions(path: str | Path) -> set[str]:
    """The paths to leave out, from a findings.json or from a text with one path a line and comments after #.

    Raises:
        DataError: the file can't be read as either.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"The exclusions {path} can't be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"The exclusions {path} are not UTF-8 text: give a findings.json or a list of paths."
        ) from error
    if not text.lstrip().startswith(("[", "{")) and Path(path).suffix.lower() != ".json":
        lines = (line.strip() for line in text.splitlines())
        return {line for line in lines if line and not line.startswith("#")}
    try:
        values = json.loads(text)
        if not isinstance(values, list):
            raise ValueError("expected a list of findings")
        return {name for value in values for name in from_json(Finding, value).exclude}
    except ValueError as error:
        raise DataError(f"The exclusions {path} are no findings.json: {error}.") from error


# Unusable images and copies


def _unusable(catalog: Catalog, reasons: Mapping[int, str]) -> Iterator[Finding]:
    for i, reason in sorted(reasons.items()):
        path = catalog.paths[i]
        yield Finding(
            code="unreadable",
            severity="warning",
            message=f"{path} can't be used and is left out: {reason}.",
            paths=(path,),
            exclude=(path,),
            left_out=True,
            evidence={"reason": reason},
        )


def _same_bytes(known: Facts, usable: Indices) -> list[Indices]:
    """The images of each digest that occurs more than once, in the order of the first of each."""
    digests = known["sha256"]
    _, which, times = np.unique(digests, return_inverse=True, return_counts=True)
    several = np.flatnonzero((times[which] > 1) & (digests != b""))
    several = several[np.argsort(which[several], kind="stable")]
    groups = np.split(usable[several], np.flatnonzero(np.diff(which[several])) + 1)
    return sorted((same for same in groups if len(same)), key=lambda same: int(same[0]))


def _copy_finding(catalog: Catalog, same: Indices, parts: Sequence[str] | None) -> Finding:
    """Say of files with the same bytes what is wrong with that."""
    paths = tuple(catalog.paths[i] for i in same)
    labels = [catalog.classes[k] for k in np.unique(catalog.labels[same])]
    held, lower = _held(same, parts)
    if len(labels) > 1:
        message = f"The same image is labelled {' and '.join(labels)}: {few(paths)}; keep the right one."
        return _copies("label-conflict", message, paths, paths, {"labels": labels})
    if lower:
        message = (
            f"The same image is in {' and '.join(held)}: {few(paths)}; the score counts it as new although it was "
            f"learned: leave the copy in {' and '.join(held[:-1])} out."
        )
        return _copies("leak", message, paths, tuple(catalog.paths[i] for i in lower), {"parts": held})
    message = f"{len(paths)} files are the same image: {few(paths)}; keep one."
    return _copies("duplicate", message, paths, paths[1:], {})


def _near_findings(
    catalog: Catalog, images: Pixels, members: Indices, parts: Sequence[str] | None
) -> Iterator[Finding]:
    pairs, residuals = near_pairs(images, catalog.labels, members)
    group = _components(len(catalog.paths), pairs.tolist())
    together: dict[int, list[int]] = {}
    for i in np.unique(pairs).tolist():
        together.setdefault(int(group[i]), []).append(i)
    worst = dict.fromkeys(together, 0.0)
    for (i, _), residual in zip(pairs.tolist(), residuals.tolist(), strict=True):
        worst[int(group[i])] = max(worst[int(group[i])], residual)
    for name, same in sorted(together.items()):
        yield _near_finding(catalog, np.array(same), parts, worst[name])


def _near_finding(catalog: Catalog, same: Indices, parts: Sequence[str] | None, residual: float) -> Finding:
    """Say of images that show the same picture what is wrong with that."""
    paths = tuple(catalog.paths[i] for i in same)
    labels = [catalog.classes[k] for k in np.unique(catalog.labels[same])]
    held, lower = _held(same, parts)
    evidence = {"residual": round(residual, 4), "labels": labels, "parts": held}
    if lower:
        message = (
            f"Nearly the same image is in {' and '.join(held)}: {few(paths)}; the score may count as new what was "
            f"learned: leave the one in {' and '.join(held[:-1])} out."
        )
        return _copies("near-leak", message, paths, tuple(catalog.paths[i] for i in lower), evidence)
    if len(labels) > 1:
        message = f"Nearly the same image is labelled {' and '.join(labels)}: {few(paths)}; look which is right."
        return _copies("near-conflict", message, paths, (), evidence)
    message = f"{len(paths)} images are nearly the same: {few(paths)}; they count as one when the data is split."
    return _copies("near-duplicate", message, paths, paths[1:], evidence)


def _held(same: Indices, parts: Sequence[str] | None) -> tuple[list[str], list[int]]:
    """The parts that copies are in, training first, and those copies that aren't in the last of these."""
    if parts is None:
        return [], []
    inside = {parts[i] for i in same}
    held = [part for part in PARTS if part in inside]
    return list(held), [int(i) for i in same if parts[i] != held[-1]]


def _copies(
    code: str, message: str, paths: tuple[str, ...], exclude: tuple[str, ...], evidence: dict[str, Any]
) -> Finding:
    severity: Severity = "note" if code == "near-duplicate" else "warning"
    return Finding(
        code=code,
        severity=severity,
        message=message,
        paths=paths,
        exclude=exclude,
        evidence={**evidence, "n": len(paths)},
    )


def _components(number: int, groups: Iterable[Sequence[int]]) -> Indices:
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
