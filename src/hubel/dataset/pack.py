"""Decode every image once, in parallel, into one uint8 array on disk that is memory-mapped from then on.

Beside it lies a table of what was learned of each image, mapped too: a set larger than memory stays on the disk.

The parent hands chunks of paths to workers (``python -m hubel.dataset.pack``) that import only numpy and Pillow
and write straight into the array. They are plain subprocesses, not `multiprocessing`: the caller's script is never
imported again, so notebooks and scripts without a main guard work alike, and a decoder that dies takes one chunk with
it, which is then decoded image by image to name the culprit.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hubel.as_json import from_json, to_json
from hubel.dataset.cache import cache_home, made_whole, unchanged
from hubel.dataset.decode import Pixels, decode, readers
from hubel.dataset.formats import open_regular
from hubel.dataset.pillow_warnings import QUIET
from hubel.dataset.tar import parted
from hubel.errors import ImageError
from hubel.events import Progress
from hubel.records import ImageFacts, Preprocess

FORMAT = 4  # raise when decoded pixels or the layout of a pack change: old packs are then made anew
CHUNK, CHUNK_BYTES = 256, 8_000_000  # that a worker decodes per request, at most: the bytes take it 0.2 s
ALONE, ALONE_BYTES = 400, 16_000_000  # up to both, they are decoded in this process: starting workers takes longer
LOOKED_AT = 100  # files that their typical size is taken from
Answer = str | None  # the reason why an image can't be used
Facts: TypeAlias = npt.NDArray[np.void]  # (N,) of `FACTS`

# What decoding learned of each image, as a table of 96 bytes an image that can be mapped from a file
FACTS = np.dtype(
    [
        ("usable", "?"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("mode", "S8"),
        ("format", "S8"),
        ("frames", "<u4"),
        ("orientation", "u1"),
        ("transparent", "?"),
        ("colour", "?"),
        ("sha256", "S64"),
    ]
)


class Rows:
    """Some of the stored images, (N, H, W, C) uint8, read when they are asked for: never all of them at once.

    Args:
        images: (M, H, W, C) uint8, usually a memory map. rows: (N,) int64, which of them, in this order.

    Example:
        ``part[7]`` is an image, ``part[:64]`` and ``part[some]`` are arrays of images.
    """

    def __init__(self, images: Pixels, rows: npt.NDArray[np.int64]) -> None:
        self.images, self.rows = images, rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """N, H, W and C."""
        return (len(self.rows), *self.images.shape[1:])

    def __getitem__(self, place: int | slice | npt.NDArray[np.integer[Any]]) -> Pixels:
        found: Pixels = self.images[self.rows[place]]
        return found


Images: TypeAlias = Pixels | Rows


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A folder's images, decoded.

    Attributes:
        images: (N, H, W, C) uint8, memory-mapped; unusable images are zero.
        facts: (N,) of `FACTS`, memory-mapped: what the decoder learned of each.
        reasons: index → why the image can't be used.
        fresh: False when an earlier pack was found and used.
    """

    images: Pixels
    facts: Facts
    reasons: dict[int, str]
    preprocess: Preprocess
    folder: Path
    fresh: bool

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: which images were decoded."""
        return np.array(self.facts["usable"])


def pack(root: Path, paths: Sequence[str], preprocess: Preprocess) -> Generator[Progress, None, Packed]:
    """Decode ``root/path`` for all paths, or find the pack that was made of the same unchanged files.

    Yields how far it is; ``outcome(pack(…))`` is the `Packed`.

    Raises:
        DataError: the cache folder can't be written.
    """
    folder = cache_home() / "packs" / _key(root, paths, preprocess)
    if folder.is_dir():
        try:
            return _open(folder, preprocess, fresh=False)
        except (OSError, ValueError, LookupError, TypeError):
            # Damaged by hand or by the disk, or something else reads images now: it is a cache, make it again
            shutil.rmtree(folder, ignore_errors=True)
    with made_whole(folder, "The decoded images") as target:
        _reserve(target / "images.npy", np.uint8, (len(paths), *preprocess.size, preprocess.channels))
        _reserve(target / "facts.npy", FACTS, (len(paths),))
        where = {"root": os.fspath(root.resolve()), "target": os.fspath(target.resolve())}
        job = _Job(**where, preprocess=preprocess)
        reasons: dict[int, str] = {}
        done = 0
        for start, answers in _decode_all(job, paths):
            reasons |= {start + i: answer for i, answer in enumerate(answers) if answer is not None}
            done += len(answers)
            yield Progress(task="decoding", done=done, total=len(paths))
        said = {"readers": readers(), "reasons": dict(sorted(reasons.items()))}
        (target / "reasons.json").write_text(json.dumps(said), "utf-8")
    return _open(folder, preprocess, fresh=True)


def _key(root: Path, paths: Sequence[str], preprocess: Preprocess) -> str:
    """Name a pack by all that its pixels depend on: each file's name and state, and how it is decoded."""
    seen = replace(preprocess, mean=(), std=())  # these two are applied later
    shape = (FORMAT, seen)
    digest = hashlib.sha256(repr((os.fspath(root.resolve()), shape)).encode())
    for path in paths:
        inside = parted(root / path)
        try:
            digest.update(f"{path}\0{unchanged(inside[0] if inside else root / path)}\n".encode())
        except OSError:
            digest.update(f"{path}\0gone\n".encode())
    return digest.hexdigest()[:24]


def _open(folder: Path, preprocess: Preprocess, *, fresh: bool) -> Packed:
    said = json.loads((folder / "reasons.json").read_text("utf-8"))
    reasons = {int(index): reason for index, reason in said["reasons"].items()}
    if reasons and said["readers"] != readers():
        raise ValueError("something else reads images now: it may read what was refused")
    images, facts = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in ("images.npy", "facts.npy"))
    if facts.dtype != FACTS or len(facts) != len(images):
        raise ValueError("facts.npy and images.npy disagree")
    return Packed(images=images, facts=facts, reasons=reasons, preprocess=preprocess, folder=folder, fresh=fresh)


def _reserve(file: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
    """Create an array and claim its space now, so that a full disk is an error here and not a crash later."""
    array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    array.flush()
    del array
    if hasattr(os, "posix_fallocate"):
        with open(file, "r+b") as handle:
            try:
                os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # some file systems can't reserve
                    raise


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What workers are told, as JSON: the data's folder, the pack's, and how files are decoded."""

    root: str
    target: str
    preprocess: Preprocess


def _decode_all(job: _Job, paths: Sequence[str]) -> Iterator[tuple[int, list[Answer]]]:
    """Yield (first index, answers) chunk by chunk, in whatever order they become ready."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    typical = _typical_bytes(Path(job.root), paths)
    each = max(min(CHUNK, int(CHUNK_BYTES / typical), -(-len(paths) // (4 * cores))), 1)  # none waits for the last one
    chunks = [(start, list(paths[start : start + each])) for start in range(0, len(paths), each)]
    if (len(paths) <= ALONE and len(paths) * typical <= ALONE_BYTES) or not sys.executable:
        for start, names in chunks:
            yield start, _decode_chunk(job, start, names)
        return
    own = threading.local()

    def decode_chunk(start: int, names: list[str]) -> tuple[int, list[Answer]]:
        if not hasattr(own, "worker"):
            own.worker = workers.enter_context(closing(_Worker(job)))
        answers: list[Answer] = own.worker.decode(start, names)
        return start, answers

    with ExitStack() as workers, ThreadPoolExecutor(min(cores, len(chunks))) as threads:
        waiting = [threads.submit(decode_chunk, *chunk) for chunk in chunks]
        try:
            for answer in as_completed(waiting):
                yield answer.result()
        finally:
            for future in waiting:
                future.cancel()


def _typical_bytes(root: Path, paths: Sequence[str]) -> float:
    """The mean size of some of the files, at least 1."""
    sizes = [0]
    for path in paths[:: max(len(paths) // LOOKED_AT, 1)]:
        with suppress(ImageError):
            file, size = open_regular(root / path)
            file.close()
            sizes.append(size)
    return max(sum(sizes) / max(len(sizes) - 1, 1), 1.0)


class _Worker:
    """A subprocess that decodes chunks; one that dies is replaced, and its chunk goes on image by image."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.process: subprocess.Popen[str] | None = None

    def decode(self, start: int, names: list[str]) -> list[Answer]:
        try:
            return self._ask(start, names)
        except (OSError, ValueError):  # the pipe broke or ended: the worker died
            self.close()
        if len(names) == 1:
            return ["the decoder crashed on it"]
        return [answer for offset, name in enumerate(names) for answer in self.decode(start + offset, [name])]

    def _ask(self, start: int, names: list[str]) -> list[Answer]:
        process = self.process = self.process or subprocess.Popen(
            [sys.executable, "-P", "-m", "hubel.dataset.pack", json.dumps(to_json(self.job))],  # -P: no code from here
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUTF8": "1"},
            start_new_session=True,  # Ctrl-C reaches the parent only, which then closes the pipes
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([start, names]) + "\n")
        process.stdin.flush()
        answers = json.loads(process.stdout.readline())
        assert isinstance(answers, list)
        return answers

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def _decode_chunk(job: _Job, start: int, names: Sequence[str]) -> list[Answer]:
    images, facts = (
        np.load(f"{job.target}/{name}.npy", mmap_mode="r+", allow_pickle=False) for name in ("images", "facts")
    )
    answers: list[Answer] = []
    with QUIET:  # once for all of them
        for index, name in enumerate(names, start):
            try:
                images[index], fact = decode(os.path.join(job.root, name), job.preprocess)
                facts[index] = facts_row(fact)
                answers.append(None)
            except ImageError as error:
                answers.append(error.reason)
    return answers


def facts_row(fact: ImageFacts) -> tuple[Any, ...]:
    """One image's facts as a row of `FACTS`."""
    values = (getattr(fact, str(name)) for name in FACTS.names or () if name != "usable")
    return (True, *(value.encode() if isinstance(value, str) else value for value in values))


if __name__ == "__main__":
    told = from_json(_Job, json.loads(sys.argv[1]))
    for line in sys.stdin:  # until the parent closes it
        print(json.dumps(_decode_chunk(told, *json.loads(line))), flush=True)
