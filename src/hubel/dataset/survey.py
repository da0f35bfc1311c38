"""What is in a set of tar shards: images of each class, and what can't be used, from one pass over names and labels.

The pass is made once for each file; its counts are kept in the cache for as long as the file is unchanged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hubel.as_json import from_json, to_json
from hubel.dataset.decode import MAX_PIXELS
from hubel.dataset.folder import count, few, natural, were
from hubel.dataset.pack import cache_home
from hubel.dataset.shards import blamed, expand, members
from hubel.errors import DataError, UsageError
from hubel.records import Finding, Progress

FORMAT = 1  # raise when samples are counted otherwise: the cached counts are then made anew
Advance = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What was found in one file: samples of each label, and name → why it can't be used."""

    labels: dict[str, int]
    left_out: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A set of shards.

    Attributes:
        index: label → its class, an index of `classes`; labels that are none of the classes are not in it.
        sizes: images of each shard that can be used, as far as can be said before they are decoded.
    """

    paths: tuple[Path, ...]
    shards: tuple[Shard, ...]
    classes: tuple[str, ...]
    index: dict[str, int]
    sizes: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of each class."""
        each = [0] * len(self.classes)
        for shard in self.shards:
            for label in shard.labels.keys() & self.index.keys():
                each[self.index[label]] += shard.labels[label]
        return tuple(each)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is left out, and why: one for each image, and one for each label that is no class."""
        named = list(zip(map(str, self.paths), self.shards, strict=True))
        found = [left_out(f"{path}/{name}", why) for path, shard in named for name, why in shard.left_out.items()]
        for label in sorted({label for shard in self.shards for label in shard.labels} - self.index.keys()):
            where = tuple(path for path, shard in named if label in shard.labels)
            images = were(sum(shard.labels.get(label, 0) for shard in self.shards), "image")
            said = (
                f"{images} left out, whose label {label!r} is none of the classes: correct it, or add it to `classes`"
            )
            found.append(_warning("unknown-class", f"{said} ({few(where)}).", where))
        return tuple(found)

    def dealt(self, processes: int) -> list[list[int]]:
        """Deal the shards' indices out: the largest first, each to the process that has the fewest images so far.

        Raises:
            UsageError: there are more processes than shards.
        """
        hands, loads = [list[int]() for _ in range(processes)], [0] * processes
        for shard in sorted((s for s, size in enumerate(self.sizes) if size), key=lambda s: -self.sizes[s]):
            least = loads.index(min(loads))
            hands[least].append(shard)
            loads[least] += self.sizes[shard]
        if not all(hands):
            shards = count(sum(map(bool, hands)), "shard")
            raise UsageError(f"{shards} can't feed {processes} processes: cut the data into more, or start fewer.")
        return hands


def survey(
    source: str | Path | Sequence[str | Path],
    classes: Sequence[str] | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    advance: Advance = lambda _: None,
) -> Survey:
    """Count what is in each shard, or find what was counted of the same unchanged file.

    Args:
        source: see `expand`. classes: their names; all labels found, in natural order, where None.
        advance: told every thousand samples and after each shard how many megabytes are done.

    Raises:
        UsageError: a file is missing.
        DataError: a shard can't be read, there are no images or fewer than two classes, or the cache can't be written.
    """
    paths = expand(source)
    sizes, shards = [path.stat().st_size for path in paths], list[Shard]()
    for number, path in enumerate(paths):

        def passed(end: int, before: int = sum(sizes[:number])) -> None:
            advance(Progress(task="counting images", done=(before + end) >> 20, total=sum(sizes) >> 20))

        shards.append(_known(path, max_pixels) or _counted(path, max_pixels, passed))
        passed(sizes[number])
    labels = sum((Counter(shard.labels) for shard in shards), Counter[str]())
    names, index = _reading(labels, classes)
    usable = tuple(sum(n for label, n in shard.labels.items() if label in index) for shard in shards)
    found = Survey(paths=tuple(paths), shards=tuple(shards), classes=names, index=index, sizes=usable)
    if len(names) < 2 or not any(usable):
        raise DataError(
            f"{few([str(path) for path in paths])}: a classifier needs images and at least two classes, and here are "
            f"{count(sum(usable), 'usable image')}, classes: {len(names)}; left out: "
            f"{' '.join(finding.message for finding in found.findings[:3]) or 'nothing.'}"
        )
    return found


def left_out(name: str, reason: str) -> Finding:
    """Say of one image why it can't be used."""
    return _warning("unreadable", f"{name} can't be used and is left out: {reason}.", (name,))


def _warning(code: str, message: str, paths: tuple[str, ...]) -> Finding:
    return Finding(code=code, severity="warning", message=message, paths=paths, exclude=paths, left_out=True)


def _reading(labels: Counter[str], classes: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes, and what each label means: as a name or as a number, whichever explains more images."""
    classes = tuple(sorted(labels, key=natural)) if classes is None else tuple(classes)
    names = {name: index for index, name in enumerate(classes)}
    numbers = {str(index): index for index in range(len(classes))}
    return classes, max((names, numbers), key=lambda known: sum(labels[label] for label in known))


def _known(path: Path, max_pixels: int) -> Shard | None:
    """What was counted before; None where nothing was, or where that was damaged by hand or by the disk."""
    try:
        return from_json(Shard, json.loads(_place(path, max_pixels).read_text("utf-8")))
    except (OSError, ValueError):
        return None


def _counted(path: Path, max_pixels: int, passed: Callable[[int], None]) -> Shard:
    labels, unusable = Counter[str](), dict[str, str]()
    with blamed(path):
        for number, member in enumerate(members(path, max_pixels)):
            if member.label is None:
                unusable[member.name] = member.reason
            else:
                labels[member.label] += 1
            if number % 1000 == 0:
                passed(member.tar.offset)
    found = Shard(labels=dict(labels), left_out=unusable)
    _keep(_place(path, max_pixels), found)
    return found


def _place(path: Path, max_pixels: int) -> Path:
    """The file that a shard's counts are kept in, named by all that they depend on."""
    status = path.stat()
    key = repr((FORMAT, os.fsencode(path.name), status.st_size, status.st_mtime_ns, max_pixels)).encode()
    folder = hashlib.sha256(os.fsencode(path.resolve().parent)).hexdigest()[:24]
    return cache_home() / "shards" / folder / f"{hashlib.sha256(key).hexdigest()[:24]}.json"


def _keep(known: Path, shard: Shard) -> None:
    try:
        known.parent.mkdir(parents=True, exist_ok=True)
        unfinished = known.with_suffix(f".{os.getpid()}.part")
        unfinished.write_text(json.dumps(to_json(shard)), "utf-8")
        os.replace(unfinished, known)
    except OSError as error:
        raise DataError(
            f"The counts of the shards can't be written to {known.parent} ({error.strerror or error}): free some "
            "space, or set HUBEL_CACHE to a folder that can be written."
        ) from error
