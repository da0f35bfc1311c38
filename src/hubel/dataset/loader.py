"""Batches of augmented, normalised training images, in an order that depends on (seed, epoch) only."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hubel.dataset.augment import augment, draws_for, mix
from hubel.dataset.config import Augmentation, parse_augmentation
from hubel.dataset.find import Catalog, scan
from hubel.dataset.folder import few, left_out, were
from hubel.dataset.tensors import normalise, smaller, to_tensor
from hubel.dataset.undecoded import Undecoded, warn
from hubel.errors import DataError, UsageError
from hubel.records import Finding, Preprocess

ROOM = 1.2  # images are kept this much larger than what is trained on, so that crops stay sharp
ON_DEVICE = 1 / 4  # of a GPU's free memory may be taken by pixels; more of them come batch by batch
CHUNK = 512  # images that are reduced together
MIXED = 16  # tar files that are read at a time, so that the system can keep what lies near


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's worth of images.

    Attributes:
        images: (N, C, S, S) float32 or bfloat16, normalised, channels last.
        targets: (N, K) float32, rows sum to 1 (one-hot unless images were mixed).
        labels: (N,) int64, the image's own class. ids: (N,) int64, rows of the pack.
        count: images of the whole batch, of which this process may have a part.
    """

    images: Tensor
    targets: Tensor
    labels: Tensor
    ids: Tensor
    count: int


class Loader:
    """The training images as batches of one fixed shape; a short last batch is left out, another one each epoch.

    On a processor nothing is held: pixels are read from the mapped file, whose pages the system keeps as it has room.
    On a GPU they are held where they fit. `Loader.streaming` reads data that is larger than the disk.

    Args:
        images: (N, H, W, C) uint8, may be a memory map or `Undecoded`; labels: (N,) class indices, of the whole pack.
        indices: the rows that are trained on.
        classes: K.
        sampler: ``shuffle`` shows every image once an epoch; ``balanced`` draws classes equally often.
        part: this process's number and the number of processes: each gets its part of every batch.
        dtype: of the batches' images: float32, or bfloat16 for a network that computes in it.

    Attributes:
        names: of the classes, where they are known. findings: what was left out so far, and why, of a stream.
    """

    names: tuple[str, ...] = ()

    def __init__(
        self,
        images: npt.NDArray[np.uint8] | Undecoded,
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
        part: tuple[int, int] = (0, 1),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.indices = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        self.labels = torch.from_numpy(np.asarray(labels, dtype=np.int64))[self.indices]
        self.classes, self.preprocess, self.augmentation = classes, preprocess, augmentation
        self.batch_size, self.seed, self.device, self.sampler = min(batch_size, len(indices)), seed, device, sampler
        self.part, self.dtype = part, dtype
        self._stored, self._stream = images, images if isinstance(images, Undecoded) else None
        self._reduced: npt.NDArray[np.uint8] | None = None
        self._held: tuple[int, Tensor] | None = None  # the side and pixels of all images, on the device

    @classmethod
    def streaming(
        cls,
        source: str | Path,
        *,
        preprocess: Preprocess,
        batch_size: int,
        augment: str = "none",
        classes: Sequence[str] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        part: tuple[int, int] = (0, 1),
    ) -> Loader:
        """Load images that are never stored, from tar files (``"shards/train-{000..099}.tar"``) or any other source.

        Args:
            augment: as ``--augment`` takes it.
            classes: their names in the order of the logits; labels are names or indices. All labels found, where None.

        Raises:
            UsageError, DataError: the data can't be used, or it holds several parts.
        """
        catalog = scan(source)
        if catalog.parts is not None:
            raise UsageError(
                f"{source} holds the parts {', '.join(sorted(set(catalog.parts)))}: name one's files alone."
            )
        names = catalog.classes if classes is None else tuple(classes)
        labels, unknown = _labels_by(names, catalog)
        images = Undecoded(catalog, preprocess)
        images.findings += unknown
        warn(unknown)
        loader = cls(
            images,
            labels,
            np.flatnonzero(labels >= 0),
            classes=len(names),
            batch_size=batch_size,
            preprocess=preprocess,
            augmentation=parse_augmentation(augment),
            seed=seed,
            device=torch.device(device),
            part=part,
        )
        loader.names = names
        return loader

    @property
    def findings(self) -> tuple[Finding, ...]:
        return () if self._stream is None else tuple(self._stream.findings)

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
        order = torch.randperm(len(self.indices), generator=generator)
        if self._stream is not None:
            files = torch.from_numpy(self._stream.files)[self.indices]
            turn = torch.randperm(int(files.max()) + 1, generator=generator)[files] // MIXED
            order = order[turn[order].argsort(stable=True)]
        return order[:count]

    def parts(self, epoch: int, *, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each batch of an epoch from number `start` on: all of its rows, and this process's place among them."""
        number, count = self.part
        for rows in self.order(epoch).view(-1, self.batch_size)[start:]:
            yield rows, torch.arange(len(rows)).tensor_split(count)[number]

    def epoch(self, epoch: int, size: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on, with images of `size` pixels a side."""
        batches = list(self.parts(epoch, start=start))
        for number, (rows, places) in enumerate(batches, 1):
            batch = self.batch(rows, epoch, size, places)
            if self._stream is not None and number < len(batches):
                self._stream.begin(self.indices[self._mine(*batches[number])].numpy())
            yield batch

    def once(self) -> Iterator[Batch]:
        """Yield this process's images once, in order and unchanged, for measuring.

        The last batch is short, and images that can't be decoded are missing.
        """
        number, count = self.part
        for rows in torch.arange(len(self.indices)).tensor_split(count)[number].split(self.batch_size):
            pixels, found = self._pixels(rows, max(self.preprocess.size))
            kept = found == rows
            images, labels = normalise(pixels[kept], self.preprocess), self.labels[rows[kept]].to(self.device)
            targets = F.one_hot(labels, self.classes).float()
            ids = self.indices[rows[kept]]
            yield Batch(images=images, targets=targets, labels=labels, ids=ids, count=len(ids))

    def _mine(self, rows: Tensor, places: Tensor | None) -> Tensor:
        """This process's rows of a batch; an image is mixed with the one before it, which may be another process's."""
        if places is None:
            return rows
        mixing = self.augmentation.mixup or self.augmentation.cutmix
        return torch.cat((rows[places[:1] - 1], rows[places])) if mixing else rows[places]

    def batch(self, rows: Tensor, epoch: int, size: int, places: Tensor | None = None) -> Batch:
        """Build one batch from rows of this loader, (N,) int64; or the images at `places` of it."""
        pixels, mine = self._pixels(self._mine(rows, places), size)
        ids = self.indices[mine]
        draws = draws_for(self.seed, epoch, ids.to(self.device))
        images = augment(pixels, self.augmentation, draws, size, self.dtype)
        images = normalise(images, self.preprocess)
        labels = self.labels[mine].to(self.device)
        targets = F.one_hot(labels, self.classes).float()
        if self.augmentation.mixup or self.augmentation.cutmix:
            first = int(self.indices[rows[0]])
            images, targets = mix(images, targets, self.augmentation, self.seed, epoch, first)
            if places is not None:
                images, targets, labels, ids = images[1:], targets[1:], labels[1:], ids[1:]
        images = images.contiguous(memory_format=torch.channels_last)
        return Batch(images=images, targets=targets, labels=labels, ids=ids, count=len(rows))

    def sample(self, count: int) -> Tensor:
        """Return up to `count` training images spread evenly, unchanged: (n, C, H, W) uint8 on the CPU."""
        ids = self.indices[:: max(len(self.indices) // count, 1)][:count]
        return to_tensor(self._stored[ids.numpy()])

    def _pixels(self, rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """(N, C, S, S) uint8 on the device, and the rows that they are of: others in the place of broken images.

        S is a little more than `size` where the stored images are much larger.
        """
        side = round(ROOM * size) if self.augmentation.scale or self.augmentation.rotate else size
        if side >= min(self._stored.shape[1:3]):
            side = 0
        if self._stream is not None:
            decoded, places = self._stream.take(self.indices[rows].numpy())
            images = to_tensor(decoded).to(self.device, non_blocking=True)
            return smaller(images, side) if side else images, rows[torch.from_numpy(places)]
        if self.device.type == "cuda" and (self._held is None or self._held[0] != side):
            self._held = None  # or there would be two of them for a moment
            height, width, channels = self._stored.shape[1:]
            needed = len(self.indices) * (side * side or height * width) * channels
            if needed <= torch.cuda.mem_get_info(self.device)[0] * ON_DEVICE:
                pixels = self._smaller(side) if side else self._stored[self.indices.numpy()]
                self._held = side, to_tensor(pixels).to(self.device)
        if self._held is not None and self._held[0] == side:
            return self._held[1][rows.to(self.device)], rows
        pixels = self._smaller(side)[rows.numpy()] if side else self._stored[self.indices[rows].numpy()]
        return to_tensor(pixels).to(self.device, non_blocking=True), rows

    def _smaller(self, side: int) -> npt.NDArray[np.uint8]:
        """All training images reduced (antialiased) to `side` pixels, in a file without a name; made once per size."""
        if self._reduced is None or self._reduced.shape[1] != side:
            home = Path(self._stored.filename or "").parent if isinstance(self._stored, np.memmap) else None
            shape = (len(self.indices), side, side, self._stored.shape[-1])
            with tempfile.TemporaryFile(dir=home) as file:  # the mapping keeps it
                made = np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
            for start in range(0, len(made), CHUNK):
                ids = self.indices[start : start + CHUNK].numpy()
                made[start : start + CHUNK] = smaller(to_tensor(self._stored[ids]), side).permute(0, 2, 3, 1).numpy()
            self._reduced = made
        return self._reduced


def _labels_by(names: Sequence[str], catalog: Catalog) -> tuple[npt.NDArray[np.int64], list[Finding]]:
    """(N,) class of each image: labels are names or indices, whichever explains more images; -1 for unknown ones."""
    counts = dict(zip(catalog.classes, np.bincount(catalog.labels).tolist(), strict=True))
    by_name, by_number = ({name(k): k for k in range(len(names))} for name in (names.__getitem__, str))
    known = max((by_name, by_number), key=lambda known: sum(counts[label] for label in counts.keys() & known.keys()))
    unknown = [label for label in catalog.classes if label not in known]
    if len(unknown) == len(counts):
        raise DataError(f"None of the labels {few(unknown)} in {catalog.root} is one of the classes {few(names)}.")
    said = "left out, whose label {!r} is none of the classes."
    findings = [
        left_out("unknown-class", f"{were(counts[label], 'image')} {said.format(label)}", ()) for label in unknown
    ]
    return np.array([known.get(label, -1) for label in catalog.classes], np.int64)[catalog.labels], findings
