"""One convolution with other settings, against a network that was built with them."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.geometry.summary import summarise
from hubel.geometry.what_if import what_if
from hubel.nn.zoo import build


def network(kernel: int = 3, stride: int = 1, dilation: int = 1, mode: str = "zeros") -> nn.Sequential:
    padding = dilation * (kernel - 1) // 2
    changed = nn.Conv2d(8, 8, kernel, stride, padding, dilation, groups=4, padding_mode=mode)
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), changed, nn.BatchNorm2d(8), nn.MaxPool2d(2), *last)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("change", [{"stride": 2}, {"kernel": 5}, {"dilation": 3}, {"kernel": 7, "stride": 3}])
def test_as_if_it_was_built_so(change: dict[str, int], mode: str) -> None:
    model = network(mode=mode)
    weight = model[1].weight
    assert what_if(model, (3, 33, 35), "1", **change) == summarise(network(mode=mode, **change), (3, 33, 35))
    assert model[1].weight is weight
    assert model[1].kernel_size == (3, 3)


def test_what_does_not_fit_is_said() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 8 * 8, 10))
    with pytest.raises(UsageError, match=r"no longer fits together: 2 \(Linear\)"):
        what_if(model, (3, 8, 8), "0", stride=2)
    with pytest.raises(UsageError, match="only a Conv2d"):
        what_if(model, (3, 8, 8), "1", stride=2)
    with pytest.raises(UsageError, match="stride must be from 1 to 64, got 0"):
        what_if(model, (3, 8, 8), "0", stride=0)


def test_what_happens_to_the_addition_of_a_shortcut_is_said() -> None:
    model = build("resnet20", classes=10)
    with pytest.raises(UsageError) as refused:
        what_if(model, (3, 32, 32), "layer1.0.conv1", stride=2)
    assert str(refused.value) == (
        "So changed, the two sides of layer1.0.add are 16×16×16 and 16×32×32 and no longer fit: the path beside "
        "layer1.0.conv1 would have to change alike, as by a 1×1 convolution with stride 2 on the shortcut."
    )

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return (x + self.block(x)).mean((2, 3))

    with pytest.raises(UsageError, match="two sides of an addition are 8×16×16 and 8×32×32 and no longer fit"):
        what_if(Own(), (3, 32, 32), "block", stride=2)
