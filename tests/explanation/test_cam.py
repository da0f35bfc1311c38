"""Class activation maps against the closed forms they have on linear networks, and where they are known to fail."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.explanation.attribution import NEGATIVE
from hubel.explanation.cam import choose_layer, eigen_cam, grad_cam, grad_cam_plus_plus, layer_cam, score_cam
from hubel.nn.zoo import build

from .tiny import OneConv, counting, few, tiny


def gap_net(*, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 5, 3, padding=1),
            norm=nn.BatchNorm2d(5),
            act=nn.ReLU(inplace=inplace),
            gap=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            out=nn.Linear(5, 4),
        )
    )


def zhou(model: Any, images: Tensor, targets: Tensor, size: tuple[int, int]) -> Tensor:
    """The class activation map of Zhou et al. 2016: the last layer's weights times the maps before pooling."""
    maps = F.relu(model.norm(model.conv(images)))
    cam = torch.einsum("nk,nkhw->nhw", model.out.weight[targets], maps).relu()[:, None]
    cam = F.interpolate(cam, size=size, mode="bilinear", align_corners=False)[:, 0].detach()
    return cam / cam.amax(dim=(1, 2), keepdim=True)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_it_equals_the_class_activation_map_of_a_pooling_network(inplace: bool, frozen: bool) -> None:
    model = gap_net(inplace=inplace).eval().requires_grad_(not frozen)
    images, targets = torch.randn(6, 3, 9, 7), torch.tensor([0, 1, 2, 3, 0, 1])
    cam = grad_cam(model, images, targets)
    assert cam.layer == "act"
    torch.testing.assert_close(cam.heatmaps, zhou(model, images, targets, (9, 7)), rtol=1e-4, atol=1e-5)
    assert cam.heatmaps.amax(dim=(1, 2)).tolist() == pytest.approx([1.0] * 6)
    assert not cam.empty.any()


def test_a_hand_worked_map() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[3].weight.copy_(torch.tensor([[2.0], [-2.0]]))
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 1, 2], image[0, 0, 3, 0], image[0, 0, 0, 0] = 4.0, 1.0, -2.0
    cam = grad_cam(model, image)
    expected = torch.zeros(4, 4)
    expected[1, 2], expected[3, 0] = 1.0, 0.25  # weight 2/16 times the map, negatives cut, divided by the largest
    torch.testing.assert_close(cam.heatmaps[0], expected)
    assert cam.targets.tolist() == [0]
    against = grad_cam(model, image, torch.tensor([1]))
    torch.testing.assert_close(against.heatmaps[0], (image[0, 0] < 0).float())


def test_a_map_that_is_negative_everywhere_is_said_to_be_empty() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[4].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    images = torch.arange(1.0, 17).view(1, 1, 4, 4).expand(2, 1, 4, 4)
    cam = grad_cam(model, images, torch.tensor([0, 1]))
    assert cam.empty.tolist() == [False, True]
    assert cam.notes == ("", NEGATIVE)
    torch.testing.assert_close(cam.heatmaps, torch.stack([images[0, 0] / 16, torch.zeros(4, 4)]))
    torch.testing.assert_close(cam.maps, torch.stack([images[0, 0], -images[0, 0]]) / 16)


def test_a_backbone_run_without_gradients_is_still_explained() -> None:
    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = gap_net()
            self.backbone, self.head = whole[:3], whole[3:]

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.backbone(x)
            return self.head(x)  # type: ignore[no-any-return]

    images, targets = torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2])
    cam = grad_cam(Headed().eval(), images, targets)
    assert cam.layer == "backbone"
    torch.testing.assert_close(cam.heatmaps, zhou(gap_net().eval(), images, targets, (8, 8)), rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="choose a later layer"):
        grad_cam(Headed(), images, targets, layer="backbone.conv")


@pytest.mark.parametrize(
    ("name", "side", "layer", "shape"),
    [
        ("resnet18", 160, "layer4", "512 maps of 5x5"),
        ("resnet18", 64, "layer3", "256 maps of 4x4"),
        ("resnet20", 32, "layer3", "64 maps of 8x8"),
        ("simple-cnn", 32, "block3.act", "128 maps of 8x8"),
        ("lenet5", 32, "act2", "16 maps of 10x10"),
        ("torchvision/vgg11_bn", 64, "features.27", "512 maps of 4x4"),
        ("torchvision/resnet18", 160, "layer4", "512 maps of 5x5"),
        ("mobilenet_v3_small", 128, "features", "576 maps of 4x4"),
        ("densenet121", 128, "features", "1024 maps of 4x4"),
        ("swin_t", 128, "permute", "768 maps of 4x4"),
    ],
)
def test_the_automatic_layer_and_its_reason(name: str, side: int, layer: str, shape: str) -> None:
    torch.manual_seed(0)
    model = build(name, classes=3, size=(side, side))
    cam = grad_cam(model, torch.randn(2, 3, side, side))
    assert cam.layer == layer
    assert shape in cam.reason
    assert cam.heatmaps.shape == (2, side, side)
    assert cam.heatmaps.dtype == torch.float32
    assert torch.isfinite(cam.heatmaps).all()
    assert cam.heatmaps.min() >= 0


def test_small_maps_are_called_coarse() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.Flatten(), nn.Linear(18, 2))
    name, reason = choose_layer(model, torch.randn(1, 1, 7, 8))
    assert name == "0"
    assert "coarse" in reason


def test_a_module_that_runs_twice_counts_where_it_ran_last() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3)
            self.relu, self.out = nn.ReLU(inplace=True), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.second(self.relu(self.first(x))))
            return self.out(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Shared().eval()
    images, targets = torch.randn(2, 1, 9, 9), torch.tensor([0, 1])
    cam = grad_cam(model, images, targets)
    assert (cam.layer, cam.reason[:24]) == ("relu", "it gives out 2 maps of 5")
    maps = model.second(model.first(images).relu()).relu()
    expected = torch.einsum("nk,nkhw->nhw", model.out.weight[targets], maps).relu()
    assert torch.equal(cam.empty, expected.amax(dim=(1, 2)) == 0)
    expected = F.interpolate(expected[:, None], size=(9, 9), mode="bilinear")[:, 0].detach()
    peak = expected.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    torch.testing.assert_close(cam.heatmaps, expected / peak, rtol=1e-4, atol=1e-5)


def test_torchvision_layers_can_be_asked_for() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4).eval()
    images = torch.randn(2, 3, 64, 64)
    cam = grad_cam(model, images, torch.tensor([1, 3]), layer="layer2.1.relu")
    other = grad_cam(model, images, torch.tensor([1, 3]), layer="layer2")
    torch.testing.assert_close(cam.heatmaps, other.heatmaps)
    assert cam.reason == "it was asked for"


def parts_of_tiny(targets: Tensor) -> tuple[nn.Sequential, Tensor, Tensor]:
    """The head of `tiny` as a function of its last maps, these, and the gradients of the targets' logits there."""
    model = tiny()
    maps = model[:4](few()).detach()
    return model[4:], maps, model[5].weight[targets].view_as(maps).detach()


def test_grad_cam_plus_plus_is_made_of_the_derivatives_of_an_exponential() -> None:
    """Chattopadhay et al. 2018, equations 10 and 15, with derivatives of exp(S) along each number of the maps."""

    targets = torch.tensor([0, 1, 2])
    head, maps, gradients = parts_of_tiny(targets)
    expected = torch.zeros(3, 4, 3, dtype=torch.float64)
    for n in range(3):
        for k in range(4):
            weight = 0.0
            for place in range(12):
                step = torch.zeros((), dtype=torch.float64, requires_grad=True)
                along = torch.zeros(48, dtype=torch.float64)
                along[k * 12 + place] = 1
                derivatives = [head((maps[n].flatten() + step * along).view(1, 4, 4, 3))[0, targets[n]].exp()]
                for _ in range(3):
                    derivatives.append(torch.autograd.grad(derivatives[-1], step, create_graph=True)[0])
                second, third = derivatives[2].item(), derivatives[3].item()
                share = second / (2 * second + maps[n, k].sum().item() * third)
                weight += share * max(gradients[n, k].flatten()[place].item(), 0.0)
            expected[n] += weight * maps[n, k]
    found = grad_cam_plus_plus(tiny(), few(), targets, layer="3", epsilon=0.0)
    torch.testing.assert_close(found.maps, expected.float())


def test_layer_cam_weights_each_position() -> None:
    targets = torch.tensor([2, 0, 1])
    _, maps, gradients = parts_of_tiny(targets)
    torch.testing.assert_close(
        layer_cam(tiny(), few(), targets, layer="3").maps, (gradients.relu() * maps).sum(dim=1).float()
    )


def test_eigen_cam_is_the_first_principal_component_whatever_the_class() -> None:
    found = eigen_cam(tiny(), few(), torch.tensor([2, 0, 1]), layer="3")
    for one, maps in zip(found.maps, tiny()[:4](few()).detach(), strict=True):
        places = maps.flatten(1).T.numpy()
        centred = places - places.mean(axis=0)
        expected = torch.from_numpy(centred @ np.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]).float()
        mean = torch.from_numpy(centred.mean(axis=1)).float()
        torch.testing.assert_close(one.flatten(), expected * torch.sign(expected @ mean), rtol=1e-4, atol=1e-5)
    again = eigen_cam(tiny(), few(), torch.tensor([0, 1, 2]), layer="3")
    assert torch.equal(again.maps, found.maps)


def test_score_cam_asks_what_each_map_shows() -> None:
    targets = torch.tensor([2, 0, 1])
    model, images = tiny(), few()
    expected = []
    for image, maps, target in zip(images, model[:4](images).detach(), targets, strict=True):
        logits = []
        for one in maps:
            mask = F.interpolate(one[None, None], size=(6, 5), mode="bilinear", align_corners=True)
            mask = (mask - mask.min()) / (mask.max() - mask.min()) if mask.max() > mask.min() else mask * 0
            logits.append(model(image * mask)[0, target])
        expected.append((torch.stack(logits).softmax(0)[:, None, None] * maps).sum(dim=0))
    torch.testing.assert_close(
        score_cam(model, images, targets, layer="3").maps, torch.stack(expected).detach().float()
    )


def test_score_cam_runs_in_batches() -> None:
    seen: list[int] = []
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 70, 3), nn.ReLU(), nn.Flatten(), nn.Linear(70 * 16, 2))
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    score_cam(model, torch.randn(2, 1, 6, 6), layer="1")
    assert seen == [2, *[32, 32, 6] * 2]


def test_captums_example() -> None:
    """The numbers of the tests of Captum's LayerGradCam."""
    at = {name: grad_cam(OneConv(), counting(), torch.tensor([0]), layer=name).maps for name in ("conv1", "relu1")}
    assert at["conv1"].tolist() == [[[11.25, 13.5], [20.25, 22.5]]]
    assert at["relu1"].tolist() == [[[0.0, 4.0], [28.0, 32.5]]]


@pytest.mark.parametrize("method", [grad_cam, score_cam])
def test_maps_with_their_channels_last_are_read_so(method: Any) -> None:
    """A Swin transformer's norm gives out (N, h, w, K), and the permute behind it the same numbers as (N, K, h, w)."""
    torch.manual_seed(0)
    model = torchvision.models.swin_transformer.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=3)
    images, targets = torch.randn(2, 3, 64, 64), torch.tensor([0, 2])
    last, first = (method(model, images, targets, layer=name) for name in ("norm", "permute"))
    assert last.maps.shape == (2, 8, 8)
    torch.testing.assert_close(last.maps, first.maps)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"layer": "norm1"}, "did you mean norm"),
        ({"layer": "out"}, "gives out no map"),
        ({"targets": torch.tensor([0, 4])}, r"0\.\.3"),
        ({"targets": torch.tensor([0])}, "one target for each of 2"),
    ],
)
def test_refusals(arguments: dict[str, Any], says: str) -> None:
    model = gap_net()
    with pytest.raises(UsageError, match=says):
        grad_cam(model, torch.randn(2, 3, 8, 8), **arguments)
    assert not any(m._forward_hooks for m in model.modules())


def test_models_without_maps_are_refused() -> None:
    with pytest.raises(UsageError, match="no layer of this model"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), torch.randn(1, 1, 4, 4))
    with pytest.raises(UsageError, match="at least one image"):
        grad_cam(gap_net(), torch.randn(3, 8, 8))
