"""Say which column of a table holds what, and what the values of a column that divides the images mean.

A column that nearly says something is used or refused, never dropped without a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hubel.dataset.folder import few, has_image_ending, parts_among
from hubel.errors import DataError
from hubel.records import Part
from hubel.text import plain

# Names of columns in small letters and without anything else, the best first
PATHS = (
    *("filename", "file", "path", "filepath", "image", "imagepath", "imagefile", "imagefilename", "imagename"),
    *("img", "imgpath", "imgname", "imgfile", "fname", "picture", "photo"),
)
WEAK_PATHS = ("imageid", "imgid", "photoid", "pictureid", "id", "name", "uuid")
LABELS = (
    *("label", "class", "kind", "category", "target", "classname", "labelname", "categoryname", "labels", "classes"),
    *("classlabel", "species", "breed", "diagnosis", "dx", "y", "classid", "labelid", "categoryid"),
)
INDICES = ("", "index", "unnamed0")  # of rows, as pandas writes them
# Whose images belong together; the second row is a thing as often as whose image it is, and needs an "id"
GROUP = re.compile(
    r"(group|patient|subject|participant|donor|lesion|video|specimen|slide)s?"
    r"((ids?|no|nr|num|number|code|key|uid|name)?)"
    r"|(?:id)?(patient|subject|person|individual|identity|animal|case|study|series|scene|session|clip|sequence|seq|track"
    r"|burst|recording|volume|scan|exam|plant|tree)(instance)?(ids?|no|nr|num|number|code|key|uid)"
)
SPLITS = (
    *("split", "part", "set", "subset", "partition", "datasplit", "dataset", "phase", "usage"),
    *("fold", "folds", "foldname", "foldid", "kfold", "cvfold"),
)
FLAGS: dict[str, Part] = {  # columns that say of one part whether an image is in it; the first that says yes counts
    **dict.fromkeys(("istest", "test", "testing"), "test"),
    **dict.fromkeys(("isval", "isvalid", "isvalidation", "val", "valid", "validation"), "val"),
    **dict.fromkeys(("istrain", "istraining", "istrainingimage", "train", "training"), "train"),
}
YES, NO = ("1", "1.0", "true", "t", "yes", "y"), ("0", "0.0", "false", "f", "no", "n")
SWITCH = {**dict.fromkeys(YES, True), **dict.fromkeys(NO, False)}
FOLD = re.compile(r"((?:fold|cv|split)?)[ _-]*([0-9]{1,4})(?:\.0)?")
NOBODY = ("", "nan", "none", "na", "n/a", "null", "unknown", "?")  # of a group: the image stands for itself


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column holds what, by its place.

    Attributes:
        names: as the header has them. groups: all whose values say which images belong together.
        split: the column of parts or folds. flags: place → the part that it says yes or no to, where there is no split.
    """

    names: tuple[str, ...]
    path: int
    label: int
    groups: tuple[int, ...]
    split: int | None
    flags: dict[int, Part]

    def said(self, meaning: str) -> str:
        """A sentence's worth: what was taken for what, and what wasn't used."""
        names = [f"{plain(name)!r}" for name in self.names]
        taken = f"the column {names[self.path]} is taken for the image, {names[self.label]} for the label"
        if self.groups:
            taken += f", {' and '.join(names[place] for place in self.groups)} for the group"
        divides = [*self.flags] if self.split is None else [self.split]
        if divides:
            taken += f", {' and '.join(names[place] for place in divides)} for the part{meaning}"
        used = {self.path, self.label, *self.groups, *divides}
        rest = [name for place, name in enumerate(names) if place not in used]
        return f"{taken}; not used: {few(rest, 12)}" if rest else taken


def find_columns(table: str, header: Sequence[str], first: Sequence[str]) -> Columns:
    """Recognise columns by the header's names; `first` is the first row, for a column of paths with a name of its own.

    Raises:
        DataError: there is no column of images, or it is unclear which one is the label.
    """
    names = [re.sub(r"[\W_]+", "", name).lower() for name in header]
    path = _place(names, PATHS)
    if path is None and not any(map(has_image_ending, header)):  # or the first line is an image, and names nothing
        path = next((n for n, cell in enumerate(first) if has_image_ending(cell)), _place(names, WEAK_PATHS))
    split = _place(names, SPLITS)
    flags = {n: part for flag, part in FLAGS.items() for n, name in enumerate(names) if name == flag}
    groups = tuple(n for n, name in enumerate(names) if GROUP.fullmatch(name) and n != path)
    label = _place(names, LABELS)
    if label is None:  # the one that is left
        others = [n for n, name in enumerate(names) if name not in INDICES and n != path]
        rest = [n for n in others if n not in (split, *flags, *groups)] or others
        label = rest[0] if len(rest) == 1 else None
    missing = [word for word, place in (("file_name", path), ("label", label)) if place is None]
    if path is None or label is None:
        raise DataError(
            f"{table} has no column {' and no column '.join(missing)}: its first line must name the columns, such as "
            f"file_name,label or file_name,label,group,split; found: {few([plain(name) for name in header], 6)}."
        )
    return Columns(
        names=tuple(header),
        path=path,
        label=label,
        groups=tuple(n for n in groups if n != label),
        split=split if split != label else None,
        flags={n: part for n, part in flags.items() if n not in (path, label)} if split in (None, label) else {},
    )


def _place(names: Sequence[str], known: Sequence[str]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


@dataclass(frozen=True, kw_only=True)
class Divided:
    """What the columns of parts say of each row.

    Attributes:
        parts: None where a row says nothing. folds: the number of each row's fold, None where there is none.
        said: what the values mean, in brackets; empty where they say it themselves.
    """

    parts: list[Part | None]
    folds: list[int | None]
    said: str = ""


def divided(table: str, columns: Columns, rows: Sequence[Sequence[str]]) -> Divided | None:
    """Read the columns that divide the images; None where there are none.

    Args:
        rows: cells in the order of the columns, stripped.

    Raises:
        DataError: a value means nothing.
    """
    if columns.split is None and not columns.flags:
        return None
    if columns.split is None:
        return _flagged(table, columns, rows)
    name, cells = columns.names[columns.split], [row[columns.split] for row in rows]
    values = Counter(cell for cell in cells if cell)
    known = parts_among(values)
    nothing: list[int | None] = [None] * len(cells)
    if not values:
        return Divided(parts=["train"] * len(cells), folds=nothing, said=" (it is empty)")
    if known:
        _refuse_strange(table, name, [value for value in values if value not in known])
        return Divided(parts=[known.get(cell) for cell in cells], folds=nothing)
    if folds := _folds(name, values):
        first = min(folds.values())
        count = len(set(folds.values()))
        said = f" ({count} folds, of which fold {first} is held out as test; --folds {count} --fold N takes another)"
        return Divided(
            parts=[None if cell not in folds else "test" if folds[cell] == first else "train" for cell in cells],
            folds=[folds.get(cell) for cell in cells],
            said=said,
        )
    meanings: dict[str, Part] = {"0": "train", "1": "val", "2": "test"}
    if values.keys() != meanings.keys():
        switched = {value: SWITCH[value.lower()] for value in values if value.lower() in SWITCH}
        meanings = {value: "test" if yes else "train" for value, yes in switched.items()}
    _refuse_strange(table, name, [value for value in values if value not in meanings])
    _refuse_turned(table, name, sum(values[v] for v in values if meanings[v] == "train"), values.total())
    said = ", ".join(f"{value} is {meanings[value]}" for value in sorted(values))
    return Divided(parts=[meanings.get(cell) for cell in cells], folds=nothing, said=f" ({said})")


def _folds(name: str, values: Counter[str]) -> dict[str, int]:
    """Value → number of its fold; empty where these are no folds, but parts or nothing at all."""
    found = {value: FOLD.fullmatch(value.lower()) for value in values}
    folds = {value: int(match[2]) for value, match in found.items() if match}
    if len(folds) < max(len(values), 2):
        return {}
    called = "fold" in name.lower() or any(match and match[1] for match in found.values())
    even = max(values.values()) <= 2 * min(values.values())  # two of another size are train and test by number
    return folds if (len(folds) > 2 and (even or called)) or (even and called) else {}


def _flagged(table: str, columns: Columns, rows: Sequence[Sequence[str]]) -> Divided:
    """Parts by columns of yes and no; who is in none is trained on, or tested on where only training is said."""
    for place in columns.flags:
        strange = Counter(row[place] for row in rows if row[place] and row[place].lower() not in SWITCH)
        _refuse_strange(table, columns.names[place], list(strange))
    said = set(columns.flags.values())
    rest: Part | None = "train" if "train" not in said else "test" if said == {"train"} else None
    parts: list[Part | None] = []
    for row in rows:
        yes = [part for place, part in columns.flags.items() if SWITCH.get(row[place].lower())]
        silent = all(not row[place] for place in columns.flags)
        parts.append(None if silent else yes[0] if yes else rest)
    if said == {"val"}:
        _refuse_turned(table, columns.names[next(iter(columns.flags))], parts.count("train"), len(parts))
    meaning = f" (yes is {' or '.join(sorted(said))}{f', no is {rest}' if rest else ''})"
    return Divided(parts=parts, folds=[None] * len(parts), said=meaning)


def _refuse_strange(table: str, name: str, values: Sequence[str]) -> None:
    if values:
        raise DataError(
            f"The column {plain(name)!r} of {table} divides the images by its name, but its values "
            f"{few([repr(plain(value)) for value in values], 5)} mean nothing: write train, val and test, 0 and 1 (held"
            " out), true and false, or numbers of folds; or call the column otherwise."
        )


def _refuse_turned(table: str, name: str, train: int, total: int) -> None:
    """A column of yes and no that holds out more than it leaves may be meant the other way round."""
    if 2 * train < total:
        raise DataError(
            f"The column {plain(name)!r} of {table} would hold {total - train} of {total} images out of the training, "
            "and may be meant the other way round: write train, val and test into it."
        )
