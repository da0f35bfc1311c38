"""Gradient methods against formulas worked out by hand, in float64 where they have to be exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.explanation.pixels import guided_backprop, integrated_gradients, saliency, smooth_grad
from hubel.nn.zoo import build

from .tiny import OneConv, counting, few, sines, tiny


def linear() -> tuple[nn.Sequential, Tensor]:
    """A network whose logits are sums of weighted pixels, and the weights (K, C, H, W)."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 5, 3)).double()
    return model, model[1].weight.detach().view(3, 2, 6, 5)


def test_of_a_linear_network_saliency_is_its_weights() -> None:
    model, weights = linear()
    targets = torch.tensor([2, 0, 1])
    expected = weights[targets].abs().amax(dim=1).float()
    torch.testing.assert_close(saliency(model, few(), targets).maps, expected)
    torch.testing.assert_close(smooth_grad(model, few(), targets, n=3).maps, expected)


def test_of_a_linear_network_integrated_gradients_are_weight_times_change() -> None:
    model, weights = linear()
    targets, baseline = torch.tensor([2, 0, 1]), torch.tensor([0.5, -1.0], dtype=torch.float64).view(2, 1, 1)
    found = integrated_gradients(model, few(), targets, steps=1, baseline=baseline)
    torch.testing.assert_close(found.maps, (weights[targets] * (few() - baseline)).sum(dim=1).float())


@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_integrated_gradients_add_up_to_the_change_of_the_logit(baseline: float) -> None:
    """Completeness (Sundararajan et al. 2017, proposition 1) of a smooth network, which 50 nodes integrate exactly."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)).double()
    images, targets = few(), torch.tensor([0, 1, 2])
    found = integrated_gradients(model, images, targets, baseline=baseline)
    change = model(images) - model(torch.full_like(images, baseline))
    expected = change.gather(1, targets[:, None])[:, 0].float()
    torch.testing.assert_close(found.maps.sum(dim=(1, 2)), expected, rtol=1e-5, atol=1e-6)


def test_integrated_gradients_of_a_polynomial() -> None:
    """Of x·y² from 0, x gets a third of the product and y two thirds: ∫ (t·y)² dt and ∫ 2·(t·x)(t·y) dt."""

    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x[:, 0, 0, 0] * x[:, 0, 0, 1] ** 2)[:, None]

    found = integrated_gradients(Product(), torch.tensor([[[[3.0, 2.0]]]]), steps=2)
    torch.testing.assert_close(found.maps, torch.tensor([[[4.0, 8.0]]]))


def test_smooth_grad_is_the_mean_over_noise_of_the_said_size() -> None:
    """Of a quadratic network the gradient is 2x, so that the mean gradient is 2x plus twice the mean noise."""

    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([(x**2).sum(dim=(1, 2, 3)), x.sum(dim=(1, 2, 3))], dim=1)

    image = torch.full((1, 1, 64, 64), 5.0)
    image[0, 0, 0, 0] = 7.0  # a range of 2
    found = smooth_grad(Squares(), image, torch.tensor([0]), n=25, noise=0.1)
    error = (found.maps[0] - 2 * image[0, 0]).flatten()
    assert float(error.mean()) == pytest.approx(0, abs=0.01)
    assert float(error.std()) == pytest.approx(2 * 0.2 / 5, rel=0.05)  # ± 1.1 % for 4,096 pixels
    assert torch.equal(smooth_grad(Squares(), image, torch.tensor([0]), n=25, noise=0.1).maps, found.maps)
    exact = smooth_grad(Squares(), image, torch.tensor([0]), noise=0.0)
    torch.testing.assert_close(exact.maps, saliency(Squares(), image, torch.tensor([0])).maps)


def guided_by_hand(model: nn.Sequential, images: Tensor, targets: Tensor) -> Tensor:
    """Backpropagation of `tiny` written out, with the second ReLU rule."""
    first = model[0](images)
    second = model[2](first.relu())
    back = model[5].weight[targets].view_as(second).clamp(min=0) * (second > 0)
    back = F.conv_transpose2d(back, model[2].weight).clamp(min=0) * (first > 0)
    return F.conv_transpose2d(back, model[0].weight, padding=1).sum(dim=1).detach().float()


class Functional(nn.Module):
    """`tiny` with ReLUs that are no modules."""

    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers, self.relu = tiny(), relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.layers[0](x))
        return self.layers[5](self.relu(self.layers[2](x)).flatten(1))  # type: ignore[no-any-return]


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "in-place module": nn.ReLU(inplace=True),
    "functional": F.relu,
    "in place": lambda x: F.relu(x, inplace=True),
    "torch": torch.relu,
    "torch in place": torch.relu_,
    "method": Tensor.relu,
    "method in place": lambda x: x.relu_(),
    "relu6 that never clips": lambda x: 100 * F.relu6(x / 100),
    "module that never clips": lambda x: 100 * nn.ReLU6(inplace=True)(x / 100),
}


@pytest.mark.parametrize("relu", RELUS)
def test_guided_backprop_lets_positive_gradients_through_however_the_relu_is_called(relu: str) -> None:
    targets = torch.tensor([0, 1, 2])
    expected = guided_by_hand(tiny(), few(), targets)
    assert not torch.allclose(expected, saliency(tiny(), few(), targets).maps)
    model = Functional(RELUS[relu]).eval()
    torch.testing.assert_close(guided_backprop(model, few(), targets).maps, expected)
    after, plain = (saliency(one, few(), targets).maps for one in (model, tiny()))
    torch.testing.assert_close(after, plain)  # nothing stays behind


def test_guided_backprop_of_captums_example() -> None:
    found = guided_backprop(OneConv(), counting(), torch.tensor([0]))
    assert found.maps.tolist() == [[[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]]]


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (nn.SiLU(), "has silu"),
        (nn.GELU(), "has gelu"),
        (nn.LeakyReLU(), "has leaky_relu"),
        (nn.Hardswish(inplace=True), "has hardswish"),
        (nn.PReLU(), "has prelu"),
        (nn.Tanh(), "has none"),
    ],
)
def test_guided_backprop_is_refused_where_it_is_not_defined(act: nn.Module, says: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), act, nn.Flatten(), nn.Linear(36, 3)).double()
    with pytest.raises(UsageError, match=f"defined for networks of ReLUs, and this one {says}: take integrated"):
        guided_backprop(model, few())


def test_guided_backprop_of_networks_that_reuse_their_relus() -> None:
    torch.manual_seed(0)
    model = build("torchvision/resnet18", classes=3, size=(64, 64))
    found = guided_backprop(model, torch.randn(2, 3, 64, 64))
    plain: Any = saliency(model, torch.randn(2, 3, 64, 64))
    assert found.maps.isfinite().all()
    assert not torch.allclose(found.maps, plain.maps)


@pytest.mark.parametrize("method", [saliency, integrated_gradients, guided_backprop])
def test_an_answer_cut_off_from_the_pixels_is_said(method: Any) -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv2d(2, 3, 3), nn.Linear(36, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.conv(x).relu()
            return self.out(x.flatten(1))  # type: ignore[no-any-return]

    with pytest.raises(UsageError, match="to the pixels, because the model cuts it off: .* occlusion does not"):
        method(Cut(), sines(1, 2, 6, 5, step=1.0, dtype=torch.float32))
