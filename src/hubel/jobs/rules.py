"""The rules behind the dial: sizes, widths, batches and rates from counts and sides alone. No torch.

No rule knows the name of a data set or of its classes. The constants were chosen on validation parts; see
benchmarks/README.md.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from hubel.records import Preprocess

NATIVE = 64  # images up to this side are used as they are
TINY = 24  # smaller images are enlarged
PHOTO = 112  # side that larger images are brought to
MARGIN = 6 / 7  # a random crop is trained on at this share of the side it is judged at (Touvron et al. 2019)


def choose_size(side: int, asked: int | None, weights: Preprocess | None) -> int:
    """Return the side that images are brought to, in pixels.

    Small images stay as they are, tiny ones are enlarged by a whole factor, since a network halves them three times.
    Large ones are reduced: objects that fill a photo are known at that side, and every doubling costs four times the
    work. Published weights know things at the size that they were trained at: smaller images are brought to the next
    multiple of 32, which such networks halve five times, and larger ones to that size.

    Args:
        side: typical shorter side of the images, in pixels. asked: ``--size``.
        weights: how the images of published weights were prepared.
    """
    if asked is not None:
        return asked
    if weights is not None:
        native = max(weights.size)
        return native if side >= 0.75 * native else min(native, -(-side // 32) * 32)
    if side > NATIVE:
        return min(PHOTO, side // 8 * 8)
    return side * math.ceil(TINY / side)


def batch_size_for(count: int, *, tuned: bool = False, muon: bool = False) -> int:
    """About 24 steps an epoch at first, a power of two from 16 to 512: small sets need many steps.

    Fine-tuning, which passes over the images few times, takes twice as many steps, and at most 128 images each. Muon
    learns as much from a step on 256 images as from one on 512.
    """
    most, steps = (128, 48) if tuned else (256 if muon else 512, 24)
    return int(min(most, max(16, 2 ** round(math.log2(max(count, 1) / steps)))))


def rate_for(optimizer: str, batch: int, *, sgd_rate: float | None = None) -> float:
    """Peak rate: proportional to the batch for SGD (Goyal et al. 2017), to its root for Adam and Muon.

    Args:
        sgd_rate: for each image of a batch, where the network wants another than the usual.
    """
    if optimizer == "sgd":
        return (sgd_rate or 0.0004) * batch
    if optimizer == "muon":  # its rate is the relative change of the filters
        return 0.15 * math.sqrt(batch / 256)
    return 2e-3 * math.sqrt(batch / 128)


def wanted_epochs(count: int) -> float:
    """Passes that a network should get before a wider one pays: 8 for 45,000 images, 49 for 1,200."""
    return min(100.0, 8 * math.sqrt(45_000 / max(count, 1)))


def preset_for(side: int, flip: bool) -> str:
    """Small images are only moved; in larger ones, a crop keeps the meaning where a mirror does."""
    if side <= NATIVE:
        return "small"
    return "photo" if flip else "upright"


def some_of(rows: npt.NDArray[np.int64], limit: int, seed: int) -> npt.NDArray[np.int64]:
    if len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
