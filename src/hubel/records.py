"""The records that hubel's parts hand to each other: frozen, free of torch, and JSON both ways."""

from __future__ import annotations

import dataclasses
import math
import time
import typing
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from hubel.as_json import to_json

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")
Severity = Literal["error", "warning", "note"]
Known = Literal["decided by a fork", "measured", "suspected"]
Fit = Literal["crop", "pad", "squash"]
Interpolation = Literal["bilinear", "bicubic"]


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
    """

    size: tuple[int, int]
    channels: int = 3
    fit: Fit = "crop"
    crop_pct: float = 1.0
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    background: tuple[int, int, int] = (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What must be known to build a saved network again and to read its answers.

    Attributes:
        architecture: a name from the zoo.
        arguments: the keyword arguments it was built with (JSON values).
        classes: label names; index i of the logits is ``classes[i]``.
        metrics: the figures measured when it was saved (``accuracy``, ``n``, …).
    """

    architecture: str
    arguments: dict[str, Any]
    classes: tuple[str, ...]
    preprocess: Preprocess
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)


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
    """

    n: int
    loss: float
    accuracy: float
    interval: tuple[float, float]
    top5: float | None
    balanced_accuracy: float
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]


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
class Step:
    """One optimizer step is done; gradients are still there, and weights and counters are complete.

    Attributes:
        epoch, batch, step: 1-based; `batch` counts the steps of this epoch. epochs, batches, steps: how many there are.
        loss: 0-d tensor on the device, of the batch before the step and of all processes together; ``float(loss)``
            waits for the device.
        grad_norm: 0-d tensor on the device, the norm of all gradients together before they were clipped.
        lr: learning rate of the step. size: side of the images in pixels. images: in this step.
        seconds: spent on this step; waited: the part of them that went by until the data was there.
    """

    epoch: int
    epochs: int
    batch: int
    batches: int
    step: int
    steps: int
    loss: Tensor
    grad_norm: Tensor
    lr: float
    size: int
    images: int
    seconds: float
    waited: float


@dataclass(frozen=True, kw_only=True)
class EpochEnd:
    """An epoch is done.

    Attributes:
        loss, accuracy: means over the epoch's augmented batches, as they were met.
        images_per_second: of training alone.
    """

    epoch: int
    step: int
    lr: float
    loss: float
    accuracy: float
    images: int
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """One line of results.csv: what was seen when an epoch ended.

    Attributes:
        epoch: 1-based.
        step: optimizer steps so far.
        lr: learning rate of the epoch's last step.
        train_loss, train_accuracy: mean over the epoch's augmented training batches.
        val_loss, val_accuracy: over the whole validation part.
        worst_class, worst_recall: the class with the lowest validation recall.
        recalls: validation recall per class, in the order of the classes.
        images_per_second: training only.
        seconds: since the process started; `seconds_left` is an estimate.
        best: whether this epoch's weights are the best so far.
    """

    epoch: int
    epochs: int
    step: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    worst_class: str
    worst_recall: float
    recalls: tuple[float, ...]
    images_per_second: float
    seconds: float
    seconds_left: float
    best: bool


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


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A long task has come so far; `done` counts from 0 to `total`."""

    task: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Note:
    """One sentence that the user should read."""

    text: str


@dataclass(frozen=True, kw_only=True)
class DataSeen:
    """The images were read and audited.

    Attributes:
        images: usable images. counts: part → images of each class, in the order of `classes`.
        divided: whether `counts` are those of a run's own split, and not just of the data as it came.
    """

    source: str
    images: int
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]
    findings: tuple[Finding, ...]
    divided: bool


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What will be done, as (what, value, why), and the folder that holds it."""

    rows: tuple[tuple[str, str, str], ...]
    folder: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How good the model is on a part that was not used for choosing."""

    part: str
    scores: Scores
    baselines: Baselines | None


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run is complete. seconds: since the process started. stopped: why it ended early, or None."""

    folder: str
    report: str | None
    seconds: float
    stopped: str | None


Event = Progress | Note | DataSeen | Planned | Step | EpochRow | Finding | Measured | Finished


class Sampled:
    """The steps of a training that a log or a viewer is told: about two a second.

    A step is told when the next one is taken: its loss is long there by then, so that nobody waits for the device.
    """

    def __init__(self, seconds: float = 0.5) -> None:
        self.seconds, self._last = seconds, -math.inf
        self._kept: Step | None = None

    def taken(self, step: Step) -> Iterator[Step]:
        """Yield the step that was taken before this one, where this one is taken."""
        now = time.monotonic()
        if now - self._last < self.seconds:
            return
        if self._kept is not None:
            yield self._kept
        loss, norm = (value.to("cpu", non_blocking=True) for value in (step.loss, step.grad_norm))
        self._last, self._kept = now, dataclasses.replace(step, loss=loss, grad_norm=norm)


def event_json(event: Event) -> dict[str, Any]:
    """Return an event as a JSON object whose key ``event`` says which (``epoch_row``, ``measured``, …)."""
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in type(event).__name__).lstrip("_")
    return {"event": name, **to_json(event)}


def outcome(work: Generator[Any, None, T]) -> T:
    """Run a generator to its end, whatever it reports on the way, and return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return cast(T, end.value)
