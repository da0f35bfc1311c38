"""What happens in a run, as events: the command line prints them, the run folder logs them, tests list them.

Frozen, free of torch, and JSON both ways but for the tensors of a Step.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

from hubel.as_json import MAY_BE_NAN, to_json
from hubel.records import Baselines, Finding, Scores

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


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
    train_loss: Annotated[float, MAY_BE_NAN]
    train_accuracy: float
    val_loss: Annotated[float, MAY_BE_NAN]
    val_accuracy: float
    worst_class: str
    worst_recall: float
    recalls: tuple[float, ...]
    images_per_second: float
    seconds: float
    seconds_left: float
    best: bool


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How good the model is on a part that was not used for choosing."""

    part: str
    scores: Scores
    baselines: Baselines | None


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The run is complete.

    Attributes:
        seconds: since the process started. stopped: why it ended early, or None.
        advice: what went wrong or fell short, and what to do about it, in sentences.
    """

    folder: str
    report: str | None
    seconds: float
    stopped: str | None
    advice: tuple[str, ...] = ()


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
