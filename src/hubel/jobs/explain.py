"""Why a trained model answers as it does: a map, whether to trust it, and the training images that are most alike."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from hubel.as_json import to_json
from hubel.dataset.as_file import Picture, as_file
from hubel.dataset.decode import decode
from hubel.dataset.tensors import normalise, to_tensor
from hubel.errors import ImageError, ModelError, UsageError
from hubel.evidence import Floats, Pixels, RunRecord
from hubel.explanation.features import last_features, most_alike
from hubel.explanation.methods import METHODS, attribute
from hubel.explanation.trust import trust
from hubel.jobs.answer import Classifier
from hubel.report.pictures import contact_sheet, data_uri, encoded, on_white, opened, overlay, picture
from hubel.report.wording import certainty, plain
from hubel.runs import make_folder, write_bytes, write_json

ALIKE = 3  # training images that are shown beside an image
SIDE = 256  # pixels of the pictures in a sheet


@dataclass(frozen=True, kw_only=True)
class Alike:
    """A training image that the network finds alike: cosine of the last features; `picture` is encoded."""

    path: str
    label: str
    cosine: float
    picture: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What speaks for a class in one image.

    Attributes:
        path: as given. target: the class that was explained. method, layer: how; reason: why that layer.
        probabilities: class → probability, the three likeliest.
        note: why the map shows nothing; empty where it shows something.
        trust: whether what the map points at matters to the answer, in a sentence; `trusted` in a word.
        insertion, deletion: areas under the probability (see `explanation.trust`), and those of random maps.
        alike: the training images that are most alike, where the run keeps some.
        map: (h, w) float32, signed, as the method computes it. pixels: (H, W, C) uint8, what the network was shown.
        heatmap: (H, W) uint8, for display.
        error: why the image can't be used; the rest is empty then.
    """

    path: str
    target: str = ""
    method: str = ""
    layer: str = ""
    reason: str = ""
    probabilities: dict[str, float] = field(default_factory=dict)
    note: str = ""
    trusted: bool | None = None
    trust: str = ""
    insertion: float | None = None
    deletion: float | None = None
    alike: tuple[Alike, ...] = ()
    map: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32), repr=False)
    pixels: Pixels = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8), repr=False)
    heatmap: Pixels = field(default_factory=lambda: np.empty((0, 0), np.uint8), repr=False)
    error: str = ""

    def sheet(self) -> Image.Image:
        """Draw it: the image and its map, and below them the training images that are most alike."""
        said = ", ".join(f"{plain(name)} {certainty(p)}" for name, p in self.probabilities.items())
        how = self.method + (f" at {self.layer}" if self.layer else "")
        tested = {True: "what it points at matters", False: "not shown to matter more than random places", None: ""}
        words = self.note or tested[self.trusted]
        cards = [([picture(self.pixels), overlay(self.pixels, self.heatmap)], [said, f"{how}: {words}", self.path])]
        if self.alike:
            names = ", ".join(f"{plain(each.label)} {each.cosine:.2f}" for each in self.alike)
            cards.append(([opened(each.picture) for each in self.alike], ["most alike in training", names]))
        return contact_sheet(cards, side=SIDE, columns=1)

    def lines(self) -> list[str]:
        """The explanation in words, for a terminal."""
        if self.error:
            return [f"{plain(self.path)}: left out, {self.error}"]
        first, *others = [f"{plain(name)} {p:.1%}" for name, p in self.probabilities.items()]
        then = f"   (then {', '.join(others)})" if others else ""
        where = f"at {self.layer}, since {self.reason}" if self.layer else self.reason
        lines = [f"{plain(self.path)}: {first}{then}", f"  {self.method} for {plain(self.target)} {where}".rstrip()]
        lines += [f"  {self.note or self.trust}"]
        if self.alike:
            named = ", ".join(f"{plain(each.path)} ({plain(each.label)}, {each.cosine:.2f})" for each in self.alike)
            lines.append(f"  most alike in training: {named}")
        return lines

    def record(self) -> dict[str, object]:
        """What goes into JSON: all but the pictures and the map itself, of which least and greatest are kept."""
        kept = {name: value for name, value in vars(self).items() if name not in ("map", "pixels", "heatmap", "alike")}
        alike = [{"path": each.path, "label": each.label, "cosine": each.cosine} for each in self.alike]
        extremes = [float(self.map.min()), float(self.map.max())] if self.map.size else None
        return {**to_json(kept), "alike": alike, "map_range": extremes}

    def _repr_html_(self) -> str:
        """Show the sheet in a notebook."""
        import html

        if self.error:
            return f"<p>{html.escape(self.lines()[0])}</p>"
        words = "<br>".join(html.escape(line) for line in self.lines())
        return f'<img alt="{html.escape(self.path)}" src="{data_uri(encoded(self.sheet()))}"><p>{words}</p>'


def explanations(
    classifier: Classifier,
    record: RunRecord | None,
    files: Sequence[Picture],
    *,
    method: str = "gradcam",
    layer: str | None = None,
    label: str | None = None,
) -> Iterator[Explanation]:
    """Explain image by image.

    Args:
        record: the run that the model comes from, whose training images are looked through.
        label: the class to explain; the likeliest one of each image when None.

    Raises:
        UsageError: there is no such method, layer or class.
    """
    if method not in METHODS:
        raise UsageError(f"There is no explanation method {method!r}: choose of {', '.join(METHODS)}.")
    if label is not None and label not in classifier.classes:
        names = ", ".join(map(repr, classifier.classes[:10])) + (", …" if len(classifier.classes) > 10 else "")
        raise UsageError(f"The model does not know the class {label!r}: it knows {names}.")
    target = None if label is None else classifier.classes.index(label)
    for file in files:
        name = os.fspath(file) if isinstance(file, (str, os.PathLike)) else f"({type(file).__name__})"
        try:
            pixels = decode(as_file(file), classifier.card.preprocess)[0]
        except ImageError as error:
            yield Explanation(path=name, error=error.reason)
            continue
        yield _explained(classifier, record, name, pixels, target, method, layer)


def _explained(
    classifier: Classifier,
    record: RunRecord | None,
    name: str,
    pixels: Pixels,
    target: int | None,
    method: str,
    layer: str | None,
) -> Explanation:
    model, preprocess, classes = classifier.model, classifier.card.preprocess, classifier.classes
    logits = torch.from_numpy(classifier.logits(pixels[None]))
    if not bool(logits.isfinite().all()):
        return Explanation(path=name, error="the model's answer is not finite: its weights are of no use")
    odds = logits.softmax(1)[0]
    image = normalise(to_tensor(pixels[None]), preprocess).to(classifier.device)
    asked = torch.tensor([int(odds.argmax()) if target is None else target])
    found = attribute(model, image, asked, method=method, layer=layer)
    whole = F.interpolate(found.maps[:, None], size=image.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    note, known = found.notes[0], None
    if not note:
        known = trust(model, image, whole, asked)[0]
    order = odds.argsort(descending=True)[:3].tolist()
    return Explanation(
        path=name,
        target=classes[int(asked)],
        method=method,
        layer=found.layer,
        reason=found.reason,
        probabilities={classes[i]: float(odds[i]) for i in order},
        note=note,
        trusted=None if known is None else not known.red_flag,
        trust="" if known is None else known.sentence,
        insertion=None if known is None else known.insertion.of_map,
        deletion=None if known is None else known.deletion.of_map,
        alike=() if record is None else _alike(record, last_features(model, image)),
        map=found.maps[0].numpy(),
        pixels=pixels,
        heatmap=np.rint(255 * found.heatmaps[0].numpy()).astype(np.uint8),
    )


def _alike(record: RunRecord, features: torch.Tensor) -> tuple[Alike, ...]:
    kept, pictures, classes = record.trained, record.trained_thumbnails, record.card.classes
    if not kept or not len(kept["features"]):
        return ()
    among = torch.from_numpy(kept["features"].astype(np.float32))
    places, cosines = (found[0].tolist() for found in most_alike(features, among, min(ALIKE, len(among))))
    return tuple(
        Alike(path=record.trained_path(i), label=classes[int(kept["labels"][i])], cosine=c, picture=pictures[i])
        for i, c in zip(places, cosines, strict=True)
        if i in pictures
    )


def write_explanations(explanations: Sequence[Explanation], output: str | os.PathLike[str]) -> Path:
    """Write a sheet for each image, and explanations.json; returns the folder."""
    folder = make_folder(Path(output))
    rows, used = [], set[str]()
    for number, one in enumerate(explanations, 1):
        row = one.record()
        if not one.error:
            stem = Path(one.path).stem or f"image-{number}"
            stem = stem if stem not in used else f"{stem}-{number}"
            used.add(stem)
            write_bytes(folder / f"{stem}.png", on_white(one.sheet()))
            row["picture"] = f"{stem}.png"
        rows.append(row)
    write_json(folder / "explanations.json", rows)
    return folder


def inside(classifier: object) -> Classifier:
    """A model that can be looked into; an exported graph can't."""
    if not isinstance(classifier, Classifier):
        raise ModelError("An exported model.onnx can't be looked into: give the run folder that it was made from.")
    return classifier
