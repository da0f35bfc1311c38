"""The last layer alone, fitted to what a frozen network makes of the images: logistic regression, in seconds.

The penalty on its weights is the one with the least loss on the validation images.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.dataset.pack import Images
from hubel.events import Progress
from hubel.learning.transfer import backbone_features
from hubel.nn.hooks import find_module
from hubel.nn.stages import features_are_enough
from hubel.records import Preprocess

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # of half the squared weights, for features of mean square 1
ITERATIONS = 50  # of L-BFGS for each penalty, which begins at the weights of the one before
WORK = 2_000_000  # images times classes that are fitted to at most
BETTER = 2  # penalties in a row that are no better end the search


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """A last layer, and how it answers.

    Attributes:
        weight: (K, D). bias: (K,). penalty: that was chosen. n: training images that were looked at, mirrored ones
            not counted.
        loss, accuracy: on the training features. val_loss, val_accuracy: on the validation features.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    n: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float

    def put_into(self, model: nn.Module, final: str) -> None:
        """Give a network's last layer these weights."""
        layer = cast(nn.Linear, find_module(model, final))
        with torch.no_grad():
            layer.weight.copy_(self.weight)
            if layer.bias is not None:
                layer.bias.copy_(self.bias)


def is_linear(model: nn.Module, final: str, images: Tensor) -> bool:
    """Whether the network's answer to images (N, C, H, W) is what its last layer makes, and that a dense one."""
    return isinstance(find_module(model, final), nn.Linear) and features_are_enough(model, final, images)


def head_from(
    model: nn.Module,
    final: str,
    train: tuple[Images, Tensor],
    val: tuple[Images, Tensor],
    preprocess: Preprocess,
    *,
    device: torch.device,
    autocast: torch.dtype | None,
    mirrored: bool,
    class_weights: Tensor | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> Generator[Progress, None, FittedHead]:
    """Compute the features of images, (N, H, W, C) uint8, and fit the last layer to them; yields progress.

    Args:
        train, val: images and labels; of the training images, in a random order, only as many are looked at as there is
            time for. mirrored: whether to fit to their mirror images, too. enough: whether the time is up.
    """

    def features(
        images: Images, until: Callable[[], bool], *, mirror: bool = False
    ) -> Generator[Progress, None, Tensor]:
        found = yield from backbone_features(
            model, final, images, preprocess, device=device, autocast=autocast, mirrored=mirror, until=until
        )
        return found.float().to(device)

    seen = yield from features(val[0], lambda: False)
    known = yield from features(train[0], enough)
    count = len(known)
    labels = train[1][:count].to(device)
    if mirrored and not enough():
        more = yield from features(train[0][:count], enough, mirror=True)
        known, labels = torch.cat([known, more]), torch.cat([labels, labels[: len(more)]])
    classes = cast(nn.Linear, find_module(model, final)).out_features
    fitted = fit_head(known, labels, seen, val[1].to(device), classes=classes, class_weights=class_weights)
    return replace(fitted, n=count)


def fit_head(
    features: Tensor,
    labels: Tensor,
    val_features: Tensor,
    val_labels: Tensor,
    *,
    classes: int,
    class_weights: Tensor | None = None,
) -> FittedHead:
    """Fit a dense layer to features (N, D) and labels (N,), for each penalty in turn, and keep the best on validation.

    >>> points = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(8, 1)
    >>> fit_head(points, torch.tensor([0, 1] * 8), points, torch.tensor([0, 1] * 8), classes=2).val_accuracy
    1.0
    """
    most = max(WORK // classes, 1)
    features, labels = features[:most], labels[:most]
    scale = features.square().mean().sqrt().clamp_min(1e-6)
    scaled, seen = features / scale, val_features / scale
    weight = torch.zeros(classes, features.shape[1], device=features.device, requires_grad=True)
    bias = torch.zeros(classes, device=features.device, requires_grad=True)
    best: FittedHead | None = None
    worse = 0
    for penalty in PENALTIES:
        _minimise(lambda: F.cross_entropy(F.linear(scaled, weight, bias), labels, class_weights), weight, bias, penalty)
        with torch.no_grad():
            loss, accuracy = _judge(F.linear(scaled, weight, bias), labels)
            val_loss, val_accuracy = _judge(F.linear(seen, weight, bias), val_labels)
            head = FittedHead(
                weight=weight / scale,
                bias=bias.clone(),
                penalty=penalty,
                n=len(labels),
                loss=loss,
                accuracy=accuracy,
                val_loss=val_loss,
                val_accuracy=val_accuracy,
            )
        worse = 0 if best is None or val_loss < best.val_loss else worse + 1
        best = head if worse == 0 else best
        if worse >= BETTER:
            break
    assert best is not None
    return best


def _minimise(loss: Callable[[], Tensor], weight: Tensor, bias: Tensor, penalty: float) -> None:
    """Go down to the least loss with the penalty, in place."""
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        total = loss() + penalty / 2 * weight.square().sum()
        total.backward()
        return total.item()

    optimizer.step(closure)


def _judge(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy."""
    return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).double().mean().item()
