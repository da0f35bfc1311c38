"""The folder that decoded images, sets known by name and the indices of tar files are kept in."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hubel.errors import DataError

ROOMS = ("packs", "sets", "shards")  # of the cache


def cache_home() -> Path:
    """The folder of the cache: $HUBEL_CACHE, else one in the platform's own cache folder."""
    if given := os.environ.get("HUBEL_CACHE"):
        return Path(given).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "hubel"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "hubel"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hubel"


def cache_entries() -> list[tuple[str, int]]:
    """Name and size in bytes of every pack, every set and every index of a tar file in the cache."""
    entries = [entry for room in ROOMS for entry in sorted((cache_home() / room).glob("*"))]
    return [(entry.relative_to(cache_home()).as_posix(), _bytes(entry)) for entry in entries]


def cache_clear() -> int:
    """Delete all that `cache_entries` lists; returns the bytes freed."""
    freed = sum(size for _, size in cache_entries())
    for room in ROOMS:
        shutil.rmtree(cache_home() / room, ignore_errors=True)
    return freed


def unchanged(path: str | os.PathLike[str]) -> str:
    """What stays the same of a file for as long as its content does: its inode, size, and times of change.

    Size and time of modification alone are not enough: files from one archive may share both, and `touch` sets either.

    Raises:
        OSError: it can't be looked at.
    """
    status = os.stat(path)
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _bytes(entry: Path) -> int:
    return sum(file.stat().st_size for file in [entry, *entry.rglob("*")] if file.is_file())


@contextmanager
def made_whole(folder: Path, what: str) -> Iterator[Path]:
    """Give an empty folder to fill, which then becomes `folder`: it is there whole or not at all.

    Where another process made the same folder meanwhile, that one stays.

    Args:
        what: what is written, as the beginning of a sentence.

    Raises:
        DataError: it can't be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-", ignore_cleanup_errors=True) as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            yield made
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    except OSError as error:
        raise DataError(
            f"{what} can't be written to {folder.parent} ({error.strerror or error}): free some space, or set "
            "HUBEL_CACHE to a folder that can be written."
        ) from error
