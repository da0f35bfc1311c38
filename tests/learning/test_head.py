"""A head that is fitted to features: scikit-learn's logistic regression is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from hubel.events import outcome
from hubel.learning import head as head_module
from hubel.learning.head import fit_head, head_from, is_linear
from hubel.records import Preprocess


def clouds(n: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points around one centre a class, which overlap."""
    random = torch.Generator().manual_seed(seed)
    centres = 5 * torch.randn(classes, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, classes, (n,), generator=random)
    return centres[labels] + 4 * torch.randn(n, 6, generator=random), labels


def test_the_fit_is_logistic_regression_with_that_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "PENALTIES", (0.03,))
    monkeypatch.setattr(head_module, "ITERATIONS", 500)
    points, labels = clouds(300, 4, 1)
    found = fit_head(points, labels, points, labels, classes=4)
    scale = points.square().mean().sqrt()
    oracle = LogisticRegression(C=1 / (0.03 * 300), tol=1e-8, max_iter=5000).fit(
        (points / scale).numpy(), labels.numpy()
    )
    ours = torch.nn.functional.linear(points, found.weight, found.bias).softmax(1).numpy()
    np.testing.assert_allclose(ours, oracle.predict_proba((points / scale).numpy()), atol=2e-3)
    assert found.accuracy == pytest.approx(oracle.score((points / scale).numpy(), labels.numpy()), abs=0.005)


def test_the_penalty_has_the_least_loss_on_validation() -> None:
    (points, labels), (seen, truth) = clouds(40, 4, 1), clouds(400, 4, 2)
    chosen = fit_head(points, labels, seen, truth, classes=4)
    losses = []
    for penalty in head_module.PENALTIES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(head_module, "PENALTIES", (penalty,))
            losses.append(fit_head(points, labels, seen, truth, classes=4).val_loss)
    assert chosen.val_loss == pytest.approx(min(losses), rel=0.02)
    assert chosen.penalty not in (head_module.PENALTIES[0], head_module.PENALTIES[-1])


def test_weights_of_classes_make_rare_ones_count() -> None:
    points, labels = clouds(400, 2, 1)
    rare = torch.cat([(labels == 0).nonzero()[:, 0], (labels == 1).nonzero()[:8, 0]])
    weights = torch.tensor([0.1, 1.9])
    plain = fit_head(points[rare], labels[rare], points, labels, classes=2)
    even = fit_head(points[rare], labels[rare], points, labels, classes=2, class_weights=weights)
    ones = [torch.nn.functional.linear(points, h.weight, h.bias).argmax(1).sum() for h in (plain, even)]
    assert ones[1] > ones[0]


@pytest.mark.parametrize("mirrored", [False, True])
def test_features_of_images_are_looked_at_until_the_time_is_up(mirrored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubel.learning.transfer.CHUNK", 8)
    torch.manual_seed(0)
    last = nn.Linear(4, 2)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    labels = torch.arange(40) % 2
    images[1::2, :4] //= 4
    asked: list[int] = []

    def enough() -> bool:
        asked.append(1)
        return len(asked) >= 2

    assert is_linear(model, "4", torch.zeros(2, 1, 8, 8))
    assert not is_linear(model, "0", torch.zeros(2, 1, 8, 8))
    preprocess = Preprocess(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
    device = torch.device("cpu")
    known = {"device": device, "autocast": None, "mirrored": mirrored}
    some = outcome(
        head_from(model, "4", (images, labels), (images, labels), preprocess, enough=enough, **known)  # type: ignore[arg-type]
    )
    every = outcome(head_from(model, "4", (images, labels), (images, labels), preprocess, **known))  # type: ignore[arg-type]
    assert (some.n, every.n) == (16, 40)
    every.put_into(model, "4")
    assert torch.equal(last.weight, every.weight)
    batch = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    assert (model(batch).argmax(1) == labels).double().mean().item() == pytest.approx(every.val_accuracy)
