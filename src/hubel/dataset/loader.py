"""Batches of augmented, normalised training images, in an order that depends on (seed, epoch) only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hubel.dataset.augment import augment, mix, uniform
from hubel.dataset.config import Augmentation
from hubel.dataset.tensors import normalise, to_tensor
from hubel.records import Preprocess

ROOM = 1.2  # images are kept this much larger than what is trained on, so that crops stay sharp
RESIDENT = 4 << 30  # bytes of uint8 pixels that are held in memory (or on the device); more stays memory-mapped


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's worth of images.

    Attributes:
        images: (N, C, S, S) float32, normalised, channels last.
        targets: (N, K) float32, rows sum to 1 (one-hot unless images were mixed).
        labels: (N,) int64, the image's own class. ids: (N,) int64, rows of the pack.
    """

    images: Tensor
    targets: Tensor
    labels: Tensor
    ids: Tensor


class Loader:
    """The training images as batches of one fixed shape; a short last batch is left out, another one each epoch.

    Args:
        images: (N, H, W, C) uint8, may be a memory map; labels: (N,) class indices, of the whole pack.
        indices: the rows that are trained on.
        classes: K.
        sampler: ``shuffle`` shows every image once an epoch; ``balanced`` draws classes equally often.
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        indices: npt.NDArray[np.int64],
        *,
        classes: int,
        batch_size: int,
        preprocess: Preprocess,
        augmentation: Augmentation,
        seed: int,
        device: torch.device,
        sampler: Literal["shuffle", "balanced"] = "shuffle",
    ) -> None:
        self.indices = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        self.labels = torch.from_numpy(np.asarray(labels, dtype=np.int64))[self.indices]
        self.classes, self.preprocess, self.augmentation = classes, preprocess, augmentation
        self.batch_size, self.seed, self.device, self.sampler = min(batch_size, len(indices)), seed, device, sampler
        self._stored = images
        self._small: Tensor | None = None
        self._held = to_tensor(images[indices]).to(device) if images[:1].nbytes * len(indices) <= RESIDENT else None

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self.indices) // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """Return the rows of this loader in the order of an epoch, (len * batch_size,) int64."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        count = len(self) * self.batch_size
        if self.sampler == "balanced":
            weights = 1.0 / torch.bincount(self.labels, minlength=self.classes)[self.labels].double()
            return torch.multinomial(weights, count, replacement=True, generator=generator)
        return torch.randperm(len(self.indices), generator=generator)[:count]

    def epoch(self, epoch: int, size: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on, with images of `size` pixels a side."""
        for rows in self.order(epoch).view(-1, self.batch_size)[start:]:
            yield self.batch(rows, epoch, size)

    def batch(self, rows: Tensor, epoch: int, size: int) -> Batch:
        """Build one batch from rows of this loader, (N,) int64."""
        ids = self.indices[rows]
        pixels = self._pixels(rows, ids, size)
        draws = uniform(self.seed, epoch, ids.to(self.device))
        images = normalise(augment(pixels, self.augmentation, draws, size), self.preprocess)
        labels = self.labels[rows].to(self.device)
        targets = F.one_hot(labels, self.classes).float()
        images, targets = mix(images, targets, self.augmentation, self.seed, epoch, int(ids[0]))
        images = images.contiguous(memory_format=torch.channels_last)
        return Batch(images=images, targets=targets, labels=labels, ids=ids)

    def sample(self, count: int) -> Tensor:
        """Return up to `count` training images spread evenly, unchanged: (n, C, H, W) uint8 on the CPU."""
        ids = self.indices[:: max(len(self.indices) // count, 1)][:count]
        return to_tensor(self._stored[ids.numpy()])

    def _pixels(self, rows: Tensor, ids: Tensor, size: int) -> Tensor:
        if self._held is None:
            return to_tensor(self._stored[ids.numpy()]).to(self.device, non_blocking=True)
        return self._reduced(size)[rows.to(self.device)]

    def _reduced(self, size: int) -> Tensor:
        """The held images, reduced (antialiased) when an epoch trains on much smaller ones; made once per size."""
        assert self._held is not None
        side = self._held.shape[-1]
        target = round(ROOM * size) if self.augmentation.scale or self.augmentation.rotate else size
        if min(side, self._held.shape[-2]) <= target:
            return self._held
        if self._small is None or self._small.shape[-1] != target:
            chunks = [
                F.interpolate(chunk.float(), (target, target), mode="bilinear", antialias=True).round_().byte()
                for chunk in self._held.split(512)
            ]
            self._small = torch.cat(chunks).contiguous(memory_format=torch.channels_last)
        return self._small
