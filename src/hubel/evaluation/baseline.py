"""What a fool and a straight line reach: the figures that a network's accuracy has to be read beside."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from hubel.dataset.pack import Images
from hubel.dataset.tensors import to_tensor
from hubel.errors import UsageError
from hubel.records import Baselines

SIDE = 12  # pixels; more adds seconds, not accuracy
LIMIT = 4_000  # training images
INVERSE_PENALTY = 0.03  # scikit-learn's C, between the best for digits (0.1) and for photos (0.01)
ITERATIONS = 100
WORK_LIMIT = 4e10  # multiplications; with very many classes it ends the iterations early
CHUNK = 512  # images that are float at a time

Labels = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FittedBaseline:
    """The two baselines after fitting, ready for other images.

    Attributes:
        majority: the most frequent training class. n: number of images the line was fitted on.
        weights, offsets: (K', D) and (K',) of logits over `classes`, the (K',) labels that occur; None when only one
            does. They apply to flattened thumbnails that are not standardised.
    """

    majority: int
    n: int
    classes: npt.NDArray[np.int64]
    weights: Floats | None
    offsets: Floats | None

    def predict(self, images: Images) -> npt.NDArray[np.int64]:
        """(N, H, W, C) uint8 → (N,) labels by logistic regression, or by majority where none was fitted."""
        if self.weights is None or self.offsets is None:
            return np.full(len(images), self.majority, dtype=np.int64)
        best = (_flat(thumbnails(images)) @ self.weights.T + self.offsets).argmax(axis=1)
        return np.asarray(self.classes[best], dtype=np.int64)

    def on(self, images: Images, labels: Labels) -> Baselines:
        """The accuracies on other images, as they stand in a report."""
        fitted = self.weights is not None
        return Baselines(
            majority=float(np.mean(np.asarray(labels) == self.majority)),
            logistic=float(np.mean(self.predict(images) == np.asarray(labels))) if fitted else None,
            logistic_n=self.n if fitted else 0,
        )


def fit_baseline(images: Images, labels: Labels, *, seed: int = 0) -> FittedBaseline:
    """Fit majority class and logistic regression on pixels of at most 12x12, on at most 4,000 stratified images.

    Args:
        images: (N, H, W, C) uint8 training images, may be a memory map. labels: (N,) whole numbers from 0.
        seed: decides which images are taken where there are more.

    Raises:
        UsageError: no images, or not one label each.
    """
    truth = np.asarray(labels, dtype=np.int64)
    if len(images) == 0 or truth.shape != (len(images),):
        raise UsageError(f"expected one label for each image, got {len(images)} images and labels {truth.shape}.")
    majority = int(np.bincount(truth).argmax())
    chosen = stratified(truth, LIMIT, seed)
    classes = np.unique(truth[chosen])
    if len(classes) < 2:
        return FittedBaseline(majority=majority, n=len(chosen), classes=classes, weights=None, offsets=None)
    weights, offsets = _logistic(_flat(thumbnails(images, chosen)), truth[chosen], len(classes))
    return FittedBaseline(majority=majority, n=len(chosen), classes=classes, weights=weights, offsets=offsets)


def baselines(
    train_images: Images, train_labels: Labels, images: Images, labels: Labels, *, seed: int = 0
) -> Baselines:
    """Fit both baselines on the training images and measure them on `images`."""
    return fit_baseline(train_images, train_labels, seed=seed).on(images, labels)


def stratified(labels: npt.NDArray[np.int64], limit: int, seed: int) -> npt.NDArray[np.int64]:
    """Return at most `limit` sorted indices with the classes in proportion, one of each class first."""
    if len(labels) <= limit:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        place[members] = np.arange(len(members)) / len(members)
    return np.sort(np.argsort(place, kind="stable")[:limit])


def thumbnails(images: Images, chosen: npt.NDArray[np.int64] | None = None) -> Floats:
    """(N, H, W, C) uint8 → (N, C, h, w) float32 in [0, 1]: averages over areas, h and w at most 12."""
    rows = np.arange(len(images)) if chosen is None else chosen
    small = (min(SIDE, images.shape[1]), min(SIDE, images.shape[2]))
    parts = [
        F.adaptive_avg_pool2d(to_tensor(images[rows[start : start + CHUNK]]).float().div_(255), small)
        for start in range(0, len(rows), CHUNK)
    ]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def _flat(images: Floats) -> Floats:
    return images.reshape(len(images), -1)


def _logistic(features: Floats, labels: npt.NDArray[np.int64], classes: int) -> tuple[Floats, Floats]:
    """Fit on standardised features; return weights (K, D) and offsets (K,) for the features as they are."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-3
    iterations = int(np.clip(WORK_LIMIT / (4 * features.size * classes), 5, ITERATIONS))
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=iterations, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a baseline may stop early
        model.fit((features - mean) / std, labels)
    coefficients, intercepts = model.coef_, model.intercept_
    if classes == 2:  # scikit-learn keeps one row for two classes
        coefficients, intercepts = np.vstack([0 * coefficients, coefficients]), np.array([0.0, intercepts[0]])
    weights = coefficients / std
    return weights.astype(np.float32), (intercepts - weights @ mean).astype(np.float32)
