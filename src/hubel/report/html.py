"""Write a run's report: one HTML file that needs nothing else, its pictures as PNG, the confusion matrix as CSV."""

from __future__ import annotations

from pathlib import Path

from hubel.report.colour import shades
from hubel.report.confusion import Answers, answers, as_csv, grid, worst_errors
from hubel.report.evidence import Evidence, Explained
from hubel.report.pictures import (
    Card,
    Sheet,
    augmentation,
    contact_sheet,
    filters,
    on_white,
    overlay,
    pasted,
    picture,
)
from hubel.report.wording import apart, certainty
from hubel.runs import write_bytes, write_text

PICTURES = ("curves", "confusion", "per_class", "worst", "filters", "gradcam", "augmentation")
MOST_WORST = 24


def write(folder: Path, evidence: Evidence) -> Path:
    """Write report.html, confusion.csv and pictures/*.png into a folder; returns the path of the page.

    A picture for which the evidence holds nothing is not written, and an older one of that name is removed. Each file
    is replaced at once, so a reader never sees half of one.

    Raises:
        RunError: a file can't be written.
    """
    # Drawing takes about a second to import, and most of hubel's commands draw nothing.
    from hubel.report import charts
    from hubel.report.page import render

    said = answers(evidence)
    matrix, worst = grid(evidence, said), worst_errors(evidence, said, MOST_WORST)
    drawn = charts.for_page(evidence)
    page = render(evidence, said, matrix, worst=worst, drawn=drawn, run=_as_typed(folder))
    files = charts.for_files(evidence, matrix, shades(dark=False))
    pictures = {name: charts.png(drawing) for name, drawing in files.items()}
    for name, sheet in _sheets(evidence, said, worst).items():
        pictures[name] = pasted(sheet, charts.png(sheet.lettering))
    if evidence.augmented is not None and evidence.augmented.size:
        pictures["augmentation"] = on_white(augmentation(evidence.augmented))
    _write_pictures(folder / "pictures", pictures)
    write_text(folder / "confusion.csv", as_csv(evidence.card.classes, evidence.scores.confusion))
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _sheets(evidence: Evidence, said: Answers, worst: list[int]) -> dict[str, Sheet]:
    """The contact sheets: worst errors, Grad-CAM, filters; each only if there is something to show."""
    sheets = {}
    if worst:
        cards = [_error_card(evidence, said, i) for i in worst]
        sheets["worst"] = contact_sheet(cards, side=132, columns=6)
    explained = [*evidence.wrong[:8], *evidence.right[:8]]
    if explained:
        sheets["gradcam"] = contact_sheet([_heat_card(evidence, e) for e in explained], side=128, columns=4)
    both = (("before training", evidence.filters_before), ("after training", evidence.filters_after))
    shown = [Card(pictures=(filters(w),), lines=(name,)) for name, w in both if w is not None and w.size]
    if shown:
        sheets["filters"] = contact_sheet(shown, side=360, columns=2)
    return sheets


def _error_card(evidence: Evidence, said: Answers, index: int) -> Card:
    classes = evidence.card.classes
    answered = f"{apart(classes[int(said.predictions[index])])} {certainty(float(said.confidence[index]))}"
    lines = (answered, f"label: {apart(classes[int(evidence.labels[index])])}", apart(evidence.paths[index]))
    return Card(pictures=(picture(evidence.images[index]),), lines=lines)


def _heat_card(evidence: Evidence, explained: Explained) -> Card:
    classes = evidence.card.classes
    right = explained.label == explained.prediction
    answered = f"{apart(classes[explained.prediction])} {certainty(explained.confidence)}"
    lines = (answered, "right" if right else f"label: {apart(classes[explained.label])}", apart(explained.path))
    return Card(pictures=(picture(explained.image), overlay(explained.image, explained.heat)), lines=lines)


def _as_typed(folder: Path) -> str:
    """The run folder as a reader would type it; a report that is passed on shall not tell where its home is."""
    if not folder.is_absolute():
        return folder.as_posix()
    here = Path.cwd()
    return folder.relative_to(here).as_posix() if folder.is_relative_to(here) and folder != here else folder.name


def _write_pictures(folder: Path, pictures: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        path = folder / f"{name}.png"
        if name in pictures:
            write_bytes(path, pictures[name])
        else:
            path.unlink(missing_ok=True)
