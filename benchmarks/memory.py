"""P8: anonymous memory after training on a packed set of 0.3 GB and on one of 3 GB, each in a process of its own.

    python benchmarks/memory.py --home /path/with/10-GB --output benchmarks/results/memory.json
    python benchmarks/memory.py --whole --home /path/with/10-GB

Without --whole: hubel's Loader and training steps of `quick`, two epochs, the first one on smaller images; the packs
are arrays of noise in the format of hubel's own. With it: all of `hubel train` (decoding, audit, baselines, planning,
one epoch, report) on folders of as many JPEG files, and the largest anonymous memory on the way counts, sampled ten
times a second; its decoding workers are other processes and don't. Anonymous memory is what /proc/PID/smaps_rollup
says: pages of mapped files, which the system may drop at any time, aren't in it. Exit code 1 where the larger set takes
100 MB more than the smaller one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import machine, said, versions, write

SIDE, CLASSES, CHUNK = 96, 10, 4096
SIZES = (0.3, 3.0)  # GB
MOST = 100.0  # MB


def anonymous(process: int | str = "self") -> float:
    """Anonymous memory of a process in MB; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) * 1024 / 1e6


def noise(count: int) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Chunks of images, (≤ CHUNK, SIDE, SIDE, 3) uint8: grey with noise of 8 x 8 fields, all different."""
    random = np.random.default_rng(0)
    for start in range(0, count, CHUNK):
        fields = random.integers(0, 256, (min(CHUNK, count - start), 8, 8, 3), dtype=np.uint8)
        yield fields.repeat(SIDE // 8, 1).repeat(SIDE // 8, 2)


def make_pack(file: Path, gigabytes: float) -> None:
    """Write an array as `hubel.dataset.pack` does: .npy, (N, H, W, C) uint8, through a map."""
    count = int(gigabytes * 1e9 / (SIDE * SIDE * 3))
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(count, SIDE, SIDE, 3))
    start = 0
    for chunk in noise(count):
        array[start : start + len(chunk)] = chunk
        start += len(chunk)
    array.flush()


def make_folder(folder: Path, gigabytes: float) -> None:
    """Write as many JPEG files as fill a pack of that size."""
    from PIL import Image

    for label in range(CLASSES):
        (folder / f"c{label}").mkdir(parents=True)
    number = 0
    for chunk in noise(int(gigabytes * 1e9 / (SIDE * SIDE * 3))):
        for image in chunk:
            Image.fromarray(image).save(folder / f"c{number % CLASSES}" / f"{number:06d}.jpg", quality=60)
            number += 1


def train_on_pack(file: Path) -> None:
    """In a process of its own: train on a pack, and print the memory when each epoch has ended."""
    import torch

    from hubel.dataset.config import PRESETS
    from hubel.dataset.loader import Loader
    from hubel.events import EpochEnd
    from hubel.jobs.hardware import best_precision
    from hubel.learning.config import TrainConfig
    from hubel.learning.engine import TrainState, fit
    from hubel.learning.optim import optimizers
    from hubel.nn.zoo import build
    from hubel.records import Preprocess

    images, device = np.load(file, mmap_mode="r", allow_pickle=False), torch.device("cpu")
    torch.manual_seed(0)
    loader = Loader(
        images,
        np.arange(len(images)) % CLASSES,
        np.arange(len(images)),
        classes=CLASSES,
        batch_size=256,
        preprocess=Preprocess(size=(SIDE, SIDE)),
        augmentation=PRESETS["photo"],
        seed=0,
        device=device,
    )
    model = build("quick", classes=CLASSES, channels=3, size=(SIDE, SIDE), width=16)
    model = model.to(memory_format=torch.channels_last)
    config = TrainConfig(
        epochs=2,
        lr=1e-3,
        optimizer="sgd",
        momentum=0.9,
        weight_decay=0.0,
        small_first=1 / 3,
        precision=best_precision(device),
    )
    state, ends = TrainState(model=model, optimizers=optimizers(model, config)), []
    for event in fit(state, loader, config, size=SIDE):
        if isinstance(event, EpochEnd):
            ends.append(round(anonymous(), 1))
    print(json.dumps({"anonymous_mb": max(ends), "epochs": ends, "images": len(images)}))


def train_whole(folder: Path, home: Path) -> dict[str, Any]:
    """`hubel train` on a folder; its largest anonymous memory, and what it was doing then."""
    flags = ["--epochs", "1", "--size", str(SIDE), "--width", "16", "--output", str(home / "run"), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hubel", "train", str(folder), *flags],
        env={**os.environ, "HUBEL_CACHE": str(home / "cache")},
        stdout=subprocess.PIPE,
        text=True,
    )
    doing, seen = "starting", [(0.0, "starting")]

    def listen() -> None:
        nonlocal doing
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            doing = event.get("task", event["event"])

    listener = threading.Thread(target=listen)
    listener.start()
    while process.poll() is None:
        seen.append((anonymous(process.pid), doing))
        time.sleep(0.1)
    listener.join()
    if process.returncode:
        raise SystemExit(f"hubel train ended with {process.returncode}")
    peaks = {task: round(max(mb for mb, when in seen if when == task), 1) for task in dict.fromkeys(w for _, w in seen)}
    return {"anonymous_mb": max(peaks.values()), "largest after each event": peaks}


def measure(gigabytes: float, home: Path, *, whole: bool) -> dict[str, Any]:
    """Make a set, train on it, and delete it."""
    if whole:
        make_folder(home / "images", gigabytes)
        return train_whole(home / "images", home)
    make_pack(home / "images.npy", gigabytes)
    command = [sys.executable, __file__, "--train", str(home / "images.npy")]
    return next(said(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--sizes", type=float, nargs=2, default=SIZES, help="of the two packed sets, in GB")
    ask.add_argument("--whole", action="store_true", help="all of `hubel train` instead of loader and steps")
    ask.add_argument("--home", help="folder for what comes and goes")
    ask.add_argument("--output", type=Path)
    ask.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    given = ask.parse_args()
    if given.train:
        train_on_pack(given.train)
        return
    found = {}
    for size in given.sizes:
        with tempfile.TemporaryDirectory(dir=given.home) as home:
            found[f"{size:g} GB"] = measure(size, Path(home), whole=given.whole)
    small, large = (row["anonymous_mb"] for row in found.values())
    result = {
        "machine": machine(),
        "versions": versions(),
        "work": "hubel train" if given.whole else "Loader and steps",
        "packed sets": found,
        "growth, MB": round(large - small, 1),
    }
    write(given.output, result)
    raise SystemExit(large - small >= MOST)


if __name__ == "__main__":
    main()
