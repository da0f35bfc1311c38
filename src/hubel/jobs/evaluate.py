"""Measuring trained models on other images: which of them count, and what each model answers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hubel.dataset.find import Catalog, scanning
from hubel.dataset.pack import Packed, Rows, pack
from hubel.errors import DataError, ModelError
from hubel.evaluation.calibration import with_ece
from hubel.evaluation.metrics import score
from hubel.events import Event, Measured, Note, Progress
from hubel.evidence import softmax
from hubel.jobs.answer import Answering, Classifier, OnnxClassifier
from hubel.jobs.plan import StoredPlan
from hubel.nn.loading import shared_classes
from hubel.runs import Division, read_record

Opener = Callable[[Sequence[str]], tuple[Classifier | OnnxClassifier, list[str]]]


def evaluating(source: str | Path, opener: Opener, run: Path | None, folder: Path | None = None) -> Iterator[Event]:
    """Measure a model on a folder, a CSV or a set by name; yields a `Measured` in the end.

    Where the data has parts, the reported one is measured. Of the very folder that the run divided itself, only the
    images that it was not trained on are; elsewhere, these are counted and said.

    Args:
        opener: makes the classifier, given the data's classes, and says what has to be said about it.
        folder: where answers, errors and a page are written, if anywhere.

    Raises:
        DataError: the model knows none of the classes, or no image is usable.
    """
    if folder is not None:
        from hubel.jobs.measured import check_folder, write_measured  # which draws: most answers draw nothing

        check_folder(folder)
    catalog = yield from scanning(source, to_learn=False)
    classifier, notes = opener(catalog.classes)
    for note in notes:
        yield Note(text=note)
    part, paths, (labels,), (logits,) = yield from answering(catalog, [classifier], [run])
    scores = with_ece(score(logits, labels, classifier.classes), logits, labels)
    if folder is not None:
        title = f"{run or classifier.card.architecture} on {source}"
        write_measured(folder, title, part, scores, classifier.card, catalog.root, paths, labels, softmax(logits))
    yield Measured(part=part, scores=scores, baselines=None)


Answers = tuple[str, list[str], npt.NDArray[np.int64], list[npt.NDArray[np.float32]]]


def answering(
    catalog: Catalog, models: Sequence[Answering], runs: Sequence[Path | None]
) -> Generator[Event, None, Answers]:
    """Let models answer for the images that all of them know and can decode, but for those that `runs` were trained on.

    Returns:
        the part, the images' paths, their labels (M, N) in the classes of each model, and the logits (N, K) of each.
    """
    labels, packs = np.stack([_bound(catalog, *each) for each in zip(models, runs, strict=True)]), list[Packed]()
    for model in models:
        if not isinstance(model, Classifier):
            raise ModelError("An exported model can predict, and no more: give the run folder that it was made from.")
        packs.append((yield from pack(catalog.root, catalog.paths, model.card.preprocess)))
    part, rows, said = "all", np.flatnonzero(labels.min(0) >= 0), list[str]()
    unknown = np.bincount(catalog.labels[labels.min(0) < 0], minlength=len(catalog.classes))
    if unknown.any():
        names = ", ".join(f"{catalog.classes[i]!r} ({unknown[i]:,})" for i in np.flatnonzero(unknown)[:5])
        said.append(f"{unknown.sum():,} images of classes that the model does not know are left out: {names}.")
    for run in runs:
        part, rows, more = _rows(catalog, packs[0].facts["sha256"].astype(str).tolist(), rows, run)
        said += more
    for packed in packs:
        said += [f"{catalog.paths[i]} was left out: {packed.reasons[int(i)]}" for i in rows[~packed.usable[rows]]]
        rows = rows[packed.usable[rows]]
    for text in said:
        yield Note(text=text)
    if len(rows) == 0:
        raise DataError(f"No image of {catalog.root} can be used: see `hubel data`.")
    logits = list[npt.NDArray[np.float32]]()
    for model, packed in zip(models, packs, strict=True):
        yield Progress(task="measuring", done=len(logits), total=len(models))
        assert isinstance(model, Classifier)
        logits.append(model.logits(Rows(packed.images, rows)))
        if not np.isfinite(logits[-1]).all():
            raise ModelError(
                "The model answers with numbers that are not finite: its weights are of no use, train it again."
            )
    return part, [catalog.paths[i] for i in rows], labels[:, rows], logits


def _bound(catalog: Catalog, model: Answering, run: Path | None) -> npt.NDArray[np.int64]:
    """Bind the labels to a model's classes, folders with the names that they had before `hubel rename` included."""
    if run is not None and (run / "plan.json").exists() and not set(catalog.classes) <= set(model.classes):
        now = read_record(run / "plan.json", StoredPlan).renamed
        since = (name if name in model.classes else now.get(name, name) for name in catalog.classes)
        catalog = replace(catalog, classes=tuple(since))
    return bind(catalog, model.classes)


def bind(catalog: Catalog, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Translate a catalog's labels into those of a model, (N,) int64: -1 for a class that it does not know.

    Each class is bound by itself: to the one of its very name, else to one that differs in case and punctuation only.

    Raises:
        DataError: the model knows none of them.
    """
    known = {name: index for index, name in enumerate(classes)}
    ours = [name for name in catalog.classes if name not in known]  # folders are often called "english-springer"
    theirs = [name for name in classes if name not in set(catalog.classes)]
    known |= {ours[i]: known[theirs[j]] for i, j in shared_classes(ours, theirs).items()}
    if not known.keys() & set(catalog.classes):
        names = ", ".join(map(repr, ours[:5]))
        raise DataError(
            f"The model does not know the class {names} (it knows {', '.join(map(repr, list(classes)[:10]))}"
            f"{', …' if len(classes) > 10 else ''}): rename or remove the folder."
        )
    return np.array([known.get(name, -1) for name in catalog.classes], dtype=np.int64)[catalog.labels]


def _rows(
    catalog: Catalog, digests: Sequence[str], rows: npt.NDArray[np.int64], run: Path | None
) -> tuple[str, npt.NDArray[np.int64], tuple[str, ...]]:
    """The part that is measured, its images among `rows`, and what is to be said about those that were trained on.

    Args:
        digests: SHA-256 of each image: a run knows its images by them.
    """
    part: str = "all"
    if catalog.parts is not None:
        part = catalog.reported_part
        rows = rows[np.array(catalog.parts)[rows] == part]
    if run is None or not (run / "split.json").exists():
        return part, rows, ()
    said = read_record(run / "split.json", Division)
    own, seen = said.source == str(catalog.root.resolve()), set(said.seen)
    names = set() if seen or not own else {*said.train, *said.val}  # an older run knows them by their paths alone
    trained = np.array([digests[i] in seen or catalog.paths[i] in names for i in rows], dtype=bool)
    if not trained.any():
        return part, rows, ()
    count = f"{trained.sum():,} of {len(rows):,} images were used in training"
    if catalog.parts is not None or not own or trained.all():
        return part, rows, (f"{count} (they are the same files), so that new ones may be known less well.",)
    rows = rows[~trained]
    held = set(said.test).issuperset(catalog.paths[i] for i in rows)
    return said.reported if held else "new", rows, (f"{count}, and the others are measured.",)
