"""The network in training: built and initialised from a plan, evaluated at each epoch's end, its best kept on disk."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hubel.dataset.split import Split
from hubel.evaluation.metrics import score
from hubel.evaluation.predict import predict
from hubel.explanation.features import first_filters
from hubel.jobs.clock import Clock
from hubel.jobs.dataset import Dataset
from hubel.jobs.plan import Plan
from hubel.jobs.recipe import Recipe
from hubel.learning.engine import PRECISIONS, EpochEnd, Step, TrainState, fit
from hubel.learning.finder import find_lr
from hubel.learning.optim import optimizers
from hubel.nn.model_folder import save_model
from hubel.records import EpochRow, ModelCard, Scores
from hubel.runs import RunFolder


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
        self.model = plan.initial_model()
        self.config = plan.recipe.train
        self.notes: list[str] = []
        if self.config.find_lr:
            self._find_lr()
        self.filters_before = self.filters()
        self.state = TrainState(model=self.model, optimizers=optimizers(self.model, self.config))
        self.history: list[EpochRow] = []
        self.best_weights: dict[str, Tensor] | None = None
        self.best_scores: Scores | None = None
        self.best_epoch = 0
        self.position = 0
        self.stopped: str | None = None
        self._weights = self._class_weights()
        self._began = 0.0
        self._allowed = math.inf

    @property
    def epochs(self) -> int:
        return self.config.epochs or 0

    @property
    def per_epoch(self) -> int:
        return -(-len(self.loader) // self.config.accumulate)

    def fit(self) -> Iterator[Step | EpochEnd]:
        """Train; the time budget, where there is one, paces the schedule."""
        self._began, self._allowed = self.clock.seconds, self.clock.left - self.plan.reserve
        torch.manual_seed(self.plan.recipe.seed)  # of dropout; the finder may have drawn before
        return fit(
            self.state, self.loader, self.config, size=self.plan.size, class_weights=self._weights, pace=self.pace
        )

    @property
    def recipe(self) -> Recipe:
        """The plan's recipe with the rate that is really used: it makes this run again, without a sweep."""
        return replace(self.plan.recipe, train=replace(self.config, find_lr=False))

    def pace(self) -> float:
        """Share of the time for training that is used up; 0 without a budget."""
        return (self.clock.seconds - self._began) / max(self._allowed, 1e-3)

    def hurried(self) -> str | None:
        """Say so if the time was up before the planned epochs were: rate and sizes had been compressed to fit."""
        done = self.history[-1].epoch if self.history else 0
        if self.pace() < 1 or done >= self.epochs:
            return None
        return (
            f"This machine was slower than measured before the start: the schedule was compressed to {done} of "
            f"{self.epochs} epochs, and completed."
        )

    def watch(self, event: Step) -> None:
        """Note where in the epoch the training is."""
        self.position = (event.step - 1) % self.per_epoch + 1

    def evaluate(self, event: EpochEnd) -> EpochRow:
        """Measure the epoch on the validation part, and keep the weights if they are the best so far."""
        scores = self._validate()
        best = self.best_scores is None or _better(scores, self.best_scores)
        if best:
            self.best_scores, self.best_epoch = scores, event.epoch
            self._keep(scores)
        present = [(c.recall, c.name) for c in scores.per_class if c.support]
        worst_recall, worst_class = min(present)
        row = EpochRow(
            epoch=event.epoch,
            epochs=self.epochs,
            step=event.step,
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
        return row

    def keep_something(self) -> None:
        """Make sure that there is a usable model, also when no epoch was completed."""
        if self.best_scores is None:
            self.best_scores = self._validate()
            self._keep(self.best_scores)

    def restore_best(self) -> nn.Module:
        """Load the best weights back into the network and return it in eval mode."""
        self.keep_something()
        assert self.best_weights is not None
        self.model.load_state_dict(self.best_weights)
        return self.model.eval()

    def save(self, metrics: dict[str, float]) -> ModelCard:
        """Write the model folder with these figures in its card."""
        card = replace(self.plan.card, metrics=metrics)
        save_model(self.run.model, self.model, card)
        return card

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
        self.notes.append(f"The learning-rate finder took {len(found.rates)} steps and chose {found.suggestion:.3g}.")

    def _validate(self) -> Scores:
        rows = self.division.val
        logits = predict(
            self.model,
            self.images[rows],
            self.plan.card.preprocess,
            device=self.plan.device,
            autocast=PRECISIONS[self.config.precision],
        )
        return score(logits, self.labels[rows], self.classes)

    def _keep(self, scores: Scores) -> None:
        self.best_weights = copy.deepcopy(self.model.state_dict())
        self.save({"val_accuracy": scores.accuracy, "val_n": float(scores.n)})

    def _seconds_left(self, event: EpochEnd) -> float:
        spent = self.clock.seconds - self._began
        share = max(event.epoch / self.epochs, self.pace())
        return max(spent / max(share, 1e-9) - spent, 0.0) + self.plan.reserve

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
