"""From a folder to a decoded, audited catalog: the part of the road that `data` and `train` share. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hubel.dataset.audit import audit, exclusions
from hubel.dataset.config import DataConfig, parse_augmentation
from hubel.dataset.copies import groups_from
from hubel.dataset.decode import examine, measure
from hubel.dataset.depth import Depth, Range, common_range, is_deep
from hubel.dataset.find import Catalog, scanning
from hubel.dataset.pack import Images, Packed, Rows, pack
from hubel.dataset.relabel import relabelled
from hubel.dataset.split import Split, split
from hubel.errors import DataError, ImageError
from hubel.events import DataSeen, Event, Progress
from hubel.records import PARTS, Finding, ImageFacts, Preprocess
from hubel.runs import Division, read_record

if TYPE_CHECKING:
    from hubel.dataset.loader import Loader

SAMPLED = 400  # image headers that the view is derived from
MEASURED = 100  # of them that are decoded to measure a range
SUMMED = 128  # images that mean and deviation are summed over at a time


@dataclass(frozen=True, kw_only=True)
class View:
    """What a sample of images says.

    Attributes:
        side: the typical shorter side in pixels. colour: whether any has colour.
        range: the values that become black and white, where there are more than 8 bits.
    """

    side: int
    colour: bool
    range: Range | None = None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images that were decoded and audited.

    Attributes:
        source: what the user calls the images. side: their typical shorter side as they came, in pixels.
        usable: (N,) bool: neither unreadable nor excluded.
        groups: (N,) ids; duplicates and the catalog's own groups share one.
    """

    catalog: Catalog
    packed: Packed
    findings: tuple[Finding, ...]
    usable: npt.NDArray[np.bool_]
    groups: npt.NDArray[np.int64]
    source: str = ""
    side: int = 0

    @property
    def left_out(self) -> dict[str, str]:
        """Path → why it is in no part."""
        reasons = {self.catalog.paths[i]: reason for i, reason in self.packed.reasons.items()}
        excluded = {
            path: "excluded as asked" for path, ok in zip(self.catalog.paths, self.usable, strict=True) if not ok
        }
        return {**excluded, **reasons}

    @property
    def digests(self) -> npt.NDArray[np.str_]:
        """SHA-256 of each file, in hexadecimal."""
        return self.packed.facts["sha256"].astype(np.str_)

    @property
    def identity(self) -> str:
        """SHA-256 over all files' names and digests, and how they are decoded: equal where the pixels are."""
        digest = hashlib.sha256(repr(replace(self.packed.preprocess, mean=(), std=())).encode())
        for path, sha256 in zip(self.catalog.paths, self.packed.facts["sha256"], strict=True):
            digest.update(path.encode(errors="surrogateescape") + b"\0" + sha256 + b"\n")
        return digest.hexdigest()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that the images were brought to, in pixels."""
        return self.packed.preprocess.size

    def loader(self, *, batch_size: int, augment: str = "none", seed: int = 0, device: str = "cpu") -> Loader:
        """Return the training part as batches for a loop of one's own, normalised by its own mean and deviation.

        Args:
            augment: random changes, as ``--augment`` takes them. seed: of the split, the order and the changes.
        """
        import torch

        from hubel.dataset.loader import Loader

        rows, labels = self.split(DataConfig(), seed).train, self.catalog.labels
        mean, std = mean_and_std(Rows(self.packed.images, rows))
        return Loader(
            self.packed.images,
            labels,
            rows,
            classes=len(self.catalog.classes),
            batch_size=batch_size,
            preprocess=replace(self.packed.preprocess, mean=mean, std=std),
            augmentation=parse_augmentation(augment, flip=True),
            seed=seed,
            device=torch.device(device),
        )

    def split(self, config: DataConfig, seed: int, weights: str | None = None) -> Split:
        """Divide the usable images into parts, by the configuration's own seed where it has one.

        Args:
            weights: what the training starts from. If that is a run, each file that it knew keeps its part, and none
                that it was trained on, under whatever name, is chosen by or reported.
        """
        known = self.catalog.folded(config.folds, config.fold)
        run = next(
            (each for each in (Path(weights or ""), Path(weights or "").parent) if (each / "split.json").exists()), None
        )
        trained, used = np.zeros((2, len(self.digests)), dtype=bool)
        if run is not None and weights:
            before = read_record(run / "split.json", Division)
            trained = np.isin(self.digests, before.seen[: len(before.train)])
            used = np.isin(self.digests, before.seen)
            mine = config.split is None and known.parts is None and not config.folds
            if mine and used.any() and set(before.train) & set(known.paths):
                config = replace(config, split=str(run))
        if known.folds is not None:
            config = replace(config, folds=0, fold=0)
        parts = None if known.parts is None else np.array(known.parts)
        made = split(known.labels, self.groups, parts, self.usable, known.classes, config, seed=seed, paths=known.paths)
        return made.without(trained, used, known.classes, known.labels, str(run))

    def seen(self, source: str, division: Split | None = None) -> DataSeen:
        """Describe the data, and the split where there is one."""
        labels, count = self.catalog.labels, len(self.catalog.classes)
        rows: dict[str, npt.NDArray[np.int64]] = {}
        if division is not None:
            rows = {part: getattr(division, part) for part in PARTS}
        elif self.catalog.parts is not None:
            given = np.array(self.catalog.parts)
            rows = {part: np.flatnonzero((given == part) & self.usable) for part in PARTS if (given == part).any()}
        else:
            rows = {"all": np.flatnonzero(self.usable)}
        said = "" if division is None else division.said
        new = [Finding(code="other-images", severity="note", message=said)] if said else []
        counts = {part: tuple(np.bincount(labels[r], minlength=count).tolist()) for part, r in rows.items()}
        return DataSeen(
            source=source,
            images=int(self.usable.sum()),
            classes=self.catalog.classes,
            counts=counts,
            findings=(*self.findings, *new),
            divided=division is not None,
        )


def look(catalog: Catalog, config: DataConfig) -> View:
    """Read the headers of up to 400 images, evenly spread, and measure those of more than 8 bits, up to 100."""
    step = max(len(catalog.paths) // SAMPLED, 1)
    facts: list[ImageFacts] = []
    reasons: list[str] = []
    deep: list[str] = []
    for path in catalog.paths[::step]:
        try:
            facts.append(examine(catalog.root / path, max_pixels=config.max_pixels))
            if is_deep(facts[-1].mode) and facts[-1].format != "PPM":
                deep.append(path)
        except ImageError as error:  # the audit names it
            reasons.append(f"{path}: {error.reason}")
    if not facts:
        raise DataError(
            f"None of the {len(reasons)} images looked at in {catalog.root} can be read ({reasons[0]}): check the "
            "folder's files."
        )
    sides = [min(f.width, f.height) for f in facts]
    return View(
        side=int(np.median(sides)),
        colour=any(f.colour for f in facts),
        range=common_range(_depths(catalog.root, deep[:: max(len(deep) // MEASURED, 1)], config)) if deep else None,
    )


def _depths(root: Path, paths: Sequence[str], config: DataConfig) -> list[Depth]:
    """Measure images of more than 8 bits, but for those that can't be used."""
    depths = []
    for path in paths if config.range is None else ():
        with suppress(ImageError):  # the audit names it
            depths.append(measure(root / path, max_pixels=config.max_pixels))
    return depths


def preprocess_for(view: View, config: DataConfig, size: int, weights: Preprocess | None = None) -> Preprocess:
    """Decide how files are decoded; mean and std are measured later, on the training part.

    Args:
        weights: how the images of published weights were prepared: colour and filter follow it.
    """
    channels = config.channels or (weights.channels if weights is not None else 3 if view.colour else 1)
    half = (0.5,) * channels
    return Preprocess(
        size=(size, size),
        channels=channels,
        fit=config.fit,
        interpolation="bilinear" if weights is None else weights.interpolation,
        mean=half,
        std=half,
        background=config.background,
        range=config.range or view.range,
        max_pixels=config.max_pixels,
    )


def prepare(
    catalog: Catalog, preprocess: Preprocess, config: DataConfig, *, fixed: bool = False
) -> Generator[Event, None, Dataset]:
    """Decode and audit; yields progress and returns the `Dataset`.

    Args:
        fixed: whether the number of channels is the weights', whatever the images are like.

    Raises:
        DataError: nothing usable is left, or, with ``strict``, an image can't be used.
    """
    catalog = relabelled(catalog, Path(config.relabel)) if config.relabel else catalog
    catalog = catalog.folded(config.folds, config.fold)
    packed = yield from pack(catalog.root, catalog.paths, preprocess)
    has_colour = bool(packed.facts["colour"].any())
    if preprocess.channels == 1 and config.channels is None and has_colour and not fixed:  # missed by the sample
        half = (0.5,) * 3
        preprocess = replace(preprocess, channels=3, mean=half, std=half)
        packed = yield from pack(catalog.root, catalog.paths, preprocess)
    names = exclusions(config.exclude, catalog) if config.exclude else set[str]()
    usable = packed.usable & np.array([path not in names for path in catalog.paths], dtype=bool)
    broken = [(catalog.paths[i], why) for i, why in sorted(packed.reasons.items()) if catalog.paths[i] not in names]
    if config.strict and broken:
        raise DataError(
            f"{broken[0][0]} can't be used ({broken[0][1]}), and --strict was given: repair or remove it "
            f"({len(broken)} such images in all)."
        )
    if not usable.any():
        raise DataError(f"No usable image is left of {len(catalog.paths)} in {catalog.root}: see `hubel data`.")
    yield Progress(task="auditing", done=0, total=1)
    faults = audit(catalog, packed.images, packed.facts, packed.reasons, parts=catalog.parts, scaled=preprocess.range)
    found = (*catalog.findings, *faults)
    found = tuple(replace(f, left_out=True) if f.exclude and names.issuperset(f.exclude) else f for f in found)
    yield Progress(task="auditing", done=1, total=1)
    return Dataset(catalog=catalog, packed=packed, findings=found, usable=usable, groups=groups_from(found, catalog))


def audited(source: str, config: DataConfig) -> Generator[Event, None, Dataset]:
    """Scan, decode and audit at the images' own size: what `hubel data` does."""
    catalog = yield from scanning(source)
    view = look(catalog, config)
    size = config.size or min(view.side, 128)
    return (yield from prepare(catalog, preprocess_for(view, config, max(size, 1)), config))


def mean_and_std(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel, for values in [0, 1], of (N, H, W, C) uint8; a std of zero becomes 1/255."""
    count, channels = int(np.prod(images.shape[:3])), images.shape[-1]
    total, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    for start in range(0, len(images), SUMMED):
        pixels = images[start : start + SUMMED].reshape(-1, channels)
        total += pixels.sum(0, dtype=np.int64)
        squares += np.square(pixels, dtype=np.uint16).sum(0, dtype=np.int64)
    mean = total / count / 255
    std = np.maximum(np.sqrt((squares / count - (total / count) ** 2).clip(0)) / 255, 1 / 255)
    return tuple(round(float(v), 4) for v in mean), tuple(round(float(v), 4) for v in std)
