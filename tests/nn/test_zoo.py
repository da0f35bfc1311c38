"""One contract for every network of the zoo, and torchvision's through the same door."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from hubel.errors import UsageError
from hubel.nn.config import Defaults
from hubel.nn.resnet import cifar_resnet
from hubel.nn.zoo import NETWORKS, Prepared, arguments_for, build, check_arguments, defaults_of, native, outline
from repetitions import without_repetitions

# One network a family is run with numbers; the deeper ones of a family are the same code, and are run on shapes alone.
RUN = [
    "quick",
    "speed",
    "simple-cnn",
    "simple-cnn-gap",
    "two-block",
    "lenet5",
    "vgg11_bn",
    "resnet18",
    "resnet50",
    "resnet20",
    "plain20",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "efficientnet_lite0",
    "convnext_tiny",
]
WITHOUT_REPETITIONS = without_repetitions(NETWORKS)
SIZES: dict[str, tuple[int, int]] = {"two-block": (28, 28), "simple-cnn-gap": (64, 48)}


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_contract_shapes(name: str) -> None:
    """Two sizes, one to three channels, any number of classes; one size where a network has only more of the same."""
    channels, height, width = native(name)
    for size in ((height, width), (height + 32, width + 64))[: 1 + (name in WITHOUT_REPETITIONS)]:
        model = outline(name, classes=7, channels=channels, size=size).eval()
        assert model(torch.empty(2, channels, *size, device="meta")).shape == (2, 7)
    assert outline(name, classes=3, channels=4 - channels, size=(height, width)) is not None


@pytest.mark.parametrize("name", RUN)
def test_contract_training(name: str) -> None:
    """With one channel; three are trained where gradients and options are compared."""
    torch.manual_seed(0)
    size = SIZES.get(name, (32, 32))
    model = build(name, classes=5, channels=1, size=size)
    loss = nn.functional.cross_entropy(model(torch.randn(4, 1, *size)), torch.tensor([0, 1, 2, 4]))
    loss.backward()  # type: ignore[no-untyped-call]
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    assert any(p.grad.any() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", RUN)
def test_contract_forward_state_dict_and_bfloat16(name: str) -> None:
    torch.manual_seed(0)
    size = SIZES.get(name, (32, 32))
    model, other = (build(name, classes=7, channels=2, size=size).eval() for _ in range(2))
    x = torch.randn(2, 2, *size)
    one, both = model(x[:1]), model(x)
    assert one.shape == (1, 7)
    assert one.dtype == torch.float32
    assert torch.isfinite(both).all()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    torch.testing.assert_close(other(x), both, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(model(x)).all()


@pytest.mark.parametrize(
    ("name", "arguments", "parameters"),
    [
        ("simple-cnn", {}, 620_810),
        ("simple-cnn-gap", {"size": (224, 224)}, 129_290),
        ("two-block", {"channels": 1, "size": (28, 28)}, 421_706),
        ("lenet5", {"channels": 1}, 61_706),
        ("resnet18", {"classes": 1000}, 11_689_512),
        ("resnet34", {"classes": 1000}, 21_797_672),
        ("resnet50", {"classes": 1000}, 25_557_032),
        ("resnet101", {"classes": 1000}, 44_549_160),
        ("resnet152", {"classes": 1000}, 60_192_808),
    ],
)
def test_published_parameter_counts(name: str, arguments: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        assert count(build(name, **{"classes": 10, **arguments})) == parameters


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_cifar_networks_have_the_papers_size_and_depth(depth: int, millions: float) -> None:
    model, plain = build(f"resnet{depth}", classes=10), build(f"plain{depth}", classes=10)
    assert count(model) / 1e6 == pytest.approx(millions, abs=0.03)
    assert count(plain) == count(model)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth
    assert all(block.add is None for block in plain.layer1)


def test_smallest_sizes() -> None:
    for name, smallest in (("simple-cnn", 8), ("simple-cnn-gap", 8), ("two-block", 4), ("lenet5", 16)):
        assert build(name, classes=2, size=(smallest, smallest)).eval()(torch.randn(1, 3, smallest, smallest)).shape
        with pytest.raises(UsageError, match=f"smallest size is {smallest}x{smallest}"):
            build(name, classes=2, size=(40, smallest - 1))


def test_course_options() -> None:
    x = torch.randn(2, 3, 30, 31)
    for arguments in ({"down": "stride"}, {"down": "average", "kernel": 5}, {"widths": (8,), "hidden": None}):
        assert build("simple-cnn", classes=4, size=(30, 31), **arguments)(x).shape == (2, 4)
    assert build("two-block", classes=4, size=(30, 31), head_kind="gap")(x).shape == (2, 4)
    with pytest.raises(UsageError, match="at least one block"):
        build("simple-cnn", classes=4, widths=())


def test_a_small_stem_keeps_the_map() -> None:
    model = build("resnet18", classes=4, stem="small")
    assert model.layer4(model.layer3(model.layer2(torch.randn(1, 64, 32, 32)))).shape == (1, 512, 4, 4)
    with pytest.raises(UsageError, match="stem: expected one of imagenet, small"):
        build("resnet18", classes=4, stem="cifar")
    with pytest.raises(UsageError, match="6n\\+2 layers"):
        cifar_resnet(21)


@pytest.mark.parametrize(("asked", "near"), [("resnet19", "resnet18"), ("mobilenetv3_small", "mobilenet_v3_small")])
def test_an_unknown_name_brings_near_ones(asked: str, near: str) -> None:
    with pytest.raises(UsageError, match=near):
        build(asked, classes=2)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("quick", {"norm": "group", "activation": "silu"}),
        ("quick", {"norm": "none", "growth": [1, 2]}),
        ("speed", {"norm": "layer", "activation": "gelu", "moved": True}),
        (
            "simple-cnn",
            {"norm": "group", "kernel": 5, "down": "stride", "se": True, "head_kind": "gap", "widths": [8, 9]},
        ),
        ("resnet20", {"shortcut": "none", "se": True, "activation": "leaky_relu", "dropout": 0}),
        ("resnet18", {"down": "average", "norm": "none", "attention": "cbam", "stem": "small"}),
        ("vgg11", {"norm": "batch", "kernel": 5, "down": "average", "se": True}),
    ],
)
def test_what_the_lab_varies_is_an_argument(name: str, arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = build(name, classes=3, size=(32, 32), **check_arguments(name, arguments))
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 0]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    if arguments.get("norm", "batch") != "batch":
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("resnet20", {"nrm": "group"}, "resnet20 has no argument 'nrm': it takes .*norm"),
        ("resnet20", {"norm": "instance"}, "resnet20.norm: expected one of batch, group, layer, none, got 'instance'"),
        ("simple-cnn", {"se": "yes"}, "simple-cnn.se: expected bool, got 'yes'"),
        ("simple-cnn", {"widths": 3}, "simple-cnn.widths: expected a list, got 3"),
        ("resnet20", {"kernel": 4}, "kernel must be one of 1, 3, 5, 7"),
        ("resnet20", {"classes": 4}, "has no argument 'classes'"),
    ],
)
def test_a_wrong_argument_is_one_sentence_with_the_right_ones(name: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build(name, **{"classes": 2, **check_arguments(name, arguments)})


def test_rows_say_what_a_network_wants() -> None:
    assert defaults_of("speed").optimizer == "muon"
    assert defaults_of("quick").widths
    assert defaults_of("resnet18") == defaults_of("torchvision/resnet18") == Defaults()
    assert isinstance(build("quick", classes=2), Prepared)
    assert not isinstance(build("resnet20", classes=2), Prepared)
    for side, flips, expected in ((64, True, {"stem": "small"}), (65, True, {})):
        assert arguments_for("resnet18", side=side, flips=flips) == expected
    assert arguments_for("speed", side=32, flips=True) == {"mirror": True}
    assert arguments_for("speed", side=32, flips=False) == arguments_for("quick", side=32, flips=True) == {}


def test_refusals() -> None:
    with pytest.raises(UsageError, match="simple-cnn has no argument 'depth'"):
        build("simple-cnn", classes=2, depth=3)
    with pytest.raises(UsageError, match="at least 1"):
        build("simple-cnn", classes=0)
    with pytest.raises(UsageError, match="unknown_thing"):
        build("squeezenet1_1", classes=2, unknown_thing=1)


def test_torchvision_by_bare_name_and_by_prefix() -> None:
    torch.manual_seed(0)
    bare = build("mobilenet_v3_small", classes=6, channels=1, size=(48, 48)).eval()
    assert bare(torch.randn(2, 1, 48, 48)).shape == (2, 6)
    ours, theirs = build("resnet18", classes=6), build("torchvision/resnet18", classes=6)
    assert isinstance(theirs, torchvision.models.ResNet)
    assert not isinstance(ours, torchvision.models.ResNet)


def test_torchvision_at_three_channels_is_unchanged() -> None:
    torch.manual_seed(3)
    ours = build("torchvision/squeezenet1_1", classes=6, size=(64, 64))
    torch.manual_seed(3)
    theirs = torchvision.models.squeezenet1_1(num_classes=6)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_torchvision_says_its_smallest_size() -> None:
    with pytest.raises(UsageError, match="too small for squeezenet1_0: the smallest size is 21x21"):
        build("squeezenet1_0", classes=2, size=(20, 64))
    assert build("squeezenet1_0", classes=2, size=(21, 21)).eval()(torch.randn(1, 3, 21, 21)).shape == (1, 2)
