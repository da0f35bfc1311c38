"""A training as data: what it is made of, where it stands, and the few functions that the story in `train` calls.

The network is built and initialised from a plan, phase after phase is begun, and the clock decides about the next one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from hubel.dataset.pack import Rows
from hubel.dataset.split import Split
from hubel.events import EpochEnd, EpochRow, Note, Progress, Step
from hubel.explanation.filters import first_filters
from hubel.jobs.clock import Clock
from hubel.jobs.phases import DEEP_EPOCHS
from hubel.jobs.plan import Plan, extended
from hubel.jobs.planning import fitted_head
from hubel.jobs.prepare import Dataset
from hubel.jobs.signals import Stop
from hubel.learning.average import averaged
from hubel.learning.config import TrainConfig
from hubel.learning.distributed import largest, world_size
from hubel.learning.engine import PRECISIONS, Batches, TrainState
from hubel.learning.finder import find_lr
from hubel.learning.optim import optimizers
from hubel.learning.transfer import Features, HeadOnly, Phase, backbone_features, depth_name
from hubel.nn.stages import set_trainable
from hubel.records import Finding, Scores
from hubel.runs import RunFolder

SIGNALS = (None, "SIGINT", "SIGTERM")
HEAD_MOST = 1.5  # times its share of the time, after which the head makes do with the features that are there
SPARE = 0.25  # share of the whole time that has to be left for a training to go on
WORTH = 0.9  # share of the time that is left which it then plans for
SLACK = 0.05  # share of its time that a training may fall behind its plan before the clock paces it


@dataclass(kw_only=True)
class Record:
    """Where a training stands, beside weights and optimizers; stored with them, and told in the report.

    Attributes:
        phase: number of the phase that is going on, from 0. epochs_before, steps_before: of the phases before it.
        batch: steps taken in the epoch that was trained last.
        behind: whether the clock paces the training, since the machine is slower than measured.
        used: seconds since the phase began. seconds: since the run began.
        history: a row for each epoch. best_scores, best_epoch: of the weights that are kept.
        findings: what was found out about the training. notes: sentences for the report.
        stopped: why the training ended early, or None.
    """

    phase: int = 0
    epochs_before: int = 0
    steps_before: int = 0
    batch: int = 0
    behind: bool = False
    used: float = 0.0
    seconds: float = 0.0
    history: tuple[EpochRow, ...] = ()
    best_scores: Scores | None = None
    best_epoch: int = 0
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    stopped: str | None = None

    def __post_init__(self) -> None:
        counts = (
            self.phase,
            self.epochs_before,
            self.steps_before,
            self.batch,
            self.used,
            self.seconds,
            self.best_epoch,
        )
        if min(counts) < 0:
            raise ValueError(f"a count below zero: {min(counts)}")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Features of a frozen backbone that were computed once: of the training images, and (N, …) of the validation's."""

    train: Features
    val: Tensor


@dataclass(kw_only=True)
class Training:
    """A training that goes on; made by `begin`.

    Attributes:
        plan: with every setting resolved, and the rate that is really used.
        model: the whole network, of which ``state.model`` may be the head alone.
        class_weights: (K,) float32 for the loss, or None. filters_before: (F, C, k, k) of the first convolution.
        best: the best weights so far; unsaved: whether they are not on disk yet.
        began, allowed: when the phase began on the run's clock, and the seconds that it may take.
        stop: asks the training to stop, at any moment; asked: what all processes have agreed on, after a step.
        diverged: whether losses have become infinite, so that only earlier weights are worth keeping.
    """

    run: RunFolder
    dataset: Dataset
    division: Split
    plan: Plan
    clock: Clock
    stop: Stop
    model: nn.Module
    class_weights: Tensor | None
    filters_before: npt.NDArray[np.float32] | None
    state: TrainState
    record: Record = field(default_factory=Record)
    best: dict[str, Tensor] | None = None
    unsaved: bool = False
    kept: Kept | None = None
    began: float = 0.0
    allowed: float = math.inf
    asked: str | None = None
    diverged: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.dataset.catalog.classes

    @property
    def ended(self) -> bool:
        """Whether the training ends before its last epoch: somebody asked for it, or the record says why."""
        return self.asked is not None or self.record.stopped is not None

    @property
    def epochs(self) -> int:
        """Epochs of all phases together."""
        return self.config.epochs or 0

    @property
    def config(self) -> TrainConfig:
        """The settings of the training."""
        return self.plan.recipe.train

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The calls of the loop."""
        return self.plan.phases

    @property
    def judged(self) -> nn.Module:
        """The network that is measured and kept: the average, where there is one."""
        return self.model if self.state.average is None else self.state.average


def begin(run: RunFolder, dataset: Dataset, division: Split, plan: Plan, clock: Clock, stop: Stop) -> Training:
    """Build a plan's network, and let the learning-rate finder choose the rate where it was asked for."""
    model, fitted = plan.initial_model()
    config = plan.recipe.train
    notes = () if fitted is None else tuple(fitted.lines())
    if config.find_lr:
        state = TrainState(model=model, optimizers=optimizers(model, config))
        found = find_lr(state, plan.loader, config, size=plan.size)
        plan.recipe = replace(plan.recipe, train=replace(config, lr=found.suggestion, find_lr=False))
        plan.phases = tuple(replace(phase, lr=found.suggestion) for phase in plan.phases)
        notes += (f"The learning-rate finder took {len(found.rates)} steps and chose {found.suggestion:.3g}.",)
    return Training(
        run=run,
        dataset=dataset,
        division=division,
        plan=plan,
        clock=clock,
        stop=stop,
        model=model,
        class_weights=plan.class_weights(),
        filters_before=filters(model),
        state=TrainState(model=model, optimizers=()),
        record=Record(notes=notes),
    )


def begin_phase(
    training: Training, number: int, *, going_on: bool
) -> Generator[Progress, None, tuple[Batches, TrainConfig]]:
    """Freeze what a phase leaves alone, and make the state that it trains.

    Where only the head is trained and the images don't change, the features of the rest are computed once and kept.

    Args:
        going_on: whether the phase was begun before, so that the record stands already where it does.
    """
    record, stages, phase = training.record, training.plan.stages, training.phases[number]
    if not going_on:
        record.phase, record.used = number, 0.0
        record.epochs_before += training.state.epoch
        record.steps_before += training.state.step
    training.began = training.clock.seconds - record.used
    training.allowed = (training.clock.left + record.used - training.plan.reserve) * training.plan.shares[number]
    config = training.config if phase.fitted else replace(training.config, epochs=phase.epochs, lr=phase.lr)
    model: nn.Module = training.model
    batches: Batches = training.plan.loader
    training.kept = None
    if stages is not None:
        set_trainable(model, stages, phase.depth)
        if phase.depth == 0 and training.plan.views and not phase.fitted:
            training.kept = yield from _features(training, stages.head)
            batches, model = training.kept.train, HeadOnly(model, stages.head)
    whole = model is training.model
    groups = () if stages is None or not whole else stages.groups
    average = averaged(model) if config.ema and whole else None
    training.state = TrainState(model=model, optimizers=optimizers(model, config, stages=groups), average=average)
    return batches, config


def _features(training: Training, head: str) -> Generator[Progress, None, Kept]:
    """What the frozen backbone makes of the training images, mirrored ones too, and of the validation images."""
    division, plan, found = training.division, training.plan, list[Tensor]()
    parts = [(division.train, mirrored) for mirrored in (False, True)[: plan.views]]
    for rows, mirrored in [*parts, (division.val, False)]:
        features = yield from backbone_features(
            training.model,
            head,
            Rows(training.dataset.packed.images, rows),
            plan.card.preprocess,
            device=plan.device,
            autocast=PRECISIONS[training.config.precision],
            mirrored=mirrored,
        )
        found.append(features)
    return Kept(train=Features(plan.loader, found[:-1]), val=found[-1])


def fit_head(training: Training) -> Generator[Progress | EpochEnd, None, None]:
    """Fit the head to the features of the frozen rest, unless planning has done it; ends with epoch 0."""
    if training.record.history:  # an interrupted run that goes on
        return
    plan, began = training.plan, time.monotonic()
    head = plan.start.head
    if head is None:
        most = math.inf if world_size() > 1 else training.allowed * HEAD_MOST
        head = yield from fitted_head(plan, training.model, lambda: phase_seconds(training) > most)
        assert plan.stages is not None
        head.put_into(training.model, plan.stages.final)
    speed = head.n / max(time.monotonic() - began, 1e-3) if plan.start.head is None else plan.speed["forward"]
    yield EpochEnd(
        epoch=0, step=0, lr=0.0, loss=head.loss, accuracy=head.accuracy, images=head.n, images_per_second=speed
    )


def why_no_deeper(training: Training, number: int) -> str | None:
    """After a fitted head, each phase has to have paid for the next to be tried, and there has to be time for it."""
    if number == 0 or not training.phases[0].fitted or number >= len(training.phases) - training.plan.extensions:
        return None
    phase, before, record, plan = training.phases[number], training.phases[number - 1], training.record, training.plan
    if before.fitted and record.best_scores is not None and record.best_scores.accuracy == 1:
        return "every validation image is right with the head alone, so nothing deeper could be shown to be better."
    if before.epochs >= DEEP_EPOCHS / 2 and record.best_epoch <= record.epochs_before:
        return "training the last layers did not beat the head that was fitted, so the others were left as they were."
    left = (training.clock.left - plan.reserve) * plan.shares[number]
    speed = plan.speed.get(depth_name(phase.depth), math.inf)
    (late,) = agree(training, float(left < len(training.division.train) / speed))
    return "there was no time left to train more than was trained." if late else None


def cut_short(training: Training) -> Note | None:
    """Take out of the plan the epochs that the clock left out of the phase; says so where there were any."""
    plan, number = training.plan, training.record.phase
    planned, done = plan.phases[number].epochs, training.state.epoch
    if not plan.cut(number, done, ended=False):
        return None
    text = f"There was less time than planned for: the schedule was compressed to {done} of {planned} epochs."
    training.record.notes += (text,)
    return Note(text=text)


def go_on(training: Training) -> Note | None:
    """Add a phase to a training that was faster than planned, if it was getting better or was cut short."""
    record, clock, plan, last = training.record, training.clock, training.plan, training.phases[-1]
    left = clock.left - plan.reserve
    if not plan.open_ended or last.fitted or len(record.history) < 2 or world_size() > 1:
        return None
    if math.isinf(left) or left < SPARE * (clock.budget or math.inf):
        return None
    epochs = int(left * WORTH * last.epochs / phase_seconds(training))
    if plan.start.weights is None:
        worth = record.best_epoch > record.epochs_before + last.epochs / 2
    else:
        worth, epochs = last.epochs < DEEP_EPOCHS, min(epochs, DEEP_EPOCHS)
    if not worth or epochs < 2 or record.history[-1].val_accuracy == 1:
        return None
    extended(plan, epochs, last.lr or training.config.lr, finished=False)
    text = f"This machine was faster than measured before the start: {epochs} more epochs."
    record.notes += (text,)
    return Note(text=text)


def counted_in_all(training: Training, step: Step) -> Step:
    """Number a step of a phase as one of the whole training."""
    record, batches = training.record, step.batches
    return replace(
        step,
        epoch=record.epochs_before + step.epoch,
        epochs=training.epochs,
        step=record.steps_before + step.step,
        steps=record.steps_before + step.steps + batches * sum(p.epochs for p in training.phases[record.phase + 1 :]),
    )


def keep_pace(training: Training, step: Step, *, due: bool) -> bool:
    """Note where the training is, and agree with the other processes; returns whether to store the state now.

    A training that keeps to its plan depends on its steps alone, and another one of the same recipe ends with the same
    weights. Once the steps have fallen behind the time, the clock paces it.

    Args:
        due: whether the last time of storing is long ago.
    """
    record, state = training.record, training.state
    record.batch = step.batch
    record.used = phase_seconds(training)
    spent = record.used / max(training.allowed, 1e-3)
    behind = record.behind or spent > step.step / step.steps + SLACK
    late, store, pace = agree(training, behind, due, spent)
    record.behind = bool(late)
    state.pace = pace if record.behind else 0.0
    return bool(store)


def phase_seconds(training: Training) -> float:
    """Seconds since the phase began, those before an interruption included."""
    return training.clock.seconds - training.began


def agree(training: Training, *values: float) -> list[float]:
    """Take the largest of each value over all processes, and stop all of them where any was asked to."""
    asked, *agreed = largest([SIGNALS.index(training.stop.signal), *values])
    training.asked = training.stop.signal = SIGNALS[int(asked)]
    return agreed


def filters(model: nn.Module) -> npt.NDArray[np.float32] | None:
    """Copy the first convolution's weights, (F, C, k, k) float32."""
    found = first_filters(model)
    return None if found is None else found[1].detach().float().cpu().numpy().copy()
