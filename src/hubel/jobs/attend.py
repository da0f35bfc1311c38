"""The doctor in hubel's own loop: it is told every step and every epoch, tests what it suspects, and may heal it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch

from hubel.dataset.tensors import normalise, to_tensor
from hubel.doctor.doctor import Doctor
from hubel.doctor.fork import BUDGET, STEPS, Verdict, decide, factor_for
from hubel.doctor.signs import Checkup, Intent
from hubel.events import EpochEnd, EpochRow, Note, Step
from hubel.jobs.training import Training
from hubel.learning.checkpoint import Snapshot, put_back, snapshot
from hubel.learning.config import TrainConfig
from hubel.learning.distributed import world_size
from hubel.learning.engine import Batches, Tally
from hubel.records import Finding
from hubel.report.wording import loss as nats

PIXELS, LEAST, MOST = 64 * 64 * 64, 16, 64  # of all probe images together; images
KEPT, RETURNS = 100, 5  # steps between two times of keeping the state; times that it may be gone back to
WORSE = 1.1  # times the validation loss of before, at which a remedy is taken back

Told = Step | EpochEnd | Finding | Note


def attended(
    training: Training, batches: Batches, config: TrainConfig, events: Iterator[Step | EpochEnd]
) -> Iterator[Told]:
    """Pass a phase's steps and epochs on, and what is wrong with them; unless it heals, weights end as without it.

    Under torchrun nobody looks, since a look runs the network and all processes would have to look together; nor at a
    head that is trained alone, on features that are kept.

    Args:
        batches, config: of the phase, for tests on the batches that come next.
    """
    if world_size() > 1 or training.kept is not None:
        yield from events
        return
    visit = _Visit(training, batches, config)
    yield from visit.new(visit.doctor.begin())
    visit.keep()
    for event in events:
        if isinstance(event, EpochEnd) and not np.isfinite(event.loss):
            yield from visit.new(visit.doctor.judge())  # before the epoch is judged: it may be healed
            event = visit.finite(event)  # noqa: PLW2901
        yield event
        if isinstance(event, Step):
            visit.last = event
            visit.keep()
            found = visit.doctor.taken(
                loss=event.loss.detach(),
                accuracy=0.0,
                lr=event.lr,
                images=event.images,
                norm=event.grad_norm.detach(),
                seconds=event.seconds,
                waited=event.waited,
            )
            yield from visit.new(found)
        elif training.record.history:
            row = training.record.history[-1]
            yield from visit.taken_back(row)
            yield from visit.new(visit.doctor.checked(visit.checkup(event, row)))


class _Visit:
    """The doctor at one phase, and what was said, tested and applied so far."""

    def __init__(self, training: Training, batches: Batches, config: TrainConfig) -> None:
        self.training, self.batches, self.config = training, batches, config
        self.doctor = _doctor(training)
        self.told = {finding.code for finding in training.record.findings}
        self.last: Step | None = None
        self.tested = 0
        self.applied: tuple[float, float] | None = None  # the rate of before, and the validation loss of then
        self.kept: Snapshot | None = None
        self.returns = self.offset = 0

    def new(self, found: Iterable[Finding]) -> Iterator[Finding | Note]:
        """Test a finding where a fork can decide it, number its step in the whole training, and say it once."""
        for finding in found:
            if finding.code in self.told:
                continue
            self.told.add(finding.code)
            verdict = self.verdict(finding)
            if verdict is not None and not verdict.better:
                continue
            whole = replace(finding, step=self.training.record.steps_before + self.offset + (finding.step or 0))
            if verdict is not None:
                whole = _decided(whole, verdict)
            self.training.record.findings += (whole,)
            yield whole
            if verdict is not None and self.config.heal:
                yield self.healed(whole, verdict)
            elif finding.code == "broken-numbers" and self.config.heal and self.returns < RETURNS:
                yield self.returned()

    def verdict(self, finding: Finding) -> Verdict | None:
        """Decide a suspicion by a fork; None where none can, or no steps are left for it."""
        step, factor = self.last, factor_for(finding.code, self.doctor.case.updates())
        if factor is None or step is None or not np.isfinite(float(step.loss)):
            return None
        if self.tested + 2 * STEPS > BUDGET * step.steps:
            return None
        self.tested += 2 * STEPS
        training = self.training
        return decide(
            training.state,
            self.batches,
            self.config,
            factor,
            lr=step.lr,
            size=training.plan.size,
            class_weights=training.class_weights,
            start=self.kept if finding.code == "rate-too-high" else None,
        )

    def healed(self, finding: Finding, verdict: Verdict) -> Note:
        """Apply the remedy that the fork has tried, and say what it gained and cost."""
        state, history = self.training.state, self.training.record.history
        self.applied = state.rate, history[-1].val_loss if history else np.inf
        lost = self.back() if finding.code == "rate-too-high" else 0
        state.rate *= verdict.factor
        before = f"back to the weights of {lost} steps before, and " if lost else ""
        text = (
            f"Healed {finding.code.replace('-', ' ')}: {before}from step {finding.step} on the rate is "
            f"{_times(verdict.factor)} times what was planned (loss after {STEPS} steps {nats(verdict.without)} → "
            f"{nats(verdict.treated)}; the test took {verdict.steps} steps, {verdict.seconds:.1f} s)."
        )
        self.training.record.notes += (text,)
        return Note(text=text)

    def keep(self) -> None:
        """Remember the training as it is, to return to, while nothing is wrong with it."""
        state = self.training.state
        if self.kept is None or (state.step >= self.kept.values.step + KEPT and not self.doctor.findings):
            self.kept = snapshot(state)

    def back(self) -> int:
        """Go back to the last sound weights; steps that were taken since count as taken. Returns how many."""
        state, kept = self.training.state, self.kept
        assert kept is not None
        counters, rate = (state.epoch, state.position, state.step), state.rate
        put_back(state, kept)
        lost = counters[2] - state.step
        (state.epoch, state.position, state.step), state.rate, state.tally = counters, rate, Tally()
        self.doctor.restart()
        self.offset = state.step
        return lost

    def returned(self) -> Note:
        """Go back from numbers that are not finite, with half of the rate."""
        lost = self.back()
        self.training.state.rate /= 2
        self.returns += 1
        self.doctor.forget("broken-numbers")
        self.told.discard("broken-numbers")
        text = f"Healed broken numbers: back to the weights of {lost} steps before, with half of the rate."
        self.training.record.notes += (text,)
        return Note(text=text)

    def finite(self, event: EpochEnd) -> EpochEnd:
        """Where the numbers were healed, an epoch's loss is that of an answer that knows nothing."""
        return replace(event, loss=float(np.log(len(self.training.classes)))) if self.returns else event

    def taken_back(self, row: EpochRow) -> Iterator[Note]:
        """Take a remedy back that did not help the validation images."""
        if self.applied is None:
            return
        (rate, before), self.applied = self.applied, None
        if row.val_loss > WORSE * before:
            self.training.state.rate = rate
            text = f"The remedy was taken back: validation loss rose from {before:.3f} to {row.val_loss:.3f}."
            self.training.record.notes += (text,)
            yield Note(text=text)

    def checkup(self, event: EpochEnd, row: EpochRow) -> Checkup:
        """What the loop itself measured when the epoch ended."""
        training = self.training
        counts = np.bincount(training.dataset.catalog.labels[training.division.val], minlength=len(training.classes))
        return Checkup(
            step=event.step - self.offset,
            loss=row.val_loss,
            accuracy=row.val_accuracy,
            n=int(counts.sum()),
            train_loss=event.loss,
            train_accuracy=event.accuracy,
            recalls=tuple(recall if n else np.nan for recall, n in zip(row.recalls, counts, strict=True)),
            shares=tuple((counts / counts.sum()).tolist()),
        )


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


def _decided(finding: Finding, verdict: Verdict) -> Finding:
    words = (
        f" A test on the next {STEPS} batches decided it: loss {nats(verdict.without)} as it is, "
        f"{nats(verdict.treated)} with {_times(verdict.factor)} times the rate."
    )
    evidence = {**finding.evidence, "without": verdict.without, "treated": verdict.treated}
    return replace(finding, message=finding.message + words, known="decided by a fork", evidence=evidence)


def _times(factor: float) -> str:
    return f"{factor:,.0f}" if factor >= 10 else f"{factor:.2g}"
