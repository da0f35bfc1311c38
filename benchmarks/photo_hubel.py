"""hubel's sides of `photos.py`, and the line that every side prints for an epoch."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

MARGIN = 6 / 7  # hubel trains on crops of this share of --size, and judges at --size
SMALL = 64  # pixels a side up to which images are only moved and mirrored
BATCH = 64  # what hubel chooses for 1,500 images, and fastai's default
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STARTED = time.monotonic()


def say(epoch: int, images: int, seconds: float, **more: float) -> None:
    """Print what an epoch took."""
    line = {"epoch": epoch, "images": images, "seconds": round(seconds, 4), **more}
    print(json.dumps({**line, "since_start": round(time.monotonic() - STARTED, 3)}), flush=True)


def hubel_size(crop: int) -> int:
    """The --size with which hubel trains on crops of `crop` pixels."""
    return next(size for size in range(crop, 2 * crop) if round(size * MARGIN / 8) * 8 == crop)


def hubel(given: argparse.Namespace) -> None:
    """`hubel train`, its events timed as they come; --tuned: nothing to tune, --size is then taken literally.

    Decoding counts as part of the first epoch. The audit, baselines and planning between the two don't: nothing that a
    peer does corresponds to them; the seconds since the start contain them.
    """
    import hubel.jobs.planning  # noqa: F401  (with torch: the peers' imports don't count either)
    from hubel.events import EpochRow, Planned, Progress, Step
    from hubel.jobs.recipe import Recipe, with_settings
    from hubel.jobs.train import training

    size = given.size if given.tuned else hubel_size(given.size)
    changes = {"model": given.model, "size": size, "epochs": given.epochs, "batch_size": given.batch or BATCH}
    first_decoded = last_decoded = began = ended = None
    with tempfile.TemporaryDirectory() as home:
        clock = time.perf_counter
        entered = clock()
        for event in training(str(given.folder), with_settings(Recipe(), changes), output=Path(home) / "run"):
            if isinstance(event, Progress) and event.task == "decoding":
                first_decoded, last_decoded = first_decoded or entered, clock()
            elif isinstance(event, Step):
                ended, steps = clock(), event.batches
            elif isinstance(event, EpochRow):
                assert began is not None
                assert ended is not None
                decoding = last_decoded - first_decoded if event.epoch == 1 and first_decoded and last_decoded else 0.0
                images = steps * changes["batch_size"]
                say(event.epoch - 1, images, ended - began + decoding, decoding=round(decoding, 3))
                began = clock()
            elif isinstance(event, Planned):
                began = clock()
            elif not isinstance(event, Progress):
                entered = clock()  # decoding is about to begin: its first report comes after the first chunk


def hubel_loader(given: argparse.Namespace) -> None:
    """hubel's pack and Loader, with the preset `photo`; `small` where images are."""
    import numpy as np
    import torch

    from hubel.dataset.config import PRESETS
    from hubel.dataset.find import scan
    from hubel.dataset.loader import Loader
    from hubel.dataset.pack import pack
    from hubel.events import outcome
    from hubel.jobs.hardware import best_precision, keep_freed_memory
    from hubel.records import Preprocess

    keep_freed_memory()
    began = time.perf_counter()
    small = given.size <= SMALL
    catalog, side = scan(given.folder / "train"), given.size if small else hubel_size(given.size)
    preprocess = Preprocess(size=(side, side), mean=MEAN, std=STD)
    packed = outcome(pack(catalog.root, catalog.paths, preprocess))
    loader = Loader(
        packed.images,
        catalog.labels,
        np.flatnonzero(packed.usable),
        classes=len(catalog.classes),
        batch_size=given.batch or BATCH,
        preprocess=preprocess,
        augmentation=replace(PRESETS["small" if small else "photo"], flip=True),
        seed=0,
        device=torch.device("cpu"),
        dtype=getattr(torch, best_precision(torch.device("cpu"))),  # what `hubel train` asks for
    )
    for epoch in range(given.epochs):
        images = sum(len(batch.labels) for batch in loader.epoch(epoch, given.size))
        say(epoch, images, time.perf_counter() - began)
        began = time.perf_counter()
