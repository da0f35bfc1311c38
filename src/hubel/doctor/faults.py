"""Faults in a plain loop, each planted in two ways and three severities.

The first way is the usual one, the second another mechanism with the same cause. Not here, since a plain loop can't
show them in seconds: the same random numbers in every worker (46), and a metric that the user prints himself (48).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from hubel.doctor import planting as p
from hubel.doctor.lesson import Lesson, sgd
from hubel.doctor.planting import built, changed, pick
from hubel.doctor.specimens import deep, he, plain, two_blocks

Plant = Callable[[Lesson, int], Lesson]


def _twice(lesson: Lesson, s: int) -> Lesson:
    mean, std = lesson.train[0].mean(), lesson.train[0].std()
    return replace(lesson, scale=lambda x: ((x - mean) / std - mean) / std / (1, 0.8, 0.6)[s])


def _other_statistics(lesson: Lesson, s: int) -> Lesson:
    card = {"weights": p.Card(p.size(lesson)[0])}
    return replace(lesson, declared=card, scale=lambda x: (x - (0.5, 0.0, 0.0)[s]) / (0.5, 0.5, 1.0)[s])


def _bytes(lesson: Lesson, s: int) -> Lesson:
    return replace(
        lesson, declared={"weights": p.Card(p.size(lesson)[0])}, scale=lambda x: x * (1, 1.0, 2)[s] - (0, 0.5, 1)[s]
    )


def _half_shuffled(lesson: Lesson, s: int) -> Lesson:
    """Sorted into a few runs, within which the order is by chance."""
    y = lesson.train[1]
    return p.sorted_by(lesson, (y // pick(s, 2, 1, 1)).float() + 0.9 * p.draw(lesson, len(y)))


def _accumulating(lesson: Lesson, s: int) -> Lesson:
    batch = pick(s, 4, 2, 2)
    return replace(
        lesson, batch=batch, accumulate=16 // batch, declared={"accumulate": 16 // batch}, steps=80, every=40
    )


def _per_epoch(lesson: Lesson, s: int) -> Lesson:
    """Cleared at the start of an epoch only."""

    def clear(count: int, _model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if count % pick(s, 10, 20, 40) == 0:
            optimizer.zero_grad()

    return replace(lesson, clears=False, before=clear)


def _never_stepped(lesson: Lesson, s: int) -> Lesson:
    return replace(lesson, clears_late=True, optimizer=sgd(pick(s, 0.01, 0.05, 0.1), decay=0))


def _logits_for_nll(lesson: Lesson, s: int) -> Lesson:
    if s == 0:
        return replace(lesson, loss=F.nll_loss)
    if s == 1:
        ended = changed(lesson, lambda m: p.ended(m, nn.Softmax(1)))
        return replace(ended, loss=lambda z, y: F.binary_cross_entropy_with_logits(z, F.one_hot(y, z.shape[1]).float()))
    return changed(
        lesson, lambda m: p.put(m, p.of(m, nn.Linear)[-1], nn.Linear(p.of(m, nn.Linear)[-1].in_features, 1000))
    )


def _sigmoid_for_softmax(lesson: Lesson, s: int) -> Lesson:
    if s == 2:
        one = changed(
            lesson, lambda m: p.put(m, p.of(m, nn.Linear)[-1], nn.Linear(p.of(m, nn.Linear)[-1].in_features, 1))
        )
        return replace(one, loss=lambda z, y: F.cross_entropy(z, torch.zeros_like(y)))
    return changed(lesson, lambda m: p.ended(m, nn.Sigmoid()))


def _shifted(lesson: Lesson, s: int) -> Lesson:
    if s < 2:
        wide = changed(
            lesson,
            lambda m: p.put(
                m, p.of(m, nn.Linear)[-1], nn.Linear(p.of(m, nn.Linear)[-1].in_features, p.size(lesson)[1] + 1)
            ),
        )
        return replace(p.labelled(wide, lesson.train[1] + 1, lesson.held_out[1] + 1))
    return p.labelled(lesson, lesson.train[1] // 255, lesson.held_out[1] // 255)


def _weighted(lesson: Lesson, s: int) -> Lesson:
    weights = torch.ones(p.size(lesson)[1])
    weights[0] = pick(s, 3e2, 1e3, 1e4)
    return replace(lesson, loss=lambda z, y: F.cross_entropy(z, y, weights))


def _head_biased(model: nn.Module, s: int) -> None:
    nn.init.constant_(p.of(model, nn.Linear)[-1].bias, 0.0)
    p.of(model, nn.Linear)[-1].bias.data[1] = pick(s, 20.0, 30.0, 60.0)


def _filtered(model: nn.Module, s: int) -> list[nn.Parameter]:
    """Only some parameters, by their names."""
    kinds = pick(s, (nn.Linear,), (nn.Linear, nn.BatchNorm2d, nn.GroupNorm), (nn.Conv2d,))
    return [q for module in p.of(model, *kinds) for q in module.parameters()]


def _slow(model: nn.Module, momentum: float) -> None:
    for norm in p.of(model, nn.BatchNorm2d):
        norm.momentum = momentum


def _stale(model: nn.Module, s: int) -> None:
    for norm in p.of(model, nn.BatchNorm2d):
        norm.momentum = 1e-3
        norm.running_var.fill_(pick(s, 30.0, 100.0, 1000.0))
        norm.running_mean.fill_(pick(s, 1.0, 2.0, 5.0))


def _dropping(model: nn.Module, s: int) -> None:
    drop = pick(s, 0.5, 0.6, 0.8)
    last = p.of(model, nn.Linear)[-1]
    p.put(model, last, nn.Sequential(p.Between(lambda x: F.dropout(x, drop)), last))


def _unpaired(lesson: Lesson, s: int, order: Callable[[torch.Tensor], torch.Tensor]) -> Lesson:
    """Few enough that they can be learned by heart in time."""
    few = p.by_heart(lesson, pick(s, 120, 80, 60), noise=0.0)
    return p.labelled(few, order(few.train[1]))


def _warm(optimizer: torch.optim.Optimizer, s: int) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.LinearLR(optimizer, pick(s, 1e-5, 1e-6, 1e-7), 1.0, 10**7)


def _cosine(optimizer: torch.optim.Optimizer, s: int) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, pick(s, 0.9, 0.8, 0.5))


def _tanh(lesson: Lesson, gain: float) -> Lesson:
    return changed(built(lesson, plain, act=nn.Tanh), lambda m: he(m, gain))


def _sigmoid(lesson: Lesson, gain: float) -> Lesson:
    return changed(built(lesson, deep, depth=4, act=nn.Sigmoid), lambda m: he(m, gain))


def _batch_norm(lesson: Lesson) -> Lesson:
    """A network with batch norm, where there is none."""
    return lesson if p.of(lesson.network(), nn.BatchNorm2d) else built(lesson, two_blocks)


def _relu(lesson: Lesson) -> Lesson:
    """A network with ReLU."""
    return lesson if p.of(lesson.network(), nn.ReLU) else built(lesson, plain)


def _coloured(lesson: Lesson) -> Lesson:
    """Three channels, where there is one."""
    if p.size(lesson)[0] == 3:
        return lesson
    tint = torch.tensor([1.0, 0.9, 0.7])[:, None, None]
    parts = [(images * tint, labels) for images, labels in (lesson.train, lesson.held_out)]
    builder = lesson.network.func  # type: ignore[attr-defined]
    return replace(lesson, train=parts[0], held_out=parts[1], network=partial(builder, 3, p.size(lesson)[1]))


FAULTS: dict[str, tuple[Plant, Plant]] = {
    "raw-inputs": (
        lambda x, s: replace(x, scale=lambda i: i * pick(s, 100, 255, 255)),
        lambda x, s: replace(x, scale=lambda i: p.normalised(i * pick(s, 50, 255, 255))),
    ),
    "normalised-twice": (lambda x, s: replace(x, scale=lambda i: i / pick(s, 50, 255, 255)), _twice),
    "other-statistics": (_other_statistics, _bytes),
    "other-validation": (
        lambda x, _: replace(x, scale=p.normalised, held_scale=lambda i: i),
        lambda x, s: replace(x, held_scale=lambda i: pick(s, 3 * i, i * 255, 1 - i * 2)),
    ),
    "softmax-twice": (
        lambda x, _: changed(x, lambda m: p.ended(m, nn.Softmax(1))),
        lambda x, _: replace(x, loss=lambda z, y: F.cross_entropy(z.softmax(1), y)),
    ),
    "bad-head-start": (
        lambda x, s: changed(x, lambda m: p.of(m, nn.Linear)[-1].weight.data.mul_(pick(s, 30, 60, 100))),
        lambda x, s: changed(x, lambda m: nn.init.normal_(p.of(m, nn.Linear)[-1].weight, std=pick(s, 3, 6, 12))),
    ),
    "constant-start": (
        lambda x, s: changed(x, lambda m: p.filled(m, pick(s, 0.01, 0.1, 0.5))),
        lambda x, _: changed(x, p.copied),
    ),
    "frozen": (
        lambda x, s: changed(x, lambda m: [c.requires_grad_(False) for c in p.of(m, nn.Conv2d)[: s + 1]]),
        lambda x, _: changed(x, lambda m: (m.requires_grad_(False), p.of(m, nn.Linear)[-1].requires_grad_(True))),
    ),
    "not-in-optimizer": (
        lambda x, _: replace(
            x,
            late=lambda m: p.put(
                m, p.of(m, nn.Linear)[-1], nn.Linear(p.of(m, nn.Linear)[-1].in_features, p.size(x)[1])
            ),
        ),
        lambda x, s: replace(x, parameters=lambda m: _filtered(m, s)) if s else changed(x, lambda m: p.listed(m, 1)),
    ),
    "labels-unpaired": (
        lambda x, s: _unpaired(
            x, s, lambda y: y[torch.randperm(len(y), generator=torch.Generator().manual_seed(x.seed))]
        ),
        lambda x, s: _unpaired(x, s, lambda y: y.roll(s + 1)),
    ),
    "label-noise": (
        lambda x, s: p.mislabelled(replace(x, steps=400, every=80), pick(s, 0.2, 0.3, 0.5), p.noisy),
        lambda x, s: p.mislabelled(replace(x, steps=400, every=80), pick(s, 0.25, 0.35, 0.45), p.confused),
    ),
    "leak": (
        lambda x, s: p.leaked(x, pick(s, 0.05, 0.1, 0.3), lambda i: i),
        lambda x, s: p.leaked(x, pick(s, 0.1, 0.2, 0.4), lambda i: pick(s, (i * 0.9 + 0.02), i.flip(3), i.roll(1, 3))),
    ),
    "imbalance": (
        lambda x, s: p.rare(x, [1.0, *[pick(s, 0.04, 0.02, 0.01)] * 2, *[1.0] * (p.size(x)[1] - 3)]),
        lambda x, s: p.rare(x, [pick(s, 0.6, 0.5, 0.4) ** k for k in range(p.size(x)[1])]),
    ),
    "unshuffled": (lambda x, _: p.sorted_by(x, x.train[1].float()), _half_shuffled),
    "destructive-augmentation": (
        lambda x, s: replace(x, augment=lambda i: p.magnified(i, pick(s, 0.3, 0.25, 0.2))),
        lambda x, s: replace(x, augment=lambda i: p.erased(i, pick(s, 0.8, 0.9, 0.95))),
    ),
    "details-lost": (lambda x, _: built(x, p.strided), lambda x, s: built(x, p.strided, pool=pick(s, 2, 1, 1))),
    "no-activation": (
        lambda x, _: changed(x, lambda m: p.replaced(m, p.ACTS, nn.Identity)),
        lambda x, s: built(x, plain, act=pick(s, nn.Identity, nn.Dropout, nn.Identity)),
    ),
    "tiny-batches": (
        lambda x, s: replace(_batch_norm(x), batch=pick(s, 4, 3, 2)),
        lambda x, s: _accumulating(_batch_norm(x), s),
    ),
    "rate-too-low": (
        lambda x, s: replace(x, optimizer=sgd(pick(s, 1e-5, 1e-6, 1e-7))),
        lambda x, s: replace(x, schedule=lambda o: _warm(o, s)),
    ),
    "rate-too-high": (
        lambda x, s: replace(x, optimizer=sgd(pick(s, 3.0, 5.0, 10.0))),
        lambda x, s: replace(x, optimizer=lambda q: torch.optim.Adam(q, pick(s, 0.3, 0.6, 1.0))),
    ),
    "oscillation": (
        lambda x, s: replace(x, optimizer=sgd(pick(s, 0.05, 0.1, 0.2), momentum=0.99)),
        lambda x, s: replace(x, optimizer=lambda q: torch.optim.Adam(q, pick(s, 0.02, 0.02, 0.04), betas=(0.99, 0.99))),
    ),
    "schedule": (
        lambda x, s: replace(x, schedule=p.milestone(pick(s, 20, 10, 5), 0.1)),
        lambda x, s: replace(x, schedule=lambda o: _cosine(o, s)),
    ),
    "not-cleared": (lambda x, _: replace(x, clears=False), _per_epoch),
    "no-step": (lambda x, _: replace(x, steps_taken=False), _never_stepped),
    "eval-while-training": (
        lambda x, s: replace(_batch_norm(x), trains=False, every=pick(s, 50, 20, 10)),
        lambda x, _: replace(_batch_norm(x), before=lambda _n, m, _o: m.eval(), every=10**6),
    ),
    "train-while-evaluating": (
        lambda x, _: replace(_batch_norm(x), evaluates=False),
        lambda x, s: changed(x, lambda m: _dropping(m, s)),
    ),
    "stale-statistics": (
        lambda x, s: changed(
            _batch_norm(x),
            lambda m: _slow(m, pick(s, 1e-3, 3e-4, 1e-4)),
        ),
        lambda x, s: changed(_batch_norm(x), lambda m: _stale(m, s)),
    ),
    "vanishing": (
        lambda x, s: built(x, deep, depth=pick(s, 8, 10, 12), act=nn.Sigmoid),
        lambda x, s: changed(built(x, deep, depth=10, act=nn.Tanh), lambda m: he(m, pick(s, 0.3, 0.2, 0.1))),
    ),
    "exploding": (
        lambda x, s: changed(built(x, deep, depth=10, act=nn.ReLU), lambda m: he(m, pick(s, 3, 4, 5))),
        lambda x, s: built(x, p.unscaled, gain=pick(s, 1.5, 2.0, 3.0)),
    ),
    "dead-channels": (
        lambda x, s: changed(_relu(x), lambda m: p.biased(m, pick(s, -4.0, -5.0, -8.0))),
        lambda x, s: replace(_relu(x), before=partial(p.spiked, factor=pick(s, 100, 300, 1000))),
    ),
    "saturation": (lambda x, s: _tanh(x, pick(s, 5, 10, 20)), lambda x, s: _sigmoid(x, pick(s, 20, 40, 80))),
    "broken-numbers": (
        lambda x, s: p.one_bad(x, pick(s, float("inf"), float("nan"), float("-inf")), pick(s, 0.01, 0.02, 0.05)),
        lambda x, s: changed(replace(p.one_bad(x, 0.0, pick(s, 0.02, 0.05, 0.1)), scale=p.standardised)),
    ),
    "constant-answer": (lambda x, s: changed(x, lambda m: _head_biased(m, s)), _weighted),
    "overfitting": (
        lambda x, s: p.by_heart(x, pick(s, 200, 160, 120)),
        lambda x, s: p.by_heart(x, pick(s, 180, 140, 100), repeats=20),
    ),
    "underfitting": (
        lambda x, s: replace(built(x, p.narrow, width=pick(s, 3, 2, 1)), steps=240),
        lambda x, s: replace(built(x, p.narrow, width=pick(s, 4, 3, 2), stride=pick(s, 4, 4, 8)), steps=240),
    ),
    "over-regularised": (
        lambda x, s: replace(x, optimizer=sgd(0.02, decay=pick(s, 0.5, 1.0, 2.0))),
        lambda x, s: changed(x, lambda m: p.ended(m, nn.Dropout(pick(s, 0.9, 0.95, 0.98)))),
    ),
    "starved": (
        lambda x, s: replace(x, collate=partial(p.sleeping, pick(s, 0.03, 0.05, 0.1), False), steps=60, every=30),
        lambda x, s: replace(x, collate=partial(p.sleeping, pick(s, 0.04, 0.06, 0.1), True), steps=60, every=30),
    ),
    "out-of-memory": (
        lambda x, _: changed(
            replace(x, batch=64),
            lambda m: p.put(
                m,
                p.of(m, nn.Linear)[-1],
                nn.Sequential(p.of(m, nn.Linear)[-1], p.Between(lambda z: p.short_of_memory(z, 32))),
            ),
        ),
        lambda x, _: changed(x, lambda m: p.ended(m, p.Between(p.greedy))),
    ),
    "growing-memory": (
        lambda x, _: replace(x, quiet=False, keeps=True),
        lambda x, s: replace(x, quiet=False, keeps=True, evaluates=True, every=pick(s, 40, 20, 10)),
    ),
    "worse-from-the-start": (
        lambda x, s: replace(p.hard(p.kept(x, pick(s, 60, 45, 30)), 0.4), every=20, steps=100, batch=20),
        lambda x, s: replace(
            p.hard(p.kept(x, pick(s, 70, 50, 35)), 0.4),
            every=20,
            steps=100,
            optimizer=lambda q: torch.optim.AdamW(q, 3e-3),
        ),
    ),
    "evaluation-with-gradients": (
        lambda x, _: replace(x, quiet=False),
        lambda x, s: replace(x, quiet=False, every=pick(s, 100, 40, 20)),
    ),
    "head-and-loss": (_sigmoid_for_softmax, _logits_for_nll),
    "detached": (
        lambda x, s: changed(x, lambda m: p.detached_behind(m, s)),
        lambda x, s: changed(
            x, lambda m: p.put(m, p.of(m, nn.Conv2d)[min(s, 1)], p.Without(p.of(m, nn.Conv2d)[min(s, 1)]))
        ),
    ),
    "axes": (
        lambda x, _: replace(_coloured(x), scale=lambda i: p.channels_last(x.scale(i), 0)),
        lambda x, _: replace(_coloured(x), scale=lambda i: p.channels_last(x.scale(i), 2)),
    ),
    "used-twice": (
        lambda x, s: built(x, p.one_norm, convs=pick(s, 3, 3, 3)),
        lambda x, _: built(x, p.one_norm, convs=1),
    ),
    "labels-range": (
        _shifted,
        lambda x, _: p.labelled(x, x.train[1] + 1, x.held_out[1] + 1),
    ),
}
