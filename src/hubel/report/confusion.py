"""The confusion matrix as a grid whose cells know their images, as a list of pairs, and as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hubel.evidence import Integers, RunRecord
from hubel.report.style import LEVELS
from hubel.report.wording import plain
from hubel.text import csv_text

MOST_CLASSES = 30
MOST_IN_CELL = 12


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two classes that are mixed up: `there` images of `first` were taken for `second`, `back` the other way round."""

    first: int
    second: int
    there: int
    back: int

    @property
    def count(self) -> int:
        return self.there + self.back


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Images of class `row` that were predicted as class `column`, both class indices.

    Attributes:
        share: of the row's images. level: 0 to LEVELS - 1, for shading.
        images: indices of the cell's images, worst first, at most `MOST_IN_CELL`.
    """

    row: int
    column: int
    count: int
    share: float
    level: int
    images: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is shown of the confusion matrix: all of it, or the classes of the most frequent pairs.

    Attributes:
        names: of the classes shown. rows: their cells. hidden: how many classes were left out.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    hidden: int

    def cells_in_turn(self) -> Iterator[tuple[Cell, int]]:
        """Cells with an image of theirs: every cell's first before any cell's second, the fullest errors ahead."""
        cells = [cell for row in self.rows for cell in row]
        cells.sort(key=lambda cell: (cell.row == cell.column, -cell.count))
        for place in range(MOST_IN_CELL):
            yield from ((cell, cell.images[place]) for cell in cells if place < len(cell.images))


def worst_first(run: RunRecord) -> Integers:
    """Order the reported images, (N,) indices: the surest wrong answers, then the right ones, the least sure ahead."""
    wrong = run.predictions != run.labels
    return np.argsort(np.where(wrong, -1 - run.confidence, run.confidence), kind="stable").astype(np.int64)


def surest_errors(run: RunRecord, most: int) -> list[int]:
    """Indices of the wrong answers that were given with the most confidence."""
    return list(map(int, worst_first(run)[: min(most, int((run.predictions != run.labels).sum()))]))


def pairs(matrix: Integers) -> list[Pair]:
    """All pairs of classes that are mixed up, the most frequent first; `first` is the class more often mistaken."""
    errors = matrix - np.diag(np.diag(matrix))
    both = np.triu(errors + errors.T, 1)
    rows, columns = np.nonzero(both)
    order = np.argsort(-both[rows, columns], kind="stable")
    return [_pair(errors, int(rows[k]), int(columns[k])) for k in order]


def _pair(errors: Integers, i: int, j: int) -> Pair:
    first, second = (i, j) if errors[i, j] >= errors[j, i] else (j, i)
    return Pair(first=first, second=second, there=int(errors[first, second]), back=int(errors[second, first]))


def grid(run: RunRecord) -> Grid:
    """Lay out the confusion matrix, of all classes or of the `MOST_CLASSES` in the most frequent pairs."""
    matrix = np.asarray(run.scores.confusion, dtype=np.int64)
    shown = _shown_classes(matrix)
    totals = np.maximum(matrix.sum(1), 1)
    members = _members(run)

    def cell(row: int, column: int) -> Cell:
        count, share = int(matrix[row, column]), float(matrix[row, column] / totals[row])
        # The root lifts the few per cent of a confusion off the ground: nothing stays nothing, something is seen.
        level = max(1, round(share**0.5 * (LEVELS - 1))) if count else 0
        images = tuple(members.get((row, column), ()))
        return Cell(row=row, column=column, count=count, share=share, level=level, images=images)

    rows = tuple(tuple(cell(row, column) for column in shown) for row in shown)
    return Grid(names=tuple(run.card.classes[i] for i in shown), rows=rows, hidden=len(matrix) - len(shown))


def _shown_classes(matrix: Integers) -> list[int]:
    if len(matrix) <= MOST_CLASSES:
        return list(range(len(matrix)))
    mixed = [i for pair in pairs(matrix) for i in (pair.first, pair.second)]
    order = list(dict.fromkeys([*mixed, *range(len(matrix))]))
    return sorted(order[:MOST_CLASSES])


def _members(run: RunRecord) -> dict[tuple[int, int], list[int]]:
    members: dict[tuple[int, int], list[int]] = {}
    for k in worst_first(run).tolist():
        cell = members.setdefault((int(run.labels[k]), int(run.predictions[k])), [])
        if len(cell) < MOST_IN_CELL:
            cell.append(k)
    return members


def as_csv(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """The whole matrix as CSV: labels down, predictions across."""
    names = [plain(name) for name in classes]
    rows = ([name, *row] for name, row in zip(names, matrix, strict=True))
    return csv_text([["label / predicted", *names], *rows], spreadsheet=True)  # a download for people
