"""What a gradient at the outputs says of the loss it came from."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hubel.doctor.losses import form, labels_behind
from hubel.doctor.probes import telling


def gradient(z: Tensor, loss: Tensor) -> Tensor:
    return torch.autograd.grad(loss, z)[0]


@pytest.fixture
def single() -> tuple[Tensor, Tensor]:
    """Outputs of a sigmoid (N, 1), and labels (N,)."""
    torch.manual_seed(0)
    return torch.randn(32, 1).sigmoid().requires_grad_(), torch.randint(2, (32,)).float()


def test_a_single_output_that_is_taken_for_a_logit_is_recognised(single: tuple[Tensor, Tensor]) -> None:
    z, y = single
    for loss, expected in (
        (F.binary_cross_entropy_with_logits(z[:, 0], y), True),
        (F.binary_cross_entropy(z[:, 0], y), False),
        (F.mse_loss(z[:, 0], y), False),
    ):
        g = gradient(z, loss)
        assert bool(form(z, g, labels_behind(z, g, len(z)), look=True)["logit"]) is expected


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_labels_that_are_spread_over_a_second_axis_are_recognised(single: tuple[Tensor, Tensor]) -> None:
    z, y = single
    for loss, expected in (
        (F.mse_loss(z, y), True),
        (F.mse_loss(z[:, 0], y), False),
        (F.mse_loss(z[:, 0], torch.ones(32)), False),
        (F.binary_cross_entropy_with_logits(z[:, 0], y), False),
    ):
        g = gradient(z, loss)
        assert bool(form(z, g, labels_behind(z, g, len(z)), look=True)["averaged"]) is expected


def test_thumbnails_tell_classes_apart_where_they_differ() -> None:
    """The oracle leaves each image out of the mean of its class, one by one."""
    torch.manual_seed(0)
    labels = torch.arange(240) % 4
    images = torch.rand(240, 3, 16, 16) + labels[:, None, None, None] * 0.1
    small = F.adaptive_avg_pool2d(images, 8).flatten(1)
    right = 0
    for i in range(240):
        others = torch.arange(240) != i
        means = torch.stack([small[others & (labels == k)].mean(0) for k in range(4)])
        right += int((small[i] - means).norm(dim=1).argmin() == labels[i])
    share, n = telling(images, labels)
    assert (round(share * n), n) == (right, 240)
    assert share > 0.9
    assert telling(images, labels[torch.randperm(240)])[0] < 0.35
