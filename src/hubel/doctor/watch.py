"""Watching anyone's training loop: hooks at the network, the optimizers and the loader, gone when the block ends."""

from __future__ import annotations

import itertools
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hubel.doctor.doctor import HELD_OUT, MEASURED, PROBES, THEN, Doctor
from hubel.doctor.losses import agreement, form, labels_behind
from hubel.doctor.probes import Loss, default_loss, inputs_of, learning_share, logits_of, outputs_of
from hubel.doctor.signs import Evaluated, Intent
from hubel.errors import UsageError
from hubel.learning.checkpoint import GENERATORS
from hubel.nn.dry_run import bare
from hubel.records import Finding

MOVED = 32  # pixels of a side up to which a pixel matters
LEAST = 40  # images of an evaluation that say something
SAME = 0.02  # distance of two thumbnails of length 1
EVERY = 4  # steps between two norms of the gradient, after the first
FORMS = 10  # steps in which the loss is recognised by its gradient


@contextmanager
def watch(
    model: nn.Module,
    *optimizers: torch.optim.Optimizer,
    validation: Any = None,
    loss: Loss | None = None,
    weights: Any = None,
    frozen: bool = False,
    accumulate: int = 1,
    tell: Callable[[Finding], None] | None = None,
    share: float = 0.02,
    script: Path | None = None,
) -> Iterator[Doctor]:
    """Watch the training loop in the block, which needs no change.

    Labels are read from the gradient at the outputs; images, modes and times from the calls. After the block,
    ``doctor.findings`` holds what is wrong, the likeliest cause first.

    Args:
        model: the network, wrapped or not, that the loop calls. optimizers: those that change it; without one, steps
            can't be seen.
        validation: held-out images, prepared for the network, with labels: a DataLoader, or two tensors (N, C, H, W)
            and (N,). Without them, those that the loop itself evaluates are taken, where they come out of a DataLoader
            with their labels; where they don't, nothing can be said of leaks, overfitting and label noise.
        loss: ``loss(outputs, labels)`` where it isn't cross-entropy.
        weights: what the network started from, where that expects images of a certain mean and deviation: torchvision's
            weights, or an object with `mean` and `std`.
        frozen: whether layers are frozen on purpose. accumulate: backward passes for a step.
        tell: called with each finding when it is found; by default it is printed.
        share: of the training's time that looking may take.
        script: the file of the loop; ``doctor.lines`` then says where in it what happens.

    Raises:
        UsageError: what is given is no network or no optimizer.
    """
    if not isinstance(model, nn.Module) or not all(isinstance(one, torch.optim.Optimizer) for one in optimizers):
        raise UsageError("doctor.watch(model, *optimizers) takes an nn.Module and torch's optimizers.")
    mean, std = _statistics(weights)
    intent = Intent(frozen=frozen, accumulate=accumulate, mean=mean, std=std)
    doctor = Doctor(model=bare(model), optimizers=optimizers, intent=intent, loss=loss, share=share)
    doctor.held_out = _held_out(validation)
    eyes = _Eyes(doctor=doctor, model=model, tell=tell or say, script=script)
    with ExitStack() as hooks:
        hooks.callback(model.register_forward_hook(eyes.leave, with_kwargs=True).remove)
        for optimizer in optimizers:
            hooks.callback(optimizer.register_step_pre_hook(eyes.before_step).remove)
            hooks.callback(optimizer.register_step_post_hook(eyes.after_step).remove)
        hooks.enter_context(_waiting(eyes))
        try:
            yield doctor
        except Exception as error:
            doctor.case.raised = f"{type(error).__name__}: {error}"
            raise
        finally:
            eyes.end()


@dataclass
class _Pass:
    """One forward pass of the user's."""

    images: Tensor  # some of them, once the next pass has come
    outputs: Tensor
    labels: Tensor | None
    source: int
    graph: bool
    learning: float | None
    favourite: Tensor
    line: str
    returned: bool = False


@dataclass(kw_only=True)
class _Eyes:
    """What the hooks call, and what they remember between two calls."""

    doctor: Doctor
    model: nn.Module
    tell: Callable[[Finding], None]
    script: Path | None = None
    looking: bool = False
    passes: list[_Pass] = field(default_factory=list)
    waiting: dict[str, Any] = field(default_factory=dict)
    graphs: list[weakref.ref[Any]] = field(default_factory=list)
    versions: dict[int, int] = field(default_factory=dict)
    carried: bool = False
    waited: float = 0.0
    given: tuple[int, Any] = (0, None)  # the loader that gave the last batch, and the batch
    trained_from: set[int] = field(default_factory=set)
    last: float = field(default_factory=time.perf_counter)
    checked: int = 0
    matched: set[int] = field(default_factory=set)
    own: Tensor | None = None

    def leave(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """The network has answered."""
        given = [value for value in (*args, *kwargs.values()) if is_images(value)]
        if self.looking or not given:
            return
        try:
            answered = outputs_of(output)
        except TypeError:
            return
        outputs = logits_of(answered)
        if outputs.ndim != 2 or len(outputs) != len(given[0]):
            return
        with torch.no_grad():
            answers = torch.bincount(outputs.argmax(1), minlength=max(outputs.shape[1], 2))
        graph = answered.requires_grad and torch.is_grad_enabled()
        source, labels = self.given[0], labels_in(self.given[1], len(outputs))
        values, mode = outputs.detach(), learning_share(self.doctor.model)
        one = _Pass(given[0], values, labels, source, graph, mode, answers, self._line())
        self._thin()
        self.passes.append(one)
        if graph:
            marker = _Marker()
            answered.grad_fn.metadata["hubel"] = marker  # type: ignore[union-attr,index]
            self.graphs.append(weakref.ref(marker))
            if len(self.graphs) > FORMS:
                self._count_graphs()
            answered.register_hook(lambda gradient: self.back(one, values, logits_of(gradient)))

    def back(self, one: _Pass, outputs: Tensor, gradient: Tensor) -> None:
        """A gradient came back to the outputs: this was a training pass."""
        if one.returned or self.looking:
            return
        one.returned, began = True, time.perf_counter()
        self.trained_from.add(one.source)
        self.doctor.lines.setdefault("forward", one.line)
        self.doctor.lines.setdefault("backward", self._line())
        case, g = self.doctor.case, gradient.detach().float()
        labels = labels_behind(outputs, g, len(outputs) * self.doctor.intent.accumulate)
        first = not self.waiting
        if first:
            self.carried = self._carried()
        logits = outputs.float()
        loss = self.doctor.loss or default_loss(logits)
        count, finite = max(outputs.shape[1], 2), g.isfinite().all()
        answers = logits.argmax(1) if outputs.shape[1] > 1 else (logits[:, 0] > 0).long()
        images = self.waiting.get("images", 0) + len(labels)
        self.waiting = {
            "loss": loss(logits, labels).detach(),
            "accuracy": (answers == labels).float().mean(),
            "labels": torch.bincount(labels, minlength=count) * finite,
            "images": images,
            "learning": one.learning,
            "carried": self.carried,
            "agree": None if one.labels is None or len(one.labels) != len(labels) else agreement(labels, one.labels),
            "at_once": min(self.waiting.get("at_once", len(labels)), len(labels)),
            **form(logits, g, labels, look=self.doctor.step < FORMS),
        }
        case.idle += 1
        if len(one.images) == len(labels):
            self.doctor.met(one.images, labels)
            self._compare(one.images)
        self.doctor.spent += time.perf_counter() - began

    def before_step(self, _optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        """The optimizer is about to step, for the first time: the network is as it was started."""
        self.doctor.lines.setdefault("step", self._line())
        if self.passes and self.passes[-1].graph and not self.waiting:  # what was meant to be trained on
            self.passes, self.doctor.case.unreached = [], self.doctor.case.unreached + 1
        self._close_evaluation()
        if self.doctor.step == 0 and not self.doctor.case.looks:
            self._say(self.doctor.begin)

    def after_step(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        """It has."""
        if optimizer is not self.doctor.optimizers[-1] or not self.waiting:
            return
        now = time.perf_counter()
        norm = None
        if self.doctor.step < MEASURED or self.doctor.step % EVERY == 0:
            grads = [p.grad for p in self.doctor.model.parameters() if p.grad is not None]
            norm = nn.utils.get_total_norm(grads) if grads else 0.0
        rates = [group["lr"] for each in self.doctor.optimizers for group in each.param_groups]
        told = {"lr": float(max(rates)), "norm": norm, "seconds": now - self.last, "waited": self.waited}
        told |= self.waiting
        self.versions = {id(p): p.grad._version for p in self._firsts() if p.grad is not None}
        self.waiting, self.waited = {}, 0.0
        self.doctor.case.idle = 0
        self._count_graphs()
        self._say(lambda: self.doctor.taken(**told))
        if self.doctor.step % THEN == 0 and self.doctor.step != self.checked:
            self._check()
        self.last = time.perf_counter()

    def end(self) -> None:
        """The block ends."""
        if self.doctor.case.raised:  # in the middle of a step, whose pass was no evaluation
            self.passes = [one for one in self.passes if not one.graph]
        self._close_evaluation()
        self._count_graphs()
        if self.doctor.case.looks or self.doctor.probe is not None:
            if not self.doctor.case.looks:
                self._say(self.doctor.begin)
            self._check()
        self._say(self.doctor.judge)

    def _line(self) -> str:
        """Where the script is now; "" once its lines are known, or where there is none."""
        if self.script is None or len(self.doctor.lines) == 4:
            return ""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename != str(self.script):
            frame = frame.f_back
        return "" if frame is None else f"{self.script.name}:{frame.f_lineno}"

    def _carried(self) -> bool:
        """Whether gradients of the step before are still there: held, and not written since."""
        firsts = [p for p in self._firsts() if p.grad is not None]
        return bool(firsts) and bool(self.versions) and all(self.versions.get(id(p)) == p.grad._version for p in firsts)  # type: ignore[union-attr]

    def _firsts(self) -> list[nn.Parameter]:
        return list(itertools.islice((p for p in self.doctor.model.parameters() if p.requires_grad), 2))

    def _close_evaluation(self) -> None:
        """Passes without a gradient since the last step were an evaluation."""
        if self.looking:
            return
        quiet = [one for one in self.passes if not one.returned]
        self.passes = []
        if not quiet:
            return
        self.doctor.lines.setdefault("evaluation", quiet[0].line)
        modes = [one.learning for one in quiet if one.learning is not None]
        counts = torch.stack([one.favourite for one in quiet]).sum(0)
        alike = [one for one in quiet if one.images.shape[1:] == quiet[0].images.shape[1:]]
        sample = torch.cat([one.images[:PROBES] for one in alike[:8]])
        found = Evaluated(
            step=self.doctor.step,
            passes=len(quiet),
            images=int(counts.sum()),
            in_train_mode=bool(modes) and max(modes) == 1,
            with_graph=sum(one.graph for one in quiet),
            favourite=float(counts.max() / counts.sum()),
            inputs=inputs_of(sample),
        )
        self._say(lambda: self.doctor.evaluated(found))
        others = [one for one in alike if one.source not in self.trained_from and one.labels is not None]
        others = [one for one in others if one.source == others[-1].source]  # the test images usually come last
        parts = [(one.images, one.outputs, one.labels) for one in others if one.labels is not None]
        labelled = bool(self.trained_from) and sum(len(one) for one, _, _ in parts) >= LEAST
        if labelled and self.doctor.held_out is None:
            images, _, labels = (torch.cat(kept) for kept in zip(*parts, strict=True))
            step = max(len(labels) // HELD_OUT, 1)
            self.doctor.held_out = images[::step][:HELD_OUT], labels[::step][:HELD_OUT].to(images.device)
        count = len(self.doctor.case.checkups)
        if len(quiet) > 1 or self.doctor.held_out is not None:
            self._check()
        if labelled and len(self.doctor.case.checkups) == count:  # the loop has evaluated it already, at no cost
            _, outputs, labels = (torch.cat(kept) for kept in zip(*parts, strict=True))
            self._say(lambda: self.doctor.answered(outputs, labels.to(outputs.device)))

    def _thin(self) -> None:
        """Of an evaluation's passes so far, keep a few images each, the fewer the more passes there are."""
        quiet = [one for one in self.passes if not one.returned]
        most = min(PROBES, max(2 * HELD_OUT // max(len(quiet), 1), 1))
        for one in quiet:
            if len(one.images) > most:
                step = len(one.images) // most
                one.images, one.outputs = one.images[::step][:most].clone(), one.outputs[::step][:most].clone()
                one.labels = None if one.labels is None else one.labels[::step][:most]

    def _check(self) -> None:
        self.checked = self.doctor.step
        self._say(self.doctor.check)

    def _count_graphs(self) -> None:
        self.graphs = [ref for ref in self.graphs if ref() is not None]
        self.doctor.case.alive = max(self.doctor.case.alive, len(self.graphs) - 1)

    def _compare(self, images: Tensor) -> None:
        """Look whether held-out images are among these: mirrored, moved by a pixel, brighter or darker."""
        held_out = self.doctor.held_out
        if held_out is None or held_out[0].shape[1:] != images.shape[1:] or images.ndim != 4:
            return
        if self.doctor.step > THEN and not self.doctor.affordable():
            return
        if self.own is None:
            self.own = _small(held_out[0])
        moves = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)] if images.shape[-1] <= MOVED else [(0, 0)]
        seen = [_small(x.roll(move, (2, 3))) for x in (images, images.flip(3)) for move in moves]
        distance = torch.cdist(self.own, torch.cat(seen)).amin(1)
        self.matched |= set((distance < SAME).nonzero().flatten().tolist())
        self.doctor.case.doubles, self.doctor.case.compared = len(self.matched), len(self.own)

    def _say(self, made: Callable[[], Iterator[Finding]]) -> None:
        self.looking = True
        try:
            for finding in made():
                self.tell(finding)
        finally:
            self.looking = False


class _Marker:
    """Lives as long as the graph it is attached to."""


@contextmanager
def _waiting(eyes: _Eyes) -> Iterator[None]:
    """Time how long DataLoaders are waited for."""
    original = DataLoader.__iter__

    def timed(self: DataLoader[Any]) -> Iterator[Any]:
        batches, chosen = original(self), getattr(self.sampler, "indices", None)
        source = id(self.dataset) if chosen is None else id(chosen)
        while True:
            began = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            eyes.waited += time.perf_counter() - began
            eyes.given = source, batch
            yield batch
            eyes.given = 0, None

    DataLoader.__iter__ = timed  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        DataLoader.__iter__ = original  # type: ignore[method-assign]


def is_images(value: Any) -> bool:
    """Whether a network's argument can be images: (N, C, H, W), or numbers that were made of them."""
    return isinstance(value, Tensor) and value.ndim >= 2 and value.is_floating_point()


def labels_in(batch: Any, count: int) -> Tensor | None:
    """The labels (N,) of a batch that a loader gave, where it has any."""
    parts = list(batch.values()) if isinstance(batch, dict) else batch if isinstance(batch, (tuple, list)) else []
    for part in reversed(parts):
        if isinstance(part, Tensor) and not part.is_floating_point() and part.shape in ((count,), (count, 1)):
            return part.reshape(-1).long()
    return None


def _small(images: Tensor) -> Tensor:
    """Thumbnails (N, 64) of what lies within the outermost pixels, whatever their brightness and contrast."""
    grey = images.detach().float()[..., 1:-1, 1:-1].mean(1, keepdim=True)
    thumbnails = F.adaptive_avg_pool2d(grey, (8, 8)).flatten(1)
    centred = thumbnails - thumbnails.mean(1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    small: Tensor = centred / length.clamp(min=0.2 * float(length.median()) + 1e-9)
    return small


def _held_out(validation: Any) -> tuple[Tensor, Tensor] | None:
    if validation is None:
        return None
    if (
        isinstance(validation, (tuple, list))
        and len(validation) == 2
        and all(isinstance(v, Tensor) for v in validation)
    ):
        images, labels = validation
    else:
        generators = [read() for read, _ in GENERATORS]
        parts: list[tuple[Tensor, Tensor]] = []
        try:
            for batch in validation:
                parts.append((batch[0], batch[1]))
                if sum(len(part) for part, _ in parts) >= HELD_OUT:
                    break
        except (TypeError, LookupError) as error:
            raise UsageError("validation= takes batches of images and labels, or two tensors.") from error
        for (_, write), state in zip(GENERATORS, generators, strict=True):
            write(state)
        if not parts:
            raise UsageError("validation= holds no images.")
        images, labels = (torch.cat(kept) for kept in zip(*parts, strict=True))
    if images.ndim != 4 or len(images) != len(labels):
        raise UsageError(f"validation= takes images (N, C, H, W) and labels (N,), got {tuple(images.shape)}.")
    return images[:HELD_OUT], labels[:HELD_OUT].long()


def _statistics(weights: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation that weights expect, of torchvision's weights or of anything that has them."""
    if weights is not None and hasattr(weights, "transforms"):
        weights = weights.transforms()
    mean, std = getattr(weights, "mean", ()), getattr(weights, "std", ())
    return tuple(mean), tuple(std)


def say(finding: Finding) -> None:
    print(f"doctor, step {finding.step}: {finding.message}", flush=True)
