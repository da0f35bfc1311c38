"""Find the images of a data set, their classes and their parts: from folders, tar files, a CSV, or a set's name."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from hubel.dataset.cache import cache_home
from hubel.dataset.folder import Tree, count, few, grouped, join, left_out, natural, parts_among, same_to_others, were
from hubel.dataset.sets import SETS, lookup, materialise, similar
from hubel.dataset.table import Listed, read_table
from hubel.dataset.tar import expand, labels_in
from hubel.errors import DataError, ImageError, UsageError
from hubel.events import Progress, outcome
from hubel.records import Finding, Part
from hubel.text import plain

EXPECTED = (
    "expected is one folder per class (data/cat/*.jpg, data/dog/*.jpg), or train, val and test folders with these"
)
TABLES = (".csv", ".tsv", ".txt")
ARCHIVES = (".zip", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Which images there are, before any is opened.

    Attributes:
        root: the folder, or the tar file, that `paths` are relative to.
        classes: names in natural order; labels index them.
        paths: relative, with slashes, by class and then name.
        labels: (N,) int64.
        parts: of each image, as folders or the CSV gave it; None when the data came without.
        groups: of each image, as the CSV gave it: images of a group belong on the same side of a split.
        folds: of each image, where the CSV numbers them; `parts` then hold the first one out.
        findings: what was noticed on the way.
        reported_part: ``val`` when a val but no test part was given.
        unlearnable: why no classifier can learn from it, if so (one sentence).
    """

    root: Path
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    parts: tuple[Part, ...] | None
    groups: tuple[str, ...] | None
    findings: tuple[Finding, ...]
    reported_part: Literal["test", "val"]
    folds: tuple[int, ...] | None = None
    unlearnable: str = ""

    def folded(self, folds: int, fold: int) -> Catalog:
        """Hold out another of the catalog's own folds, where so many are asked for.

        Raises:
            UsageError: the data says itself what is held out, and otherwise.
        """
        numbers = sorted(set(self.folds or ()))
        if not folds or (self.parts is None and not numbers):
            return self
        if len(numbers) != folds:
            own = f"{len(numbers)} folds" if numbers else "parts of its own, which would be mixed"
            raise UsageError(f"--folds {folds}: {self.root} comes with {own}: leave --folds out, or give a part alone.")
        parts: list[Part] = ["test" if number == numbers[fold] else "train" for number in self.folds or ()]
        return replace(self, parts=tuple(parts), reported_part="test")


def scan(source: str | Path) -> Catalog:
    """Catalogue a folder, a CSV, tar files or a set that is known by name; a path that exists goes before a name.

    Example:
        ``scan("digits").classes`` is ``('0', '1', …, '9')``.

    Raises:
        UsageError: there is no such path and no such set.
        DataError: the data can't be used.
    """
    return outcome(scanning(source))


def scanning(source: str | Path, *, to_learn: bool = True) -> Generator[Progress, None, Catalog]:
    """Do what `scan` does, and say how far it is: the first time that a tar file is seen, it has to be indexed.

    Args:
        to_learn: refuse what can't be learned from, such as a single class; it can still be measured on.
    """
    catalog = yield from _scanning(source)
    if to_learn and catalog.unlearnable:
        raise DataError(catalog.unlearnable)
    return catalog


def _scanning(source: str | Path) -> Generator[Progress, None, Catalog]:
    path, name = Path(source), str(source)
    try:
        kind = "folder" if path.is_dir() else "file" if path.exists() else "nothing"
    except (OSError, ValueError) as error:  # no permission on the way there, or a NUL in the name
        raise UsageError(f"{plain(name)!r} can't be looked at ({error}).") from error
    if kind == "folder":
        tars = _tars_in(path)
        return (yield from _scan_tars(tars)) if tars else _scan_folder(path)
    if path.suffix.lower() == ".tar" and (path.is_file() or any(mark in name for mark in "{*?")):
        return (yield from _scan_tars([path] if kind == "file" else expand(name)))
    if kind == "file":
        return _scan_table(path)
    if known := lookup(name):
        return _scan_folder(materialise(known, cache_home()))
    raise UsageError(_nothing_there(name))


def _nothing_there(source: str) -> str:
    if near := similar(source):
        return f"There is no file or folder {source!r} and no set of that name: did you mean {' or '.join(near)}?"
    if any(mark in source for mark in "/\\."):
        return f"There is no file or folder {source!r}: check the path, which is seen from {os.getcwd()}."
    return f"There is no file or folder {source!r} and no set of that name; known sets are {', '.join(SETS)}."


# Folders


def _scan_folder(root: Path) -> Catalog:
    inner, notes = _unwrapped(root)
    tree = Tree(inner)
    folders, files = tree.listing("")
    if reasons := [finding.message for finding in tree.findings() if finding.code == "unreadable-folder"]:
        raise DataError(f"The folder {inner} can't be opened: {reasons[0]}")
    if files and not folders:
        raise DataError(
            f"{inner} holds {count(len(files), 'image')} but no folder for each class: {_way(inner, files)}."
        )
    parts = _part_folders(tree, folders)
    if not parts:
        _refuse_no_classes(tree, folders)
    rows: list[Listed] = []
    for above in ("", *sorted(parts, key=natural)):
        names, stray = tree.listing(above)
        for name in stray:
            tree.notice("stray-files", join(above, name))
        for name in names if above or not parts else ():
            images = tree.images_below(join(above, name))
            if not images:
                tree.notice("empty-class", join(above, name))
            label = name if name.isascii() else unicodedata.normalize("NFC", name)
            rows += [Listed(path=image, label=label, part=parts.get(above)) for image in images]
    for name in folders if parts else parts_among(folders):
        if not any(part == name or part.startswith(f"{name}/") for part in parts):
            tree.notice("part-neighbour" if parts else "part-class", name)
    return _assemble(inner, rows, [*notes, *tree.findings()])


def _refuse_no_classes(tree: Tree, folders: Sequence[str]) -> None:
    """Refuse folders that are something else than classes: parts of images without classes, or the same in each."""
    named = parts_among(folders)
    if named and len(named) == len(folders):
        files = [join(name, file) for name in folders for file in tree.listing(name)[1]]
        raise DataError(
            f"{few(folders)} in {tree.root} {'is a part' if len(folders) == 1 else 'are parts'} by name, and hold "
            f"{count(len(files), 'image')} but no folder for each class: {_way(tree.root, files)}."
        )
    inside = [set(tree.listing(name)[0]) for name in folders]
    same = sorted(set.intersection(*inside), key=natural) if len(folders) > 1 else []
    if len(same) > 1:
        raise DataError(
            f"{few(folders)} in {tree.root} all hold the same folders, {few(same)}, so that it is unclear which of "
            "them are the classes: call the upper ones train, val and test if they are parts, or write a CSV with the "
            "columns file_name,label and perhaps group,split."
        )


def _way(root: Path, files: Sequence[str]) -> str:
    """What to do with images that are in no folder of a class; their names may begin with the label."""
    stems = [(file, re.fullmatch(r"(.*[^\W\d_])[\W_]*\d+[\W_]*", Path(file).stem)) for file in files]
    labels = {file: found[1] for file, found in stems if found}
    shown = sorted(set(labels.values()), key=natural)
    if len(shown) < 2 or len(labels) < max(0.9 * len(files), 2 * len(shown)):
        return EXPECTED
    example, label = next(iter(labels.items()))
    part = parts_among(example.split("/")[:1]).get(example.split("/")[0])
    columns, line = "file_name,label", f"{example},{label}"
    if part:
        columns, line = f"{columns},split", f"{line},{part}"
    return (
        f"the labels seem to stand in the file names ({few(shown)}), which are not read: write a CSV into {root} with "
        f"the first line {columns} and a line such as {line} for each image, and give that"
    )


def _unwrapped(root: Path) -> tuple[Path, list[Finding]]:
    """Step into a folder that is alone in its folder and holds folders only: one class alone is no data set."""
    inner = root
    for _ in range(8):
        folders, files = Tree(inner).listing("")
        below, beside = Tree(inner / folders[0]).listing("") if len(folders) == 1 and not files else ([], [])
        if not below or beside:
            break
        inner /= folders[0]
    message = f"The classes were found one level deeper, in {inner}, which is taken as the data's folder."
    return inner, [] if inner == root else [Finding(code="nested", severity="note", message=message)]


def _part_folders(tree: Tree, folders: Sequence[str]) -> dict[str, Part]:
    """Which folders are parts: by their names, if they hold folders.

    A folder with images right inside may be a class that is called train, beside bus and car.
    """
    named = parts_among(folders)
    inside = {name: tree.listing(name) for name in named}
    neighbours = len(folders) > len(named)
    parts = {name: part for name, part in named.items() if inside[name][0] and not (neighbours and inside[name][1])}
    if "train" in parts.values():
        parts = {name: part for name, part in named.items() if name in parts or not inside[name][1]}
    elif len(parts) < len(folders):
        return {}
    return {_entered(tree, name): part for name, part in parts.items()}


def _entered(tree: Tree, part: str) -> str:
    """Step into a part's folder in which a part's folder is alone, as some archives have them: train/train/cat."""
    folders, files = tree.listing(part)
    alone = len(folders) == 1 and not files and (folders[0] == part or parts_among(folders))
    return join(part, folders[0]) if alone else part


# Tables and tar files


def _scan_table(path: Path) -> Catalog:
    if path.suffix.lower() in ARCHIVES:
        raise DataError(f"{path} is an archive: unpack it and give the folder, or make a plain .tar file of it.")
    if path.suffix.lower() not in TABLES or not path.is_file():
        raise DataError(f"{path} is neither a folder nor a CSV with the columns file_name,label, nor a tar file.")
    rows, findings = read_table(path)
    if not rows:
        reasons = " ".join(finding.message for finding in findings)
        raise DataError(f"No row of {path} can be used. {reasons}".rstrip())
    return _assemble(path.parent, rows, findings)


def _tars_in(root: Path) -> list[Path]:
    """The tar files in a folder that holds no images and no folders."""
    tree = Tree(root)
    others = [] if any(tree.listing("")) else [f for f in tree.findings() if f.code == "other-files"]
    names = [name for finding in others for name in finding.paths if name.lower().endswith(".tar")]
    return [root / name for name in sorted(names, key=natural)]


def _scan_tars(tars: Sequence[Path]) -> Generator[Progress, None, Catalog]:
    """Find the images in tar files, and their parts by the names of the files and of folders above the classes."""
    root = tars[0] if len(tars) == 1 else Path(os.path.commonpath([tar.parent for tar in tars]))
    rows, reasons = list[tuple[str, str, str]](), list[tuple[str, str]]()
    words: dict[str, list[str]] = {}  # folder and class → what may name a part
    for done, tar in enumerate(tars):
        yield Progress(task="indexing tar files", done=done, total=len(tars))
        inside = "" if tar == root else f"{tar.relative_to(root).as_posix()}/"
        try:
            labels, refused = labels_in(tar)
        except ImageError as error:
            raise DataError(
                f"{tar} can't be read to its end as a plain tar file ({error}): it is damaged, cut off or compressed; "
                "copy or write it again, or leave it out."
            ) from error
        reasons += [(f"{inside}{name}", reason) for name, reason in refused.items()]
        for name, label in labels.items():
            folders = name.split("/")[:-1]
            key = "/".join((inside, *folders, label))
            above = folders[:-1] if folders[-1:] == [label] else folders
            words.setdefault(key, [*above, *re.split("[^A-Za-z]+", inside)])
            rows.append((inside + name, label, key))
    yield Progress(task="indexing tar files", done=len(tars), total=len(tars))
    known = parts_among({word for some in words.values() for word in some})
    part = {key: next((known[word] for word in some if word in known), None) for key, some in words.items()}
    rest: Part | None = "train" if known else None
    listed = [Listed(path=path, label=label, part=part[key] or rest) for path, label, key in rows]
    findings = []
    for reason, places in grouped(reasons, lambda place: place[1]).items():
        names = [name for name, _ in places]
        message = f"{were(len(names), 'sample')} left out of {root}, since {reason}: {few(names)}."
        findings.append(left_out("tar-entry", message, names))
    return _assemble(root, listed, findings)


# Both


def _assemble(root: Path, rows: list[Listed], findings: Sequence[Finding]) -> Catalog:
    """Bind labels to classes by name, and check what a classifier can't do without."""
    if not rows:
        reasons = " ".join(finding.message for finding in findings)
        raise DataError(f"There are no images in {root}: {EXPECTED}. {reasons}".rstrip())
    classes = tuple(sorted({row.label for row in rows}, key=natural))
    index = {name: i for i, name in enumerate(classes)}
    rows.sort(key=lambda row: natural(row.path))
    rows.sort(key=lambda row: index[row.label])
    given = {row.part for row in rows}
    findings, unlearnable = list(findings), ""
    try:
        findings += _check_parts(root, rows, classes, findings)
    except DataError as error:
        unlearnable = str(error)
    if pairs := _alike(classes):
        message = f"Classes differ only by case: {few(pairs)}; if they are the same, merge their folders."
        evidence = {"classes": pairs}
        findings.append(Finding(code="class-collision", severity="warning", message=message, evidence=evidence))
    return Catalog(
        root=root,
        classes=classes,
        paths=tuple(row.path for row in rows),
        labels=np.array([index[row.label] for row in rows], np.int64),
        parts=tuple(row.part for row in rows if row.part) if len(given) > 1 else None,
        groups=None if rows[0].group is None else tuple(row.group or "" for row in rows),
        folds=tuple(row.fold for row in rows if row.fold is not None) or None,
        findings=tuple(findings),
        reported_part="val" if "val" in given and "test" not in given and len(given) > 1 else "test",
        unlearnable=unlearnable,
    )


def _check_parts(
    root: Path, rows: Sequence[Listed], classes: Sequence[str], findings: Sequence[Finding]
) -> list[Finding]:
    """Refuse classes that can't be learned; note those that can't be measured."""
    if len(classes) == 1:
        way = _way(root, [row.path for row in rows])
        lost = " ".join(["", *(finding.message for finding in findings if finding.left_out)])
        raise DataError(
            f"Only one class, {classes[0]!r}, was found in {root}: a classifier needs at least two; {way}.{lost}"
        )
    held = {part: {row.label for row in some} for part, some in grouped(rows, lambda row: row.part).items() if part}
    if len(held) < 2:
        return []
    if "train" not in held:
        raise DataError(f"There are {' and '.join(held)} images but none to train on: add a train folder beside them.")
    findings = []
    for part in ("val", "test"):
        unknown = [name for name in classes if name in held.get(part, ()) and name not in held["train"]]
        if unknown:
            pairs = few(_alike([*unknown, *held["train"]]))
            near = f" Only the case differs between {pairs}." if pairs else ""
            raise DataError(
                f"The {part} part has images of {few([repr(name) for name in unknown])}, but the train part has none, "
                f"so it can't be learned: add training images or take it out of {part}.{near}"
            )
        missing = tuple(name for name in classes if part in held and name not in held[part])
        if missing:
            message = f"The {part} part has no image of {few(missing)}: how well it is recognised can't be said."
            findings.append(
                Finding(code="missing-class", severity="warning", message=message, evidence={"classes": list(missing)})
            )
    return findings


def _alike(names: Iterable[str]) -> list[str]:
    """Names that other systems can't tell apart, each group as text."""
    same = grouped(names, same_to_others).values()
    return [" and ".join(map(repr, alike)) for alike in same if len(alike) > 1]
