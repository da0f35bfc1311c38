"""Walk a folder that nobody vouches for: no link leads out or round in circles, and all that is left out is named."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubel.records import Finding, Part, Severity
from hubel.text import is_utf8, plain

# Endings of images. Of the last two rows, the decoder says why it doesn't take them.
IMAGE_ENDINGS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".hif", ".avif", ".jpg_large"),
    *(".svg", ".psd", ".ico", ".jp2", ".j2k", ".jpx", ".jxl", ".tga", ".xcf", ".eps", ".exr", ".hdr", ".qoi"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".dcm", ".pcx"),
}
JUNK = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin", "lost+found"}
PART_NAMES: dict[str, Part] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_DIGITS = re.compile(r"([0-9]+)")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The names in one folder that matter, in no particular order."""

    folders: tuple[str, ...]
    files: tuple[str, ...]


def natural(text: str) -> tuple[list[str | int], str]:
    """Sort key under which 10 comes after 9."""
    pieces: list[str | int] = list(_DIGITS.split(text))
    pieces[1::2] = [int(piece) for piece in pieces[1::2]]
    return pieces, text


def parts_among(names: Iterable[str]) -> dict[str, Part]:
    """Which of these names mean a part of the data.

    ``eval`` is the test part beside a validation part, otherwise the validation part.
    """
    names = list(names)
    found = {name: PART_NAMES[name.lower()] for name in names if name.lower() in PART_NAMES}
    beside_val = "val" in found.values() and "test" not in found.values()
    found.update({name: "test" if beside_val else "val" for name in names if name.lower() in ("eval", "evaluation")})
    return found


def same_to_others(name: str) -> str:
    """What is left of a name on systems that ignore case and Unicode's normal form."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def few(names: Sequence[str], most: int = 3) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def count(number: int, thing: str) -> str:
    """``1 file``, ``2 files``."""
    return f"1 {thing}" if number == 1 else f"{number} {thing}s"


def were(number: int, thing: str) -> str:
    """``1 file was``, ``2 files were``."""
    return f"{count(number, thing)} {'was' if number == 1 else 'were'}"


def left_out(code: str, message: str, paths: Sequence[str], **evidence: Any) -> Finding:
    """Say of some files why they are in no run."""
    every = tuple(paths)
    return Finding(
        code=code, severity="warning", message=message, paths=every, exclude=every, left_out=True, evidence=evidence
    )


class Tree:
    """A folder and what was noticed while it was read.

    Links to files and folders inside the root are followed, but a link that is reached through a linked folder isn't:
    that bounds the walk, whatever the links look like.

    Args:
        root: an existing folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = os.path.realpath(root)
        self._through_link: set[str] = set()
        self._noticed: dict[str, list[tuple[str, str]]] = {}

    def listing(self, folder: str) -> Listing:
        """List one folder, given relative to the root (``""`` is the root itself)."""
        folders: list[str] = []
        files: list[str] = []
        try:
            with os.scandir(self.root / folder) as entries:
                for entry in entries:
                    if self._usable(folder, entry.name):
                        self._sort_in(folder, entry, folders, files)
        except OSError as error:
            self._notice("unreadable-folder", folder or ".", error.strerror or str(error))
        self._find_collisions(folder, folders + files)
        return Listing(folders=tuple(folders), files=tuple(files))

    def images_below(self, folder: str) -> list[str]:
        """Paths, relative to the root, of all files in and below a folder that are to be decoded."""
        found: list[str] = []
        waiting = [folder]
        while waiting:
            at = waiting.pop()
            listing = self.listing(at)
            prefix = f"{at}/" if at else ""
            found += [prefix + name for name in listing.files]
            waiting += [prefix + name for name in listing.folders]
        return found

    def findings(self) -> tuple[Finding, ...]:
        """One finding for each kind of thing that was noticed."""
        return tuple(_finding(code, noticed) for code, noticed in sorted(self._noticed.items()))

    def _notice(self, code: str, path: str, detail: str = "") -> None:
        self._noticed.setdefault(code, []).append((plain(path), plain(detail)))

    def _usable(self, folder: str, name: str) -> bool:
        if name[0] == "." or name.lower() in JUNK:
            self._notice("hidden", _join(folder, name))
            return False
        if not is_utf8(name):
            self._notice("name-encoding", _join(folder, name))
            return False
        return True

    def _sort_in(self, folder: str, entry: os.DirEntry[str], folders: list[str], files: list[str]) -> None:
        if entry.is_file(follow_symlinks=False):
            kind = "file"
        elif entry.is_dir(follow_symlinks=False):
            kind = "folder"
            if folder in self._through_link:
                self._through_link.add(_join(folder, entry.name))
        else:
            kind = self._follow(folder, entry) if entry.is_symlink() else "special-file"
        if kind == "folder":
            folders.append(entry.name)
        elif kind != "file":
            self._notice(kind, _join(folder, entry.name), os.path.realpath(entry.path) if entry.is_symlink() else "")
        elif looks_like_image(entry.name):
            files.append(entry.name)
        else:
            self._notice("other-files", _join(folder, entry.name))

    def _follow(self, folder: str, entry: os.DirEntry[str]) -> str:
        """``file`` or ``folder`` if a link may be followed, otherwise the code of the finding."""
        target = os.path.realpath(entry.path)
        if not os.path.exists(target):
            return "broken-link"
        if target != self._real and not target.startswith(os.path.join(self._real, "")):
            return "outside-link"
        if os.path.isfile(target):
            return "file"
        if not os.path.isdir(target):
            return "special-file"
        here = os.path.realpath(os.path.dirname(entry.path))
        if folder in self._through_link or os.path.join(here, "").startswith(os.path.join(target, "")):
            return "link-loop"
        self._through_link.add(_join(folder, entry.name))
        return "folder"

    def _find_collisions(self, folder: str, names: list[str]) -> None:
        seen: dict[str, str] = {}
        if len({same_to_others(name) for name in names}) == len(names):
            return
        for name in sorted(names):
            other = seen.setdefault(same_to_others(name), name)
            if other != name:
                self._notice("name-collision", _join(folder, name), other)


def looks_like_image(name: str) -> bool:
    """Whether a file is taken for an image by its name: an image's ending, or none."""
    stem, dot, ending = name.rpartition(".")
    return not dot or not stem or f".{ending.lower()}" in IMAGE_ENDINGS


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


# What is noticed: its severity (None: left out), what it is, and what is said about it
NOTICED: dict[str, tuple[Severity | None, str, str]] = {
    "hidden": ("note", "hidden or system file", "ignored."),
    "other-files": ("note", "file", "ignored because of an ending that isn't an image's: {names}."),
    "name-collision": (
        "warning",
        "name",
        "found that differ from another only by case or Unicode form, which collide on other systems: {names}; rename "
        "them.",
    ),
    "broken-link": (None, "link", "left out, leading nowhere: {names}."),
    "link-loop": (None, "link", "left out, leading back to a folder above or through another link: {names}."),
    "name-encoding": (None, "file", "left out for a name that is not UTF-8: {names}; rename what you need."),
    "outside-link": (None, "link", "left out, leading out of the data's folder: {names}; copy the files in instead."),
    "special-file": (None, "file", "left out, being no file but a pipe, a socket or a device: {names}."),
    "unreadable-folder": (None, "folder", "left out, since the permission to open is missing: {names}."),
}


def _finding(code: str, noticed: Sequence[tuple[str, str]]) -> Finding:
    severity, thing, words = NOTICED[code]
    noticed = sorted(noticed)
    paths = tuple(path for path, _ in noticed)
    names = few([f"{path} ({detail})" if detail and code != "link-loop" else path for path, detail in noticed])
    message = f"{were(len(paths), thing)} {words.format(names=names)}"
    if severity is None:
        return left_out(code, message, paths, count=len(paths))
    return Finding(code=code, severity=severity, message=message, paths=paths, evidence={"count": len(paths)})
