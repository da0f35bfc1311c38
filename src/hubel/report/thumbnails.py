"""Thumbnails for the page: each image is packed once, and the whole stays within a budget of bytes."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from hubel.report.confusion import Answers, Grid
from hubel.report.evidence import Evidence
from hubel.report.pictures import data_uri, picture, shrunk
from hubel.report.wording import certainty, plain

SMALL = (
    64  # Pillow's smoothing helps above this longer side in pixels; below it the pixels themselves are worth seeing.
)
CELL_SIDE = 80
CELL_BUDGET = 1_300_000
OVERHEAD = 450  # bytes of markup and path that come with each thumbnail


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture on the page with what is said about it."""

    uri: str
    alt: str
    width: int
    height: int
    pixelated: bool
    path: str = ""
    label: str = ""
    prediction: str = ""
    confidence: str = ""


def plain_shot(image: Image.Image, alt: str, *, exact: bool = False) -> Shot:
    """A picture of the page that is not one of the measured images."""
    small = max(image.size) <= SMALL
    uri = data_uri(image, exact=exact or small)
    return Shot(uri=uri, alt=alt, width=image.width, height=image.height, pixelated=small)


def measured_shot(evidence: Evidence, said: Answers, index: int, *, side: int) -> Shot:
    """One of the measured images with its path, label, prediction and confidence."""
    image = shrunk(picture(evidence.images[index]), side)
    classes = evidence.card.classes
    label, prediction = plain(classes[int(evidence.labels[index])]), plain(classes[int(said.predictions[index])])
    path, confidence = plain(evidence.paths[index]), certainty(float(said.confidence[index]))
    return Shot(
        uri=data_uri(image, exact=side > CELL_SIDE and max(image.size) <= SMALL),
        alt=f"{path}: label {label}, answered {prediction}",
        width=image.width,
        height=image.height,
        pixelated=max(image.size) <= SMALL,
        path=path,
        label=label,
        prediction=prediction,
        confidence=confidence,
    )


def cell_shots(evidence: Evidence, said: Answers, grid: Grid) -> dict[tuple[int, int], list[Shot]]:
    """Pictures for the cells of the confusion matrix, (label, prediction) → shots, within `CELL_BUDGET` bytes.

    Every cell gets its worst image before any gets its second; cells of errors come first, the fullest ahead.
    """
    cells = [cell for row in grid.rows for cell in row if cell.images]
    cells.sort(key=lambda cell: (cell.row == cell.column, -cell.count))
    shots: dict[tuple[int, int], list[Shot]] = {}
    left = CELL_BUDGET
    for place in range(max((len(cell.images) for cell in cells), default=0)):
        for cell in cells:
            if place < len(cell.images) and left > 0:
                shot = measured_shot(evidence, said, cell.images[place], side=CELL_SIDE)
                left -= len(shot.uri) + OVERHEAD + len(shot.path)
                shots.setdefault((cell.row, cell.column), []).append(shot)
    return shots
