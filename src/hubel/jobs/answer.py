"""A trained model at work: load it, predict files, evaluate a folder."""

from __future__ import annotations

import html
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor, nn

from hubel.dataset.as_file import Picture, as_file
from hubel.dataset.config import DataConfig
from hubel.dataset.decode import Source as File
from hubel.dataset.decode import decode, upright
from hubel.dataset.folder import is_hidden, natural
from hubel.dataset.pack import Images
from hubel.dataset.tensors import normalise, to_tensor
from hubel.errors import DataError, ImageError, ModelError, UsageError
from hubel.evaluation.calibration import promised
from hubel.evaluation.onnx import OnnxModel, open_onnx
from hubel.evaluation.predict import predict
from hubel.evidence import softmax
from hubel.jobs.hardware import find_device
from hubel.jobs.recipe import Recipe, with_settings
from hubel.nn.foreign import code_name, is_code, load_code
from hubel.nn.loading import pretrained
from hubel.nn.saved import load_model, read_card
from hubel.nn.weights import read_weights
from hubel.nn.zoo import Builder
from hubel.records import ModelCard
from hubel.runs import verify
from hubel.text import csv_text

AT_ONCE = 256  # images decoded and predicted together
Source = str | os.PathLike[str]
Code = Any  # a network's name, an nn.Module, or what makes one


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says about one image.

    Attributes:
        path: as given. label, confidence: the likeliest class and its probability; None when `error` says why not.
        probabilities: class → probability, the likeliest first.
        unsure: whether more errors were to be feared than were accepted, if it was said how many.
    """

    path: str
    label: str | None
    confidence: float | None
    probabilities: dict[str, float]
    error: str | None = None
    unsure: bool = False


class Answering(ABC):
    """What `Classifier` and `OnnxClassifier` share: from files to answers."""

    card: ModelCard
    at_once: int  # images that are decoded and predicted together

    @property
    def classes(self) -> tuple[str, ...]:
        """The label names, in the order of the logits."""
        return self.card.classes

    def predict(self, sources: Picture | Iterable[Picture], *, unsure: float | None = None) -> list[Answer]:
        """Answer for one image or many; an unusable one has its `error` set.

        Args:
            sources: an image's path, a folder of images, the bytes of a file, Pillow's image or an array (H, W, 3) or
                (H, W) uint8; or a list of these, or an array (N, H, W, 3).
            unsure: the share of errors that is accepted among the other answers (`hubel.evaluation.calibration`).

        Raises:
            DataError: a path doesn't exist, or a folder holds no images.
            UsageError: no confidence keeps errors that few.
        """
        return list(self.stream(list_images(sources), sure=self.sure(unsure)))

    def sure(self, unsure: float | None) -> float:
        """The confidence from which on answers are sure enough for that share of errors among them; 0 for None."""
        return 0.0 if unsure is None else promised(self.card.levels, unsure)

    def stream(self, files: Sequence[Picture], *, sure: float = 0.0) -> Iterator[Answer]:
        """Answer file by file, in order, some at a time; with less confidence than `sure`, it is unsure."""
        for start in range(0, len(files), self.at_once):
            for answer in self._answer(files[start : start + self.at_once]):
                yield replace(answer, unsure=answer.confidence is not None and answer.confidence < sure)

    @abstractmethod
    def _pixels(self, file: File) -> npt.NDArray[np.uint8]:
        """Decode one file."""

    @abstractmethod
    def _probabilities(self, images: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        """Images as `_pixels` gave them, at most `at_once` → (N, K)."""

    def _answer(self, files: Sequence[Picture]) -> Iterator[Answer]:
        pixels, errors = [], dict[int, str]()
        for index, file in enumerate(files):
            try:
                pixels.append(self._pixels(as_file(file)))
            except ImageError as error:
                errors[index] = error.reason
        rows = iter(self._probabilities(pixels) if pixels else ())
        for index, file in enumerate(files):
            name = os.fspath(file) if isinstance(file, (str, os.PathLike)) else f"({type(file).__name__})"
            if index in errors:
                yield Answer(path=name, label=None, confidence=None, probabilities={}, error=errors[index])
                continue
            row: npt.NDArray[np.float32] = next(rows)
            if not np.isfinite(row).all():
                why = "the model's answer is not finite: its weights are of no use"
                yield Answer(path=name, label=None, confidence=None, probabilities={}, error=why)
                continue
            order = np.argsort(-row, kind="stable").tolist()
            said = {self.classes[i]: float(row[i]) for i in order}
            best = self.classes[order[0]]
            yield Answer(path=name, label=best, confidence=said[best], probabilities=said)


@dataclass(frozen=True)
class Classifier(Answering):
    """A network with its classes and its preprocessing; made by `load`."""

    model: nn.Module
    card: ModelCard
    device: str = "cpu"
    at_once = AT_ONCE

    def _repr_html_(self) -> str:
        """Show in a notebook what the model is, what it answers and what it was measured to be worth."""
        card, count = self.card, sum(each.numel() for each in self.model.parameters())
        size = " × ".join(map(str, (*card.preprocess.size, card.preprocess.channels)))
        rows = {
            "network": f"{card.architecture}, {count:,} parameters",
            "images": size,
            "classes": ", ".join(card.classes),
        }
        rows |= {name.replace("_", " "): f"{value:.4g}" for name, value in card.metrics.items()}
        cells = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(said)}</td></tr>" for name, said in rows.items())
        return f"<table>{''.join(cells)}</table>"

    def logits(self, images: Images) -> npt.NDArray[np.float32]:
        """(N, H, W, C) uint8 as decoded with the card's preprocessing → (N, K) float32, whose softmax is calibrated."""
        logits = predict(self.model, images, self.card.preprocess, device=self.device)
        result: npt.NDArray[np.float32] = (logits / self.card.temperature).numpy()
        return result

    def images(self, sources: Picture | Iterable[Picture]) -> Tensor:
        """Prepare files as the network is given them: (N, C, H, W) float32, normalised, on its device.

        Raises:
            ImageError: one of them can't be used.
        """
        pixels = np.stack([self._pixels(as_file(file)) for file in list_images(sources)])
        return normalise(to_tensor(pixels), self.card.preprocess).to(self.device)

    def _pixels(self, file: File) -> npt.NDArray[np.uint8]:
        return decode(file, self.card.preprocess)[0]

    def _probabilities(self, images: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return softmax(self.logits(np.stack(images)))


@dataclass(frozen=True)
class OnnxClassifier(Answering):
    """An exported model.onnx: it answers like a `Classifier`, but holds no network to look into; made by `load`."""

    onnx: OnnxModel
    card: ModelCard
    at_once = 1  # the graph resizes, so images come in all sizes, and large

    def _pixels(self, file: File) -> npt.NDArray[np.uint8]:
        return upright(file, self.card.preprocess)

    def _probabilities(self, images: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        answers = self.onnx.answer(np.stack(images))[0]
        if answers.shape != (len(images), len(self.classes)):
            raise ModelError(
                f"The exported model answers {answers.shape} for {len(self.classes)} classes: export again."
            )
        return answers


def load_folder(path: str | Path, *, device: str = "auto", code: Builder | None = None) -> Classifier | OnnxClassifier:
    """Load a model folder, the model of a run folder, or an exported model.onnx; runs no code from it.

    Args:
        code: the user's own network, for a folder that was trained with one.

    Raises:
        ModelError, RunError: nothing usable is there, it was damaged, or it asks for code that was not given.
    """
    folder = Path(path)
    if folder.suffix.lower() == ".onnx" and not os.path.isdir(folder):
        exported = open_onnx(folder)
        return OnnxClassifier(exported, exported.card)
    if not os.path.isdir(folder):
        raise ModelError(f"There is no folder {folder}: give a run folder, the model folder in it, or a model.onnx.")
    if (folder / "model").is_dir():
        verify(folder, "model/")
        folder = folder / "model"
    target = find_device(device)
    model, card = load_model(folder, target, code=code)
    return Classifier(model=model, card=card, device=str(target))


def load_either(path: str | Path, device: str = "auto", code: Builder | None = None) -> Classifier | OnnxClassifier:
    """Load a folder as `load_folder` does, with the user's own network where the folder asks for one."""
    inner = Path(path, "model") if Path(path, "model").is_dir() else Path(path)
    asks = code is not None and is_code(read_card(inner).architecture)
    return load_folder(path, device=device, code=code if asks else None)


def from_weights(
    weights: str,
    network: str,
    *,
    device: str = "auto",
    code: Builder | None = None,
    data: DataConfig | None = None,
    classes: Sequence[str] = (),
) -> tuple[Classifier, list[str]]:
    """Make a classifier of published weights, without training; also returns what has to be said about it.

    Args:
        weights, network: as ``--weights`` and ``--model`` take them.
        data: size, mean, std and fit, where they shall differ from the weights' own.
        classes: names of the logits, for weights that come without; taken if there are as many.

    Raises:
        ModelError: the weights don't fit, or nobody knows what their logits mean.
    """
    found = read_weights(weights, network, code=code)
    said, given = found.preprocess, data or DataConfig()
    preprocess = replace(
        said,
        size=said.size if given.size is None else (given.size, given.size),
        crop_pct=said.crop_pct if given.fit == "crop" else 1.0,
        fit=given.fit,
        mean=said.mean if given.mean is None else given.mean[: said.channels],
        std=said.std if given.std is None else given.std[: said.channels],
        background=given.background,
        range=given.range,
        max_pixels=given.max_pixels,
    )
    found = replace(found, preprocess=preprocess)
    model, _ = pretrained(found, code=code)
    names = found.classes or tuple(classes)
    if len(names) != found.count:
        raise ModelError(
            f"{weights} answers with {found.count} numbers, but there are names for {len(names)} classes: evaluate it "
            "on data with its own classes, or train it with --weights first."
        )
    target = find_device(device)
    card = ModelCard(architecture=found.architecture, arguments=found.arguments, classes=names, preprocess=preprocess)
    notes = [f"{found.architecture} with {found.name}: {found.numbers}"]
    if found.assumed:
        notes[0] += " (nothing is said about its images: ImageNet's values, unless --mean, --std and --size say others)"
    if not found.classes:
        notes.append(f"Its logits are taken for the classes in alphabetical order: {', '.join(names[:4])}, …")
    return Classifier(model=model.to(target), card=card, device=str(target)), notes


def list_images(sources: Picture | Iterable[Picture]) -> list[Picture]:
    """Replace folders by the files in and below them, sorted; hidden and system files are left out.

    Raises:
        DataError: nothing is there.
    """
    single = (str, os.PathLike, bytes, Image.Image)
    if isinstance(sources, single) or (isinstance(sources, np.ndarray) and sources.ndim < 4):
        sources = [sources]
    files: list[Picture] = []
    for source in sources:
        if not isinstance(source, (str, os.PathLike)) or os.path.isfile(source):
            files.append(source)
            continue
        if not os.path.exists(source):
            raise DataError(f"There is no image {os.fspath(source)}: check the path.")
        inside = sorted(_files_below(Path(source))) if os.path.isdir(source) else [Path(source)]
        if not inside:
            raise DataError(f"The folder {os.fspath(source)} holds no images.")
        files += inside
    if not files:
        raise DataError("No image was given: name files or folders.")
    return files


def _files_below(folder: Path) -> Iterator[Path]:
    """All files that are neither hidden nor a system's; links to folders are followed, each folder once."""
    entered = {os.path.realpath(folder)}
    for at, folders, names in os.walk(folder, followlinks=True):
        real = {name: os.path.realpath(os.path.join(at, name)) for name in sorted(folders) if not is_hidden(name)}
        folders[:] = [name for name, target in real.items() if target not in entered]
        entered |= set(real.values())
        yield from (Path(at) / name for name in names if not is_hidden(name))


def answers_csv(
    answers: Sequence[Answer],
    *,
    spreadsheet: bool = False,
    top: int = 1,
    probabilities: bool = False,
    unsure: bool = False,
) -> str:
    """One line per image: file, label, confidence, error.

    Args:
        spreadsheet: put a quote before text that a spreadsheet would take for a formula.
        top: likeliest classes that are named, in columns ``label_2``, ``confidence_2`` and so on behind these.
        probabilities: whether to add a column ``p CLASS`` for each class. unsure: one that says which are unsure.
    """
    names = sorted(next((a.probabilities for a in answers if a.probabilities), {}), key=natural)
    ranks, columns = range(2, min(top, len(names)) + 1), names if probabilities else []
    header = ["file_name", "label", "confidence", "error", *(["unsure"] if unsure else [])]
    header += [f"{what}_{rank}" for rank in ranks for what in ("label", "confidence")]
    rows = [[*header, *(f"p {name}" for name in columns)]]
    for a in answers:
        said = [(name, f"{p:.6f}") for name, p in a.probabilities.items()] or [("", "")] * len(names)
        shown = dict(said)
        more = ["unsure" * a.unsure] if unsure else []
        more += [text for rank in ranks for text in said[rank - 1]] + [shown.get(name, "") for name in columns]
        sure = "" if a.confidence is None else f"{a.confidence:.6f}"
        rows.append([a.path, a.label or "", sure, a.error or "", *more])
    return csv_text(rows, spreadsheet=spreadsheet)


def load(
    path: Source | None = None,
    *,
    model: Code = None,
    weights: Source | None = None,
    device: str = "auto",
    **changes: Any,
) -> Classifier | OnnxClassifier:
    """Load a trained model from its model folder, run folder or model.onnx; or a network with published weights.

    No code in a folder is run. A folder that was trained with the user's own network asks for it by `model`: an
    nn.Module, its class, or ``"FILE.py:CLASS"``.

    >>> import hubel
    >>> model = hubel.load("runs/flowers")  # doctest: +SKIP
    >>> model.predict(["rose.jpg"])[0].label  # doctest: +SKIP
    'rose'
    """
    return opened(path, model, weights, device, changes, ())[0]


def opened(
    run: Source | None,
    model: Code,
    weights: Source | None,
    device: str,
    changes: dict[str, Any],
    classes: Sequence[str],
) -> tuple[Classifier | OnnxClassifier, list[str]]:
    """Make the classifier that run, model and weights name; `classes` are those of the data it is for."""
    if weights is not None:
        if run is not None:
            raise UsageError(f"{os.fspath(run)} brings its own weights: leave --weights out, or give no run.")
        name, code = name_of(model or "auto")
        data = with_settings(Recipe(), changes).data
        code = load_code(name) if code is None and is_code(name) else code
        return from_weights(os.fspath(weights), name, device=device, code=code, data=data, classes=classes)
    if run is None:
        raise UsageError("Which model? Give a run folder, or --model NAME with --weights FILE.")
    limit = {name: changes.pop(name) for name in ("max_pixels",) if name in changes}
    if changes:
        raise UsageError(f"A trained model knows its own {next(iter(changes))}: that setting goes with --weights.")
    found = load_folder(os.fspath(run), device=device, code=code_of(model))
    if limit:
        most = with_settings(Recipe(), limit).data.max_pixels
        found = replace(found, card=replace(found.card, preprocess=replace(found.card.preprocess, max_pixels=most)))
    return found, []


def code_of(model: Code) -> Any:
    """The user's own network for a run: an object as it is, ``FILE.py:CLASS`` loaded."""
    if isinstance(model, str) and not is_code(model):
        raise UsageError(f"--model {model}: a run knows its network; with --weights, or as FILE.py:CLASS, it is named.")
    return load_code(model) if isinstance(model, str) else model


def name_of(model: Any) -> tuple[str, Any]:
    """A network's name and, where it is the user's own object, the object."""
    if isinstance(model, str):
        return model, None
    return code_name(model), model
