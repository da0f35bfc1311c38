"""Tar shards in WebDataset's layout: each is indexed once, and from then on an image in it is a path.

``train-000.tar/cat/0001.jpg`` is opened like any file, by reading its bytes where the index says that they lie; nothing
is ever unpacked. Entries of one name make a sample: ``0001.jpg`` with ``0001.cls`` (a class's name or index) or
``0001.json`` (its ``label``), or ``cat/0001.jpg`` alone, in the folder of its class. An archive is hostile input: an
entry that is no ordinary file, or whose name could lead anywhere else, is left out and named.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import tarfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from hubel.dataset.cache import cache_home, made_whole, unchanged
from hubel.dataset.folder import IMAGE_ENDINGS, few, natural
from hubel.errors import ImageError, UsageError
from hubel.text import is_utf8, plain

FORMAT = 1  # raise when entries are understood otherwise: all indices are then made anew
LARGEST = 640_000_000  # bytes of an image, the most that decoding one of 80 megapixels can ask for
LABEL_BYTES = 1 << 20  # of a .cls or .json: more isn't read
NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)  # a sample's name, and the ending of one of its entries
OUTWARD = re.compile(r"(?s)/|[A-Za-z]:|.*\\|.*\0|(?:.*/)?\.\.(?:/|$)")  # of a name that leads out of a folder
T = TypeVar("T")
Entry = tuple[str, tarfile.TarInfo]  # an ending in small letters, and the header


def parted(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """Divide a path into the tar file in it and the rest; None where no part of the path is a tar file."""
    text = os.fspath(path).replace(os.sep, "/")
    for mark in re.finditer(r"\.tar/", text, re.IGNORECASE):
        if os.path.isfile(text[: mark.end() - 1]):
            return text[: mark.end() - 1], text[mark.end() :]
    return None


def open_entry(path: str | os.PathLike[str]) -> tuple[BinaryIO, int] | None:
    """Open an image inside a tar file, and say its size in bytes; None where no part of the path is a tar file.

    Raises:
        ImageError: there is no such image in the tar file, or it is damaged.
    """
    if (parts := parted(path)) is None:
        return None
    tar, name = parts
    try:
        table, key = _indexed(tar, _places), _hash(name)
        at = int(np.searchsorted(table[0], key))
        if at == table.shape[1] or table[0, at] != key:
            raise ImageError(f"{os.path.basename(tar)} holds no such image")
        offset, size = table[1:, at].tolist()
        with open(tar, "rb", buffering=0) as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise ImageError(f"the tar file can't be read ({error.strerror})") from error
    if len(data) < size:
        raise ImageError(f"{os.path.basename(tar)} is cut off")
    return io.BytesIO(data), size


def labels_in(tar: str | Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return image → label for what can be used of a tar file, and entry → why not for the rest.

    Raises:
        ImageError: it can't be read to its end as a plain tar file.
        DataError: the cache can't be written.
    """
    return _indexed(tar, _labels)


def _indexed(tar: str | Path, read: Callable[[Path], T]) -> T:
    """Read from a tar file's index, which is made now unless it was made of the same unchanged file."""
    key = repr((FORMAT, os.path.realpath(tar), unchanged(tar)))
    folder = cache_home() / "shards" / hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    if folder.is_dir():
        try:
            return read(folder)
        except (OSError, ValueError):  # damaged by hand or by the disk
            shutil.rmtree(folder, ignore_errors=True)
    with made_whole(folder, "The index of a tar file") as made:
        labels, left_out, places = _walked(tar)
        (made / "labels.json").write_text(json.dumps([labels, left_out]), "utf-8")
        np.save(made / "places.npy", np.array(sorted(places), np.int64).reshape(-1, 3).T.copy())
    return read(folder)


def _labels(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    labels, left_out = json.loads((folder / "labels.json").read_text("utf-8"))
    return labels, left_out


@functools.lru_cache(maxsize=1024)
def _places(folder: Path) -> npt.NDArray[np.int64]:
    """(3, N): hash of the name, ascending, offset and size of each image; mapped, so that no process holds it."""
    found: npt.NDArray[np.int64] = np.load(folder / "places.npy", mmap_mode="r", allow_pickle=False)
    return found


def _hash(name: str) -> int:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


# Indexing


def _walked(tar: str | Path) -> tuple[dict[str, str], dict[str, str], list[tuple[int, int, int]]]:
    """Walk a tar file from header to header: labels, what can't be used and why, and where the images lie."""
    labels, left_out, places = dict[str, str](), dict[str, str](), dict[int, tuple[int, int, int]]()
    try:
        with open(tar, "rb", buffering=0) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for entries in _samples(archive):
                image = next((info for ending, info in entries if f".{ending}" in IMAGE_ENDINGS), entries[0][1])
                name = "/".join(piece for piece in image.name.split("/") if piece not in ("", "."))
                label, key = _label(archive, name, entries), _hash(name)
                if reason := _unusable(entries, label, key in places):
                    left_out[plain(image.name)] = reason
                else:
                    labels[name], places[key] = label, (key, image.offset_data, image.size)
            file.seek(archive.offset)  # the tar module takes a damaged header, and a missing one, for the end
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"there is no end mark at byte {archive.offset:,}")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise ImageError(str(getattr(error, "strerror", None) or error)) from error
    return labels, left_out, list(places.values())


def _samples(archive: tarfile.TarFile) -> Iterator[list[Entry]]:
    """The entries of one name that follow each other."""

    def parts(info: tarfile.TarInfo) -> tuple[str, str]:
        found = NAME.fullmatch(info.name)
        return (info.name, "") if found is None else (found[1], found[2].lower())

    infos = (info for info in iter(archive.next, None) if not info.isdir())
    for _, group in itertools.groupby(infos, lambda info: parts(info)[0]):
        yield [(parts(info)[1], info) for info in group]
        vars(archive)["members"].clear()  # or the headers of the whole file would be kept


def _unusable(entries: list[Entry], label: str, known: bool) -> str:
    """Why the entries of one name are no sample; empty if they are one. `known`: it was there before."""
    images = [info for ending, info in entries if f".{ending}" in IMAGE_ENDINGS]
    names = [info.name for _, info in entries]
    wrong = {
        "its name leads out of the archive, or would elsewhere": any(map(OUTWARD.match, names)),
        "its name is not UTF-8": not all(map(is_utf8, names)),
        "it is a link, a device or a sparse file": not all(i.isreg() and not i.issparse() for _, i in entries),
        "the same name stands twice in a row; it ends at the first dot": len(dict(entries)) < len(entries),
        "there is no image of its name": not images,
        "there is more than one image of its name": len(images) > 1,
        "it is too large for an image": any(info.size > LARGEST for info in images),
        "it has no label": not label,
        "its name was there before": known,
    }
    return next((reason for reason, holds in wrong.items() if holds), "")


def _label(archive: tarfile.TarFile, name: str, entries: list[Entry]) -> str:
    """Return the label of the image `name` as text; empty where there is none."""
    parts, label = dict(entries), None
    try:
        if "cls" in parts:
            label = _content(archive, parts["cls"]).decode().strip()
        elif "json" in parts and isinstance(said := json.loads(_content(archive, parts["json"])), dict):
            label = said.get("label")
    except (ValueError, RecursionError):  # no UTF-8, no JSON, or JSON made to be deep
        return ""
    label = name.rpartition("/")[0].rpartition("/")[2] if label is None else label
    return unicodedata.normalize("NFC", str(label)) if type(label) in (str, int) else ""


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file: Any = archive.extractfile(info) if info.isreg() else None
    return b"" if file is None else bytes(file.read(LABEL_BYTES))


# Which files are meant


def expand(source: str) -> list[Path]:
    """Return the files that are meant by ``train-{000..099}.tar``, ``train-*.tar`` or a mixture of these.

    Raises:
        UsageError: one is missing or named twice, or the braces don't match.
    """
    names = _braces(source)
    if any(mark in name for name in names for mark in "{}"):
        raise UsageError(f"{source!r} can't be expanded: write shards/train-{{000..099}}.tar.")
    found = {name: sorted(glob.glob(name), key=natural) if re.search(r"[*?]", name) else [name] for name in names}
    if missing := [name for name, files in found.items() if not files or not all(map(os.path.isfile, files))]:
        raise UsageError(f"There is no file {few(missing)}: check the path, which is seen from {os.getcwd()}.")
    files = [file for name in names for file in found[name]]
    if len(set(files)) < len(files):
        raise UsageError(f"{source!r} names a file twice: name each one once.")
    return [Path(file) for file in files]


def _braces(text: str) -> list[str]:
    """What a shell makes of ``{000..099}``."""
    if (found := re.search(r"\{(\d+)\.\.(\d+)\}", text)) is None:
        return [text]
    before, after, width = text[: found.start()], text[found.end() :], len(found[1])
    numbers = range(int(found[1]), int(found[2]) + 1)
    return [name for number in numbers for name in _braces(f"{before}{number:0{width}d}{after}")]
