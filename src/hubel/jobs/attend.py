"""The doctor in hubel's own loop: it is told every step and every epoch, tests what it suspects, and may heal it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from hubel.dataset.tensors import normalise, to_tensor
from hubel.doctor.doctor import HELD_OUT, Doctor
from hubel.doctor.fork import BUDGET, STEPS, Verdict, decide
from hubel.doctor.remedies import MOMENTUM, Remedy, Undo, calm, lower_rate, remedy_for
from hubel.doctor.signs import Checkup, Intent
from hubel.events import EpochEnd, EpochRow, Note, Step
from hubel.jobs.training import Training
from hubel.learning.checkpoint import Snapshot, put_back, snapshot
from hubel.learning.config import TrainConfig
from hubel.learning.distributed import world_size
from hubel.learning.engine import Batches, Tally, fit
from hubel.records import Finding
from hubel.report.wording import loss as nats

PIXELS, LEAST, MOST = 64 * 64 * 64, 16, 64  # of all probe images together; images
KEPT, RETURNS = 100, 5  # steps between two times of keeping the state; times that it may be gone back to
WORSE = 1.1  # times the validation loss of before, at which a remedy is taken back

Told = Step | EpochEnd | Finding | Note


def attended(training: Training, batches: Batches, config: TrainConfig) -> Iterator[Told]:
    """Train a phase; pass its steps and epochs on, and what is wrong with them.

    Unless it heals, weights end as without it. Under torchrun nobody looks, since a look runs the network and all
    processes would have to look together; nor at a head that is trained alone, on features that are kept.
    """
    if world_size() > 1 or training.kept is not None:
        yield from _steps(training, batches, config)
        return
    visit = _Visit(training, batches, config)
    yield from visit.new(visit.doctor.begin())
    visit.keep()
    while not visit.ended:
        visit.ended, visit.changed = True, False
        events = _steps(training, batches, visit.config)
        for event in events:
            yield from visit.met(event)
            if visit.changed:  # the loop goes on from here, in the middle of an epoch, with other settings
                visit.ended = False
                events.close()
                break


def _steps(training: Training, batches: Batches, config: TrainConfig) -> Generator[Step | EpochEnd, None, None]:
    size, weights = training.plan.size, training.class_weights
    yield from fit(training.state, batches, config, size=size, class_weights=weights)


@dataclass(kw_only=True)
class _Applied:
    """A remedy that the next epoch has to prove, and the way back."""

    code: str
    before: Snapshot
    val_loss: float
    undo: Undo


class _Visit:
    """The doctor at one phase, and what was said, tested and applied so far."""

    def __init__(self, training: Training, batches: Batches, config: TrainConfig) -> None:
        self.training, self.batches, self.config = training, batches, config
        self.counts = np.bincount(training.dataset.catalog.labels[training.division.train]).tolist()
        self.doctor = _doctor(training, self.counts)
        self.held_out = _held_out(training) if config.heal else None
        self.told = {finding.code for finding in training.record.findings}
        self.last: Step | None = None
        self.later: list[Finding] = []
        self.tested = 0
        self.applied: _Applied | None = None
        self.kept: Snapshot | None = None
        self.returns = self.offset = 0
        self.ended = self.changed = False
        for finding in training.record.findings:  # of a training that goes on, or of an earlier phase
            if finding.evidence.get("healed") and (remedy := self.remedy(finding)) and remedy.lasts:
                self.apply(remedy)

    def met(self, event: Step | EpochEnd) -> Iterator[Told]:
        """Tell the doctor, and pass the event on with what it says."""
        if isinstance(event, EpochEnd) and not np.isfinite(event.loss):
            yield from self.new(self.doctor.judge())  # before the epoch is judged: it may be healed
            event = self.finite(event)
        yield event
        if isinstance(event, Step):
            self.last = event
            later, self.later = self.later, []
            yield from self.new(later)
            self.keep()
            found = self.doctor.taken(
                loss=event.loss.detach(),
                accuracy=0.0,
                lr=event.lr,
                images=event.images,
                norm=event.grad_norm.detach(),
                seconds=event.seconds,
                waited=event.waited,
            )
            yield from self.new(found)
        elif self.training.record.history:
            row = self.training.record.history[-1]
            yield from self.taken_back(row)
            yield from self.new(self.doctor.checked(self.checkup(event, row)))

    def new(self, found: Iterable[Finding]) -> Iterator[Finding | Note]:
        """Test a finding where a fork can decide it, number its step in the whole training, and say it once.

        What is known for certain is healed without a test; after a remedy, all others are looked for anew.
        """
        waiting = [finding for finding in found if finding.code not in self.told]
        while waiting:
            finding = waiting.pop(0)
            remedy = self.remedy(finding)
            heal = remedy is not None and self.config.heal and self.applied is None
            testable = remedy is not None and not remedy.sure and (heal or finding.known == "suspected")
            if remedy is not None and (heal or testable) and self.last is None:
                self.later.append(finding)  # a fork needs a first step, and a remedy the state after it
                continue
            verdict = self.verdict(remedy) if remedy is not None and testable else None
            self.told.add(finding.code)
            if verdict is not None and not verdict.better and finding.known == "suspected":
                continue
            whole = replace(finding, step=self.training.record.steps_before + self.offset + (finding.step or 0))
            heal = heal and remedy is not None and (remedy.sure or (verdict is not None and verdict.better))
            if verdict is not None and verdict.better:
                whole = _decided(whole, verdict)
            whole = replace(whole, evidence={**whole.evidence, "healed": True}) if heal else whole
            self.training.record.findings += (whole,)
            yield whole
            if heal and remedy is not None:
                yield self.healed(whole, remedy, verdict)
                for each in waiting:
                    self.doctor.forget(each.code)
                return
            if finding.code == "broken-numbers" and self.config.heal and self.returns < RETURNS:
                yield self.returned()

    def remedy(self, finding: Finding) -> Remedy | None:
        """What the loop could do about a finding."""
        return remedy_for(
            finding,
            self.training.state,
            self.batches,
            updates=self.doctor.case.updates(),
            counts=self.counts,
            fresh=self.training.plan.stages is None,
        )

    def verdict(self, remedy: Remedy) -> Verdict | None:
        """Decide a suspicion by a fork; None where none can, or no steps are left for it."""
        step = self.last
        if step is None or not np.isfinite(float(step.loss)) or self.tested + 2 * STEPS > BUDGET * step.steps:
            return None
        self.tested += 2 * STEPS
        training = self.training
        return decide(
            training.state,
            self.batches,
            self.config,
            remedy,
            lr=step.lr if remedy.rate != 1 else self.config.lr or step.lr,
            size=training.plan.size,
            class_weights=training.class_weights,
            start=self.kept,
            held_out=self.held_out,
        )

    def apply(self, remedy: Remedy) -> Undo:
        """Change the loop, and return what changes it back."""
        training, state = self.training, self.training.state
        weights, rate = training.class_weights, state.rate
        undo = remedy.change() if remedy.change else None
        state.rate *= remedy.rate
        training.class_weights = weights if remedy.class_weights is None else remedy.class_weights
        self.changed = True

        def back() -> None:
            state.rate, training.class_weights, self.changed = rate, weights, True
            if undo is not None:
                undo()

        return back

    def healed(self, finding: Finding, remedy: Remedy, verdict: Verdict | None) -> Note:
        """Apply the remedy that a fork has tried, and say what it gained and cost."""
        history = self.training.record.history
        before = snapshot(self.training.state)
        lost = self.back() if remedy.sound else 0
        undo, val_loss = self.apply(remedy), history[-1].val_loss if history else np.inf
        self.applied = _Applied(code=finding.code, before=before, val_loss=val_loss, undo=undo)
        if not remedy.sound:
            self.doctor.restart()
            self.offset = self.training.state.step
        gone = f"back to the weights of {lost} steps before, and " if lost else ""
        text = f"Healed {finding.code.replace('-', ' ')}: {gone}from step {finding.step} on {remedy.words}"
        if verdict is not None:
            what = "held-out loss" if remedy.held_out else "loss"
            text += (
                f" ({what} after {STEPS} steps {nats(verdict.without)} → {nats(verdict.treated)}; the test took "
                f"{verdict.steps} steps, {verdict.seconds:.1f} s)"
            )
        self.training.record.notes += (f"{text}.",)
        return Note(text=f"{text}.")

    def keep(self) -> None:
        """Remember the training as it is, to return to, while nothing is wrong with it."""
        state = self.training.state
        if self.kept is None or (state.step >= self.kept.values.step + KEPT and not self.doctor.findings):
            self.kept = snapshot(state)

    def back(self) -> int:
        """Go back to the last sound weights; steps that were taken since count as taken. Returns how many."""
        assert self.kept is not None
        return self.put_back(self.kept)

    def put_back(self, kept: Snapshot) -> int:
        """Take other weights; steps, epochs and rate stay. Returns the steps between."""
        state = self.training.state
        counters, rate = (state.epoch, state.position, state.step), state.rate
        put_back(state, kept)
        lost = counters[2] - state.step
        (state.epoch, state.position, state.step), state.rate, state.tally = counters, rate, Tally()
        self.doctor.restart()
        self.offset = state.step
        return lost

    def returned(self) -> Note:
        """Go back from numbers that are not finite, with a lower rate and no more than the usual momentum."""
        learned = self.doctor.case.ever_learned()
        factor = 0.5 if learned else lower_rate(self.doctor.case.updates())
        lost = self.back()
        self.training.state.rate *= factor
        self.returns += 1
        self.doctor.forget("broken-numbers")
        self.told.discard("broken-numbers")
        text = f"Healed broken numbers: back to the weights of {lost} steps before, with {factor:.2g} times the rate"
        text += f" and momentum {MOMENTUM}." if calm(self.training.state) else "."
        self.training.record.notes += (text,)
        return Note(text=text)

    def finite(self, event: EpochEnd) -> EpochEnd:
        """Where the numbers were healed, an epoch's loss is that of an answer that knows nothing."""
        return replace(event, loss=float(np.log(len(self.training.classes)))) if self.returns else event

    def taken_back(self, row: EpochRow) -> Iterator[Note]:
        """Take a remedy back that did not help the validation images, and go back to the weights of before."""
        if self.applied is None:
            return
        applied, self.applied = self.applied, None
        if row.val_loss > WORSE * applied.val_loss:
            self.put_back(applied.before)
            applied.undo()
            record = self.training.record
            record.findings = tuple(
                replace(each, evidence={**each.evidence, "healed": False}) if each.code == applied.code else each
                for each in record.findings
            )
            text = f"The remedy was taken back: validation loss rose from {applied.val_loss:.3f} to {row.val_loss:.3f}."
            record.notes += (text,)
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


def _doctor(training: Training, counts: list[int]) -> Doctor:
    """One for the phase that begins, with some training images as they are, not augmented."""
    state = training.state
    frozen = any(not p.requires_grad for p in state.model.parameters())
    doctor = Doctor(
        model=state.model,
        optimizers=state.optimizers,
        intent=Intent(frozen=frozen, accumulate=training.config.accumulate),
    )
    doctor.case.given = tuple(counts)
    doctor.probe = _some(training, training.division.train, MOST)
    return doctor


def _held_out(training: Training) -> tuple[Tensor, Tensor]:
    return _some(training, training.division.val, HELD_OUT)


def _some(training: Training, rows: np.ndarray, most: int) -> tuple[Tensor, Tensor]:
    """A few images of a part, drawn by the seed, and their labels."""
    plan = training.plan
    shape = plan.card.preprocess.size
    count = int(np.clip(most * PIXELS // (MOST * shape[0] * shape[1]), LEAST, most))
    some = np.random.default_rng(plan.recipe.seed).permutation(rows)[:count]
    labels = torch.from_numpy(training.dataset.catalog.labels[some])
    images = normalise(to_tensor(training.dataset.packed.images[some]), plan.card.preprocess)
    return images.to(plan.device), labels.to(plan.device)


def _decided(finding: Finding, verdict: Verdict) -> Finding:
    what = "held-out loss" if verdict.remedy.held_out else "loss"
    words = (
        f" A test on the next {STEPS} batches decided it: {what} {nats(verdict.without)} as it is, "
        f"{nats(verdict.treated)} when {verdict.remedy.words}."
    )
    evidence = {**finding.evidence, "without": verdict.without, "treated": verdict.treated}
    return replace(finding, message=finding.message + words, known="decided by a fork", evidence=evidence)
