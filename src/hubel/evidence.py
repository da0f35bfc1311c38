"""A finished run's folder as reports, comparisons and the studio read it: numbers and pictures, without torch.

Beside what a training writes anyway (plan, recipe, curves, findings, scores), the folder ``evidence`` keeps what was
measured with the finished network: `Facts` as JSON, logits and labels, a few arrays of pictures, and thumbnails. This
file is the only one that writes or reads it; docs/run-folder.md lists what lies where.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import typing
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hubel.errors import RunError
from hubel.events import EpochRow
from hubel.records import Baselines, Finding, ModelCard, Scores
from hubel.runs import Division, Manifest, check_own, make_folder, read_record, write_bytes, write_json

FACTS, LOGITS = "evidence/facts.json", "evidence/logits.safetensors"
PICTURES, THUMBNAILS = "evidence/pictures.safetensors", "evidence/thumbnails.zip"
TRAINED, TRAINED_THUMBNAILS = "evidence/trained.safetensors", "evidence/trained.zip"
IMAGES = "evidence/images.safetensors"
OF_IMAGES = np.dtype(  # of each reported image: pixels as shown, brightness in [0, 1], half of its file's SHA-256
    [("width", "<u4"), ("height", "<u4"), ("brightness", "<f4"), ("format", "S8"), ("digest", "V16")]
)
OF_PICTURES: dict[str, tuple[Any, int]] = {  # of each array in `PICTURES`: its type and number of dimensions
    "filters.before": (np.float32, 4),
    "filters.after": (np.float32, 4),
    "augmented": (np.uint8, 5),
    "explained.images": (np.uint8, 4),
    "explained.heat": (np.uint8, 3),
}

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Explained:
    """An image of the reported part that has a heat map: its place there, and a note if the map needs one."""

    index: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known about a run when its network is measured, beside what other files of the folder say.

    Attributes:
        title: name of the run. folder: the run folder as it was typed. source: the data as they were named.
        command: the command line that makes this run again. created: ISO date and time of the measurement.
        seconds: the whole run took. stopped: None, or why it ended early (one sentence).
        notes: sentences about the limits of the result. parameters: numbers that the network has learned.
        counts: part → number of images of each class.
        augmented_by: what augmentation does, in words.
        explained: the images with heat maps, in the order of the kept pictures.
        explained_by: the layer that the maps show, and why; or why there are none.
    """

    title: str
    folder: str
    source: str
    command: str
    created: str
    seconds: float
    stopped: str | None
    notes: tuple[str, ...]
    parameters: int
    counts: dict[str, tuple[int, ...]]
    augmented_by: str
    explained: tuple[Explained, ...]
    explained_by: str


def keep_facts(run: Path, facts: Facts) -> None:
    """Write ``evidence/facts.json``."""
    write_json(make_folder(run / "evidence") / "facts.json", facts)


def keep_arrays(run: Path, name: str, arrays: Arrays) -> None:
    """Write arrays as `LOGITS`, `PICTURES` or `TRAINED`, in the safetensors format.

    Args:
        arrays: for `LOGITS`: ``reported.logits`` (N, K) float32 and ``reported.labels`` (N,) int64 in the order of
            split.json's ``test``, ``validation.logits`` and ``validation.labels`` in that of its ``val``, and
            ``temperature`` (1,) float64. For `IMAGES`: ``facts`` (N, 36) uint8, a row of `OF_IMAGES` for each reported
            image. For `PICTURES`, all of them
            optional: ``filters.before`` and ``filters.after``, the first convolution's weights
            (F, C, k, k) float32; ``augmented`` (rows, columns, H, W, C) uint8 with the original in column 0;
            ``explained.images`` (M, H, W, C) and ``explained.heat`` (M, H, W) uint8 in the order of `Facts.explained`.
            For `TRAINED`: ``features`` (T, D) float16, the last ones of some training images, ``labels`` (T,) and
            ``rows`` (T,) int64, their places in split.json's ``train``.
    """
    from safetensors.numpy import save

    make_folder(run / "evidence")
    write_bytes(run / name, save({key: np.ascontiguousarray(value) for key, value in arrays.items()}))


def keep_thumbnails(run: Path, thumbnails: Mapping[int, bytes], name: str = THUMBNAILS) -> None:
    """Write `THUMBNAILS`, encoded pictures by their index in the reported part, or `TRAINED_THUMBNAILS`."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for index, content in thumbnails.items():
            kind = "png" if content.startswith(b"\x89PNG") else "webp"
            archive.writestr(zipfile.ZipInfo(f"{index:06d}.{kind}"), content)
    make_folder(run / "evidence")
    write_bytes(run / name, packed.getvalue())


def softmax(logits: npt.NDArray[Any], temperature: float = 1.0) -> Floats:
    """(N, K) logits → rows that sum to 1; NaN where a logit is."""
    with np.errstate(invalid="ignore"):
        scaled = logits / temperature
        odds = np.exp(scaled - scaled.max(1, keepdims=True))
        return np.asarray(odds / odds.sum(1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True)
class RunRecord:
    """A finished run's folder; each field is read from its file when it is first asked for.

    Every field raises RunError, in one sentence, if its file is missing or damaged.

    Example:
        ``RunRecord.open("runs/flowers").probabilities``
    """

    path: Path

    @classmethod
    def open(cls, path: str | Path) -> RunRecord:
        """Look whether a folder holds a finished run with its evidence.

        Raises:
            RunError: it does not exist, its run has not ended, or an older hubel made it.
        """
        path = Path(path)
        if not os.path.isdir(path) or not (path / "plan.json").exists():
            raise RunError(f"{path} holds no run (there is no plan.json): give the folder of one, such as runs/photos.")
        if not (path / "scores.json").exists():
            raise RunError(f"{path} is not finished, so nothing is measured yet: hubel resume {path} goes on with it.")
        if not (path / FACTS).exists():
            raise RunError(
                f"{path} was made by an older hubel, which kept no evidence for other reports (there is no {FACTS}): "
                f"its report.html stays as it is; for a new one, train again with --recipe {path}."
            )
        check_own(path)
        return cls(path)

    @cached_property
    def facts(self) -> Facts:
        facts, classes, images = read_record(self.path / FACTS, Facts), len(self.card.classes), len(self.paths)
        if any(len(counts) != classes for counts in facts.counts.values()):
            raise self._damaged(FACTS, f"its counts are not those of {classes} classes")
        if any(not 0 <= one.index < images for one in facts.explained):
            raise self._damaged(FACTS, f"it explains images that are none of the {images:,} reported ones")
        return facts

    @cached_property
    def card(self) -> ModelCard:
        return read_record(self.path / "plan.json", ModelCard, "card")

    @cached_property
    def plan(self) -> tuple[tuple[str, str, str], ...]:
        """The derived settings as (what, value, why), in the order in which they are to be read."""
        return read_record(self.path / "plan.json", tuple[tuple[str, str, str], ...], "rows")

    @cached_property
    def recipe(self) -> str:
        """The whole recipe as YAML text."""
        return self._bytes("recipe.yaml").decode("utf-8", "replace")

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions and hardware."""
        return read_record(self.path / "env.json", dict[str, Any])

    @cached_property
    def reported(self) -> str:
        """The part that was measured: ``test``, or ``val`` when the data came with a val but no test part."""
        return read_record(self.path / "scores.json", str, "part")

    @cached_property
    def scores(self) -> Scores:
        scores = read_record(self.path / "scores.json", Scores, "scores")
        if tuple(each.name for each in scores.per_class) != self.card.classes:
            raise self._damaged("scores.json", "its classes are not those of plan.json")
        return scores

    @cached_property
    def baselines(self) -> Baselines:
        return read_record(self.path / "scores.json", Baselines, "baselines")

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        return read_record(self.path / "findings.json", tuple[Finding, ...])

    @cached_property
    def history(self) -> tuple[EpochRow, ...]:
        """One row per epoch; none where the training was stopped in its first."""
        if not (self.path / "results.csv").exists():
            return ()
        text = self._bytes("results.csv").decode("utf-8", "replace")
        try:
            return tuple(_epoch(row) for row in csv.DictReader(io.StringIO(text, newline="")))
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise self._damaged("results.csv", error) from error

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Of the reported images, relative to the data's root."""
        return self._division.test

    @cached_property
    def validation_paths(self) -> tuple[str, ...]:
        return self._division.val

    @property
    def logits(self) -> Floats:
        """(N, K) float32 of the reported images."""
        return self._answers["reported.logits"]

    @property
    def labels(self) -> Integers:
        """(N,) class indices of the reported images."""
        return self._answers["reported.labels"]

    @property
    def validation_logits(self) -> Floats:
        """(V, K) float32 of the images that the best epoch was chosen on."""
        return self._answers["validation.logits"]

    @property
    def validation_labels(self) -> Integers:
        """(V,) class indices of the same images."""
        return self._answers["validation.labels"]

    @cached_property
    def temperature(self) -> float:
        """What the saved model divides its logits by; 1 for a model that was saved before there were temperatures."""
        found = self._answers.get("temperature", np.ones(1))
        if found.shape != (1,) or not 1e-3 <= found[0] <= 1e3:
            raise self._damaged(LOGITS, "its temperature is impossible")
        return float(found[0])

    @cached_property
    def probabilities(self) -> Floats:
        """(N, K) rows that sum to 1, as the saved model answers; NaN where a logit is."""
        return softmax(self.logits, self.temperature)

    @cached_property
    def predictions(self) -> Integers:
        """(N,) class indices."""
        return np.asarray(np.nan_to_num(self.probabilities, nan=0.0).argmax(1), dtype=np.int64)

    @cached_property
    def confidence(self) -> Floats:
        """(N,) the probability of the predicted class; 0 where it is NaN."""
        return np.asarray(np.nan_to_num(self.probabilities, nan=0.0).max(1), dtype=np.float32)

    @cached_property
    def pictures(self) -> Arrays:
        """The arrays that `keep_arrays` describes; empty if the file is missing."""
        if not (self.path / PICTURES).exists():
            return {}
        found = self._arrays(PICTURES)
        kinds = {name: (array.dtype, array.ndim) for name, array in found.items()}
        sizes = [found[name].shape[:3] for name in ("explained.images", "explained.heat") if name in found]
        alike = not sizes or (len(sizes) == 2 and sizes[0] == sizes[1] and sizes[0][0] == len(self.facts.explained))
        if not alike or any(kind != OF_PICTURES.get(name, kind) for name, kind in kinds.items()):
            raise self._damaged(PICTURES, "its arrays are not those that a run's pictures have")
        return found

    @cached_property
    def images(self) -> npt.NDArray[np.void] | None:
        """(N,) of `OF_IMAGES`; None if the file is missing."""
        if not (self.path / IMAGES).exists():
            return None
        rows = self._arrays(IMAGES).get("facts", np.empty(0))
        if rows.dtype != np.uint8 or rows.shape != (len(self.paths), OF_IMAGES.itemsize):
            raise self._damaged(IMAGES, f"it does not fit the {len(self.paths):,} reported images of split.json")
        found = np.ascontiguousarray(rows).view(OF_IMAGES)[:, 0]
        if not ((found["brightness"] >= 0) & (found["brightness"] <= 1)).all():
            raise self._damaged(IMAGES, "it holds an impossible brightness")
        return found

    @cached_property
    def thumbnails(self) -> Mapping[int, bytes]:
        """Encoded pictures (PNG or WebP) by index in the reported part; empty if the file is missing."""
        return self._zipped(THUMBNAILS)

    @cached_property
    def trained(self) -> Arrays:
        """Last features of some training images as `keep_arrays` describes them; empty if the file is missing."""
        if not (self.path / TRAINED).exists():
            return {}
        kept, count = self._arrays(TRAINED), len(self._division.train)
        features, rows, labels = (kept.get(name, np.empty(0)) for name in ("features", "rows", "labels"))
        fits = features.ndim == 2 and features.dtype == np.float16 and rows.shape == labels.shape == features.shape[:1]
        for indices, end in ((rows, count), (labels, len(self.card.classes))):
            fits = fits and indices.dtype == np.int64 and bool(((indices >= 0) & (indices < end)).all())
        if not fits:
            raise self._damaged(TRAINED, "it does not fit the training images of split.json")
        return kept

    @cached_property
    def trained_thumbnails(self) -> Mapping[int, bytes]:
        """Encoded pictures of the images in `trained`, by their index there; empty if the file is missing."""
        return self._zipped(TRAINED_THUMBNAILS)

    def trained_path(self, index: int) -> str:
        """Where the image of that index in `trained` lay, relative to the data's root."""
        return self._division.train[int(self.trained["rows"][index])]

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Sentences about what the folder no longer holds."""
        said = {
            PICTURES: "heat maps, filters and augmented images are left out",
            THUMBNAILS: "the measured images are named, but not shown",
            IMAGES: "accuracy by size, brightness, shape and format is left out",
        }
        gone = {name: what for name, what in said.items() if not (self.path / name).exists()}
        return tuple(f"{name} is missing from the run folder: {what}." for name, what in gone.items())

    @cached_property
    def _division(self) -> Division:
        return read_record(self.path / "split.json", Division)

    @cached_property
    def _manifest(self) -> Mapping[str, str]:
        file = self.path / "manifest.json"
        return read_record(file, Manifest).sha256 if file.exists() else {}

    @cached_property
    def _answers(self) -> Arrays:
        arrays, classes = self._arrays(LOGITS), len(self.card.classes)
        for part, paths in (("reported", self.paths), ("validation", self.validation_paths)):
            logits, labels = arrays.get(f"{part}.logits", np.empty(0)), arrays.get(f"{part}.labels", np.empty(0))
            kinds = logits.dtype == np.float32 and labels.dtype == np.int64
            if not kinds or logits.shape != (len(paths), classes) or labels.shape != (len(paths),):
                raise self._damaged(LOGITS, f"it does not fit the {len(paths):,} {part} images of split.json")
            if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
                raise self._damaged(LOGITS, f"it has labels that are none of the {classes} classes")
        return arrays

    def _zipped(self, name: str) -> Mapping[int, bytes]:
        if not (self.path / name).exists():
            return {}
        try:
            with zipfile.ZipFile(io.BytesIO(self._bytes(name))) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("its pictures are packed once more")  # into who knows how many bytes
                return {int(Path(each).stem): archive.read(each) for each in archive.namelist()}
        except (zipfile.BadZipFile, ValueError, LookupError, RuntimeError, OSError, NotImplementedError) as error:
            raise self._damaged(name, error) from error

    def _arrays(self, name: str) -> Arrays:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            return load(self._bytes(name))
        except (SafetensorError, ValueError) as error:
            raise self._damaged(name, error) from error

    def _bytes(self, name: str) -> bytes:
        """Read a file, and compare the evidence with the run's manifest if there is one."""
        try:
            content = (self.path / name).read_bytes()
        except FileNotFoundError as error:
            raise RunError(f"{self.path / name} is missing: restore it from a copy.") from error
        except OSError as error:
            raise self._damaged(name, error) from error
        listed = self._manifest.get(name) if name.startswith("evidence/") else None
        if listed not in (None, hashlib.sha256(content).hexdigest()):
            raise self._damaged(name, "its checksum is wrong")
        return content

    def _damaged(self, name: str, why: object) -> RunError:
        return RunError(f"{self.path / name} can't be used ({why}): restore it from a copy.")


def _epoch(row: Mapping[str, str]) -> EpochRow:
    """Read a line of results.csv."""
    if None in row or None in row.values():
        raise ValueError("a line of it is cut off")
    kinds: dict[Any, Callable[[str], Any]] = {int: int, float: float, str: str, bool: "True".__eq__}
    hints = typing.get_type_hints(EpochRow)
    plain = {f.name: kinds[hints[f.name]](row[f.name]) for f in fields(EpochRow) if f.name != "recalls"}
    recalls = tuple(float(value) for name, value in row.items() if name.startswith("recall "))
    if any(isinstance(value, int) and abs(value) >= 2**53 for value in plain.values()):
        raise ValueError("a number of it is too large to be true")
    return EpochRow(**plain, recalls=recalls)
