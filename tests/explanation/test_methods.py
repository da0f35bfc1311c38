"""What all methods keep to: one contract, the model left as it was, one sentence for what can't be explained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.explanation.attribution import CONSTANT, NEGATIVE, NOT_FINITE, finished
from hubel.explanation.methods import METHODS, attribute
from hubel.nn.zoo import build

from .tiny import few, tiny

CAMS = ("gradcam", "gradcam++", "layercam", "scorecam", "eigencam")
PIXELS = tuple(name for name in METHODS if name not in CAMS)


class Own(nn.Module):
    """A network as users write them: in-place and functional activations, norms, a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3)
        self.act, self.out = nn.ReLU(inplace=True), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(x)), inplace=True)
        x = F.max_pool2d(self.act(self.second(x)), 2)
        return self.out(F.dropout(x.mean(dim=(2, 3)), training=self.training))  # type: ignore[no-any-return]


def own() -> Own:
    torch.manual_seed(0)
    model = Own()
    model.norm.running_mean.uniform_(-1, 1)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_the_contract(method: str) -> None:
    model, images = own(), torch.randn(3, 3, 14, 12)
    found = attribute(model, images, torch.tensor([3, 0, 1]), method=method)
    assert (found.method, found.layer) == (method, "act" if method in CAMS else "")
    assert bool(found.reason) == (method in CAMS)
    assert found.maps.shape == ((3, 12, 10) if method in CAMS else (3, 14, 12))
    assert found.heatmaps.shape == (3, 14, 12)
    assert found.maps.dtype == found.heatmaps.dtype == torch.float32
    assert found.targets.tolist() == [3, 0, 1]
    assert found.heatmaps.min() >= 0
    shown = found.heatmaps[~found.empty]
    assert shown.amax(dim=(1, 2)).tolist() == pytest.approx([1.0] * len(shown))
    assert not found.heatmaps[found.empty].any()
    assert [bool(note) for note in found.notes] == found.empty.tolist()
    if method in PIXELS:
        positive = found.maps.relu()
        torch.testing.assert_close(found.heatmaps, positive / positive.amax(dim=(1, 2), keepdim=True))


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was_and_may_be_frozen(method: str) -> None:
    model, images = own().train(), torch.randn(2, 3, 14, 12)
    model.norm.eval()
    model.first.requires_grad_(False)
    model.out.weight.grad = torch.ones(4, 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = attribute(model, images, method=method)
    assert [m.training for m in model.children()] == [True, False, True, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False] * 2 + [True] * 6
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["out.weight"]
    assert model.out.weight.grad.eq(1).all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    torch.testing.assert_close(attribute(model.requires_grad_(False), images, method=method).maps, found.maps)


@pytest.mark.parametrize("method", METHODS)
def test_it_works_inside_no_grad_and_inference_mode(method: str) -> None:
    model, images = own(), torch.randn(2, 3, 14, 12)
    expected = attribute(model, images, method=method).maps
    with torch.no_grad():
        torch.testing.assert_close(attribute(model, images, method=method).maps, expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        torch.testing.assert_close(attribute(model, images * 1, method=method).maps, expected)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_is_explained_alike_alone_and_among_others(method: str) -> None:
    model, images, targets = own(), torch.randn(3, 3, 14, 12), torch.tensor([1, 1, 2])
    together = attribute(model, images, targets, method=method).maps
    for n in range(3):
        alone = attribute(model, images[n : n + 1], targets[n : n + 1], method=method).maps
        torch.testing.assert_close(alone[0], together[n], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_predicted_classes_are_explained_by_default(method: str) -> None:
    model, images = tiny(), few()
    predicted = model(images).argmax(dim=1)
    found, asked = attribute(model, images, method=method), attribute(model, images, predicted, method=method)
    assert torch.equal(found.targets, predicted)
    torch.testing.assert_close(found.maps, asked.maps)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("targets", "says"),
    [(torch.tensor([0, 4]), r"0\.\.3, got 0\.\.4"), (torch.tensor([0]), "one target for each of 2")],
)
def test_impossible_targets(method: str, targets: Tensor, says: str) -> None:
    model = own()
    with pytest.raises(UsageError, match=says):
        attribute(model, torch.randn(2, 3, 14, 12), targets, method=method)
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_impossible_images_and_answers(method: str) -> None:
    with pytest.raises(UsageError, match="at least one image"):
        attribute(own(), torch.randn(3, 14, 12), method=method)
    with pytest.raises(UsageError, match="at least one image"):
        attribute(own(), torch.randn(0, 3, 14, 12), method=method)
    with pytest.raises(UsageError, match="as floats .* got torch.uint8"):
        attribute(own(), torch.zeros(1, 3, 14, 12, dtype=torch.uint8), method=method)
    with pytest.raises(UsageError, match=r"returns logits \(N, K\), this one returned \(2, 5, 7, 7\)"):
        attribute(
            nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.MaxPool2d(2)), torch.randn(2, 3, 14, 14), method=method
        )


@pytest.mark.parametrize("method", PIXELS)
def test_pixel_methods_take_no_layer(method: str) -> None:
    with pytest.raises(UsageError, match="takes no layer"):
        attribute(own(), torch.randn(1, 3, 14, 12), method=method, layer="act")


@pytest.mark.parametrize("method", CAMS)
@pytest.mark.parametrize(("layer", "says"), [("ack", "did you mean act"), ("out", "gives out no map")])
def test_unsuitable_layers(method: str, layer: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        attribute(own(), torch.randn(1, 3, 14, 12), method=method, layer=layer)


def test_unknown_methods() -> None:
    with pytest.raises(UsageError, match="no explanation method called 'grad-cam': choose of gradcam, gradcam"):
        attribute(own(), torch.randn(1, 3, 14, 12), method="grad-cam")


def test_what_shows_nothing_is_said_and_not_stretched() -> None:
    maps = torch.tensor([[1.0, 2.0], [-2.0, -1.0], [3.0, 3.0], [0.0, 0.0], [-1.0, -1.0], [1.0, torch.nan]])[:, None]
    maps = torch.cat([maps, torch.tensor([[[1e-3, 1e-3 + 1e-9]], [[-1.0, 1e-4]], [[1.0, torch.inf]]])])
    found = finished(maps, torch.zeros(9, 1, 4, 8), torch.zeros(9), "gradcam")
    assert found.notes == ("", NEGATIVE, CONSTANT, CONSTANT, CONSTANT, NOT_FINITE, CONSTANT, "", NOT_FINITE)
    assert found.heatmaps.isfinite().all()
    assert found.heatmaps.amax(dim=(1, 2)).tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 0]
    torch.testing.assert_close(found.maps, maps, equal_nan=True)


@pytest.mark.parametrize("method", ["gradcam", "integrated-gradients"])
def test_a_network_that_is_wrapped_is_explained_like_the_one_inside(method: str) -> None:
    model, images = own(), torch.randn(2, 3, 14, 12)
    wrapped = attribute(nn.DataParallel(model), images, method=method)
    inside = attribute(model, images, method=method)
    assert wrapped.layer == inside.layer
    torch.testing.assert_close(wrapped.maps, inside.maps)


@pytest.mark.parametrize("name", ["resnet20", "torchvision/efficientnet_b0", "timm/mobilenetv3_small_050"])
@pytest.mark.parametrize("method", ["gradcam++", "eigencam", "saliency"])
def test_networks_of_all_makers(name: str, method: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    side = 32 if name == "resnet20" else 64
    model = build(name, classes=3, size=(side, side))
    found: Any = attribute(model, torch.randn(1, 3, side, side), method=method)
    assert found.maps.isfinite().all()
    assert found.heatmaps.shape == (1, side, side)
