"""Looking inside: what maps, patches, features and shifts say of networks whose answers can be worked out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.explanation.features import (
    activations,
    last_features,
    most_alike,
    shift_sensitivity,
    shifted,
    strongest_patches,
)
from hubel.geometry.effective import patch
from hubel.nn.zoo import build


def three_channels() -> nn.Sequential:
    """Brightness, its negative, and a channel that is dead on anything between 0 and 1."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -1.0, 1.0]).view(3, 1, 1, 1))
        model[0].bias.copy_(torch.tensor([0.0, 0.25, -2.0]))
    return model


def test_activations_have_their_true_range_and_dead_channels() -> None:
    model = three_channels().train()
    images = torch.linspace(0, 1, 40 * 6).view(40, 1, 2, 3)
    before = activations(model, images, "0")
    assert (before.minimum, before.maximum) == (-2.0, 1.0)  # although the ReLU behind it works in place
    after = activations(model, images, "1")
    assert after.maps.shape == (40, 3, 2, 3)
    assert (after.minimum, after.maximum) == (0.0, 1.0)
    assert before.dead.tolist() == after.dead.tolist() == [False, False, True]
    assert after.dead_share == pytest.approx(1 / 3)
    torch.testing.assert_close(after.maps[:, :1], images)
    assert model.training
    assert activations(model, images[20:], "1").dead.tolist() == [False, True, True]  # the bright half alone


@pytest.mark.parametrize(("layer", "says"), [("3", "gives out no map"), ("4", "no layer called '4'")])
def test_layers_without_maps(layer: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        activations(three_channels(), torch.zeros(1, 1, 2, 2), layer)


def test_the_patches_that_excite_a_channel_most() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(36, 2)
    )
    images = torch.randn(40, 1, 10, 10)
    found = strongest_patches(model, images, "2", 3)
    maps = model[:3](images).detach()[:, 3]
    assert [p.value for p in found] == pytest.approx(sorted(maps.amax(dim=(1, 2)).tolist(), reverse=True)[:9])
    for one in found:
        row, column = one.position
        assert float(maps[one.image, row, column]) == pytest.approx(one.value)
        rows, columns = patch(model, (1, 10, 10), "2", one.position)
        assert one.box == tuple((max(first, 0), min(last, 9)) for first, last in (rows, columns))
        other = images[one.image : one.image + 1].clone() * 0
        (top, bottom), (left, right) = one.box
        inside = (0, 0, slice(top, bottom + 1), slice(left, right + 1))
        other[inside] = images[(one.image, *inside[1:])]
        assert float(model[:3](other)[0, 3, row, column].detach()) == pytest.approx(one.value, abs=1e-6)
    assert len(strongest_patches(model, images[:2], "2", 0)) == 2
    with pytest.raises(UsageError, match=r"channels 0\.\.3, not 4"):
        strongest_patches(model, images, "2", 4)
    with pytest.raises(UsageError, match="gives out no map"):
        strongest_patches(model, images, "3", 0)


@pytest.mark.parametrize("name", ["resnet20", "simple-cnn", "torchvision/squeezenet1_0", "mobilenet_v2"])
def test_last_features_make_the_logits(name: str) -> None:
    torch.manual_seed(0)
    side = 32 if name in ("resnet20", "simple-cnn") else 64
    model = build(name, classes=3, size=(side, side))
    images = torch.randn(34, 3, side, side)[:: 33 if side == 64 else 1]
    features = last_features(model, images)
    final = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    logits = model.eval()(images).detach()
    if isinstance(final, nn.Linear):
        torch.testing.assert_close(F.linear(features, final.weight, final.bias).detach(), logits, rtol=1e-4, atol=1e-5)
    else:  # squeezenet's ReLU lies between the convolution and the mean
        assert features.shape == (2, 512)
    with pytest.raises(UsageError, match="has no last features"):
        last_features(nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), images)


def test_the_most_alike_are_those_of_the_smallest_angle() -> None:
    torch.manual_seed(0)
    features, among = torch.randn(5, 7), torch.randn(20, 7)
    which, cosines = most_alike(features, among, 4)
    expected = torch.stack([F.cosine_similarity(one[None], among) for one in features])
    torch.testing.assert_close(cosines, expected.sort(dim=1, descending=True).values[:, :4])
    torch.testing.assert_close(expected.gather(1, which), cosines)
    assert torch.equal(most_alike(3 * among[6:8], among, 1)[0].flatten(), torch.tensor([6, 7]))
    with pytest.raises(UsageError, match="21 of 20 images"):
        most_alike(features, among, 21)


@settings(deadline=None, max_examples=30)
@given(down=st.integers(-4, 4), right=st.integers(-4, 4), kernel=st.sampled_from([1, 3, 5]), dilation=st.integers(1, 2))
def test_convolution_is_equivariant_away_from_borders(down: int, right: int, kernel: int, dilation: int) -> None:
    """A5: the map of a moved image is the moved map."""
    random = torch.Generator().manual_seed(kernel)
    images = torch.randn(2, 3, 24, 21, generator=random, dtype=torch.float64)
    conv = nn.Conv2d(3, 4, kernel, padding="same", dilation=dilation, padding_mode="zeros").double()
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    torch.testing.assert_close(conv(shifted(images, down, right))[inner], shifted(conv(images), down, right)[inner])


def test_moved_images_are_mirrored_at_the_edge() -> None:
    row = torch.arange(5.0).view(1, 1, 1, 5)
    assert shifted(row, 0, 2).flatten().tolist() == [2, 1, 0, 1, 2]
    assert shifted(row, 0, -2).flatten().tolist() == [2, 3, 4, 3, 2]
    assert shifted(row.mT, 1, 0).flatten().tolist() == [1, 0, 1, 2, 3]


class Column(nn.Module):
    """Answers 0 where pixel (3, 3) is below a half, which shifts move away."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(1, 2)
        with torch.no_grad():
            self.out.weight.copy_(torch.tensor([[0.0], [2.0]]))
            self.out.bias.copy_(torch.tensor([1.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x[:, :, 3, 3])  # type: ignore[no-any-return]


def test_shift_sensitivity_worked_out_by_hand() -> None:
    image = torch.zeros(1, 1, 7, 7)
    image[0, 0, 3, 3], image[0, 0, 3, 4], image[0, 0, 5, 3] = 1.0, 1.0, 0.5
    one, two = shift_sensitivity(Column().eval(), image, 2)
    before, after, half = (torch.tensor([1.0, 2 * x]).softmax(0)[1].item() for x in (1.0, 0.0, 0.5))
    # moved by one pixel, the neighbour (3, 4) comes in from the right, and zeros from the three other sides
    assert (one.pixels, one.changed) == (1, 0.75)
    assert one.probability == pytest.approx(0.75 * (before - after))
    assert one.features == pytest.approx(0.75)
    # by two: a half from below, whose logits are equal, which counts as class 0
    assert two.changed == 1.0
    assert two.probability == pytest.approx((3 * (before - after) + before - half) / 4)
    assert two.features == pytest.approx((3 + 0.5) / 4)


def test_of_a_pooling_network_on_an_even_image_nothing_changes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).train()
    images = torch.rand(33, 3, 1, 1).expand(33, 3, 9, 8)
    for shift in shift_sensitivity(model, images, 3):
        assert (shift.changed, round(shift.probability, 6), round(shift.features, 6)) == (0, 0, 0)
    assert model.training
    with pytest.raises(UsageError, match="9x8 can be moved by less than that, not 8"):
        shift_sensitivity(model, images, 8)


def test_arguments_are_images() -> None:
    for call in (lambda x: activations(three_channels(), x, "1"), lambda x: last_features(Column(), x)):
        function: Any = call
        with pytest.raises(UsageError, match="at least one image"):
            function(torch.zeros(1, 7, 7))
