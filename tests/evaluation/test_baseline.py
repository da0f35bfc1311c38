"""The baselines against scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from hubel.errors import UsageError
from hubel.evaluation import baseline
from hubel.evaluation.baseline import fit_baseline, stratified, thumbnails

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


def digits() -> tuple[Pixels, Labels]:
    data = load_digits()
    return (data.images * 255 / 16).astype(np.uint8)[..., None], data.target.astype(np.int64)


def test_the_line_equals_scikit_learn_on_the_same_features() -> None:
    images, labels = digits()
    fitted = fit_baseline(images[:900], labels[:900])
    x, y = (images[:900].reshape(900, -1) / 255, images[900:].reshape(-1, 64) / 255)
    mean, std = x.mean(0), x.std(0) + 1e-3
    line = LogisticRegression(C=baseline.INVERSE_PENALTY, max_iter=500).fit((x - mean) / std, labels[:900])
    expected = line.predict((y - mean) / std)
    assert np.mean(fitted.predict(images[900:]) == expected) > 0.99
    record = fitted.on(images[900:], labels[900:])
    assert record.logistic == pytest.approx(np.mean(expected == labels[900:]), abs=0.01)
    assert record.logistic_n == 900
    assert record.majority == np.mean(labels[900:] == np.bincount(labels[:900]).argmax())


def test_two_classes_with_labels_that_leave_gaps() -> None:
    images, labels = digits()
    keep = np.isin(labels, (3, 8))
    fitted = fit_baseline(images[keep][:250], labels[keep][:250])
    assert set(fitted.predict(images[keep])) == {3, 8}
    record = fitted.on(images[keep][250:], labels[keep][250:])
    assert record.logistic is not None
    assert record.logistic > 0.9


def test_one_class_has_a_majority_only() -> None:
    images, _ = digits()
    record = fit_baseline(images[:9], np.full(9, 2)).on(images[:4], np.array([2, 2, 1, 0]))
    assert (record.majority, record.logistic, record.logistic_n) == (0.5, None, 0)


def test_no_warning_leaks_when_the_fit_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = digits()
    monkeypatch.setattr(baseline, "WORK_LIMIT", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_baseline(images, labels).line is not None


def test_the_subset_is_stratified_seeded_and_has_every_class() -> None:
    labels = np.repeat([0, 1, 2, 3], [6000, 3000, 999, 1]).astype(np.int64)
    chosen = stratified(labels, 1000, seed=1)
    assert len(np.unique(chosen)) == 1000
    assert np.bincount(labels[chosen]).tolist() == pytest.approx([600, 300, 100, 1], abs=1)
    assert np.array_equal(chosen, stratified(labels, 1000, seed=1))
    assert not np.array_equal(chosen, stratified(labels, 1000, seed=2))
    assert np.array_equal(stratified(labels[:5], 1000, seed=1), np.arange(5))


def test_thumbnails_are_means_over_areas() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 24, 36, 3), dtype=np.uint8)
    expected = images.reshape(3, 12, 2, 12, 3, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(thumbnails(images), expected, atol=1e-6)
    odd = images[:, :17, :31]
    np.testing.assert_allclose(thumbnails(odd[:, :, ::-1]), thumbnails(odd)[..., ::-1], atol=1e-6)
    assert thumbnails(images[:, :5]).shape == (3, 3, 5, 12)


def test_images_without_labels_are_refused() -> None:
    with pytest.raises(UsageError, match="one label for each image"):
        fit_baseline(np.zeros((3, 8, 8, 1), dtype=np.uint8), np.zeros(2, dtype=np.int64))
