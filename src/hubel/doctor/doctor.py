"""The doctor of one training: looks at set moments, measures what a step changed, and says what is new."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hubel.doctor.diagnosis import diagnose
from hubel.doctor.probes import Loss, checkup, first_broken, judged, look, telling
from hubel.doctor.signs import Case, Checkup, Evaluated, Intent, Taken
from hubel.records import Finding

FIRST, THEN = (0, 1, 2, 5, 10, 20, 50, 100), 200  # steps after which it looks inside
MEASURED = 20  # every so many steps, updates are measured and rules are tried
PROBES, HELD_OUT = 64, 256  # images
GRACE = 1.0  # seconds that each half may take beyond its share
SHARE = 0.02  # of the training's time


@dataclass(kw_only=True)
class Doctor:
    """Watches a training through what it is told; `watch` tells it of anyone's loop.

    Attributes:
        model: outside of any wrapper. optimizers: those that change it.
        probe: images (N, C, H, W) as the network is given them, and labels (N,). held_out: others, for checkups.
        share: of the training's time that looking may take.
        case: all measurements. findings: what is wrong, the likeliest cause first.
        spent: seconds that the doctor took so far; looked: of them, inside the network.
        lines: where in a script ``forward``, ``backward``, ``step`` and ``evaluation`` stand.
    """

    model: nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    intent: Intent = field(default_factory=Intent)
    loss: Loss | None = None
    probe: tuple[Tensor, Tensor] | None = None
    held_out: tuple[Tensor, Tensor] | None = None
    share: float = SHARE
    case: Case = field(default_factory=Case)
    findings: list[Finding] = field(default_factory=list)
    spent: float = 0.0
    looked: float = 0.0
    lines: dict[str, str] = field(default_factory=dict)
    _told: dict[str, int] = field(default_factory=dict)
    _pending: list[dict[str, Any]] = field(default_factory=list)
    _before: dict[str, Tensor] = field(default_factory=dict)
    _updates: dict[str, float] = field(default_factory=dict)
    _count: int = 0
    _last_cost: float = 0.0
    _began: float = field(default_factory=time.monotonic)
    _trained: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.case.intent = self.intent

    @property
    def step(self) -> int:
        """Steps told so far."""
        return self._count

    def begin(self) -> Iterator[Finding]:
        """Look before the first step; yields what data and code show already."""
        self.look()
        yield from self.judge()

    def taken(self, **values: Any) -> Iterator[Finding]:
        """One optimizer step was taken; yields what is new.

        Args:
            values: of a `Taken`, as numbers or as 0-d tensors that stay on the device until they are needed.
        """
        began = time.perf_counter()
        self._count += 1
        count = self._count
        if self._before:
            values["update"], self._updates = self._measured()
            self._before = {}
        self._pending.append(values)
        due = count in FIRST or count % THEN == 0
        self.spent += time.perf_counter() - began
        if due and self.affordable(look=True):
            self.look()
        if due or count == 3 or count % (MEASURED if count <= THEN else THEN // 2) == 0:
            yield from self.judge()
        began = time.perf_counter()
        following = count + 1
        if following in FIRST or following <= 3 or following % MEASURED == 0:
            self._before = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
        self.spent += time.perf_counter() - began

    def look(self) -> None:
        """Look inside now, on the probe images."""
        if self.probe is None:
            return
        began = time.perf_counter()
        images, labels = self.probe
        seen = look(
            self.model,
            images,
            labels,
            step=self._count,
            loss=self.loss,
            optimizers=self.optimizers,
            updates=self._updates,
        )
        self.case.looks.append(seen)
        self._last_cost = time.perf_counter() - began
        self.looked += self._last_cost
        self.spent += self._last_cost

    def met(self, images: Tensor, labels: Tensor) -> None:
        """Keep some training images, for probes and checkups."""
        if self.probe is None:
            self.probe = images[:PROBES].detach().clone(), labels[:PROBES].clone()
        have = sum(len(kept) for _, kept in self._trained)
        if have < HELD_OUT:
            self._trained.append((images[: HELD_OUT - have].detach().clone(), labels[: HELD_OUT - have].clone()))
        elif self.case.telling is None:
            alike = images.ndim == 4 and all(kept.shape[1:] == images.shape[1:] for kept, _ in self._trained)
            parts = zip(*self._trained, strict=True)
            self.case.telling = telling(*(torch.cat(part) for part in parts)) if alike else (1.0, 0)

    def check(self) -> Iterator[Finding]:
        """Answer for held-out images, and for as many that were trained on; yields what is new."""
        if self.held_out is None or not self._trained or not (len(self.case.checkups) < 4 or self.affordable()):
            return
        began = time.perf_counter()
        images, labels = (torch.cat(parts) for parts in zip(*self._trained, strict=True))
        found = checkup(self.model, self.held_out, (images, labels), step=self._count, loss=self.loss)
        self.spent += time.perf_counter() - began
        if not _finite(found.loss):
            return
        self.case.checkups.append(found)
        yield from self.judge()

    def answered(self, outputs: Tensor, labels: Tensor) -> Iterator[Finding]:
        """Take the loop's own answers (N, K) for held-out images; beside them stand its last steps."""
        self._read()
        late = self.case.steps[-20:]
        if not late or not bool(outputs.isfinite().all()):
            return
        own = float(np.mean([step.loss for step in late])), float(np.mean([step.accuracy for step in late]))
        yield from self.checked(judged(outputs, labels, own, step=self._count, loss=self.loss))

    def checked(self, found: Checkup) -> Iterator[Finding]:
        """Take a checkup that somebody else made."""
        self.case.checkups.append(found)
        yield from self.judge()

    def evaluated(self, found: Evaluated) -> Iterator[Finding]:
        """Take what the user's own evaluation looked like."""
        self.case.evaluations.append(found)
        yield from self.judge()

    def judge(self) -> Iterator[Finding]:
        """Try all rules on what is known; yields findings that are new."""
        began = time.perf_counter()
        self._read()
        self.findings = diagnose(self.case, self._told)
        new = [finding for finding in self.findings if finding.code not in self._told]
        for finding in new:
            self._told[finding.code] = self._count
        self.spent += time.perf_counter() - began
        yield from new

    def said(self) -> list[Finding]:
        """Everything that was found, each with the step at which it was first seen, the likeliest cause first."""
        return [replace(finding, step=self._told.get(finding.code, finding.step)) for finding in self.findings]

    def restart(self) -> None:
        """The network is what it was before: what was measured since is of no use."""
        self._pending, self._before, self._updates, self._count = [], {}, {}, 0
        self.case = Case(intent=self.intent, looks=self.case.looks[:1], given=self.case.given)

    def forget(self, code: str) -> None:
        """A fault was mended: say it again if it comes again."""
        self._told.pop(code, None)

    def affordable(self, *, look: bool = False) -> bool:
        """Whether watching has taken no more than its share so far: half of it is for looks inside."""
        allowed = self.share / 2 * (time.monotonic() - self._began) + GRACE
        return (self.looked + self._last_cost if look else self.spent - self.looked) <= allowed

    def _measured(self) -> tuple[Tensor, dict[str, float]]:
        now = dict(self.model.named_parameters())
        names = [name for name, old in self._before.items() if name in now and now[name].shape == old.shape]
        with torch.no_grad():
            old = [self._before[name] for name in names]
            moved = torch.stack(torch._foreach_norm(torch._foreach_sub([now[n].detach() for n in names], old)))
            size = torch.stack(torch._foreach_norm(old))
            each = (moved / size.clamp(min=1e-12)).tolist()
            whole = moved.square().sum().sqrt() / size.square().sum().sqrt().clamp(min=1e-12)
        return whole, dict(zip(names, each, strict=True))

    def _read(self) -> None:
        """Bring what waits on the device over, at once."""
        for values in self._pending:
            plain = {name: _plain(value) for name, value in values.items()}
            self.case.steps.append(Taken(**plain))
        self._pending = []
        bad = self.case.steps and not self.case.broken and not _finite(self.case.steps[-1].loss)
        if bad and self.probe is not None:
            self.case.broken = first_broken(self.model, self.probe[0])


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.tolist()) if value.ndim else float(value)
    return value


def _finite(number: float) -> bool:
    return number - number == 0
