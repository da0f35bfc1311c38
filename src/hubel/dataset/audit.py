"""Look at the decoded images before anybody trains on them, and say what is wrong with them."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hubel.as_json import from_json
from hubel.dataset.copies import Indices, copies_of
from hubel.dataset.decode import Pixels
from hubel.dataset.depth import Range
from hubel.dataset.find import Catalog
from hubel.dataset.folder import count, few, grouped
from hubel.dataset.formats import OF_A_KIND
from hubel.dataset.groups import torn_groups
from hubel.dataset.pack import Facts
from hubel.dataset.undecoded import unreadable
from hubel.errors import DataError
from hubel.records import Finding, Severity
from hubel.text import plain

SMALL_CLASS = 10  # images; with fewer, a class's recall says next to nothing
UNEVEN, VERY_UNEVEN = 3.0, 10.0  # largest class by smallest: a note, a warning
TINY = 8  # pixels
LONG = 5.0  # aspect ratio
OUTLIER = 8.0  # longer side against the median, either way
CONSTANT = 2  # grey levels that a one-colour image may vary by


def audit(
    catalog: Catalog,
    images: Pixels,
    facts: Facts,
    reasons: Mapping[int, str],
    *,
    parts: Sequence[str] | None,
    scaled: Range | None = None,
) -> tuple[Finding, ...]:
    """Findings about single images, copies, classes, sizes and kinds of images.

    Args:
        images: (N, H, W, C) uint8 in the order of ``catalog.paths``, may be a memory map.
        facts: (N,) of each image; the reason why one isn't usable is in `reasons`.
        parts: the part of each image; None if the data isn't split, or as the catalog has it.
        scaled: the values that became 0 and 255 in images of more than 8 bits; None: each image's own.
    """
    parts = catalog.parts if parts is None else parts
    usable = np.flatnonzero(facts["usable"])
    return (
        *_unreadable(catalog, reasons),
        *copies_of(catalog, images, facts, usable, parts),
        *(torn_groups(catalog.paths, catalog.groups, catalog.parts) if catalog.groups and catalog.parts else ()),
        *_classes(catalog, usable, parts),
        *_sizes_and_kinds(catalog, images, usable, facts[usable], scaled),
    )


def _unreadable(catalog: Catalog, reasons: Mapping[int, str]) -> Iterator[Finding]:
    """A finding for each image that can't be used, or for each kind of images that nothing here reads."""

    def kind(place: tuple[int, str]) -> tuple[int, str]:
        return (-1, place[1]) if place[1].startswith(OF_A_KIND) else place

    for (_, reason), some in grouped(sorted(reasons.items()), kind).items():
        yield unreadable([catalog.paths[i] for i, _ in some], reason)


def exclusions(path: str | Path, catalog: Catalog) -> set[str]:
    """Which of the catalog's paths are left out: those that a findings.json or a text with one path a line names.

    In a text, lines that begin with # are comments, and a path may be absolute, or relative to the data, to a folder
    above it or to where the command runs, with either kind of slash.

    Raises:
        DataError: the file can't be read as either, or names what isn't there.
    """
    real, ways = os.path.realpath(catalog.root), (os.path.abspath, os.path.realpath)
    places = [real, *map(str, Path(real).parents), os.path.abspath(catalog.root), os.getcwd()]
    paths, gone = set(catalog.paths), {name for finding in catalog.findings for name in finding.exclude}
    known = {_same(os.path.normpath(os.path.join(real, name))): name for name in catalog.paths}

    def found(line: str) -> str | None:
        lines = dict.fromkeys((line, line.replace("\\", "/")))
        full = (_same(way(os.path.join(place, text))) for way in ways for text in lines for place in places)
        return line if line in paths else next((known[name] for name in full if name in known), None)

    matched = {line: found(line) for line in sorted(read_exclusions(path))}
    if strange := [plain(line) for line, name in matched.items() if name is None and line not in gone]:
        raise DataError(
            f"The exclusions {path} name what {catalog.root} doesn't hold, {few(strange)}: correct "
            f"{count(len(strange), 'line')}, or write the findings anew with hubel data --output."
        )
    return {name for name in matched.values() if name is not None}


def _same(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def read_exclusions(path: str | Path) -> set[str]:
    """Read the paths to leave out as they are written.

    Raises:
        DataError: the file can't be read as a findings.json or as a text.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        if not text.lstrip().startswith(("[", "{")) and Path(path).suffix.lower() != ".json":
            lines = (line.strip() for line in text.splitlines())
            return {line for line in lines if line and not line.startswith("#")}
        values = json.loads(text)
        if not isinstance(values, list):
            raise ValueError("expected a list of findings")
        return {name for value in values for name in from_json(Finding, value).exclude}
    except OSError as error:
        why = f"can't be read ({error.strerror})"
    except UnicodeDecodeError:
        why = "are not UTF-8 text: give a findings.json or a list of paths"
    except ValueError as error:
        why = f"are no findings.json: {error}"
    raise DataError(f"The exclusions {path} {why}.")


def _classes(catalog: Catalog, usable: Indices, parts: Sequence[str] | None) -> Iterator[Finding]:
    learned = usable if parts is None else np.array([i for i in usable if parts[i] == "train"], np.int64)
    where = "" if parts is None else " training"
    counts = np.bincount(catalog.labels[learned], minlength=len(catalog.classes)).tolist()
    sizes = dict(sorted(zip(catalog.classes, counts, strict=True), key=lambda item: item[1]))
    evidence = {"counts": sizes}
    none = [name for name, n in sizes.items() if n == 0]
    if none:
        message = f"There is no usable{where} image of {few(none)}: it can't be learned; add some or remove the class."
        yield Finding(code="class-without-images", severity="error", message=message, evidence=evidence)
    rare = [f"{name} ({n})" for name, n in sizes.items() if 0 < n < SMALL_CLASS]
    if rare:
        message = (
            f"{'1 class has' if len(rare) == 1 else f'{len(rare)} classes have'} fewer than {SMALL_CLASS}{where} "
            f"images: {few(rare, 5)}; what is measured on so few says little."
        )
        yield Finding(code="small-class", severity="warning", message=message, evidence=evidence)
    some = [(n, name) for name, n in sizes.items() if n]
    if some and some[-1][0] >= UNEVEN * some[0][0]:
        (fewest, least), (most, largest) = some[0], some[-1]
        message = (
            f"{largest} has {most / fewest:.1f} times as many{where} images as {least} ({most} against {fewest}): look "
            "at the balanced accuracy, and at --balance."
        )
        severity: Severity = "warning" if most >= VERY_UNEVEN * fewest else "note"
        evidence = {"counts": sizes, "ratio": round(most / fewest, 2)}
        yield Finding(code="imbalance", severity=severity, message=message, evidence=evidence)


def _sizes_and_kinds(
    catalog: Catalog, images: Pixels, usable: Indices, known: Facts, scaled: Range | None
) -> Iterator[Finding]:
    """Images whose size stands out, and those that were converted on the way, each kind by itself."""
    if not len(known):
        return
    sizes = np.stack([known["width"], known["height"]], axis=1).astype(np.int64)
    longer, shorter, mode, grey = sizes.max(1), sizes.min(1), known["mode"], ~known["colour"]
    median = float(np.median(longer))
    apart = (longer > OUTLIER * median) | (longer * OUTLIER < median)
    some_grey, step = grey & (not grey.all()), max(1, min(images.shape[1:3]) // 8)
    constant = np.array([_constant(images[i, ::step, ::step]) and _constant(images[i]) for i in usable])
    look = "{names}; look whether they belong here."
    bits = f"by the set: {scaled[0]:g} to {scaled[1]:g} become 0 to 255" if scaled else "each by its own kind"
    checks: tuple[tuple[str, Severity, npt.NDArray[np.bool_], str], ...] = (
        ("tiny", "warning", shorter < TINY, f"smaller than {TINY} pixels: {look}"),
        ("aspect", "warning", longer > LONG * shorter, f"more than {LONG:g} times as long as wide: {look}"),
        ("size-outlier", "warning", apart, f"more than {OUTLIER:g} times off the median, {median:.0f} pixels: {look}"),
        (
            "deep",
            "note",
            np.char.startswith(mode, b"I") | (mode == b"F"),
            f"of more than 8 bits, scaled {bits} (--range): {{names}}.",
        ),
        ("cmyk", "note", mode == b"CMYK", "in CMYK and converted to RGB: {names}."),
        ("transparent", "note", known["transparent"], "transparent and laid on the background colour: {names}."),
        ("rotated", "note", known["orientation"] != 1, "turned upright as their EXIF block says: {names}."),
        ("frames", "note", known["frames"] > 1, "of several frames or pages, of which the first is used: {names}."),
        ("grey-among-colour", "note", some_grey, f"grey, the other {(~grey).sum()} in colour: {{names}}."),
        ("one-colour", "warning", constant, f"of one colour only: {look}"),
    )
    for code, severity, hit, words in checks:
        if paths := tuple(catalog.paths[i] for i in usable[hit]):
            verb = "1 image is" if len(paths) == 1 else f"{len(paths)} images are"
            message, evidence = f"{verb} {words.format(names=few(paths))}", {"count": len(paths)}
            yield Finding(code=code, severity=severity, message=message, paths=paths, evidence=evidence)
    if len(np.unique(sizes, axis=0)) > 1:
        low, high = sizes[longer.argmin()], sizes[longer.argmax()]
        message = (
            f"The images differ in size: {low[0]}x{low[1]} to {high[0]}x{high[1]}, median of the longer side "
            f"{median:.0f} pixels."
        )
        extremes = {"smallest": low.tolist(), "largest": high.tolist(), "median": median}
        yield Finding(code="mixed-sizes", severity="note", message=message, evidence=extremes)


def _constant(image: Pixels) -> bool:
    return bool((np.abs(image.astype(np.int16) - image[0, 0]) <= CONSTANT).all())
