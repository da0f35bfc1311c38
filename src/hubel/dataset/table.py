"""Read a CSV that says which image has which label."""

from __future__ import annotations

import csv
import functools
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hubel.dataset.folder import few, grouped, left_out, noticed, parts_among, were
from hubel.errors import DataError
from hubel.records import PARTS, Finding, Part
from hubel.text import plain

HEADERS = {
    "path": ("file_name", "filename", "file", "path", "filepath", "file_path", "image", "image_path", "img"),
    "label": ("label", "class", "kind", "category", "target", "class_name", "label_name"),
    "group": ("group", "group_id", "patient", "subject", "source", "video"),
    "part": ("split", "part", "set", "subset", "fold_name"),
}


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One image as a folder, a table or a tar file lists it; `path` is relative to the data's root."""

    path: str
    label: str
    group: str | None = None
    part: Part | None = None


def read_table(table: Path) -> tuple[list[Listed], list[Finding]]:
    """Read ``file_name,label[,group][,split]``; rows that can't be used become findings, not errors.

    Raises:
        DataError: the file can't be read, or its header doesn't name a path and a label.
    """
    lines = _lines(table)
    columns = _columns(table, next(lines, (0, []))[1])
    records = [
        (number, {meaning: cells[place].strip() if place < len(cells) else "" for meaning, place in columns.items()})
        for number, cells in lines
        if any(cell.strip() for cell in cells)
    ]
    known = parts_among({record.get("part", "") for _, record in records})
    folder = _Folder(table.parent)
    rows: list[Listed] = []
    bad: list[tuple[str, str]] = []
    for number, record in records:
        path, reason = folder.find(record["path"])
        part = record.get("part", "")
        if not record["label"]:
            reason = reason or "there is no label"
        if known and part not in known:
            reason = reason or f"the split {part!r} is neither train, val nor test"
        if reason:
            bad.append((plain(record["path"]), f"line {number}: {reason}"))
            continue
        group = (record["group"] or path) if "group" in record else None
        rows.append(Listed(path=path, label=record["label"], group=group, part=known.get(part)))
    kept, findings = _once(rows)
    if bad:
        names = few([f"{path or 'no name'} ({reason})" for path, reason in bad])
        message, said = (
            f"{were(len(bad), 'row')} left out of the table: {names}.",
            [f"{path}: {why}" for path, why in bad],
        )
        findings.insert(0, left_out("table-row", message, [path for path, _ in bad], rows=said))
    return kept, findings


def _lines(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells; commas, semicolons or tabs, as the first line has them."""
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{table} can't be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not a CSV in UTF-8 (byte {error.start}): save it as UTF-8 text.") from error
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{table} is no CSV: line {reader.line_num + 1}, {error}.") from error


def _columns(table: Path, cells: list[str]) -> dict[str, int]:
    """Which column holds what, by the header's names."""
    names = [cell.strip().lower().replace(" ", "_") for cell in cells]
    found = {
        meaning: names.index(alias)
        for meaning, aliases in HEADERS.items()
        for alias in reversed(aliases)  # the first one that is there stays
        if alias in names
    }
    missing = [word for word, meaning in (("file_name", "path"), ("label", "label")) if meaning not in found]
    if missing:
        raise DataError(
            f"{table} has no column {' and no column '.join(missing)}: its first line must name the columns, such as "
            f"file_name,label or file_name,label,group,split; found: {few([plain(name) for name in names], 6)}."
        )
    return found


class _Folder:
    """The folder a table lies in; nothing outside of it is given out."""

    def __init__(self, root: Path) -> None:
        self._root, self._real = root, os.path.join(os.path.realpath(root), "")
        self._resolved = functools.cache(os.path.realpath)

    def find(self, given: str) -> tuple[str, str]:
        """Path relative to the folder, with slashes, and ``""`` or the reason why it can't be used."""
        if not given:
            return "", "there is no file name"
        path = given if "\\" not in given or os.path.lexists(self._root / given) else given.replace("\\", "/")
        if os.path.isabs(path) or path.startswith(("/", "~")) or path[1:3] == ":/":
            return "", "the path is absolute; it must be relative to the table's folder"
        pieces = [piece for piece in path.split("/") if piece not in ("", ".")]
        if ".." in pieces:
            return "", "the path leads out of the table's folder (..)"
        path = "/".join(pieces)
        full = os.path.join(self._root, path)
        try:
            if not stat.S_ISREG(os.stat(full).st_mode):
                return path, "it is not a regular file"
            real = os.path.realpath(full) if os.path.islink(full) else self._resolved(os.path.dirname(full))
        except OSError as error:
            return path, "there is no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)
        except ValueError:
            return path, "the name contains a NUL character"
        inside = os.path.join(real, "").startswith(self._real)
        return path, "" if inside else "a link leads out of the table's folder"


def _once(rows: list[Listed]) -> tuple[list[Listed], list[Finding]]:
    """Keep each file once: in the part held back longest, and not at all if its labels disagree."""
    by_path = grouped(rows, lambda row: row.path)
    torn = {path for path, same in by_path.items() if len({row.label for row in same}) > 1}
    sound = [same for path, same in by_path.items() if path not in torn]
    repeated = {same[0].path for same in sound if len(same) > 1}
    kept = [max(same, key=lambda row: PARTS.index(row.part or "train")) for same in sound]
    found = (("repeated-row", repeated), ("label-conflict", torn))
    return kept, [noticed(code, [(plain(path), "") for path in paths]) for code, paths in found if paths]
