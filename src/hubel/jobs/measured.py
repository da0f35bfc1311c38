"""What `evaluate --output FOLDER` writes: figures, an answer per image, and the surest errors as pictures on a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from hubel.dataset.decode import decode
from hubel.errors import RunError
from hubel.evaluation.metrics import worst_errors
from hubel.evidence import Floats, Integers
from hubel.jobs.measure import predictions_csv
from hubel.records import ModelCard, Scores
from hubel.report.confusion import as_csv
from hubel.report.pictures import data_uri, thumbnail
from hubel.report.style import filled, style_sheet
from hubel.runs import make_folder, write_bytes, write_json, write_text

SHOWN = 100  # errors that become pictures


def check_folder(folder: Path) -> None:
    """Look that nothing is in the way before anything is measured.

    Raises:
        RunError: the folder is not empty, or none.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"The output {folder} exists and is not an empty folder: give another --output.")


def write_measured(
    folder: Path,
    title: str,
    part: str,
    scores: Scores,
    card: ModelCard,
    root: Path,
    paths: Sequence[str],
    labels: Integers,
    probabilities: Floats,
) -> None:
    """Write scores.json, predictions.csv, confusion.csv, a picture of each of the surest errors, and index.html.

    Args:
        title: model and data, in words. paths, labels, probabilities: of the N images, seen from `root`; (N,); (N, K).
    """
    make_folder(folder / "wrong")
    write_json(folder / "scores.json", {"part": part, "scores": scores})
    write_text(folder / "predictions.csv", predictions_csv(paths, labels, probabilities, card.classes))
    write_text(folder / "confusion.csv", as_csv(card.classes, scores.confusion))
    shots = []
    for rank, index in enumerate(worst_errors(probabilities, labels, SHOWN).tolist(), 1):
        content, guess = thumbnail(decode(root / paths[index], card.preprocess)[0]), probabilities[index].argmax()
        kind = "png" if content.startswith(b"\x89PNG") else "webp"
        write_bytes(folder / "wrong" / f"{rank:03d}.{kind}", content)
        words = f"{card.classes[labels[index]]} taken for {card.classes[guess]}, {probabilities[index, guess]:.1%}"
        shots.append((f"{rank:03d}", data_uri(content), words, paths[index]))
    style = Markup(style_sheet())
    page = filled("measured.html", title=title, part=part, scores=scores, shots=shots, style=style)
    write_text(folder / "index.html", page)
