"""Read a CSV that says which image has which label."""

from __future__ import annotations

import csv
import functools
import io
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hubel.dataset.columns import NOBODY, Columns, divided, find_columns
from hubel.dataset.folder import few, grouped, has_image_ending, left_out, noticed, were
from hubel.dataset.groups import components
from hubel.errors import DataError
from hubel.records import PARTS, Finding, Part
from hubel.text import plain


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One image as a folder, a table or a tar file lists it; `path` is relative to the data's root, or absolute."""

    path: str
    label: str
    group: str | None = None
    part: Part | None = None
    fold: int | None = None


def read_table(table: Path) -> tuple[list[Listed], list[Finding]]:
    """Read ``file_name,label[,group][,split]``; rows that can't be used become findings, not errors.

    Raises:
        DataError: the file can't be read, its header doesn't name an image and a label, or its parts mean nothing.
    """
    _, header = next(lines := _lines(table), (0, []))
    blank = [""] * len(header)
    numbered = [(n, [*map(str.strip, row), *blank][: len(header)]) for n, row in lines if any(map(str.strip, row))]
    cells = [row for _, row in numbered]
    columns = find_columns(str(table), [name.strip() for name in header], cells[0] if cells else [])
    division = divided(str(table), columns, cells)
    folder = _Folder(table.parent)
    found = [folder.find(row[columns.path]) for row in cells]
    groups = _groups(columns, cells, [path for path, _ in found])
    rows: list[Listed] = []
    bad: list[tuple[str, str]] = []
    for i, (number, row) in enumerate(numbered):
        path, reason = found[i]
        part, fold = (division.parts[i], division.folds[i]) if division else (None, None)
        if not row[columns.label]:
            reason = reason or "there is no label"
        if division and part is None:
            reason = reason or "nothing says which part it is in"
        if reason:
            bad.append((plain(row[columns.path]), f"line {number}: {reason}"))
            continue
        group = groups[i] if groups else None
        rows.append(Listed(path=path, label=row[columns.label], group=group, part=part, fold=fold))
    kept, findings = _once(rows)
    if bad:
        names = few([f"{path or 'no name'} ({reason})" for path, reason in bad])
        said = [f"{path}: {why}" for path, why in bad]
        message = f"{were(len(bad), 'row')} left out of the table: {names}."
        findings.insert(0, left_out("table-row", message, [path for path, _ in bad], rows=said))
    message = f"Of {plain(table.name)}, {columns.said(division.said if division else '')}."
    return kept, [*findings, Finding(code="columns", severity="note", message=message)]


def _groups(columns: Columns, rows: Sequence[Sequence[str]], paths: Sequence[str]) -> list[str] | None:
    """The group of each row; where there are several columns of groups, rows that share any value are one group."""
    if not columns.groups:
        return None
    if len(columns.groups) == 1:
        [place] = columns.groups
        return [path if row[place].lower() in NOBODY else row[place] for row, path in zip(rows, paths, strict=True)]
    cells = ((n, (place, row[place])) for n, row in enumerate(rows) for place in columns.groups)
    shared = grouped([cell for cell in cells if cell[1][1].lower() not in NOBODY], lambda cell: cell[1]).values()
    return [f"group {number}" for number in components(len(rows), [[n for n, _ in some] for some in shared]).tolist()]


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


class _Folder:
    """The folder that a table lies in; paths are read from there, and from wherever else the table points."""

    def __init__(self, root: Path) -> None:
        self._root = os.path.abspath(root)
        self._stems = functools.cache(self._by_stem)

    def find(self, given: str) -> tuple[str, str]:
        """Path with slashes, relative if it lies in the folder, and ``""`` or the reason why it can't be used."""
        if not given:
            return "", "there is no file name"
        path = given if "\\" not in given or os.path.lexists(self._full(given)) else given.replace("\\", "/")
        try:
            path = path if has_image_ending(path) or os.path.lexists(self._full(path)) else self._with_ending(path)
            if not stat.S_ISREG(os.stat(self._full(path)).st_mode):
                return path, "it is not a regular file"
        except OSError as error:
            return path, "there is no such file" if isinstance(error, FileNotFoundError) else str(error.strerror)
        except ValueError as error:
            return path, str(error) if "files" in str(error) else "the name contains a NUL character"
        return self._shortest(path), ""

    def _full(self, path: str) -> str:
        return os.path.join(self._root, os.path.expanduser(path))

    def _with_ending(self, path: str) -> str:
        """The one image whose name is this one with an ending; the path itself where there is none."""
        folder, name = os.path.split(path)
        names = self._stems(folder).get(name, [])
        if len(names) > 1:
            raise ValueError(f"several files are called so: {few(names)}")
        return os.path.join(folder, names[0]) if names else path

    def _by_stem(self, folder: str) -> dict[str, list[str]]:
        names = sorted(os.listdir(self._full(folder)))
        return grouped(filter(has_image_ending, names), lambda name: name.rpartition(".")[0])

    def _shortest(self, path: str) -> str:
        """One name for one file: relative to the folder if it lies in it or was given so, else absolute."""
        full = self._full(path)
        clean = os.path.normpath(full)
        if not os.path.samefile(clean, full):  # .. behind a link
            clean = os.path.realpath(full)
        inside = clean.startswith(os.path.join(self._root, ""))
        relative = inside or not os.path.isabs(os.path.expanduser(path))
        return (os.path.relpath(clean, self._root) if relative else clean).replace(os.sep, "/")


def _once(rows: list[Listed]) -> tuple[list[Listed], list[Finding]]:
    """Keep each file once: in the part held back longest, and not at all if its labels disagree."""
    by_path = grouped(rows, lambda row: row.path)
    torn = {path for path, same in by_path.items() if len({row.label for row in same}) > 1}
    sound = [same for path, same in by_path.items() if path not in torn]
    repeated = {same[0].path for same in sound if len(same) > 1}
    kept = [max(same, key=lambda row: PARTS.index(row.part or "train")) for same in sound]
    found = (("repeated-row", repeated), ("label-conflict", torn))
    return kept, [noticed(code, [(plain(path), "") for path in paths]) for code, paths in found if paths]
