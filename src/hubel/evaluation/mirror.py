"""Do the labels survive a mirror? Asked of the training images before any of them is flipped.

If a class looks the same in the mirror, mirrored images of it come from the same distribution, and a classifier that
never saw them knows them just as well. Digits, letters and signing hands break; animals and cars don't. The classifier
is kernel ridge regression on thumbnails (a smooth nearest neighbour): it is strong on few images, and its answers to an
image left out of the fit have a closed form, so that every image is a test image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hubel.dataset.pack import Images
from hubel.evaluation.baseline import Floats, Integers, Labels, one_label_each, stratified, thumbnails

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
Verdict = Literal["safe", "unsafe", "undecided"]


@dataclass(frozen=True, kw_only=True)
class MirrorTest:
    """Whether left and right may be exchanged.

    Attributes:
        verdict: ``undecided`` when the images are too few or too hard for the classifier to tell.
        reason: one sentence.
        lost: share of the knowledge that is lost in the mirror (0 none, 1 all); knowledge is the mean left-out score
            of the right class above what guessing gives.
    """

    verdict: Verdict
    reason: str
    lost: float = 0.0

    @property
    def safe(self) -> bool:
        """Whether flips may be used; undecided is no."""
        return self.verdict == "safe"


def mirror_test(images: Images, labels: Integers, classes: Sequence[str] | None = None, *, seed: int = 0) -> MirrorTest:
    """Ask whether the labels of these training images survive a left-right flip.

    Args:
        images: (N, H, W, C) uint8; at most 1,500 stratified ones are used.
        classes: names for the reason.
        seed: decides which images are taken where there are more.

    Raises:
        UsageError: no images, or not one label each.
    """
    truth = one_label_each(images, labels)
    chosen = stratified(truth, LIMIT, seed)
    occurring, dense = np.unique(truth[chosen], return_inverse=True)
    n = len(chosen)
    if len(occurring) < 2 or n < SMALLEST:
        return _undecided("there are too few images or only one class", n)
    names = [str(label) if classes is None else classes[label] for label in occurring]
    small = thumbnails(images, chosen)  # areas lie symmetrically, so a mirrored thumbnail is that of the mirror image
    return _judged(*_left_out_scores(small.reshape(n, -1), small[..., ::-1].reshape(n, -1), dense), dense, names)


def _left_out_scores(plain: Floats, mirrored: Floats, labels: Labels) -> tuple[Matrix, Matrix]:
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


def _distances(a: Matrix, b: Matrix) -> Matrix:
    """Squared distances (len(a), len(b))."""
    squares: Matrix = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return squares


def _judged(plain: Matrix, mirrored: Matrix, labels: Labels, names: Sequence[str]) -> MirrorTest:
    """Compare the (N, K) scores of the images as they are with those in the mirror."""
    n, own = len(labels), (np.arange(len(labels)), labels)
    knowledge, loss = plain[own], plain[own] - mirrored[own]
    if knowledge.mean() <= ERRORS * _standard_error(knowledge):
        return _undecided("a simple classifier on thumbnails knows too little", n)
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
    right, in_mirror = ((scores.argmax(axis=1) == labels).mean() for scores in (plain, mirrored))
    reason += f"; {right:.1%} right as they are, {in_mirror:.1%} mirrored, n = {n}."
    return MirrorTest(verdict=verdict, reason=reason, lost=lost)


def _undecided(why: str, n: int) -> MirrorTest:
    return MirrorTest(verdict="undecided", reason=f"{why} to tell whether left and right matter (n = {n}).")


def _class_breaks(knowledge: Matrix, loss: Matrix) -> bool:
    """Whether this class alone is clearly lost in the mirror, as one of a pair of arrows among many photos."""
    if len(knowledge) < CLASS_SMALLEST or knowledge.mean() <= ERRORS * _standard_error(knowledge):
        return False
    return _share_lost(knowledge, loss, CLASS_ERRORS)[1] > CLASS_UNSAFE_ABOVE


def _share_lost(knowledge: Matrix, loss: Matrix, errors: float) -> tuple[float, float, float]:
    """The share of the knowledge (N,) that is lost, and that many standard errors around it."""
    share, around = loss.mean() / knowledge.mean(), errors * _standard_error(loss) / knowledge.mean()
    return float(share), float(share - around), float(share + around)


def _standard_error(values: Matrix) -> float:
    return float(values.std() / np.sqrt(len(values)))
