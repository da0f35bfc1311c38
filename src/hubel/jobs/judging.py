"""Each epoch is judged on the validation part, and the best weights are kept, in memory and on disk."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from hubel.dataset.pack import Rows
from hubel.evaluation.metrics import score
from hubel.evaluation.predict import predict
from hubel.events import EpochEnd, EpochRow, Note
from hubel.jobs.planning import COIN
from hubel.jobs.training import Training, agree, phase_seconds
from hubel.learning.distributed import gathered, rank, same_buffers, world_size
from hubel.learning.engine import PRECISIONS
from hubel.nn.hooks import evaluating
from hubel.nn.saved import model_writer
from hubel.nn.stages import answer_from_features
from hubel.records import Scores


class Asked(Exception):
    """A SIGTERM came while an epoch was being judged: it is judged again when the run goes on."""


def judge_start(training: Training) -> Note:
    """Weights that know all of the classes may be best as they are: they are the first candidate, as epoch 0."""
    scores = validate(training)
    training.record.best_scores = scores
    keep(training)
    text = f"Before any training: {scores.accuracy:.1%} of {scores.n:,} validation images."
    if none := [each.name for each in scores.per_class if each.support and not each.recall]:
        text += f" Known by name, but not one image right: {', '.join(none[:5])}{', …' if len(none) > 5 else ''}."
    training.record.notes += (text,)
    return Note(text=text)


def judge(training: Training, event: EpochEnd) -> EpochRow | None:
    """Measure the epoch on the validation part, and keep the weights if they are the best so far.

    Returns:
        The epoch's row; None where the numbers have become infinite; and where SIGTERM came meanwhile, with the state
        put back to the epoch's last step.
    """
    record = training.record
    try:
        scores = validate(training)
    except Asked:
        training.state.epoch, training.state.position = max(training.state.epoch - 1, 0), record.batch
        training.asked = training.stop.signal
        return None
    if not (math.isfinite(event.loss) and math.isfinite(scores.loss)):
        lower, training.diverged = (training.config.lr or 0) / 3, True
        record.stopped = (
            f"the loss became {event.loss + scores.loss} in epoch {event.epoch}: try a lower rate, --lr {lower:.2g}."
        )
        return None
    best = record.best_scores is None or _better(scores, record.best_scores)
    if best:
        record.best_scores, record.best_epoch = scores, record.epochs_before + event.epoch
        keep(training)
    worst_recall, worst_class = min((c.recall, c.name) for c in scores.per_class if c.support)
    row = EpochRow(
        epoch=record.epochs_before + event.epoch,
        epochs=training.epochs,
        step=record.steps_before + event.step,
        lr=event.lr,
        train_loss=event.loss,
        train_accuracy=event.accuracy,
        val_loss=scores.loss,
        val_accuracy=scores.accuracy,
        worst_class=worst_class,
        worst_recall=worst_recall,
        recalls=tuple(c.recall for c in scores.per_class),
        images_per_second=event.images_per_second,
        seconds=training.clock.seconds,
        seconds_left=_seconds_left(training, event),
        best=best,
    )
    record.history += (row,)
    record.stopped = _why_to_stop(training, row)
    agree(training)
    return row


def validate(training: Training) -> Scores:
    """Measure the network that is judged on the validation part, each process a part of it.

    Raises:
        Asked: SIGTERM came meanwhile.
    """
    plan, rows = training.plan, training.division.val
    labels = training.dataset.catalog.labels[rows]
    if training.kept is not None and plan.stages is not None:
        with evaluating(training.model), torch.no_grad():
            features = training.kept.val.to(plan.device).float()
            logits = answer_from_features(training.model, plan.stages.head, features).float().cpu()
        return score(logits, labels, training.classes)

    def go_on(_: int) -> None:
        if training.stop.signal == "SIGTERM" and world_size() == 1:
            raise Asked

    same_buffers(training.judged)
    logits = predict(
        training.judged,
        Rows(training.dataset.packed.images, np.array_split(rows, world_size())[rank()]),
        plan.card.preprocess,
        device=plan.device,
        autocast=PRECISIONS[training.config.precision],
        progress=go_on,
    )
    return score(torch.cat(gathered(logits)), labels, training.classes)


def keep(training: Training) -> None:
    """Keep the weights that were judged as the best so far."""
    training.best, training.unsaved = copy.deepcopy(training.judged.state_dict()), True
    if training.kept is None:  # epochs on kept features take less time than writing a large network
        write_best(training)


def chosen_by(scores: Scores) -> dict[str, float]:
    """Of a model card: the figure that the weights were chosen by, under names that no reported part has."""
    return {"chosen_by_accuracy": scores.accuracy, "chosen_by_n": float(scores.n)}


def write_best(training: Training) -> None:
    """Write the best weights behind the training, if they are not on disk yet."""
    scores = training.record.best_scores
    if not training.unsaved or scores is None or training.best is None or rank() > 0:
        return
    card = replace(training.plan.card, metrics=chosen_by(scores))
    training.run.behind(model_writer(training.run.model, training.best, card))
    training.unsaved = False


def restore_best(training: Training) -> nn.Module:
    """Load the best weights back into the network and return it in eval mode; those it has, if no epoch was completed.

    Those that it began with, if they were lost in the first.

    What is best is on disk afterwards, too.
    """
    if training.best is None:
        training.record.best_scores = validate(training)
        if not math.isfinite(training.record.best_scores.loss):
            training.judged.load_state_dict(training.plan.initial_model()[0].state_dict())
            training.record.best_scores = validate(training)
        keep(training)
    write_best(training)
    assert training.best is not None
    training.model.load_state_dict(training.best)
    return training.model.eval()


def results_columns(classes: tuple[str, ...]) -> list[str]:
    """The columns of results.csv."""
    return [name for name in EpochRow.__dataclass_fields__ if name != "recalls"] + [f"recall {n}" for n in classes]


def results_cells(row: EpochRow) -> list[Any]:
    """One row of results.csv."""
    plain = [getattr(row, name) for name in EpochRow.__dataclass_fields__ if name != "recalls"]
    return [f"{v:.6g}" if isinstance(v, float) else v for v in [*plain, *row.recalls]]


def _why_to_stop(training: Training, row: EpochRow) -> str | None:
    """The reason for which a training ends before its last epoch."""
    patience, last = training.config.patience, training.record.phase == len(training.phases) - 1
    if patience is not None and last and row.epoch - training.record.best_epoch >= patience:
        return f"no better validation accuracy for {patience} epochs (--patience)."
    return None


def _seconds_left(training: Training, event: EpochEnd) -> float:
    spent, number = phase_seconds(training), training.record.phase
    if training.phases[number].fitted:
        return training.plan.reserve if math.isinf(training.clock.left) else max(training.clock.left, 0.0)
    share = max(event.epoch / max(training.phases[number].epochs, 1), training.state.pace)
    left = max(spent / max(share, 1e-9) - spent, 0.0)
    return left / max(training.plan.shares[number], 1e-9) + training.plan.reserve


def _better(new: Scores, old: Scores) -> bool:
    """By accuracy, and by loss where that is equal, or where so few images are a coin."""
    if new.accuracy != old.accuracy and new.n >= COIN:
        return new.accuracy > old.accuracy
    return new.loss < old.loss or math.isnan(old.loss)
