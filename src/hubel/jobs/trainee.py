"""The network in training: built and initialised from a plan, evaluated at each epoch's end, its best kept on disk."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hubel.as_json import from_json, to_json
from hubel.dataset.pack import Rows
from hubel.dataset.split import Split
from hubel.evaluation.metrics import score
from hubel.evaluation.predict import predict
from hubel.explanation.features import first_filters
from hubel.jobs.clock import Clock
from hubel.jobs.dataset import Dataset, counted
from hubel.jobs.plan import Plan
from hubel.jobs.recipe import Recipe
from hubel.jobs.signals import Stop
from hubel.jobs.stored import Stored
from hubel.learning.average import averaged
from hubel.learning.checkpoint import restore
from hubel.learning.config import TrainConfig
from hubel.learning.distributed import gathered, largest, rank, same_buffers, world_size
from hubel.learning.engine import PRECISIONS, Batches, EpochEnd, Step, TrainState, fit
from hubel.learning.finder import find_lr
from hubel.learning.optim import optimizers
from hubel.learning.transfer import Features, HeadOnly, Phase, backbone_features
from hubel.nn.capture import evaluating
from hubel.nn.model_folder import model_writer
from hubel.nn.stages import answer_from_features, set_trainable
from hubel.records import EpochRow, Note, Progress, Scores
from hubel.runs import RunFolder

SIGNALS = (None, "SIGINT", "SIGTERM")
SLACK = 0.05  # share of its time that a training may fall behind its plan before the clock paces it


class StoppedHere(Exception):
    """A signal came while an epoch was being measured: it is measured again when the run goes on."""


class Trainee:
    """One network on its way; `history` grows by a row per epoch.

    Args:
        run: the folder in which the best weights are kept.
        plan: with every setting resolved.
    """

    def __init__(self, run: RunFolder, dataset: Dataset, division: Split, plan: Plan, clock: Clock) -> None:
        self.run, self.plan, self.clock, self.division = run, plan, clock, division
        self.images, self.labels = dataset.packed.images, dataset.catalog.labels
        self.classes = dataset.catalog.classes
        self.loader = plan.loader
        self.model, fitted = plan.initial_model()
        self.config = plan.recipe.train
        self.phases = plan.phases
        self.notes: list[str] = [] if fitted is None else fitted.lines()
        self._knows_all = fitted is not None and len(fitted.kept) == len(self.classes)
        if self.config.find_lr:
            self._find_lr()
        self.filters_before = self.filters()
        self.phase, self.before, self.steps_before = 0, 0, 0  # phase of the plan, epochs and steps before it
        self.state = TrainState(model=self.model, optimizers=())
        self.history: list[EpochRow] = []
        self.best_weights: dict[str, Tensor] | None = None
        self.best_scores: Scores | None = None
        self.best_epoch = 0
        self.position = 0
        self.stopped: str | None = None
        self._weights = self._class_weights()
        self.behind = False  # whether the clock paces the training, since the machine is slower than measured
        self.asked = Stop()  # whether somebody asked it to stop
        self._kept: tuple[Features, Tensor] | None = None  # features of the training and of the validation images
        self._unsaved = False
        self._began = self._used = 0.0
        self._allowed = math.inf
        self._pace = 0.0

    @property
    def epochs(self) -> int:
        return self.config.epochs or 0

    @property
    def per_epoch(self) -> int:
        return -(-len(self.loader) // self.config.accumulate)

    @property
    def last_phase(self) -> bool:
        """Whether this is the last phase of the plan."""
        return self.phase == len(self.phases) - 1

    def fit(self, stored: Stored | None = None) -> Iterator[Step | EpochEnd | Progress | Note]:
        """Train, phase by phase; the time budget, where there is one, paces the schedule.

        Args:
            stored: where an interrupted training goes on.
        """
        torch.manual_seed(self.plan.recipe.seed + rank())  # of dropout; the finder may have drawn before
        if stored is not None:
            self._take_over(stored)
        elif self._knows_all:
            yield self._measure_start()
        for number, phase in enumerate(self.phases):
            if number < self.phase:
                continue
            if stored is None:
                self.phase, self.before, self.steps_before = number, self.before + self.state.epoch, self._steps
                self._used = 0.0
            self._began = self.clock.seconds - self._used
            self._allowed = (self.clock.left + self._used - self.plan.reserve) * self.plan.shares[number]
            yield from self._fit(phase, replace(self.config, epochs=phase.epochs, lr=phase.lr), stored)
            stored = None
            self.write_best()

    def _measure_start(self) -> Note:
        """Weights that know all of the classes may be best as they are: they are the first candidate, as epoch 0."""
        self.best_scores = self._validate()
        self._keep()
        said = f"Before any training: {self.best_scores.accuracy:.1%} of {self.best_scores.n:,} validation images."
        self.notes.append(said)
        return Note(text=said)

    def _fit(self, phase: Phase, config: TrainConfig, stored: Stored | None) -> Iterator[Step | EpochEnd | Progress]:
        """One phase: freeze what it leaves alone, keep the features where that is everything but the head."""
        model: nn.Module = self.model
        batches: Batches = self.loader
        stages = self.plan.stages
        if stages is not None:
            set_trainable(self.model, stages, phase.depth)
            self._kept = None
            if phase.depth == 0 and self.plan.views:
                self._kept = yield from self._features(stages.head)
                batches, model = self._kept[0], HeadOnly(self.model, stages.head)
        groups = () if stages is None or model is not self.model else stages.groups
        average = averaged(model) if config.ema and model is self.model else None
        self.state = TrainState(model=model, optimizers=optimizers(model, config, stages=groups), average=average)
        if stored is not None:
            restore(self.state, self.model, stored.tensors, stored.said["state"])
        yield from fit(self.state, batches, config, size=self.plan.size, class_weights=self._weights, pace=self.pace)

    def _features(self, head: str) -> Generator[Progress, None, tuple[Features, Tensor]]:
        """What the frozen backbone makes of the training and validation images."""
        parts = [(self.division.train, mirrored) for mirrored in (False, True)[: self.plan.views]]
        parts.append((self.division.val, False))
        found: list[Tensor] = []
        for rows, mirrored in parts:
            features = yield from counted(
                "features of the frozen layers",
                len(rows),
                lambda advance, rows=rows, mirrored=mirrored: backbone_features(  # type: ignore[misc]
                    self.model,
                    head,
                    Rows(self.images, rows),
                    self.plan.card.preprocess,
                    device=self.plan.device,
                    autocast=PRECISIONS[self.config.precision],
                    mirrored=mirrored,
                    advance=advance,
                ),
            )
            found.append(features)
        return Features(self.loader, found[:-1]), found[-1]

    @property
    def _steps(self) -> int:
        return self.steps_before + self.state.step

    @property
    def recipe(self) -> Recipe:
        """The plan's recipe with the rate that is really used: it makes this run again, without a sweep."""
        return replace(self.plan.recipe, train=replace(self.config, find_lr=False))

    def said(self) -> dict[str, Any]:
        """Where the training stands, beside the state of the loop, as JSON."""
        return {
            "phase": self.phase,
            "before": self.before,
            "steps_before": self.steps_before,
            "position": self.position,
            "behind": self.behind,
            "used": self.used,
            "seconds": self.clock.seconds,
            "history": to_json(self.history),
            "best_scores": to_json(self.best_scores),
            "best_epoch": self.best_epoch,
            "notes": self.notes,
            "stopped": self.stopped,
        }

    def _take_over(self, stored: Stored) -> None:
        said = stored.said["trainee"]
        for name in ("phase", "before", "steps_before", "position", "behind", "best_epoch", "notes"):
            setattr(self, name, said[name])
        self._used = said["used"]
        self.history = [from_json(EpochRow, row) for row in said["history"]]
        self.best_scores = None if said["best_scores"] is None else from_json(Scores, said["best_scores"])
        best = {name.removeprefix("best."): t for name, t in stored.tensors.items() if name.startswith("best.")}
        self.best_weights, self._unsaved = best or None, True
        if "filters" in stored.tensors:
            self.filters_before = stored.tensors["filters"].numpy()

    def pace(self) -> float:
        """Share of the time for training that is used up, once the steps have fallen behind it.

        Before that, and without a budget, it is 0: a training that keeps to its plan depends on its steps alone, and
        another one of the same recipe ends with the same weights.
        """
        return self._pace if self.behind else 0.0

    @property
    def used(self) -> float:
        """Seconds since the phase began."""
        return self.clock.seconds - self._began

    def hurried(self) -> str | None:
        """Say so if the time was up before the planned epochs were: rate and sizes had been compressed to fit."""
        done = self.history[-1].epoch if self.history else 0
        if not self.behind or done >= self.epochs:
            return None
        return (
            f"This machine was slower than measured before the start: the schedule was compressed to {done} of "
            f"{self.epochs} epochs, and completed."
        )

    def watch(self, event: Step, *, due: bool = False) -> bool:
        """Note where the training is, and agree with the other processes; returns whether to store the state now.

        Args:
            due: whether the last time is long ago.
        """
        self.position = (event.step - 1) % self.per_epoch + 1
        spent = self.used / max(self._allowed, 1e-3)
        behind = self.behind or spent > event.step / event.steps + SLACK
        late, store, self._pace = self._agree(behind, due, spent)
        self.behind = bool(late)
        return bool(store)

    def _agree(self, *values: float) -> list[float]:
        """Take the largest of each value over all processes, and stop where any was asked to."""
        stop, *agreed = largest([SIGNALS.index(self.asked.signal), *values])
        self.asked.signal = SIGNALS[int(stop)]
        return agreed

    def evaluate(self, event: EpochEnd) -> EpochRow:
        """Measure the epoch on the validation part, and keep the weights if they are the best so far."""
        try:
            scores = self._validate()
        except StoppedHere:  # the epoch has ended, but is not measured
            self.state.epoch, self.state.position = self.state.epoch - 1, self.position
            raise
        best = self.best_scores is None or _better(scores, self.best_scores)
        if best:
            self.best_scores, self.best_epoch = scores, self.before + event.epoch
            self._keep()
        present = [(c.recall, c.name) for c in scores.per_class if c.support]
        worst_recall, worst_class = min(present)
        row = EpochRow(
            epoch=self.before + event.epoch,
            epochs=self.epochs,
            step=self.steps_before + event.step,
            lr=event.lr,
            train_loss=event.loss,
            train_accuracy=event.accuracy,
            val_loss=scores.loss,
            val_accuracy=scores.accuracy,
            worst_class=worst_class,
            worst_recall=worst_recall,
            recalls=tuple(c.recall for c in scores.per_class),
            images_per_second=event.images_per_second,
            seconds=self.clock.seconds,
            seconds_left=self._seconds_left(event),
            best=best,
        )
        self.history.append(row)
        self._agree()
        return row

    def keep_something(self) -> None:
        """Make sure that there is a usable model, also when no epoch was completed."""
        if self.best_scores is None:
            self.best_scores = self._validate()
            self._keep()
        self.write_best()

    def restore_best(self) -> nn.Module:
        """Load the best weights back into the network and return it in eval mode."""
        self.keep_something()
        assert self.best_weights is not None
        self.model.load_state_dict(self.best_weights)
        return self.model.eval()

    def filters(self) -> np.ndarray[Any, np.dtype[np.float32]] | None:
        """Copy the first convolution's weights, (F, C, k, k) float32."""
        found = first_filters(self.model)
        return None if found is None else found[1].detach().float().cpu().numpy().copy()

    @property
    def columns(self) -> list[str]:
        """The columns of results.csv."""
        names = [name for name in EpochRow.__dataclass_fields__ if name != "recalls"]
        return names + [f"recall {name}" for name in self.classes]

    def cells(self, row: EpochRow) -> list[Any]:
        """One row of results.csv."""
        plain = [getattr(row, name) for name in EpochRow.__dataclass_fields__ if name != "recalls"]
        return [f"{v:.6g}" if isinstance(v, float) else v for v in [*plain, *row.recalls]]

    def _find_lr(self) -> None:
        state = TrainState(model=self.model, optimizers=optimizers(self.model, self.config))
        found = find_lr(state, self.loader, self.config, size=self.plan.size)
        self.config = replace(self.config, lr=found.suggestion)
        self.phases = tuple(replace(phase, lr=found.suggestion) for phase in self.phases)
        self.notes.append(f"The learning-rate finder took {len(found.rates)} steps and chose {found.suggestion:.3g}.")

    def _validate(self) -> Scores:
        rows = self.division.val
        if self._kept is not None and self.plan.stages is not None:
            with evaluating(self.model), torch.no_grad():
                features = self._kept[1].to(self.plan.device).float()
                logits = answer_from_features(self.model, self.plan.stages.head, features).float().cpu()
            return score(logits, self.labels[rows], self.classes)
        same_buffers(self.judged)
        logits = predict(
            self.judged,
            Rows(self.images, np.array_split(rows, world_size())[rank()]),
            self.plan.card.preprocess,
            device=self.plan.device,
            autocast=PRECISIONS[self.config.precision],
            progress=self._go_on,
        )
        return score(torch.cat(gathered(logits)), self.labels[rows], self.classes)

    def _go_on(self, _: int) -> None:
        if self.asked.signal == "SIGTERM" and world_size() == 1:
            raise StoppedHere

    @property
    def judged(self) -> nn.Module:
        """The network that is measured and kept: the average, where there is one."""
        return self.model if self.state.average is None else self.state.average

    def _keep(self) -> None:
        self.best_weights = copy.deepcopy(self.judged.state_dict())
        self._unsaved = True
        if self._kept is None:  # epochs on kept features take less time than writing a large network
            self.write_best()

    def write_best(self) -> None:
        """Write the best weights behind the training, if they are not on disk yet."""
        if not self._unsaved or self.best_scores is None or self.best_weights is None or rank() > 0:
            return
        metrics = {"val_accuracy": self.best_scores.accuracy, "val_n": float(self.best_scores.n)}
        self.run.behind(model_writer(self.run.model, self.best_weights, replace(self.plan.card, metrics=metrics)))
        self._unsaved = False

    def _seconds_left(self, event: EpochEnd) -> float:
        spent = self.clock.seconds - self._began
        share = max(event.epoch / self.plan.phases[self.phase].epochs, self.pace())
        left = max(spent / max(share, 1e-9) - spent, 0.0)
        return left / max(self.plan.shares[self.phase], 1e-9) + self.plan.reserve

    def _class_weights(self) -> Tensor | None:
        """Weights that make every class count the same in the loss, 1 on average over the training images."""
        if self.config.balance != "loss":
            return None
        counts = np.bincount(self.labels[self.division.train], minlength=len(self.classes))
        weights = counts.sum() / np.maximum(counts, 1) / (counts > 0).sum()
        return torch.tensor(weights, dtype=torch.float32, device=self.plan.device)


def _better(new: Scores, old: Scores) -> bool:
    if new.accuracy != old.accuracy:
        return new.accuracy > old.accuracy
    return new.loss < old.loss or math.isnan(old.loss)
