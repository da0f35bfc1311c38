"""Divide images into parts: stratified by class, seeded, and never with one group on two sides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hubel.dataset.config import DataConfig
from hubel.errors import DataError
from hubel.records import PARTS, Part

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which image belongs where: sorted indices into the catalog; the parts are disjoint.

    Attributes:
        reported: the part that the report is about (``val`` when the data came with a val but no test part, and then
            `test` holds it and `val` was split from train).
        unmeasured: classes with too few images to appear in the reported part.
        said: a sentence about the images that the given split doesn't name; empty where all are as it says.
    """

    train: Indices
    val: Indices
    test: Indices
    reported: Part
    seed: int
    unmeasured: tuple[str, ...] = ()
    said: str = ""

    def without(
        self,
        trained: npt.NDArray[np.bool_],
        used: npt.NDArray[np.bool_],
        classes: Sequence[str],
        labels: Indices,
        by: str,
    ) -> Split:
        """Move images that the weights know into train: of val those `trained` on, of test all that were `used`.

        Args:
            trained, used: (N,) bool. by: whose weights they are.

        Raises:
            DataError: nothing is left to choose by, or to report.
        """
        held = np.concatenate([self.val, self.test])
        moved = np.concatenate([self.val[trained[self.val]], self.test[used[self.test]]])
        if not len(moved):
            return self
        val, test = self.val[~trained[self.val]], self.test[~used[self.test]]
        said = f"{len(moved):,} of {len(held):,} images held out were used to train {by}: they belong to train now."
        if not len(val) or len(np.unique(labels[test])) < 2:
            raise DataError(
                f"{len(moved):,} of the {len(held):,} images to choose by and to report were used to train {by}, and "
                "too few others are left: add new images, or start from other weights."
            )
        unmeasured = tuple(name for i, name in enumerate(classes) if not (labels[test] == i).any())
        train = np.union1d(self.train, moved)
        said = f"{self.said} {said}".strip()
        return replace(self, train=train, val=val, test=test, unmeasured=unmeasured, said=said)

    def manifest(self, paths: Sequence[str], left_out: dict[str, str]) -> dict[str, object]:
        """Return the split as JSON: every path with its part, and why the others were left out."""
        parts = {name: [paths[i] for i in getattr(self, name)] for name in ("train", "val", "test")}
        return {"seed": self.seed, "reported": self.reported, **parts, "left_out": left_out}


def split(
    labels: Indices,
    groups: Indices,
    parts: npt.NDArray[np.str_] | None,
    usable: npt.NDArray[np.bool_],
    classes: Sequence[str],
    config: DataConfig,
    *,
    seed: int,
    paths: Sequence[str] = (),
) -> Split:
    """Choose train, validation and test images.

    Args:
        labels: (N,) class indices. groups: (N,) group ids; a group is never torn apart by a split made here.
        parts: (N,) ``train``, ``val`` or ``test`` as the data came, or None.
        usable: (N,) bool; the others belong to no part.
        seed: of the run, for where ``config.split_seed`` is not given.
        paths: of the images, by which ``config.split`` finds them.

    Raises:
        DataError: too few images to train, choose and report, or the given split can't be used.
    """
    seed = seed if config.split_seed is None else config.split_seed
    if config.split is None:
        return _measurable(
            _by_rule(np.flatnonzero(usable), labels, groups, parts, config, seed), labels, groups, classes
        )
    reported, given = read_split(config.split)
    known = np.array([given.get(path, "") for path in paths])
    if not (known[usable] != "").any():
        raise DataError(f"{config.split} names none of these images (such as {paths[0]}): it is of other data.")
    of_group = {int(groups[i]): known[i] for part in PARTS for i in np.flatnonzero(known == part)}
    joined = np.array([known[i] or of_group.get(int(groups[i]), "") for i in range(len(paths))])
    rest = _by_rule(np.flatnonzero(usable & (joined == "")), labels, groups, parts, config, seed)
    train, val, test = (np.union1d(getattr(rest, p), np.flatnonzero(usable & (joined == p))) for p in PARTS)
    new, gone = int((usable & (known == "")).sum()), len(given.keys() - set(paths))
    said = f"{new:,} images are not in {config.split} and were divided by the rule" if new else ""
    said += f"{' and ' if new else ''}{gone:,} images of {config.split} are not here" if gone else ""
    result = Split(train=train, val=val, test=test, reported=reported, seed=seed, said=f"{said}." if said else "")
    return _measurable(result, labels, groups, classes)


def read_split(path: str | Path) -> tuple[Part, Mapping[str, Part]]:
    """Return the reported part and path → part, from a split.json or the folder of a run.

    Raises:
        DataError: it can't be read as either.
    """
    file = Path(path) / "split.json" if Path(path).is_dir() else Path(path)
    try:
        said = json.loads(file.read_text("utf-8"))
        return said["reported"], {str(name): part for part in PARTS for name in said[part]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = getattr(error, "strerror", None) or "it is no split.json"
        raise DataError(
            f"The split {path} can't be used ({why}): give a run's folder, or the split.json in it."
        ) from error


def _by_rule(
    indices: Indices,
    labels: Indices,
    groups: Indices,
    parts: npt.NDArray[np.str_] | None,
    config: DataConfig,
    seed: int,
) -> Split:
    """Divide the images at `indices` by the parts that they came in, and by shares where there are none."""
    rng = np.random.default_rng(seed)
    given = parts is not None and not config.folds
    came = parts[indices] if parts is not None and given else np.full(len(indices), "train")
    rest, val, test = (indices[came == part] for part in PARTS)
    reported: Part = "val" if len(val) and not len(test) else "test"
    if reported == "val":
        val, test = test, val
    if len(test) == 0:
        shares = (1.0,) * config.folds if config.folds else (1 - config.test, config.test)
        chosen = assign(labels[rest], groups[rest], shares, rng) == (config.fold if config.folds else 1)
        test, rest = rest[chosen], rest[~chosen]
    if len(val) == 0:
        share = config.val if given else config.val / (1 - (1 / config.folds if config.folds else config.test))
        chosen = assign(labels[rest], groups[rest], (1 - share, share), rng) == 1
        val, rest = rest[chosen], rest[~chosen]
    return Split(train=rest, val=val, test=test, reported=reported, seed=seed)


def assign(labels: Indices, groups: Indices, shares: Sequence[float], rng: np.random.Generator) -> Indices:
    """Give every image the number of its part, (N,) with values below ``len(shares)``.

    Whole groups are dealt out class by class in random order, each to the part that lags furthest behind its share;
    an image is its own group where ids are unique, and then every class is divided exactly. The first part comes
    first: a class with a single group goes there.
    """
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    sizes = np.bincount(group_of)
    part_of_group = np.empty(len(first), dtype=np.int64)
    wanted = np.asarray(shares, dtype=float) / sum(shares)
    for label in np.unique(labels[first]):
        members = rng.permutation(np.flatnonzero(labels[first] == label))
        part_of_group[members] = _deal(sizes[members], wanted)
    result: Indices = part_of_group[group_of]
    return result


def _deal(sizes: npt.NDArray[np.intp], wanted: npt.NDArray[np.float64]) -> Indices:
    """Deal groups of the given sizes to parts; none is left without one for another's second, as far as they go."""
    total = sizes.sum()
    if sizes.max() == 1:  # ordinary images: cut the shuffled row at the quotas, at least one each
        ends = np.maximum(np.round(total * wanted[1:]), 1).astype(int)
        while len(ends) and ends.sum() > total - 1:
            if ends.max() <= 0:
                break
            ends[np.argmax(ends)] -= 1
        return np.repeat(np.arange(len(wanted)), [total - ends.sum(), *ends])
    filled = np.zeros(len(wanted))
    dealt = np.empty(len(sizes), dtype=np.int64)
    for left, position in zip(range(len(sizes), 0, -1), np.argsort(-sizes, kind="stable"), strict=True):
        # The large ones first, or they overshoot a small part; the last ones are for parts that have none yet
        short = left <= np.count_nonzero(filled == 0)
        part = int(np.argmax(np.where(filled == 0, wanted, -np.inf) if short else wanted - filled / total))
        dealt[position] = part
        filled[part] += sizes[position]
    return dealt


def _measurable(result: Split, labels: Indices, groups: Indices, classes: Sequence[str]) -> Split:
    counts = {name: np.bincount(labels[getattr(result, name)], minlength=len(classes)) for name in ("train", "test")}
    if (counts["train"] > 0).sum() < 2 or (counts["test"] > 0).sum() < 2 or len(result.val) == 0:
        ours = np.concatenate([result.train, result.val, result.test])
        number = len(np.unique(groups[ours]))
        together = f", in {number:,} groups that stay together" if number < len(ours) else ""
        raise DataError(
            f"There are too few images to train, choose and report: {int(counts['train'].sum())} for training, "
            f"{len(result.val)} for validation and {int(counts['test'].sum())} for the report{together}; "
            "at least two classes need three different images or groups each, ten or more are advisable."
        )
    if empty := [classes[i] for i in np.flatnonzero((counts["train"] == 0) & (counts["test"] > 0)).tolist()]:
        raise DataError(
            f"The class {empty[0]!r} has no usable training image but is in the reported part: add images or remove it."
        )
    unmeasured = tuple(classes[i] for i in np.flatnonzero(counts["test"] == 0).tolist())
    return replace(result, unmeasured=unmeasured)
