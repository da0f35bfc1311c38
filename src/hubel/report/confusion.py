"""The confusion matrix as a grid whose cells know their images, as a list of pairs, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hubel.report.colour import LEVELS
from hubel.report.evidence import Evidence, Floats
from hubel.report.wording import plain

MOST_CLASSES = 30
MOST_IN_CELL = 12

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the network said to each image: predictions (N,) and the confidence in them (N,), 0 where it was NaN."""

    predictions: Integers
    confidence: Floats


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
    """Images of class `row` that were predicted as class `column`.

    Attributes:
        row, column: class indices. row_place, column_place: where these classes stand in the grid.
        share: of the row's images. level: 0 to LEVELS - 1, for shading.
        images: indices of the cell's images, worst first: the surest wrong answers, the least sure right ones.
    """

    row: int
    column: int
    row_place: int
    column_place: int
    count: int
    share: float
    level: int
    images: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is shown of the confusion matrix: all of it, or the classes of the most frequent pairs.

    Attributes:
        names: of the classes shown. hidden: how many classes were left out.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    hidden: int


def answers(evidence: Evidence) -> Answers:
    """Read predictions and confidences off the probabilities."""
    probabilities = np.nan_to_num(np.asarray(evidence.probabilities, dtype=np.float32), nan=0.0)
    if not len(probabilities):
        return Answers(predictions=np.zeros(0, np.int64), confidence=np.zeros(0, np.float32))
    return Answers(predictions=probabilities.argmax(1).astype(np.int64), confidence=probabilities.max(1))


def worst_errors(evidence: Evidence, said: Answers, most: int) -> list[int]:
    """Indices of the wrong answers that were given with the most confidence."""
    wrong = np.flatnonzero(said.predictions != evidence.labels)
    order = np.argsort(-said.confidence[wrong], kind="stable")
    return [int(i) for i in wrong[order[:most]]]


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


def grid(evidence: Evidence, said: Answers) -> Grid:
    """Lay out the confusion matrix, of all classes or of the `MOST_CLASSES` in the most frequent pairs."""
    matrix = np.asarray(evidence.scores.confusion, dtype=np.int64)
    shown = _shown_classes(matrix)
    totals = np.maximum(matrix.sum(1), 1)
    members = _members(evidence.labels, said, set(shown))
    places = {label: place for place, label in enumerate(shown)}

    def cell(row: int, column: int) -> Cell:
        count, share = int(matrix[row, column]), float(matrix[row, column] / totals[row])
        return Cell(
            row=row,
            column=column,
            row_place=places[row],
            column_place=places[column],
            count=count,
            share=share,
            # The root lifts the few per cent of a confusion off the ground: nothing stays nothing, something is seen.
            level=max(1, round(share**0.5 * (LEVELS - 1))) if count else 0,
            images=members.get((row, column), ()),
        )

    rows = tuple(tuple(cell(row, column) for column in shown) for row in shown)
    names = tuple(evidence.card.classes[i] for i in shown)
    return Grid(names=names, rows=rows, hidden=len(matrix) - len(shown))


def _shown_classes(matrix: Integers) -> list[int]:
    if len(matrix) <= MOST_CLASSES:
        return list(range(len(matrix)))
    mixed = [i for pair in pairs(matrix) for i in (pair.first, pair.second)]
    order = list(dict.fromkeys([*mixed, *range(len(matrix))]))
    return sorted(order[:MOST_CLASSES])


def _members(labels: Integers, said: Answers, shown: set[int]) -> dict[tuple[int, int], tuple[int, ...]]:
    badness = np.where(labels == said.predictions, -said.confidence, said.confidence)
    members: dict[tuple[int, int], list[int]] = {}
    for k in np.argsort(-badness, kind="stable").tolist():
        key = (int(labels[k]), int(said.predictions[k]))
        if key[0] in shown and key[1] in shown:
            cell = members.setdefault(key, [])
            if len(cell) < MOST_IN_CELL:
                cell.append(k)
    return {key: tuple(cell) for key, cell in members.items()}


def as_csv(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    """The whole matrix as CSV: labels down, predictions across."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["label / predicted", *(neutral(name) for name in classes)])
    writer.writerows([neutral(name), *row] for name, row in zip(classes, matrix, strict=True))
    return out.getvalue()


def neutral(text: str) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe goes before ``= + - @`` and their wide forms."""
    shown = plain(text)
    return f"'{shown}" if shown.lstrip().startswith(tuple("=+-@＝＋－＠")) else shown
