"""Batches out of tar shards, for data that is larger than the disk.

Each process reads shards of its own from front to back, in an order that depends on (seed, epoch), and a buffer mixes
what comes out. The buffer's order depends on (seed, epoch) and on the place in the epoch alone: a pass that goes on in
the middle leaves the shards and images before unread, and decodes again no more than what the buffer held then.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Container, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hubel.dataset.augment import augment, draws_for, mix
from hubel.dataset.config import Augmentation
from hubel.dataset.decode import MAX_PIXELS, Pixels, decode
from hubel.dataset.loader import Batch, kept_side
from hubel.dataset.shards import blamed, members
from hubel.dataset.survey import Advance, left_out, survey
from hubel.dataset.tensors import normalise, smaller, to_tensor
from hubel.errors import DataError, ImageError, UsageError
from hubel.records import Finding, Preprocess

CHUNK = 64  # images that are decoded together, by as many threads as there are cores,
CHUNK_BYTES = 1 << 28  # or fewer, where their files are so large
UNEVEN = 0.05  # share of the images that an epoch may leave out before it is said


@dataclass(frozen=True, kw_only=True)
class _Image:
    """One image: the file as `data`, None if it was passed over; then (H, W, C) uint8 `pixels`, or why not."""

    id: int
    label: int
    name: str
    data: bytes | None = None
    pixels: Pixels | None = None
    reason: str = ""


class TarStream:
    """Training images out of tar shards as batches of one shape, for `hubel.learning.engine.fit`.

    What can't be used is left out, stands in `findings`, and is said once as a warning. Whether an image can be decoded
    is known only when its turn comes: another one of its batch takes its place, so that batches keep their size.

    Args:
        source: ``"shards/train-{000..099}.tar"``, ``"shards/train-*.tar"``, or a list of files.
        batch_size: images a step, of all processes together.
        classes: their names in the order of the logits; labels are names or indices. All labels found, where None.
        part: this process's number and the number of processes: each reads shards of its own.
        buffer: decoded images that are held to be mixed. Like seed and batch size, it has a part in deciding the order.
        advance: told how far the counting of images is, which takes a pass over the names in each new shard.

    Attributes:
        counts: usable images of each class, in all shards.

    Raises:
        UsageError: a shard is missing, or there are too few shards or images for the processes.
        DataError: a shard can't be read, or there is nothing to learn from.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        *,
        batch_size: int,
        preprocess: Preprocess,
        augmentation: Augmentation | None = None,
        classes: Sequence[str] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        part: tuple[int, int] = (0, 1),
        buffer: int = 2048,
        max_pixels: int = MAX_PIXELS,
        advance: Advance = lambda _: None,
    ) -> None:
        if batch_size < 1 or buffer < 2 or batch_size % part[1]:
            raise UsageError(
                f"{batch_size} images a batch, {part[1]} processes and a buffer of {buffer}: expected are a batch that "
                "can be divided evenly, and a buffer of at least 2."
            )
        self.preprocess, self.augmentation, self.max_pixels = preprocess, augmentation or Augmentation(), max_pixels
        self.seed, self.device, self.part, self.buffer = seed, torch.device(device), part, buffer
        self.survey = survey(source, classes, max_pixels=max_pixels, advance=advance)
        self.classes, self.counts = self.survey.classes, self.survey.counts
        hands = self.survey.dealt(part[1])
        self._mine, self._sizes = hands[part[0]], self.survey.sizes
        self._least = min(sum(self._sizes[shard] for shard in hand) for hand in hands)
        self._local = min(batch_size // part[1], self._least)
        self.batch_size = self._local * part[1]
        self._broken: dict[str, str] = {}  # name → why, of images that were found out when their turn came
        _say(self.findings)

    def __len__(self) -> int:
        """Return the number of batches in an epoch, the same for all processes."""
        return self._least // self._local

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was left out so far, and why."""
        broken = [left_out(name, why) for name, why in self._broken.items()]
        return (*self.survey.findings, *broken, *self._uneven())

    def epoch(self, epoch: int, size: int, *, start: int = 0) -> Iterator[Batch]:
        """Yield this process's part of an epoch's batches from number `start` on, with images of `size` pixels a side.

        A thread reads and decodes the next batch while this one is being trained on.
        """
        images = self._shuffled(epoch, start * self._local)

        def take() -> list[_Image]:
            return list(islice(images, self._local))

        with closing(images), ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(take)
            for left in reversed(range(len(self) - start)):
                batch = coming.result()
                if left:
                    coming = ahead.submit(take)
                yield self._changed(batch, epoch, size)

    def once(self) -> Iterator[Batch]:
        """Yield each of this process's images once, in order and unchanged, for measuring; the last batch is short."""
        with closing(self._decoded(self._read(self._mine))) as decoded:
            while batch := list(islice(decoded, self._local)):
                if usable := self._usable(batch):
                    pixels, labels, ids = self._tensors(usable)
                    images, targets = normalise(pixels, self.preprocess), F.one_hot(labels, len(self.classes)).float()
                    yield Batch(images=images, targets=targets, labels=labels, ids=ids, count=len(ids))

    def sample(self, number: int) -> Tensor:
        """Return about `number` images spread evenly over this process's shards, unchanged: (n, C, H, W) uint8."""
        each = -(-number // len(self._mine))
        some = (image for shard in self._mine for image in islice(self._read([shard]), each))
        return self._tensors(self._usable(self._decoded(some)))[0].cpu()

    # From shards to images

    def _read(self, shards: Sequence[int], start: int = 0, passed: Container[int] = ()) -> Iterator[_Image]:
        """Yield the images of some shards from number `start` on, those whose numbers are in `passed` unread."""
        place, index = 0, self.survey.index
        for shard in shards:
            first, end = place - sum(self._sizes[:shard]), place + self._sizes[shard]
            if end <= start:
                place = end
                continue
            path = self.survey.paths[shard]
            with blamed(path):
                for member in members(path, self.max_pixels):
                    if member.label is None or member.label not in index:
                        continue
                    if place >= start:
                        data = None if place in passed else member.read()
                        name = f"{path}/{member.name}"
                        yield _Image(id=place - first, label=index[member.label], name=name, data=data)
                    place += 1
            if place != end:
                raise DataError(f"{path} has changed since its images were counted: begin again with the new file.")

    def _decoded(self, images: Iterable[_Image]) -> Generator[_Image, None, None]:
        """Decode in threads, a chunk at a time."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with ThreadPoolExecutor(cores) as threads:
            for chunk in _chunks(images):
                yield from threads.map(self._decode, chunk)

    def _decode(self, image: _Image) -> _Image:
        if image.data is None:
            return image
        try:
            pixels, _ = decode(image.data, self.preprocess, max_pixels=self.max_pixels)
            return replace(image, data=None, pixels=pixels)
        except ImageError as error:
            return replace(image, data=None, reason=error.reason)

    def _shuffled(self, epoch: int, start: int) -> Generator[_Image, None, None]:
        """Yield this process's images of an epoch from number `start` on.

        They are mixed in blocks of half a buffer: while one block leaves, image by image, the next one comes in.
        """
        shards = [self._mine[place] for place in self._order(epoch, 0, length=len(self._mine))]
        length, total = self.buffer // 2, sum(self._sizes[shard] for shard in shards)
        block, gone = divmod(start, length)
        order = self._order(epoch, 1 + block, length=min(length, total - block * length))
        passed = {block * length + place for place in order[:gone]}
        with closing(self._decoded(self._read(shards, block * length, passed))) as images:
            held = list(islice(images, length))
            while held:
                coming: list[_Image] = []
                for place in order[gone:]:
                    coming += islice(images, 1)
                    yield held[place]
                held = coming + list(islice(images, length - len(coming)))
                block, gone = block + 1, 0
                order = self._order(epoch, 1 + block, length=len(held))

    def _order(self, *key: int, length: int) -> list[int]:
        """A permutation that depends on nothing but the seed and `key`."""
        order = np.random.default_rng([self.seed % (1 << 63), *key]).permutation(length)
        return [int(place) for place in order]

    # From images to batches

    def _usable(self, batch: Iterable[_Image]) -> list[_Image]:
        """Leave out what could not be decoded, and say so the first time."""
        batch = list(batch)
        broken = {image.name: image.reason for image in batch if image.pixels is None}
        fresh = {name: why for name, why in broken.items() if name not in self._broken}
        self._broken |= fresh
        _say([left_out(name, why) for name, why in fresh.items()])
        return [image for image in batch if image.pixels is not None]

    def _changed(self, batch: list[_Image], epoch: int, size: int) -> Batch:
        """Augment a batch; images that could not be decoded give their places to others of the batch."""
        usable = self._usable(batch)
        if not usable:
            raise DataError(
                f"None of {len(batch)} images in a row can be decoded, {batch[0].name} among them ({batch[0].reason}): "
                "write the shards again."
            )
        whole = [image if image.pixels is not None else usable[n % len(usable)] for n, image in enumerate(batch)]
        pixels, labels, ids = self._tensors(whole)
        if (side := kept_side(self.augmentation, size)) < min(pixels.shape[2:]):
            pixels = smaller(pixels, side)
        images = augment(pixels, self.augmentation, draws_for(self.seed, epoch, ids.to(self.device)), size)
        images, targets = normalise(images, self.preprocess), F.one_hot(labels, len(self.classes)).float()
        images, targets = mix(images, targets, self.augmentation, self.seed, epoch, int(ids[0]))
        images = images.contiguous(memory_format=torch.channels_last)
        return Batch(images=images, targets=targets, labels=labels, ids=ids, count=self.batch_size)

    def _tensors(self, batch: Sequence[_Image]) -> tuple[Tensor, Tensor, Tensor]:
        """(N, C, H, W) uint8 pixels and (N,) int64 labels on the device, (N,) int64 ids."""
        pixels = to_tensor(np.stack([image.pixels for image in batch if image.pixels is not None]))
        labels = torch.tensor([image.label for image in batch], device=self.device)
        return pixels.to(self.device), labels, torch.tensor([image.id for image in batch])

    def _uneven(self) -> Iterator[Finding]:
        processes, paths = self.part[1], tuple(map(str, self.survey.paths))
        missed = 1 - self._least * processes / sum(self._sizes)
        if missed > UNEVEN:
            said = f"{missed:.0%} of the images, others each time, are missed by an epoch, since {processes} processes "
            said += f"can't share {len(paths)} shards evenly: cut the data into more shards of one size."
            yield Finding(code="uneven-shards", severity="warning", message=said, paths=paths)


def _chunks(images: Iterable[_Image]) -> Iterator[list[_Image]]:
    chunk: list[_Image] = []
    for image in images:
        chunk.append(image)
        if len(chunk) == CHUNK or sum(len(each.data or b"") for each in chunk) > CHUNK_BYTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _say(findings: Sequence[Finding]) -> None:
    """Warn of what was left out: nothing passes silently."""
    if findings:
        more = f" And {len(findings) - 3} more; all are in `findings`." if len(findings) > 3 else ""
        warnings.warn(" ".join(finding.message for finding in findings[:3]) + more, stacklevel=3)
