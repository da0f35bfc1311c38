"""Tar shards in WebDataset's layout: which files are meant, and a walk through one from front to back.

Members of one name make a sample: ``0001.jpg`` with ``0001.cls`` (a class's name or index) or ``0001.json`` (its
``label``), or ``cat/0001.jpg`` alone, in the folder of its class. Nothing is ever unpacked to the disk.
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from hubel.dataset.decode import MAX_PIXELS
from hubel.dataset.folder import IMAGE_ENDINGS, few, natural, printable
from hubel.dataset.formats import open_regular
from hubel.errors import DataError, ImageError, UsageError

LABEL_BYTES = 1 << 20  # more of a .cls or .json isn't read
NO_LABEL = 'no label: expected is NAME.cls, NAME.json with a "label", or a folder for each class'
OUTWARD = re.compile(
    r"(?s)[/\\]|[A-Za-z]:|(?:.*[/\\])?\.\.(?:[/\\]|$)"
)  # an unpacked file of such a name would lead out
Parts = Sequence[tuple[str, tarfile.TarInfo]]  # ending and header of the members of one name


@dataclass(frozen=True, kw_only=True)
class Member:
    """One sample of a shard.

    Attributes:
        label: as it is written there; None where the sample can't be used, and `reason` says why.
        tar, image: where its image is; None where there is none.
    """

    name: str
    label: str | None
    reason: str
    tar: tarfile.TarFile
    image: tarfile.TarInfo | None

    def read(self) -> bytes:
        """Return the image's bytes; possible until the walk is over."""
        assert self.image is not None, "only usable members are read"
        return _content(self.tar, self.image, self.image.size)


def members(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Member]:
    """Walk a shard's samples in their order; of images nothing is read but the headers, until `Member.read`.

    Raises:
        ImageError, OSError, tarfile.TarError: no tar file, damaged, or cut off; `blamed` makes one sentence of it.
    """
    split = _webdataset("tariterators").base_plus_ext
    file, _ = open_regular(path)
    with file, tarfile.open(fileobj=file, mode="r:") as tar:
        infos = (info for info in iter(tar.next, None) if not info.isdir())
        for key, group in groupby(infos, lambda info: split(info.name)[0] or info.name):
            parts = [((split(info.name)[1] or "").lower(), info) for info in group]
            vars(tar)["members"].clear()  # or the headers of the whole shard would be kept
            reason, label = _unusable(parts, max_pixels), ""
            if not reason:
                label = _label(tar, key, dict(parts))
                reason = "" if label else NO_LABEL
            image = None if reason else _images(parts)[0]
            yield Member(name=printable(key), label=label or None, reason=reason, tar=tar, image=image)
        file.seek(tar.offset)  # the tar module takes a damaged header, and a missing one, for the end
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"there is no end mark at byte {tar.offset:,}")


def _images(parts: Parts) -> list[tarfile.TarInfo]:
    return [info for ending, info in parts if f".{ending}" in IMAGE_ENDINGS]


def _unusable(parts: Parts, max_pixels: int) -> str:
    """Why the members of one name are no sample, from their headers alone; empty if they are one."""
    names, images = few([printable(info.name) for _, info in parts]), _images(parts)
    if any(OUTWARD.match(info.name) for _, info in parts):
        return "its name leads out of the archive"
    if not all(info.isreg() for _, info in parts):
        return "a link or a device, not a file"
    if len({ending for ending, _ in parts}) < len(parts):
        return f"the same name twice in a row ({names})"
    if not images:
        return f"no image of this name, which ends at the first dot ({names})"
    if len(images) > 1:
        return f"more than one image of this name ({names})"
    if images[0].size > (limit := max(8 * max_pixels, 1 << 26)):  # the limit of `recognise.read_file`
        return f"the image has {images[0].size / 1e6:.0f} MB, of at most {limit / 1e6:.0f}"
    return ""


def _label(tar: tarfile.TarFile, key: str, parts: dict[str, tarfile.TarInfo]) -> str:
    """Return the label as text; empty where there is none."""
    label: Any = None
    try:
        if "cls" in parts:
            label = _content(tar, parts["cls"], LABEL_BYTES).decode().strip()
        elif "json" in parts and isinstance(said := json.loads(_content(tar, parts["json"], LABEL_BYTES)), dict):
            label = said.get("label")
    except (ValueError, RecursionError):  # no UTF-8, no JSON, or JSON made to be deep
        return ""
    if label is None:
        label = printable(PurePosixPath(key).parent.name)
    return unicodedata.normalize("NFC", str(label)) if type(label) in (str, int) else ""


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo, limit: int) -> bytes:
    file = tar.extractfile(info)
    assert file is not None, "only regular files get here"
    return file.read(limit)


@contextmanager
def blamed(path: Path) -> Iterator[None]:
    """Say in one sentence why a shard can't be read, and what to do."""
    try:
        yield
    except (ImageError, tarfile.TarError, OSError, EOFError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path} can't be read to its end as a plain tar file ({why}): it is damaged, cut off or compressed; "
            "copy or write it again, or leave it out."
        ) from error


def _webdataset(part: str) -> Any:
    try:
        import webdataset
    except ImportError as error:
        raise UsageError("Tar shards need the package webdataset: pip install 'hubel[stream]'.") from error
    return getattr(webdataset, part)


def expand(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files that are meant by ``train-{000..099}.tar``, ``train-*.tar``, or a list of these.

    Raises:
        UsageError: there is none, one is missing or named twice, or the braces don't match.
    """
    names: list[str] = []
    for given in [source] if isinstance(source, (str, Path)) else source:
        try:
            names += _webdataset("shardlists").expand_urls(given) if isinstance(given, str) else [str(given)]
        except (ValueError, AssertionError) as error:
            raise UsageError(f"{given!r} can't be expanded ({error}): write shards/train-{{000..099}}.tar.") from error
    found = {name: sorted(glob.glob(name), key=natural) if re.search(r"[*?]", name) else [name] for name in names}
    if missing := [name for name, files in found.items() if not files or not all(map(os.path.exists, files))]:
        raise UsageError(f"There is no file {few(missing)}: check the path, which is seen from {os.getcwd()}.")
    paths = [Path(file) for name in names for file in found[name]]
    if twice := [str(path) for path, times in Counter(paths).items() if times > 1]:
        raise UsageError(f"The shard {few(twice)} is named twice: name each one once.")
    if not paths:
        raise UsageError("The list of shards is empty: name at least one tar file.")
    return paths
