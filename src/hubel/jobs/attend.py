"""The doctor in hubel's own loop: it is told every step and every epoch, and what it finds is an event."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from hubel.dataset.tensors import normalise, to_tensor
from hubel.doctor.doctor import Doctor
from hubel.doctor.probes import learning_share
from hubel.doctor.signs import Checkup, Intent
from hubel.events import EpochEnd, EpochRow, Step
from hubel.jobs.training import Training
from hubel.learning.distributed import world_size
from hubel.records import Finding

PIXELS, LEAST, MOST = 64 * 64 * 64, 16, 64  # of all probe images together; images


def attended(training: Training, events: Iterator[Step | EpochEnd]) -> Iterator[Step | EpochEnd | Finding]:
    """Pass a phase's steps and epochs on, and what is wrong with them; weights end the same with and without it.

    Under torchrun nobody looks, since a look runs the network and all processes would have to look together; nor at a
    head that is trained alone, on features that are kept.
    """
    if world_size() > 1 or training.kept is not None:
        yield from events
        return
    told, doctor = {finding.code for finding in training.record.findings}, _doctor(training)
    yield from _new(training, doctor.begin(), told)
    for event in events:
        yield event
        if isinstance(event, Step):
            found = doctor.taken(
                loss=event.loss.detach(),
                accuracy=0.0,
                lr=event.lr,
                images=event.images,
                norm=event.grad_norm.detach(),
                seconds=event.seconds,
                waited=event.waited,
                learning=learning_share(training.state.model),
            )
            yield from _new(training, found, told)
        elif training.record.history:
            yield from _new(training, doctor.checked(_checkup(training, event, training.record.history[-1])), told)


def _doctor(training: Training) -> Doctor:
    """One for the phase that begins, with some training images as they are, not augmented."""
    plan, state = training.plan, training.state
    shape = plan.card.preprocess.size
    count = int(np.clip(PIXELS // (shape[0] * shape[1]), LEAST, MOST))
    rows = np.random.default_rng(plan.recipe.seed).permutation(training.division.train)[:count]
    labels = torch.from_numpy(training.dataset.catalog.labels[rows])
    images = normalise(to_tensor(training.dataset.packed.images[rows]), plan.card.preprocess)
    frozen = any(not p.requires_grad for p in state.model.parameters())
    doctor = Doctor(
        model=state.model,
        optimizers=state.optimizers,
        intent=Intent(frozen=frozen, accumulate=training.config.accumulate),
    )
    doctor.probe = images.to(plan.device), labels.to(plan.device)
    return doctor


def _checkup(training: Training, event: EpochEnd, row: EpochRow) -> Checkup:
    counts = np.bincount(training.dataset.catalog.labels[training.division.val], minlength=len(training.classes))
    return Checkup(
        step=event.step,
        loss=row.val_loss,
        accuracy=row.val_accuracy,
        n=int(counts.sum()),
        train_loss=event.loss,
        train_accuracy=event.accuracy,
        recalls=tuple(recall for recall, count in zip(row.recalls, counts, strict=True) if count),
        shares=tuple((counts[counts > 0] / counts.sum()).tolist()),
    )


def _new(training: Training, found: Iterator[Finding], told: set[str]) -> Iterator[Finding]:
    """Number steps as those of the whole training, and say each thing once; the report is told, too."""
    for finding in found:
        if finding.code not in told:
            told.add(finding.code)
            whole = replace(finding, step=training.record.steps_before + (finding.step or 0))
            training.record.findings += (whole,)
            yield whole
