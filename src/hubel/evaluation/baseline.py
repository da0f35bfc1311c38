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

Integers = npt.NDArray[np.integer[Any]]
Labels = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FittedBaseline:
    """Majority class and logistic regression after fitting, ready for other images.

    Attributes:
        majority: the most frequent training class. n: number of images that the regression was fitted on, 0 for none.
        classes: (K',) the labels that occur among those.
        line: weights (K', D) and offsets (K',) of the logits of `classes`, for flattened thumbnails as they are; None
            where only one class occurs.
    """

    majority: int
    n: int
    classes: Labels
    line: tuple[Floats, Floats] | None

    def predict(self, images: Images) -> Labels:
        """(N, H, W, C) uint8 → (N,) labels by logistic regression, or by majority where none was fitted."""
        if self.line is None:
            return np.full(len(images), self.majority, dtype=np.int64)
        weights, offsets = self.line
        best = (thumbnails(images).reshape(len(images), -1) @ weights.T + offsets).argmax(axis=1)
        return np.asarray(self.classes[best], dtype=np.int64)

    def on(self, images: Images, labels: Integers) -> Baselines:
        """Return the accuracies on other images, as they stand in a report."""
        logistic = None if self.line is None else float(np.mean(self.predict(images) == labels))
        return Baselines(majority=float(np.mean(labels == self.majority)), logistic=logistic, logistic_n=self.n)


def fit_baseline(images: Images, labels: Integers, *, seed: int = 0) -> FittedBaseline:
    """Fit majority class and logistic regression on pixels of at most 12x12, on at most 4,000 stratified images.

    Args:
        images: (N, H, W, C) uint8 training images, may be a memory map. labels: (N,) whole numbers from 0.
        seed: decides which images are taken where there are more.

    Raises:
        UsageError: no images, or not one label each.
    """
    truth = one_label_each(images, labels)
    chosen = stratified(truth, LIMIT, seed)
    classes = np.unique(truth[chosen])
    majority = int(np.bincount(truth).argmax())
    if len(classes) < 2:
        return FittedBaseline(majority=majority, n=0, classes=classes, line=None)
    line = _logistic(thumbnails(images, chosen).reshape(len(chosen), -1), truth[chosen], len(classes))
    return FittedBaseline(majority=majority, n=len(chosen), classes=classes, line=line)


def one_label_each(images: Images, labels: Integers) -> Labels:
    """Return the labels as (N,) int64; refuse no images, or another number of labels."""
    truth = np.asarray(labels, dtype=np.int64)
    if len(images) == 0 or truth.shape != (len(images),):
        raise UsageError(f"expected one label for each image, got {len(images)} images and labels {truth.shape}.")
    return truth


def stratified(labels: Labels, limit: int, seed: int) -> Labels:
    """Return at most `limit` sorted indices with the classes in proportion, one of each class first."""
    if len(labels) <= limit:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        place[members] = np.arange(len(members)) / len(members)
    return np.sort(np.argsort(place, kind="stable")[:limit])


def thumbnails(images: Images, chosen: Labels | None = None) -> Floats:
    """(N, H, W, C) uint8 → (N, C, h, w) float32 in [0, 1]: averages over areas, h and w at most 12."""
    rows = np.arange(len(images)) if chosen is None else chosen
    small = (min(SIDE, images.shape[1]), min(SIDE, images.shape[2]))
    parts = [
        F.adaptive_avg_pool2d(to_tensor(images[rows[start : start + CHUNK]]).float().div_(255), small)
        for start in range(0, len(rows), CHUNK)
    ]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)


def _logistic(features: Floats, labels: Labels, classes: int) -> tuple[Floats, Floats]:
    """Fit on standardised features (N, D); return weights (K', D) and offsets (K',) for the features as they are."""
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
