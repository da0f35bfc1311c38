"""Receptive fields by arithmetic against the published figures, and against what gradients reach."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from geometry.positive_twin import gradient_support
from hubel.errors import UsageError
from hubel.geometry.effective import effective_field, patch
from hubel.geometry.trace import follow

# Field, stride and padding of the last map, from the table of known figures; None where it has only the field.
KNOWN = {
    "vgg16": (212, 32, 90),
    "resnet18": (435, None, None),
    "resnet34": (899, None, None),
    "resnet50": (427, 32, 213),
    "resnet101": (971, None, None),
    "resnet152": (1451, None, None),
    "mobilenet_v2": (491, None, None),
    "densenet121": (2071, None, None),
    "inception_v3": (1311, 32, 618),
    "alexnet": (195, 32, 66),
}


def torchvision_model(name: str, device: str = "meta") -> nn.Module:
    torch.manual_seed(0)
    arguments = {"init_weights": False} if name == "inception_v3" else {}
    with torch.device(device):
        model: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
    return model


@pytest.mark.parametrize("name", KNOWN)
def test_published_networks(name: str) -> None:
    trace = follow(torchvision_model(name), (3, 299, 299))
    index = trace.last_map()
    assert index is not None
    found = trace.rows[index].field
    assert found is not None
    size, stride, padding = KNOWN[name]
    assert found.size == (size, size)
    assert found.steps == (stride, stride) or stride is None
    assert found.padding == (padding, padding) or padding is None


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_stacked_3x3_see_2_layers_plus_1(layers: int) -> None:
    model = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(layers)))
    (top, bottom), (left, right) = patch(model, (1, 9, 9))
    assert (bottom - top + 1, right - left + 1) == (2 * layers + 1, 2 * layers + 1)


class Net(nn.Module):
    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.how = forward
        self.a, self.b, self.c = (nn.Conv2d(2, 2, 3, padding=1) for _ in range(3))
        self.stride = nn.Conv2d(2, 2, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(2, 2, (1, 7), padding=(0, 3))
        self.dilated = nn.Conv2d(2, 2, 3, padding=(2, 4), dilation=(2, 4))
        self.uneven = nn.Conv2d(2, 2, (2, 3), stride=(2, 3))
        self.up = nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1)
        self.gaps = nn.ConvTranspose2d(2, 2, 2, stride=3)
        self.point = nn.Conv2d(8, 2, 1)
        self.dense = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.out = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.how(self, x))  # type: ignore[no-any-return]


def _focus(x: Tensor) -> Tensor:
    return torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)


def _to_depth(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, c * 4, h // 2, w // 2)


def _shuffled(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def _windows(net: Any, x: Tensor) -> Tensor:
    """Cut into windows of 5×5 that become a batch, as in Swin, and put together again."""
    n, c, h, w = x.shape
    cut = net.a(x).view(n, c, h // 5, 5, w // 5, 5).permute(0, 2, 4, 3, 5, 1).reshape(-1, 25, c)
    whole = net.dense(cut).view(n, h // 5, w // 5, 5, 5, c).permute(0, 5, 1, 3, 2, 4)
    return net.b(whole.reshape(n, c, h, w))  # type: ignore[no-any-return]


def _tokens(net: Any, x: Tensor) -> Tensor:
    h, w = x.shape[-2:]
    t = net.dense(net.norm(x.flatten(2).transpose(1, 2)))
    return t.transpose(1, 2).unflatten(2, (h, w))  # type: ignore[no-any-return]


FORWARDS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "branches of different length": lambda n, x: n.a(x) + n.b(n.c(x)) + x,
    "branches of different stride": lambda n, x: n.stride(n.a(x)) + F.avg_pool2d(n.b(x), 2),
    "concatenation": lambda n, x: torch.cat((n.wide(x), n.dilated(x)), 1),
    "stacking": lambda n, x: torch.stack((n.wide(x), n.dilated(x)), 1).flatten(1, 2),
    "dilation": lambda n, x: n.dilated(n.stride(x)),
    "uneven kernel and stride": lambda n, x: n.uneven(n.wide(x)),
    "shifted branch": lambda n, x: n.a(x)[:, :, 2:, 2:] + x[:, :, :-2, :-2],
    "every second row": lambda n, x: n.a(n.b(x)[:, :, ::2, 1::2]),
    "padding on one side": lambda n, x: n.stride(F.pad(n.a(x), (0, 3, 2, 0))),
    "cropping by negative padding": lambda n, x: F.pad(n.stride(x), (-1, 0, -2, -1)),
    "transposed convolution": lambda n, x: n.up(n.stride(n.stride(x))),
    "transposed convolution with gaps": lambda n, x: n.a(n.gaps(n.stride(x))),
    "nearest upsampling": lambda n, x: n.a(F.interpolate(n.stride(n.a(x)), scale_factor=2)) + x,
    "nearest upsampling by 3/2": lambda n, x: F.interpolate(n.stride(x), size=(12, 15)),
    "bilinear upsampling": lambda n, x: F.interpolate(n.stride(x), scale_factor=2, mode="bilinear"),
    "bilinear, corners aligned": lambda n, x: F.interpolate(n.a(x), (7, 9), mode="bilinear", align_corners=True),
    "bicubic upsampling": lambda n, x: F.interpolate(n.stride(x), scale_factor=2, mode="bicubic"),
    "adaptive pooling": lambda n, x: F.adaptive_avg_pool2d(n.a(x), (5, 7)),
    "adaptive maximum": lambda n, x: F.adaptive_max_pool2d(n.a(x), (8, 3)),
    "ceil mode": lambda n, x: F.max_pool2d(n.a(x), 3, 2, ceil_mode=True),
    "dilated pooling": lambda n, x: F.max_pool2d(n.a(x), 2, 2, 1, 3),
    "channels last and back": lambda n, x: n.dense(n.norm(n.a(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
    "height and width exchanged": lambda n, x: n.wide(n.a(x).transpose(2, 3)),
    "channel shuffle": lambda n, x: n.b(_shuffled(n.a(x))),
    "space to depth by slices": lambda n, x: n.point(_focus(n.a(x))),
    "space to depth by views": lambda n, x: n.point(_to_depth(n.a(x))),
    "pixel unshuffle": lambda n, x: n.point(F.pixel_unshuffle(n.a(x), 2)),
    "pixel shuffle": lambda n, x: F.pixel_shuffle(torch.cat([n.stride(x)] * 4, 1), 2),
    "tokens and back": lambda n, x: n.a(_tokens(n, n.stride(x))),
    "windows cut and put back": _windows,
    "halves swapped": lambda n, x: n.a(torch.cat((x[:, :, 10:], x[:, :, :10]), 2)),
    "mirrored": lambda n, x: n.stride(n.a(x).flip(2, 3)),
    "rolled": lambda n, x: n.a(x).roll((3, -2), (2, 3)),
    "patches by unfolding": lambda n, x: F.unfold(n.a(x), (4, 5), stride=(4, 5)).unflatten(2, (5, 4)),
    "windows by unfolding": lambda n, x: n.a(x).unfold(2, 3, 2).unfold(3, 2, 1).sum((4, 5)),
    "groups of channels": lambda n, x: torch.cat([n.a(x).chunk(2, 1)[0], x.split(1, 1)[1]], 1),
    "mean over channels": lambda n, x: n.a(x) * n.wide(x).mean(1, keepdim=True),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_arithmetic_equals_the_support_of_gradients(name: str) -> None:
    model = Net(FORWARDS[name])
    size = (2, 20, 20)
    height, width = model(torch.zeros(1, *size)).shape[-2:]
    if name == "height and width exchanged":
        height, width = width, height
    for position in ((height // 2, width // 2), (height // 3, width // 2)):
        expected = patch(model, size, "out", position)
        if all(low <= high for low, high in expected):  # else a gap between transposed windows, which sees nothing
            assert gradient_support(model, size, "out", position) == clipped(expected)
    with contextlib.suppress(ValueError):  # a corner may see padding alone, which arithmetic counts and gradients don't
        support = gradient_support(model, size, "out", (0, 0))
        for (top, bottom), (low, high) in zip(support, clipped(patch(model, size, "out", (0, 0))), strict=True):
            assert low <= top <= bottom <= high


def clipped(box: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    return tuple((max(low, 0), min(high, 19)) for low, high in box)


@pytest.mark.parametrize(
    ("name", "long"), [("resnet18", 480), ("vgg16", 256), ("mobilenet_v2", 544), ("squeezenet1_1", 240)]
)
def test_whole_networks_equal_the_support_of_gradients(name: str, long: int) -> None:
    model = torchvision_model(name)
    for size, axis in (((3, long, 32), 0), ((3, 32, long), 1)):
        expected = patch(model, size)[axis]
        assert 0 <= expected[0] <= expected[1] < long  # the image is large enough to show all of it
        assert gradient_support(model, size)[axis] == expected


def test_squeeze_and_excitation_sees_all_beside_its_local_field() -> None:
    trace = follow(torchvision_model("mobilenet_v3_small"), (3, 224, 224))
    by_name = {row.name: row.field for row in trace.rows}
    gated = by_name["features.1.block.1.mul"]
    assert gated is not None
    assert (gated.size, gated.sees_all) == ((7, 7), True)
    before = by_name["features.1.block.0.2"]
    assert before is not None
    assert not before.sees_all


@pytest.mark.parametrize("expanded", [False, True])
def test_gates_written_by_hand(expanded: bool) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        gate = torch.sigmoid(net.a(x).mean((2, 3), keepdim=True))
        return net.b(x) * (gate.expand(1, 2, 20, 20) if expanded else gate)  # type: ignore[no-any-return]

    field = follow(Net(forward), (2, 20, 20)).modules["out"]
    assert (field.size, field.sees_all) == ((3, 3), True)


def test_gates_of_whole_rows_and_columns_see_beyond_the_local_field() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.a(x) * net.b(x).mean(3, keepdim=True) * net.b(x).mean(2, keepdim=True)  # type: ignore[no-any-return]

    field = follow(Net(forward), (2, 20, 20)).modules["out"]
    assert (field.size, field.sees_all) == ((3, 3), True)


def test_windows_over_rows_behind_one_another_are_not_guessed() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(2), nn.Conv1d(2, 2, 3))
    assert follow(model, (2, 8, 8)).modules["2"].kind == "whole"


def test_statistics_of_a_map_see_all_of_it() -> None:
    for norm, sees_all in ((nn.GroupNorm(1, 2), True), (nn.InstanceNorm2d(2), True), (nn.BatchNorm2d(2), False)):
        field = follow(nn.Sequential(nn.Conv2d(2, 2, 3), norm), (2, 8, 8)).modules["1"]
        assert (field.size, field.sees_all) == ((3, 3), sees_all)


@pytest.mark.parametrize("name", ["vit_b_32", "swin_t"])
def test_attention_sees_the_whole_image(name: str) -> None:
    trace = follow(torchvision_model(name), (3, 224, 224))
    assert trace.last_map() is None
    assert trace.rows[0].field is not None
    assert trace.rows[0].field.kind == "local"


def test_global_pooling_written_as_a_window() -> None:
    for pool in (nn.AvgPool2d(8), nn.MaxPool2d(8)):
        trace = follow(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), pool, nn.Flatten(), nn.Linear(4, 2)), (1, 8, 8))
        assert trace.last_map() == 0


@pytest.mark.parametrize(("count", "kernel"), [(1, 3), (4, 3), (10, 3), (3, 5), (2, 7)])
def test_variance_of_stacked_uniform_convolutions(count: int, kernel: int) -> None:
    model = nn.Sequential(*(nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False) for _ in range(count)))
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1 / kernel**2)
    found = effective_field(model, (1, 41, 41), samples=2)
    expected = count * (kernel**2 - 1) / 12
    assert found.variance == pytest.approx((expected, expected), rel=1e-4)
    assert found.centre == pytest.approx((20, 20), abs=1e-3)
    assert found.deviation[0] == pytest.approx(expected**0.5, rel=1e-4)
    assert found.field == (1 + count * (kernel - 1),) * 2
    assert float(found.density.sum()) == pytest.approx(1)


def test_the_effective_field_is_smaller_and_inside_the_theoretical_one() -> None:
    model = torchvision_model("mobilenet_v3_small", "cpu").train()
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    found = effective_field(model, images, layer="features.3")
    (top, bottom), (left, right) = patch(model, (3, 96, 96), "features.3")
    sides = (bottom - top + 1, right - left + 1)
    assert found.field == sides
    assert 0 < found.radius < sides[0] / 2
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_radius_of_many_stacked_convolutions_is_that_of_a_gaussian() -> None:
    model = nn.Sequential(*(nn.Conv2d(1, 1, 5, padding=2, bias=False) for _ in range(8)))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    found = effective_field(model, (1, 61, 61), samples=1)
    assert found.radius == pytest.approx(found.deviation[0] * (2 * math.log(20)) ** 0.5, rel=0.03)


def test_refusals() -> None:
    model = torchvision_model("squeezenet1_1", "cpu")
    for call in (patch, effective_field):
        with pytest.raises(UsageError, match="no layer called 'features.99'"):
            call(model, (3, 64, 64), layer="features.99")
        with pytest.raises(UsageError, match="gives out no map"):
            call(nn.Sequential(nn.Conv2d(3, 1, 3), nn.AdaptiveAvgPool2d(1)), (3, 64, 64), layer="1")
        with pytest.raises(UsageError, match="can't take an image of 1×64×64"):
            call(model, (1, 64, 64))
    with pytest.raises(UsageError, match="outside of the map of 64×64"):
        patch(nn.Sequential(nn.Conv2d(3, 1, 1)), (3, 64, 64), position=(64, 0))
    dead = nn.Conv2d(3, 1, 1)
    nn.init.zeros_(dead.weight)
    with pytest.raises(UsageError, match="no gradient comes back"):
        effective_field(nn.Sequential(dead), (3, 8, 8))
