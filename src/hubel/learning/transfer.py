"""Transfer learning: which stages are trained when, and the features of a frozen backbone, computed once and kept.

A phase is one call of `fit`: the head alone, the last stage and the head, and so on backwards. While only the head is
trained and the images don't change, what the head is given doesn't change either; `Features` keeps it, so that an epoch
costs no more than the head.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.dataset.augment import draws_for, is_mirrored
from hubel.dataset.loader import Batch, Loader
from hubel.dataset.pack import Images
from hubel.dataset.tensors import normalise, to_tensor
from hubel.errors import UsageError
from hubel.events import Progress
from hubel.learning.config import MOST_EPOCHS
from hubel.nn.hooks import evaluating, find_module
from hubel.nn.stages import answer_from_features, features_of
from hubel.records import Preprocess

NAMED = ("auto", "course", "head", "all")
FITTED = "fit"  # how ``--stages`` calls the head fitted to kept features
COURSE = ((0, 1e-3), (1, 1e-5))  # depth and rate: the head with Adam, then the last stage with it
PHASE = re.compile(r"(head|all|last(?P<depth>\d*)):(?P<epochs>\d+):(?P<lr>[0-9.]+(?:[eE][-+]?\d+)?)")
FEATURE_LIMIT = 2 << 30  # bytes of features that are kept; more are computed anew each epoch
CHUNK = 64  # images whose features are computed together


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One call of the loop; or, without epochs, a head that is fitted to kept features (`hubel.learning.head`).

    Attributes:
        depth: stages that are trained along with the head, counted from it; 0 is the head alone, None everything.
        lr: peak rate of the head; that of a stage is `stage_decay` times the next one's.
    """

    depth: int | None
    epochs: int
    lr: float

    def __post_init__(self) -> None:
        if not 0 <= self.epochs <= MOST_EPOCHS or self.lr < 0 or (self.depth or 0) < 0:
            raise ValueError(f"depth {self.depth}, {self.epochs} epochs at {self.lr} are no phase")

    @property
    def fitted(self) -> bool:
        """Whether the head is fitted, without the loop."""
        return self.epochs == 0

    def __str__(self) -> str:
        return FITTED if self.fitted else f"{depth_name(self.depth)}:{self.epochs}:{self.lr:g}"


HEAD_FITTED = Phase(depth=0, epochs=0, lr=0.0)


def depth_name(depth: int | None) -> str:
    """Say a depth as ``--stages`` takes it."""
    return "all" if depth is None else ("head", "last")[depth] if depth < 2 else f"last{depth}"


def parse_phases(text: str) -> tuple[Phase, ...]:
    """Read ``head:5:1e-3,last:10:1e-5``; ``fit`` may stand first.

    Raises:
        UsageError: anything else, or a phase without epochs or rate.

    >>> parse_phases("head:5:0.001,last2:10:1e-05")[1]
    Phase(depth=2, epochs=10, lr=1e-05)
    """
    phases: list[Phase] = []
    for part in text.split(","):
        if part.strip() == FITTED and not phases:
            phases.append(HEAD_FITTED)
            continue
        found = PHASE.fullmatch(part.strip())
        if found is None or not 1 <= int(found["epochs"]) <= MOST_EPOCHS or not 0 < float(found["lr"]) < math.inf:
            raise UsageError(
                f"--stages {text}: {part.strip()!r} is no phase; expected {', '.join(NAMED)}, or DEPTH:EPOCHS:RATE as "
                "in head:5:1e-3,last:10:1e-5, with the depths head, last, last2, … and all; fit may stand first."
            )
        word = found[1]
        depth = None if word == "all" else 0 if word == "head" else int(found["depth"] or 1)
        phases.append(Phase(depth=depth, epochs=int(found["epochs"]), lr=float(found["lr"])))
    return tuple(phases)


class HeadOnly(nn.Module):
    """The head of a network as a network of its own: features (N, …) → logits (N, K).

    A dropout that the head begins with is done by `dropout`: torch's own would take ten times as long as all the rest.
    """

    def __init__(self, model: nn.Module, head: str) -> None:
        super().__init__()
        self.head = find_module(model, head)
        layers = list(self.head) if isinstance(self.head, nn.Sequential) else [self.head]
        first = layers[0]
        self.dropped: nn.Dropout | None = first if isinstance(first, nn.Dropout) else None
        self.layers = nn.Sequential(*layers[1 if self.dropped is not None else 0 :])

    def forward(self, features: Tensor) -> Tensor:
        if self.dropped is not None and self.dropped.training:
            features = dropout(features, self.dropped.p)
        return answer_from_features(self, "layers", features)


def dropout(x: Tensor, p: float) -> Tensor:
    """Zero each number with probability p and scale the others by 1 / (1 - p).

    Takes 16 random bits a number from torch's generator (so p is rounded to 1/65,536), four times faster on a processor
    than torch's dropout.
    """
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = words.view(torch.int16)[: x.numel()] >= round(p * 65536) - 32768
    return x * kept.view(x.shape) * (1 / (1 - p))


class Features:
    """What a frozen backbone makes of the training images, as batches for the loop in the loader's own order.

    Where the loader mirrors images, the mirrored ones' features are kept too, and each epoch takes those of
    the very images that it would have mirrored; other random changes are left out.
    """

    def __init__(self, loader: Loader, views: Sequence[Tensor]) -> None:
        self.loader, self.views = loader, tuple(views)

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, size: int, *, start: int = 0) -> Iterator[Batch]:  # noqa: ARG002
        """Yield batches whose images are features (N, …)."""
        loader = self.loader
        for all_rows, places in loader.parts(epoch, start=start):
            rows = all_rows[places]
            ids = loader.indices[rows]
            features = self.views[0][rows]
            if len(self.views) > 1:
                mirrored = is_mirrored(draws_for(loader.seed, epoch, ids))
                features = torch.where(mirrored.view(-1, *[1] * (features.ndim - 1)), self.views[1][rows], features)
            labels = loader.labels[rows].to(loader.device)
            yield Batch(
                images=features.to(loader.device),
                targets=F.one_hot(labels, loader.classes).float(),
                labels=labels,
                ids=ids,
                count=len(all_rows),
            )


def backbone_features(
    model: nn.Module,
    head: str,
    images: Images,
    preprocess: Preprocess,
    *,
    device: torch.device,
    autocast: torch.dtype | None,
    mirrored: bool = False,
    until: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, Tensor]:
    """(N, H, W, C) uint8 → what the head is given, (N, …) on the CPU, in the type it was computed in.

    Args:
        mirrored: whether the images are mirrored first. until: asked after each chunk; the first ones are enough then.
    """
    kept: list[Tensor] = []
    for start in range(0, len(images), CHUNK):
        batch = normalise(to_tensor(images[start : start + CHUNK]).to(device), preprocess)
        batch = (batch.flip(-1) if mirrored else batch).contiguous(memory_format=torch.channels_last)
        with evaluating(model), torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
            kept.append(features_of(model, head, batch).to(autocast or torch.float32).cpu())
        yield Progress(task="features of the frozen layers", done=start + len(batch), total=len(images))
        if until():
            break
    return torch.cat(kept)


def feature_bytes(model: nn.Module, head: str, preprocess: Preprocess, *, device: torch.device) -> int:
    """Return the bytes that the features of one image take, at two bytes a number."""
    image = torch.zeros(2, preprocess.channels, *preprocess.size, device=device)
    with evaluating(model), torch.no_grad():
        return features_of(model, head, image)[0].numel() * 2
