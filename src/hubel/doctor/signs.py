"""What the doctor measures, as plain numbers: rules read nothing else, so that they can be tried without a network."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Images as the network is given them.

    Attributes:
        mean, std, low, high: of each channel.
        near, third: correlation of pixels one and three apart in a row; below, third_below: in a column. Those three
            apart are more alike where channels lie where pixels should. flat: share of pixels that equal the next.
        finite: whether every number is.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    near: float = 1.0
    third: float = 1.0
    below: float = 1.0
    third_below: float = 1.0
    flat: float = 0.0
    finite: bool = True

    @property
    def size(self) -> float:
        """Root mean square of the channel that is furthest from zero."""
        return max(math.hypot(m, s) for m, s in zip(self.mean, self.std, strict=True))


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer with weights, looked at on the probe images.

    Attributes:
        kind: ``conv``, ``linear`` (a 1×1 convolution of one pixel, too) or ``norm``. calls: runs in a pass.
        map: output height and width.
        weight, gradient: root mean square; gain: of the weights, times the root of what a filter sums up.
        width: filters. update: of the last step, as a share of the weights; None: not known.
        alike: whether all filters are the same. dead: share of input channels that are zero on every image.
        saturated: share of input values at a sigmoid's or a tanh's ends. apart: how far the inputs of several calls
            are apart: their means, in standard deviations, or the logarithms of these.
        momentum: of a norm's running statistics. finite: whether outputs are.
    """

    name: str
    kind: str
    calls: int = 1
    map: tuple[int, int] = (1, 1)
    weight: float = 1.0
    gain: float = 1.0
    width: int = 64
    gradient: float | None = None
    update: float | None = None
    alike: bool = False
    dead: float = 0.0
    saturated: float = 0.0
    apart: float = 0.0
    momentum: float | None = None
    finite: bool = True


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look inside the network after `step` steps: a pass forwards and backwards over the probe images.

    Attributes:
        train_loss, eval_loss: on the same images in the two modes, in nats. outputs: K. accuracy: in eval mode.
        favourite: share of the answer that is given most often; of_labels: of the commonest label.
        sums_to_one: whether the outputs are probabilities, in_unit: whether they come out of a sigmoid, clipped: out
            of a ReLU; log_sums: whether their exponentials sum to one.
        spread: standard deviation of an output over the images, at the median; tilt: how far the largest mean of an
            output lies above the others' mean.
        activations: non-linear functions in the pass, by the graph. dropout: the largest share that is dropped.
        frozen, cut, missing: parameters that want no gradient; want one and get none; are in no optimizer. unknown:
            sizes of those that the network doesn't list among its own.
        unsteady: whether the same images get other answers in eval mode.
        trained_before: whether the frozen ones were trained before, by their norms' statistics.
        momentum: the largest of the optimizers.
        decay: the decay's pull on the weights over the gradient's. shrink: share of the weights it takes in a step.
    """

    step: int
    inputs: Inputs
    layers: tuple[Layer, ...]
    train_loss: float
    eval_loss: float
    outputs: int
    accuracy: float
    favourite: float = 0.0
    of_labels: float = 0.0
    sums_to_one: bool = False
    in_unit: bool = False
    clipped: bool = False
    log_sums: bool = False
    spread: float = 1.0
    tilt: float = 0.0
    activations: int = 1
    dropout: float = 0.0
    frozen: tuple[str, ...] = ()
    trained_before: bool = False
    cut: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    unsteady: bool = False
    decay: float = 0.0
    shrink: float = 0.0
    momentum: float = 0.0

    def named(self, kind: str) -> list[Layer]:
        """The layers of a kind, in the order of the pass."""
        return [layer for layer in self.layers if layer.kind == kind]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """One optimizer step.

    Attributes:
        loss: in nats. accuracy: of its batch. labels: images of each class. lr: the largest rate.
        norm: of all gradients. update: |Δw| / |w| over all weights; None where not measured.
        carried: whether gradients of the step before were still there. learning: share of the modules that behave
            otherwise in training (norms, dropout) that were in train mode; None: there are none.
        paired: whether the gradient at the outputs is that of cross-entropy on them (its rows sum to zero); twice: of
            cross-entropy on a softmax of them; picked: of picking one output for each image; binary: of cross-entropy
            on each output alone, where that lies in 0 to 1. squared: of a squared error; summed: of losses that
            are added up over the batch; logit: of cross-entropy on one output, a logit; averaged: of a squared error of
            one output that has the batch's mean label for every image.
        uneven: how many times as much as usual the image counts that counts most, for its error.
        at_once: images of its smallest pass. agree: share of the labels that are those which the loader gave; None:
            it gave none.
    """

    loss: float
    accuracy: float
    lr: float
    images: int
    labels: tuple[int, ...] = ()
    norm: float | None = None
    update: float | None = None
    seconds: float = 0.0
    waited: float = 0.0
    carried: bool = False
    learning: float | None = 1.0
    paired: bool = True
    twice: bool = False
    picked: bool = False
    binary: bool = False
    summed: bool = False
    squared: bool = False
    logit: bool = False
    averaged: bool = False
    uneven: float = 1.0
    at_once: int = 0
    agree: float | None = None


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """Held-out images after `step` steps.

    Attributes:
        loss, accuracy, n: in eval mode, on held-out images; train_loss, train_accuracy: on as many training images.
        surest: accuracy among the fifth of the answers that is surest. recalls: of each class, or NaN.
        inputs: the images as the network was given them, in the user's own evaluation where there is one.
    """

    step: int
    loss: float
    accuracy: float
    n: int
    train_loss: float
    train_accuracy: float
    surest: float = 1.0
    recalls: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluation by the user's own loop.

    Attributes:
        passes: forward passes; images: in them. in_train_mode: whether norms or dropout were in train mode.
        with_graph: passes that recorded gradients which nobody asked for. favourite: share of the commonest answer.
    """

    step: int
    passes: int
    images: int
    in_train_mode: bool
    with_graph: int
    favourite: float
    inputs: Inputs


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What the user says is meant so; it silences the rules that would object.

    Attributes:
        frozen: whether layers are frozen on purpose. accumulate: backward passes for a step.
        mean, std: that the pretrained weights expect.
    """

    frozen: bool = False
    accumulate: int = 1
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclass
class Case:
    """All that is known of a training at a moment.

    Attributes:
        idle: backward passes since the last step. unreached: steps for which no gradient came back to the outputs.
        alive: passes whose graphs are kept alive.
        broken: what brought numbers about that are not finite. raised: an exception that ended the training, in words.
        telling: share of the training images that the nearest mean of a class, of others' thumbnails, gets right; of n.
        doubles: held-out images that were met in training, of so many that were compared.
        given: training images of each class, where the loop says so.
    """

    intent: Intent = field(default_factory=Intent)
    steps: list[Taken] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    checkups: list[Checkup] = field(default_factory=list)
    evaluations: list[Evaluated] = field(default_factory=list)
    idle: int = 0
    unreached: int = 0
    alive: int = 0
    broken: str = ""
    raised: str = ""
    telling: tuple[float, int] | None = None
    doubles: int = 0
    compared: int = 0
    given: tuple[int, ...] = ()

    @property
    def now(self) -> int:
        """Steps taken so far."""
        return len(self.steps)

    @property
    def classes(self) -> int:
        """K, by the outputs."""
        return self.looks[0].outputs if self.looks else 2

    @property
    def chance(self) -> float:
        """Loss of an answer that knows nothing, in nats."""
        return math.log(max(self.classes, 2))

    @property
    def counts(self) -> list[int]:
        """Training images of each class: all of them where known, or those met so far."""
        if self.given:
            return list(self.given)
        rows = [step.labels for step in self.steps if step.labels]
        return [sum(column) for column in itertools.zip_longest(*rows, fillvalue=0)]

    def losses(self, last: int | None = None) -> list[float]:
        """Losses of the last steps."""
        return [step.loss for step in (self.steps if last is None else self.steps[-last:])]

    def updates(self) -> list[float]:
        """Measured shares by which steps changed the weights."""
        return [step.update for step in self.steps if step.update is not None]

    def learned(self) -> bool:
        """Whether the loss of late steps lies clearly below that of an answer that knows nothing."""
        late = self.losses(20)
        return bool(late) and float(np.median(late)) < 0.9 * self.chance

    def ever_learned(self) -> bool:
        """Whether ten losses in a row were, at some time, clearly below that of an answer that knows nothing."""
        losses = np.array(self.losses())
        if len(losses) < 10:
            return False
        windows = np.convolve(np.where(np.isfinite(losses), losses, 1e9), np.ones(10) / 10, "valid")
        return float(windows.min()) < 0.8 * self.chance
