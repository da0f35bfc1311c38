"""The mirror test against fits by hand, and on data whose answers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import load_digits

from hubel.errors import UsageError
from hubel.evaluation.mirror import _left_out_scores, mirror_test

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def blobs(n: int, *, seed: int, side: int = 16, handed: bool = False) -> tuple[Pixels, Labels]:
    """Three classes by the height of a bright spot, anywhere from left to right; `handed` ones by left and right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    images = rng.normal(110, 25, (n, side, side, 3))
    fixed, free = (labels + 1) * side // 4, rng.integers(1, side - 1, n)
    for image, a, b in zip(images, fixed, free, strict=True):
        y, x = (b, a) if handed else (a, b)
        image[y - 1 : y + 1, x - 1 : x + 1] += 90
    return images.clip(0, 255).astype(np.uint8), labels.astype(np.int64)


def test_left_out_scores_equal_fits_without_the_image() -> None:
    rng = np.random.default_rng(0)
    plain, mirrored = (rng.random((20, 6)).astype(np.float32) for _ in range(2))
    labels = rng.integers(0, 3, 20)
    left, right = _left_out_scores(plain, mirrored, labels)
    both = np.concatenate([plain, mirrored]).astype(np.float64)
    both = (both - both.mean(0)) / (both.std(0) + 1e-3)

    def distances(a: Any, b: Any) -> Any:
        return ((a[:, None] - b[None]) ** 2).sum(-1)

    x, m = both[:20], both[20:]
    width = np.median(distances(x, x)[np.triu_indices(20, 1)])
    targets = np.eye(3)[labels] - np.eye(3)[labels].mean(0)
    for i in (0, 7, 19):
        rest = np.delete(np.arange(20), i)
        gram = np.exp(-distances(x[rest], x[rest]) / width) + 0.1 * np.eye(19)
        coefficients = np.linalg.solve(gram, targets[rest])
        for asked, score in ((x[i], left[i]), (m[i], right[i])):
            np.testing.assert_allclose(np.exp(-distances(asked[None], x[rest]) / width)[0] @ coefficients, score)


@pytest.mark.parametrize("n", [100, 300, 1797])
def test_digits_are_unsafe(n: int) -> None:
    data = load_digits()
    images = (data.images[:n] * 255 / 16).astype(np.uint8)[..., None]
    result = mirror_test(images, data.target[:n].astype(np.int64))
    assert result.verdict == "unsafe"
    assert not result.safe
    assert 0.5 < result.lost <= 1


def test_symmetric_data_is_safe_and_the_same_turned_on_its_side_is_not() -> None:
    assert mirror_test(*blobs(400, seed=0)).verdict == "safe"
    turned = mirror_test(*blobs(400, seed=0, handed=True), ("left", "middle", "right"))
    assert turned.verdict == "unsafe"
    assert "left" in turned.reason


def test_one_mirrored_pair_among_symmetric_classes_is_found() -> None:
    images, labels = blobs(1200, seed=3)
    sided, side = blobs(240, seed=4, handed=True)
    pair = side != 1
    mixed = np.concatenate([images, 255 - sided[pair]]), np.concatenate([labels, side[pair] // 2 + 3])
    result = mirror_test(*mixed, ("low", "mid", "high", "east", "west"))
    assert result.verdict == "unsafe"
    assert "east" in result.reason
    assert "low" not in result.reason


def test_noise_and_tiny_sets_are_undecided() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (200, 16, 16, 3), dtype=np.uint8)
    for images, labels in (
        (noise, rng.integers(0, 4, 200)),
        (noise[:6], np.array([0, 1, 0, 1, 0, 1])),
        (noise, np.zeros(200, dtype=np.int64)),
        (np.zeros((60, 8, 8, 1), dtype=np.uint8), np.arange(60) % 3),
    ):
        result = mirror_test(images, labels)
        assert (result.verdict, result.safe) == ("undecided", False)


def test_images_without_labels_are_refused() -> None:
    with pytest.raises(UsageError, match="one label for each image"):
        mirror_test(np.zeros((3, 8, 8, 1), dtype=np.uint8), np.zeros(2, dtype=np.int64))
