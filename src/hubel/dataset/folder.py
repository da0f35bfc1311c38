"""Walk a folder: links are followed where they lead, but never round in circles, and all that is left out is named."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

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
PART_NAMES: dict[str, Part | Literal["eval"]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "publictest"), "val"),
    **dict.fromkeys(("test", "testing", "holdout", "heldout", "privatetest"), "test"),
    **dict.fromkeys(("eval", "evaluation"), "eval"),  # the test part beside a validation part, otherwise that
}
FILLERS = "set|sets|data|dataset|images?|imgs?|pictures?|photos?|samples?|split|part|folder|files?"
_FILLED = re.compile(rf"(.*?)(?:{FILLERS})?")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+|[^\W\d_a-zA-Z]+")
_DIGITS = re.compile(r"([0-9]+)")
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def natural(text: str) -> tuple[list[str | int], str]:
    """Sort key under which 10 comes after 9."""
    pieces: list[str | int] = list(_DIGITS.split(text))
    pieces[1::2] = [int(piece) for piece in pieces[1::2]]
    return pieces, text


def parts_among(names: Iterable[str]) -> dict[str, Part]:
    """Which of these names mean a part of the data: ``train``, ``test_set``, ``Validation images``, ``trainset``.

    Other words are allowed where names of other parts have them too: ``seg_train`` beside ``seg_test``.
    """
    said = {name: known for name in names if (known := _part_said(name))}
    sharing = grouped(said.values(), lambda known: known[1])
    found = {name: part for name, (part, rest) in said.items() if not rest or len(set(sharing[rest])) > 1}
    beside_val = "val" in found.values() and "test" not in found.values()
    return {name: part if part != "eval" else "test" if beside_val else "val" for name, part in found.items()}


def _part_said(name: str) -> tuple[Part | Literal["eval"], tuple[str, ...]] | None:
    """The part that a name speaks of, and its other words; None where it speaks of none, or of two."""
    if whole := PART_NAMES.get(re.sub(r"[\W_]", "", name).lower()):
        return whole, ()
    words = [word.lower() for word in _WORDS.findall(name)]
    bare = [found[1] if (found := _FILLED.fullmatch(word)) else word for word in words]
    parts = {PART_NAMES[word] for word in bare if word in PART_NAMES}
    rest = tuple(word for word, left in zip(words, bare, strict=True) if left and left not in PART_NAMES)
    return (parts.pop(), rest) if len(parts) == 1 else None


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Key → the items that have it, both in the order of first appearance."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


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

    Links are followed, out of the root too, but not to a folder above; and of links that are reached through a linked
    folder only those to a folder outside where none led before: that bounds the walk, whatever the links look like.

    Args:
        root: an existing folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = os.path.realpath(root)
        self._through_link: set[str] = set()
        self._entered: set[str] = set()  # folders outside that a link led to
        self._noticed: dict[str, list[tuple[str, str]]] = {}
        self._listings: dict[str, tuple[list[str], list[str]]] = {}

    def listing(self, folder: str) -> tuple[list[str], list[str]]:
        """Names of the folders and of the images in one folder, given relative to the root (``""`` is the root)."""
        if folder not in self._listings:
            folders, files = self._listings[folder] = [], []
            try:
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        self._sort_in(folder, entry, folders, files)
            except OSError as error:
                self.notice("unreadable-folder", folder or ".", error.strerror or str(error))
            for name, *others in grouped(sorted(folders + files), same_to_others).values():
                for other in others:
                    self.notice("name-collision", join(folder, other), name)
        return self._listings[folder]

    def images_below(self, folder: str) -> list[str]:
        """Paths, relative to the root, of all files in and below a folder that are to be decoded."""
        found: list[str] = []
        waiting = [folder]
        while waiting:
            at = waiting.pop()
            folders, files = self.listing(at)
            found += [join(at, name) for name in files]
            waiting += [join(at, name) for name in folders]
        return found

    def findings(self) -> tuple[Finding, ...]:
        """One finding for each kind of thing that was noticed."""
        return tuple(noticed(code, places) for code, places in sorted(self._noticed.items()))

    def notice(self, code: str, path: str, detail: str = "") -> None:
        """Remember a path for the finding of this code in `NOTICED`."""
        self._noticed.setdefault(code, []).append((plain(path), plain(detail)))

    def _sort_in(self, folder: str, entry: os.DirEntry[str], folders: list[str], files: list[str]) -> None:
        name, path, detail = entry.name, join(folder, entry.name), ""
        if is_hidden(name):
            kind = "hidden"
        elif not is_utf8(name):
            kind = "name-encoding"
        elif entry.is_symlink():
            kind, detail = self._follow(folder, entry), os.path.realpath(entry.path)
        else:
            kind = "folder" if entry.is_dir() else "file" if entry.is_file() else "special-file"
        if kind == "folder":
            folders.append(name)
            if entry.is_symlink() or folder in self._through_link:
                self._through_link.add(path)
        elif kind == "file" and looks_like_image(name):
            files.append(name)
        else:
            self.notice("other-files" if kind == "file" else kind, path, "" if kind == "file" else detail)

    def _follow(self, folder: str, entry: os.DirEntry[str]) -> str:
        """``file`` or ``folder`` if a link may be followed, otherwise the code of the finding."""
        target, here = os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path))
        if not os.path.exists(target):
            return "broken-link"
        inside = _within(target, self._real)
        if os.path.isfile(target):
            if not inside:
                self.notice("linked", join(folder, entry.name))
            return "file"
        if not os.path.isdir(target):
            return "special-file"
        if _within(self._real, target) and target != self._real:
            return "outside-link"
        if _within(here, target) or (folder in self._through_link and (inside or target in self._entered)):
            return "link-loop"
        if not inside:
            self._entered.add(target)
            self.notice("linked", join(folder, entry.name))
        return "folder"


def _within(path: str, folder: str) -> bool:
    return os.path.join(path, "").startswith(os.path.join(folder, ""))


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or left by a system, by its name."""
    return name.startswith(".") or name.lower() in JUNK


def looks_like_image(name: str) -> bool:
    """Whether a file is taken for an image by its name: an image's ending, or none."""
    stem, dot, _ = name.rpartition(".")
    return not dot or not stem or has_image_ending(name)


def has_image_ending(name: str) -> bool:
    """Whether a name ends as images do."""
    _, dot, ending = name.rpartition(".")
    return bool(dot) and f".{ending.lower()}" in IMAGE_ENDINGS


def join(folder: str, name: str) -> str:
    """A path with slashes; the folder ``""`` is the root that paths are relative to."""
    return f"{folder}/{name}" if folder else name


# What is noticed: its severity (None: left out), what it is, and what is said about it
NOTICED: dict[str, tuple[Severity | None, str, str]] = {
    "hidden": ("note", "hidden or system file", "ignored."),
    "other-files": ("note", "file", "ignored because of an ending that isn't an image's: {names}."),
    "empty-class": ("warning", "class folder", "found without an image: {names}; put some in or remove it."),
    "part-neighbour": ("warning", "folder", "ignored beside the parts of the data: {names}."),
    "part-class": ("warning", "folder", "taken for a class although called like a part of the data: {names}."),
    "stray-files": ("note", "image", "ignored beside the class folders: {names}."),
    "repeated-row": (
        "warning",
        "file",
        "listed more than once and used once, in test before val before train: {names}.",
    ),
    "label-conflict": (None, "file", "listed with different labels and left out: {names}; keep one row each."),
    "name-collision": (
        "warning",
        "name",
        "found that differ from another only by case or Unicode form, which collide on other systems: {names}; rename "
        "them.",
    ),
    "broken-link": (None, "link", "left out, leading nowhere: {names}."),
    "link-loop": (None, "link", "left out, leading back to a folder above or through another link: {names}."),
    "name-encoding": (None, "file", "left out for a name that is not UTF-8: {names}; rename what you need."),
    "outside-link": (None, "link", "left out, leading to a folder above the data's: {names}."),
    "linked": ("note", "link", "followed out of the data's folder: {names}."),
    "special-file": (None, "file", "left out, being no file but a pipe, a socket or a device: {names}."),
    "unreadable-folder": (None, "folder", "left out, since the permission to open is missing: {names}."),
}


def noticed(code: str, places: Iterable[tuple[str, str]]) -> Finding:
    """Say what was noticed of paths, each with a detail that may be empty."""
    severity, thing, words = NOTICED[code]
    places = sorted(places)
    paths = tuple(path for path, _ in places)
    names = few([f"{path} ({detail})" if detail and code != "link-loop" else path for path, detail in places])
    message = f"{were(len(paths), thing)} {words.format(names=names)}"
    if severity is None:
        return left_out(code, message, paths, count=len(paths))
    return Finding(code=code, severity=severity, message=message, paths=paths, evidence={"count": len(paths)})
