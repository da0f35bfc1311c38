"""Do the labels survive a mirror? Asked of the training images before any of them is flipped.

If a class looks the same in the mirror, mirrored images of it come from the same distribution, and a classifier that
never saw them knows them just as well. Digits, letters and signing hands break; animals and cars don't. The classifier
is kernel ridge regression on thumbnails (a smooth nearest neighbour): it is strong on few images, and its answers to an
image left out of the fit have a closed form, so that every image is a test image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hubel.dataset.pack import Images
from hubel.errors import UsageError
from hubel.evaluation.baseline import stratified, thumbnails

LIMIT = 1_500  # images: a third of a second, and enough by far
SMALLEST = 10
RIDGE = 0.1
# Three standard errors: answers that share one fit vary about twice as much as independent ones would.
ERRORS = 3.0
CLASS_ERRORS = 4.0  # many classes are asked at once
UNSAFE_ABOVE = 0.1  # share of the knowledge that is lost for certain
CLASS_UNSAFE_ABOVE = 0.3
SAFE_BELOW = 0.5  # digits lose 0.76, signing hands 0.88, Fashion-MNIST's shoes and clothes 0.34, photos 0.00
CLASS_SMALLEST = 20  # images, for a class to be judged by itself

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Verdict = Literal["safe", "unsafe", "undecided"]


@dataclass(frozen=True, kw_only=True)
class MirrorTest:
    """Whether left and right may be exchanged.

    Attributes:
        accuracy, mirrored_accuracy: of the left-out images as they are, and mirrored.
        n: number of images asked.
        lost: share of the knowledge that is lost in the mirror (0 none, 1 all), with `interval`, its three standard
            errors; knowledge is the mean left-out score of the right class above what guessing gives.
        verdict: ``undecided`` when the images are too few or too hard for the classifier to tell.
        reason: one sentence.
    """

    accuracy: float
    mirrored_accuracy: float
    n: int
    lost: float
    interval: tuple[float, float]
    verdict: Verdict
    reason: str

    @property
    def safe(self) -> bool:
        """Whether flips may be used; undecided is no."""
        return self.verdict == "safe"


def mirror_test(
    images: Images,
    labels: npt.NDArray[np.integer[Any]],
    classes: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> MirrorTest:
    """Ask whether the labels of these training images survive a left-right flip.

    Args:
        images: (N, H, W, C) uint8; at most 1,500 stratified ones are used.
        classes: names for the reason.
        seed: decides which images are taken where there are more.

    Raises:
        UsageError: no images, or not one label each.
    """
    truth = np.asarray(labels, dtype=np.int64)
    if len(images) == 0 or truth.shape != (len(images),):
        raise UsageError(f"expected one label for each image, got {len(images)} images and labels {truth.shape}.")
    chosen = stratified(truth, LIMIT, seed)
    occurring, dense = np.unique(truth[chosen], return_inverse=True)
    if len(occurring) < 2 or len(chosen) < SMALLEST:
        return _undecided(0.0, 0.0, len(chosen), "there are too few images or only one class")
    names = [str(label) if classes is None else classes[label] for label in occurring]
    small = thumbnails(images, chosen)  # areas lie symmetrically, so a mirrored thumbnail is that of the mirror image
    flat = (len(small), -1)
    plain, mirrored = _left_out_scores(small.reshape(flat), small[..., ::-1].reshape(flat), dense)
    return _judge(plain, mirrored, dense, names)


def _left_out_scores(
    plain: npt.NDArray[np.float32], mirrored: npt.NDArray[np.float32], labels: Labels
) -> tuple[Matrix, Matrix]:
    """(N, K) scores of each image as it is and mirrored, by the fit to all other images.

    With Q = (G + ridge)⁻¹ and a = QY, leaving image i out gives a - Q[:, i] a[i] / Q[i, i]: its own score is
    y[i] - a[i] / Q[i, i] (Rasmussen and Williams 2006, equation 5.12), its mirror image's follows in the same way.
    """
    both = np.concatenate([plain, mirrored]).astype(np.float64)
    both = (both - both.mean(axis=0)) / (both.std(axis=0) + 1e-3)
    x, m = both[: len(plain)], both[len(plain) :]
    width = np.median(_distances(x, x)[np.triu_indices(len(x), 1)]) + 1e-9
    targets = np.eye(int(labels.max()) + 1)[labels]
    targets -= targets.mean(axis=0)
    inverse = np.linalg.inv(np.exp(-_distances(x, x) / width) + RIDGE * np.eye(len(x)))
    coefficients = inverse @ targets
    correction = coefficients / np.diag(inverse)[:, None]
    seen = np.exp(-_distances(m, x) / width)
    return targets - correction, seen @ coefficients - (seen * inverse).sum(axis=1)[:, None] * correction


def _judge(plain: Matrix, mirrored: Matrix, labels: Labels, names: Sequence[str]) -> MirrorTest:
    n, own = len(labels), (np.arange(len(labels)), labels)
    accuracy = float((plain.argmax(axis=1) == labels).mean())
    mirrored_accuracy = float((mirrored.argmax(axis=1) == labels).mean())
    knowledge, loss = plain[own], plain[own] - mirrored[own]
    if knowledge.mean() <= ERRORS * _standard_error(knowledge):
        return _undecided(accuracy, mirrored_accuracy, n, "a simple classifier on thumbnails knows too little")
    lost, low, high = _share_lost(knowledge, loss, ERRORS)
    broken = [name for k, name in enumerate(names) if _class_breaks(knowledge[labels == k], loss[labels == k])]
    verdict: Verdict = "undecided"
    reason = f"too few images to tell: between {max(low, 0):.0%} and {min(high, 1):.0%} of what can be known is lost"
    if low > UNSAFE_ABOVE or broken:
        verdict = "unsafe"
        reason = f"in the mirror {lost:.0%} of what a simple classifier knows is lost"
        reason += f", most clearly for {', '.join(broken[:3])}" if broken else ""
    elif high < SAFE_BELOW:
        verdict, reason = "safe", f"a simple classifier knows mirrored images as well (it loses {max(lost, 0):.0%})"
    return MirrorTest(
        accuracy=accuracy,
        mirrored_accuracy=mirrored_accuracy,
        n=n,
        lost=lost,
        interval=(low, high),
        verdict=verdict,
        reason=f"{reason}; {accuracy:.1%} right as they are, {mirrored_accuracy:.1%} mirrored, n = {n}.",
    )


def _share_lost(knowledge: Vector, loss: Vector, errors: float) -> tuple[float, float, float]:
    share, around = loss.mean() / knowledge.mean(), errors * _standard_error(loss) / knowledge.mean()
    return float(share), float(share - around), float(share + around)


def _class_breaks(knowledge: Vector, loss: Vector) -> bool:
    """Whether this class alone is clearly lost in the mirror, as one of a pair of arrows among many photos."""
    if len(knowledge) < CLASS_SMALLEST or knowledge.mean() <= ERRORS * _standard_error(knowledge):
        return False
    return _share_lost(knowledge, loss, CLASS_ERRORS)[1] > CLASS_UNSAFE_ABOVE


def _standard_error(values: Vector) -> float:
    return float(values.std() / np.sqrt(len(values)))


def _undecided(accuracy: float, mirrored_accuracy: float, n: int, why: str) -> MirrorTest:
    return MirrorTest(
        accuracy=accuracy,
        mirrored_accuracy=mirrored_accuracy,
        n=n,
        lost=0.0,
        interval=(0.0, 1.0),
        verdict="undecided",
        reason=f"{why} to tell whether left and right matter (n = {n}).",
    )


def _distances(a: Matrix, b: Matrix) -> Matrix:
    """Squared distances (len(a), len(b))."""
    squares: Matrix = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return squares
