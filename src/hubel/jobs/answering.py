"""A trained model at work: load it, predict files, evaluate a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from hubel.dataset.catalog import Catalog, scan
from hubel.dataset.config import DataConfig
from hubel.dataset.decode import decode
from hubel.errors import DataError, ImageError, ModelError
from hubel.evaluation.metrics import score
from hubel.evaluation.predict import predict
from hubel.jobs.dataset import decoded
from hubel.jobs.hardware import find_device
from hubel.nn.model_folder import load_model
from hubel.records import Event, Measured, ModelCard, Note, Progress
from hubel.runs import csv_text, read_json, verify

AT_ONCE = 256  # images decoded and predicted together


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says about one image.

    Attributes:
        path: as given. label, confidence: the likeliest class and its probability; None when `error` says why not.
        probabilities: class → probability, the likeliest first.
    """

    path: str
    label: str | None
    confidence: float | None
    probabilities: dict[str, float]
    error: str | None = None


@dataclass(frozen=True)
class Classifier:
    """A network with its classes and its preprocessing; made by `load`."""

    model: nn.Module
    card: ModelCard
    device: str = "cpu"

    @property
    def classes(self) -> tuple[str, ...]:
        """The label names, in the order of the logits."""
        return self.card.classes

    def predict(self, sources: Iterable[str | os.PathLike[str] | bytes]) -> list[Answer]:
        """Answer for image files, folders of images, or the bytes of files; an unusable one has its `error` set.

        Raises:
            DataError: a path doesn't exist, or a folder holds no images.
        """
        return list(self.stream(list_images(sources)))

    def stream(self, files: Sequence[str | os.PathLike[str] | bytes]) -> Iterator[Answer]:
        """Answer file by file, in order, some at a time."""
        for start in range(0, len(files), AT_ONCE):
            yield from self._answer(files[start : start + AT_ONCE])

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(N, H, W, C) uint8 as decoded with the card's preprocessing → (N, K) float32."""
        result: npt.NDArray[np.float32] = predict(self.model, images, self.card.preprocess, device=self.device).numpy()
        return result

    def _answer(self, files: Sequence[str | os.PathLike[str] | bytes]) -> Iterator[Answer]:
        pixels, errors = [], dict[int, str]()
        for index, file in enumerate(files):
            try:
                pixels.append(decode(file, self.card.preprocess)[0])
            except ImageError as error:
                errors[index] = error.reason
        rows = iter(
            predict(self.model, np.stack(pixels), self.card.preprocess, device=self.device).softmax(1) if pixels else ()
        )
        for index, file in enumerate(files):
            name = "(bytes)" if isinstance(file, bytes) else os.fspath(file)
            if index in errors:
                yield Answer(path=name, label=None, confidence=None, probabilities={}, error=errors[index])
                continue
            row = next(rows)
            order = row.argsort(descending=True).tolist()
            said = {self.classes[i]: float(row[i]) for i in order}
            best = self.classes[order[0]]
            yield Answer(path=name, label=best, confidence=said[best], probabilities=said)


def load(path: str | Path, *, device: str = "auto") -> Classifier:
    """Load a model folder, or the model of a run folder; runs no code from it.

    Raises:
        ModelError, RunError: nothing usable is there, or it was damaged.

    >>> import hubel
    >>> model = hubel.load("runs/flowers")  # doctest: +SKIP
    >>> model.predict(["rose.jpg"])[0].label  # doctest: +SKIP
    'rose'
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder}: give a run folder, or the model folder in it.")
    if (folder / "model").is_dir():
        verify(folder)
        folder = folder / "model"
    target = find_device(device)
    model, card = load_model(folder, target)
    return Classifier(model=model, card=card, device=str(target))


def list_images(sources: Iterable[str | os.PathLike[str] | bytes]) -> list[str | os.PathLike[str] | bytes]:
    """Replace folders by the files in them, sorted; hidden files are left out.

    Raises:
        DataError: nothing is there.
    """
    files: list[str | os.PathLike[str] | bytes] = []
    for source in sources:
        if isinstance(source, bytes) or not Path(source).is_dir():
            if not isinstance(source, bytes) and not Path(source).exists():
                raise DataError(f"There is no image {os.fspath(source)}: check the path.")
            files.append(source)
            continue
        inside = [f for f in sorted(Path(source).rglob("*")) if f.is_file() and not f.name.startswith(".")]
        if not inside:
            raise DataError(f"The folder {os.fspath(source)} holds no images.")
        files += inside
    if not files:
        raise DataError("No image was given: name files or folders.")
    return files


def answers_csv(answers: Sequence[Answer]) -> str:
    """One line per image: file, label, confidence, error."""
    rows = [
        [a.path, a.label or "", "" if a.confidence is None else f"{a.confidence:.6f}", a.error or ""] for a in answers
    ]
    return csv_text([["file_name", "label", "confidence", "error"], *rows])


def evaluating(run: str | Path, source: str | Path, *, device: str = "auto") -> Iterator[Event]:
    """Measure a model on a folder, a CSV or a set by name; yields a `Measured` in the end.

    Where the data has parts, the reported one is measured. Where it is the very folder that the run divided itself,
    only the images that it held out for its report are.

    Raises:
        DataError: a class that the model doesn't know, or no usable image.
    """
    classifier = load(run, device=device)
    catalog = scan(source)
    part, rows = _rows(catalog, Path(run))
    labels = bind(catalog, classifier.classes)
    packed = yield from decoded(catalog, classifier.card.preprocess, DataConfig())
    usable = rows[packed.usable[rows]]
    for index in rows[~packed.usable[rows]]:
        yield Note(text=f"{catalog.paths[index]} was left out: {packed.reasons[int(index)]}")
    if len(usable) == 0:
        raise DataError(f"No image of {source} can be used: see `hubel data`.")
    yield Progress(task="measuring", done=0, total=1)
    logits = predict(classifier.model, packed.images[usable], classifier.card.preprocess, device=classifier.device)
    scores = score(logits, labels[usable], classifier.classes)
    yield Measured(part=part, scores=scores, baselines=None)


def bind(catalog: Catalog, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Translate a catalog's labels, by the classes' names, into those of a model: (N,) int64.

    Raises:
        DataError: the model doesn't know a class.
    """
    known = {name: index for index, name in enumerate(classes)}
    if unknown := [name for name in catalog.classes if name not in known]:
        names = ", ".join(map(repr, unknown[:5]))
        raise DataError(
            f"The model does not know the class {names} (it knows {', '.join(map(repr, list(classes)[:10]))}"
            f"{', …' if len(classes) > 10 else ''}): rename or remove the folder."
        )
    return np.array([known[name] for name in catalog.classes], dtype=np.int64)[catalog.labels]


def _rows(catalog: Catalog, run: Path) -> tuple[str, npt.NDArray[np.int64]]:
    everything = np.arange(len(catalog.paths))
    if catalog.parts is not None:
        part = catalog.reported_part
        return part, everything[np.array(catalog.parts) == part]
    manifest = run / "split.json"
    if manifest.exists():
        said = read_json(manifest)
        if said["source"] == str(catalog.root.resolve()):
            held = set(said["test"])
            return said["reported"], np.array([i for i in everything if catalog.paths[i] in held], dtype=np.int64)
    return "all", everything
