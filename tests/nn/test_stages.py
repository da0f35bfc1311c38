"""Stages and heads of networks of every kind, and features that make the logits again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.nn.stages import answer_from_features, features_are_enough, features_of, find_stages, set_trainable
from hubel.nn.zoo import build, outline


@pytest.mark.parametrize(
    ("name", "count", "head", "last"),
    [
        ("resnet18", 6, "fc", "layer4"),
        ("resnet20", 4, "linear", "layer3"),
        ("torchvision/squeezenet1_0", 5, "classifier", "features.12"),
        ("torchvision/mobilenet_v2", 6, "classifier", "features.18"),
        ("torchvision/mobilenet_v3_small", 6, "classifier", "features.12"),
        ("torchvision/convnext_tiny", 5, "classifier", "features.7"),
        ("torchvision/densenet121", 6, "classifier", "features.norm5"),
        ("torchvision/vgg11_bn", 6, "classifier", "features.26"),
        ("torchvision/regnet_y_400mf", 6, "fc", "trunk_output.block4"),
        ("torchvision/shufflenet_v2_x0_5", 5, "fc", "conv5"),
    ],
)
def test_stages_are_found(name: str, count: int, head: str, last: str) -> None:
    stages = find_stages(outline(name, classes=9, size=(224, 224)), (3, 224, 224))
    assert len(stages.groups) == count
    assert stages.head == head
    assert stages.groups[-1] == (head,)
    assert stages.groups[-2][-1] == last
    assert stages.final.startswith(head)


@pytest.mark.parametrize("name", ["resnet20", "torchvision/squeezenet1_1", "simple-cnn", "lenet5", "quick"])
def test_every_parameter_is_in_one_stage(name: str) -> None:
    model = build(name, classes=4, size=(32, 32))
    groups = find_stages(model, (3, 32, 32)).groups
    for key, _ in model.named_parameters():
        assert sum(key.startswith(unit + ".") for group in groups for unit in group) == 1, key


@pytest.mark.parametrize("name", ["resnet20", "torchvision/squeezenet1_1", "torchvision/mobilenet_v3_small"])
def test_features_make_the_logits_again(name: str) -> None:
    torch.manual_seed(0)
    model = build(name, classes=4, size=(64, 64)).eval()
    head = find_stages(model, (3, 64, 64)).head
    x = torch.randn(3, 3, 64, 64)
    assert features_are_enough(model, head, x)
    with torch.no_grad():
        torch.testing.assert_close(answer_from_features(model, head, features_of(model, head, x)), model(x))


class Doubled(nn.Module):
    """Adds something after its head, so that features are not enough."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.conv(x).mean((2, 3)))
        return y + x.mean((1, 2, 3))[:, None]


def test_features_that_are_not_enough_are_told() -> None:
    torch.manual_seed(0)
    model = Doubled()
    assert find_stages(model, (3, 8, 8)).groups == (("conv",), ("fc",))
    assert not features_are_enough(model, "fc", torch.randn(2, 3, 8, 8))


def test_a_network_without_a_head_is_refused() -> None:
    with pytest.raises(UsageError, match="its head can't be told"):
        find_stages(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (3, 8, 8))


def test_what_is_frozen_gets_no_gradient_and_keeps_its_statistics() -> None:
    torch.manual_seed(0)
    model = build("resnet20", classes=3)
    stages = find_stages(model, (3, 32, 32))
    set_trainable(model, stages, 1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.randn(8, 3, 32, 32) * 5).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == key.startswith(("layer3.", "linear.")), key
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith("layer3.") for key in changed)
    set_trainable(model, stages, None)
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())
