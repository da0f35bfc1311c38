"""The records that hubel's parts hand to each other: frozen, free of torch, and JSON both ways."""

from __future__ import annotations

import dataclasses
import html
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from hubel.as_json import MAY_BE_NAN, SPARSE

T = TypeVar("T")
Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
Severity = Literal["error", "warning", "note"]
Known = Literal["decided by a fork", "measured", "suspected"]
Fit = Literal["crop", "pad", "squash"]
Interpolation = Literal["bilinear", "bicubic"]
LARGEST = 4096  # pixels of a side that a network is given


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a file becomes the tensor that a network sees; it travels with the model.

    Decode (EXIF orientation applied, transparency composited on `background`), convert to `channels`, bring to `size`
    by `fit`, divide by 255, subtract `mean`, divide by `std`.

    Attributes:
        size: height and width in pixels.
        channels: 1 (grey) or 3 (RGB).
        fit: ``crop`` scales the shorter side and cuts the centre out, ``pad`` scales the longer side and fills up with
            `background`, ``squash`` ignores the aspect ratio.
        crop_pct: share of the shorter side that ``crop`` cuts out: 0.875 is "resize to 256, cut 224 out".
        interpolation: the filter of the resize; both are antialiased.
        mean, std: one number per channel, for values in [0, 1].
        background: RGB in 0..255.
        range: of images with more than 8 bits, the values that become black and white; None: each by its own kind.
        max_pixels: an image whose header claims more is refused.
    """

    size: tuple[int, int]
    channels: int = 3
    fit: Fit = "crop"
    crop_pct: float = 1.0
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    background: tuple[int, int, int] = (255, 255, 255)
    range: tuple[float, float] | None = None
    max_pixels: int = 80_000_000

    def __post_init__(self) -> None:
        if not all(1 <= side <= LARGEST for side in self.size) or not 0 < self.crop_pct <= 1:
            raise ValueError(f"images of {self.size} pixels, {self.crop_pct} of them cut out, are impossible")
        if self.channels not in (1, 3) or min(self.std, default=1.0) <= 0:
            raise ValueError(f"images of {self.channels} channels and deviation {self.std} are impossible")
        if not all(0 <= value <= 255 for value in self.background):
            raise ValueError(f"the background {self.background} is no colour")


@dataclass(frozen=True, kw_only=True)
class Level:
    """Of the images that a model was chosen on, `n` were answered with so much confidence, and `errors` wrongly."""

    confidence: float
    n: int
    errors: int

    def __post_init__(self) -> None:
        if not 0 <= self.confidence <= 1 or not 0 <= self.errors <= self.n:
            raise ValueError(
                f"{self.errors} errors among {self.n} images at confidence {self.confidence} are impossible"
            )


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What must be known to build a saved network again and to read its answers.

    Attributes:
        architecture: a name from the zoo.
        arguments: the keyword arguments it was built with (JSON values).
        classes: label names; index i of the logits is ``classes[i]``.
        metrics: the figures measured when it was saved (``accuracy``, ``n``, …).
        temperature: what logits are divided by before the softmax, so that confidences mean what they say.
        levels: errors by confidence, from which thresholds follow.
    """

    architecture: str
    arguments: dict[str, Any]
    classes: tuple[str, ...]
    preprocess: Preprocess
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    temperature: float = 1.0
    levels: tuple[Level, ...] = ()

    def __post_init__(self) -> None:
        if not 1e-3 <= self.temperature <= 1e3:
            raise ValueError(f"a temperature of {self.temperature} is impossible")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError("it names no class, or one twice")
        if not len(self.preprocess.mean) == len(self.preprocess.std) == self.preprocess.channels:
            raise ValueError("its mean and deviation are not one number a channel")


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What the decoder learned about one file.

    Attributes:
        width, height: as stored, before EXIF orientation, in pixels.
        mode: Pillow's mode as stored (``RGB``, ``L``, ``I;16``, ``CMYK``, …).
        format: Pillow's name of the format (``JPEG``).
        frames: number of frames or pages; only the first is used.
        orientation: EXIF orientation 1..8.
        transparent: whether transparency was composited.
        colour: whether the decoded pixels have any colour (False for grey images stored as RGB).
        sha256: of the file's bytes, in hexadecimal.
    """

    width: int
    height: int
    mode: str
    format: str
    frames: int = 1
    orientation: int = 1
    transparent: bool = False
    colour: bool = True
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing, with its evidence.

    Attributes:
        code: a short stable name (``unreadable``, ``duplicate``, ``leak``, …).
        message: one sentence: what, why, and what to do.
        paths: the files concerned, relative to the data's root.
        exclude: the part of `paths` that is dropped when the findings are given to ``--exclude``.
        left_out: whether `exclude` is already left out of every run.
        evidence: the numbers behind it.
        step: the optimizer step at which it was seen, in a training. cause: what is wrong, where `message` says what
            was seen. remedy: what helps. known: how sure it is.
    """

    code: str
    severity: Severity
    message: str
    paths: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    left_out: bool = False
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict)
    step: int | None = None
    cause: str = ""
    remedy: str = ""
    known: Known = "measured"


def by_kind(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Group findings of one severity and code, errors first, in the order in which they were found."""
    order = typing.get_args(Severity)
    kinds: dict[tuple[Severity, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: order.index(finding.severity)):
        kinds.setdefault((finding.severity, finding.code), []).append(finding)
    return list(kinds.values())


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Precision, recall and F1 (0 where undefined) of one class, and the number of its images."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How well predictions match labels.

    Attributes:
        n: number of images.
        loss: mean cross-entropy in nats.
        accuracy: share of right predictions; `interval` is its 95 % Wilson interval.
        top5: share of images whose label is among the five likeliest; None for ten classes or fewer.
        balanced_accuracy: mean recall over the classes that occur.
        confusion: ``confusion[i][j]`` counts images of class i predicted as class j.
        ece: expected calibration error, with its 95 % interval; None where nobody measured it.
    """

    n: int
    loss: Annotated[float, MAY_BE_NAN]
    accuracy: float
    interval: tuple[float, float]
    top5: float | None
    balanced_accuracy: float
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...] = dataclasses.field(metadata=SPARSE)
    ece: float | None = None
    ece_interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        count = len(self.per_class)
        if (
            not count
            or len(self.confusion) != count
            or any(len(row) != count or min(row) < 0 for row in self.confusion)
        ):
            raise ValueError(f"the confusion matrix does not fit {count} classes")
        if self.n < 0 or not 0 <= self.accuracy <= 1:
            raise ValueError(f"accuracy {self.accuracy} of {self.n} images is impossible")

    def _repr_html_(self) -> str:
        """Show accuracy and the confusion matrix in a notebook: a row for each class, a column for each answer."""
        most, rows = max(1, *map(max, self.confusion)), list[str]()
        names = [html.escape(each.name) for each in self.per_class]
        for i, (name, counts) in enumerate(zip(names, self.confusion, strict=True)):
            colour = ("214,73,51", "31,119,180")
            cells = (
                f'<td style="background:rgba({colour[i == j]},{n / most:.2f})">{n}</td>' for j, n in enumerate(counts)
            )
            rows.append(f"<tr><th>{name}</th>{''.join(cells)}</tr>")
        head = "".join(f"<th>{name}</th>" for name in names)
        low, high = self.interval
        said = f"{self.accuracy:.1%} of {self.n:,} images right (95 % interval {low:.1%} to {high:.1%})"
        table = f"<table><tr><th>is \\ answered</th>{head}</tr>{''.join(rows)}</table>"
        return f"<b>{said}</b>{table}"


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """What a fool and a straight line reach on the same images.

    Attributes:
        majority: accuracy of always answering the most frequent training class.
        logistic: accuracy of logistic regression on small pixels, None if it was not fitted.
        logistic_n: number of training images it was fitted on.
    """

    majority: float
    logistic: float | None = None
    logistic_n: int = 0


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operation of a network, with every number about it, for one image.

    Attributes:
        name: the module's path in the network; of an operation that no module does, its place (``layer1.0.add``).
        kind: the module's class or the operation (``Conv2d``, ``add``); detail: its settings in a few words
            (``3×3, stride 2, padding 1``).
        inputs: indices of the layers whose outputs it reads; -1 is the image.
        input_shape, shape: of what goes in (the first input) and comes out, without the batch axis.
        parameters: numbers it learns, counted where they are first used.
        macs: multiply-accumulates of convolutions and dense layers.
        activation_bytes: of its output in float32.
        dense_weights: weights of a fully connected layer between the same shapes, where it is a convolution; else 0.
        field, stride, padding: of the receptive field (height, width) in pixels of the image: its size, the step from
            one output to the next, and how far the first one starts outside of the image. None: not defined, because
            every output sees the whole image at once (global pooling, dense layers, attention).
        sees_all: whether a side branch lets every output depend on the whole image (squeeze-and-excitation), although
            `field` gives the local figure.
        milliseconds: measured, None where it was not.
    """

    name: str
    kind: str
    detail: str = ""
    inputs: tuple[int, ...] = ()
    input_shape: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    parameters: int = 0
    macs: int = 0
    activation_bytes: int = 0
    dense_weights: int = 0
    field: tuple[int, int] | None = None
    stride: tuple[float, float] | None = None
    padding: tuple[float, float] | None = None
    sees_all: bool = False
    milliseconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A network, layer by layer, and its totals.

    Attributes:
        network: its name; input: channels, height, width.
        parameters, trainable: numbers it learns, and those that are not frozen. buffers: numbers that are kept but not
            learned (the running statistics of batch norm).
        macs: multiply-accumulates for one image. activation_bytes: sum over all layers' outputs in float32.
        field, stride, padding: of the last map before positions are pooled away; None without one.
        milliseconds: of a whole forward pass of one image, None where it was not measured.
        warnings: what a designer should know.
    """

    network: str
    input: tuple[int, int, int]
    layers: tuple[Layer, ...]
    parameters: int
    trainable: int
    buffers: int
    macs: int
    activation_bytes: int
    field: tuple[int, int] | None
    stride: tuple[float, float] | None
    padding: tuple[float, float] | None
    milliseconds: float | None
    warnings: tuple[Finding, ...]
