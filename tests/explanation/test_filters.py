"""The first convolution's filters are found and copied."""

from __future__ import annotations

import torch
from torch import nn

from hubel.explanation.filters import first_filters
from hubel.nn.zoo import build


def test_first_filters() -> None:
    model = build("resnet20", classes=2)
    found = first_filters(model)
    assert found is not None
    name, weights = found
    assert name == "conv1"
    torch.testing.assert_close(weights, model.conv1.weight.detach())
    weights.zero_()
    assert model.conv1.weight.any()
    assert first_filters(nn.Linear(2, 2)) is None
