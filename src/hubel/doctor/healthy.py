"""Healthy loops that look odd: the doctor stays silent on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from hubel.doctor import planting as p
from hubel.doctor.lesson import Lesson, run, sgd
from hubel.doctor.planting import built, changed
from hubel.doctor.specimens import leaky, plain


def _pretrained(lesson: Lesson) -> Lesson:
    """All but the head from an earlier training, and frozen, without a declaration."""
    known = run(replace(lesson, steps=150, every=10**6, seed=lesson.seed + 1), watching=False).model.state_dict()

    def loaded(model: nn.Module) -> None:
        model.load_state_dict(known)
        model.requires_grad_(False)
        last = p.of(model, nn.Linear)[-1]
        last.requires_grad_(True)
        last.reset_parameters()

    return changed(lesson, loaded)


HEALTHY: dict[str, Callable[[Lesson], Lesson]] = {
    "plain": lambda x: x,
    "warm-up": lambda x: replace(
        x, optimizer=sgd(0.1), schedule=lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, 1.0, 40)
    ),
    "imagenet-on-grey": lambda x: replace(x, scale=p.normalised),
    "declared-frozen": lambda x: replace(
        changed(x, lambda m: p.of(m, nn.Conv2d)[0].requires_grad_(False)), declared={"frozen": True}
    ),
    "sparse": lambda x: changed(x, lambda m: p.biased(m, -0.7)),
    "mixup": lambda x: replace(x, augment=lambda i: 0.7 * i + 0.3 * i[torch.randperm(len(i))]),
    "strong-augmentation": lambda x: replace(
        x, augment=lambda i: p.erased(i.roll(int(torch.randint(-1, 2, ())), 3), 0.4)
    ),
    "dropout": lambda x: changed(
        x, lambda m: p.put(m, p.of(m, nn.Linear)[-1], nn.Sequential(nn.Dropout(0.5), p.of(m, nn.Linear)[-1]))
    ),
    "restarts": lambda x: replace(x, schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 40)),
    "cosine": lambda x: replace(x, schedule=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, x.steps)),
    "one-cycle": lambda x: replace(x, schedule=lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, x.steps)),
    "accumulation": lambda x: replace(x, batch=16, accumulate=2, declared={"accumulate": 2}),
    "batch-16": lambda x: replace(x, batch=16),
    "batch-128": lambda x: replace(x, batch=128, steps=120),
    "few-images": lambda x: replace(p.kept(x, 200), augment=lambda i: i.roll(int(torch.randint(-1, 2, ())), 3)),
    "smoothing": lambda x: replace(x, loss=lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2)),
    "five-percent": lambda x: p.rare(x, [0.5, *[1.0] * (p.size(x)[1] - 1)]),
    "unit-inputs": lambda x: replace(x, scale=lambda i: i),
    "half-half": lambda x: replace(x, scale=lambda i: (i - 0.5) / 0.5),
    "adamw": lambda x: replace(x, optimizer=lambda q: torch.optim.AdamW(q, 3e-3)),
    "adam-slow": lambda x: replace(x, optimizer=lambda q: torch.optim.Adam(q, 3e-4)),
    "clipping": lambda x: replace(x, before=lambda _n, m, _o: nn.utils.clip_grad_norm_(m.parameters(), 1.0)),
    "leaky": lambda x: built(x, leaky),
    "tanh": lambda x: built(x, plain, act=nn.Tanh),
    "pretrained-prefix": _pretrained,
}
