"""VGG, MobileNets, EfficientNets, ConvNeXt: the papers' figures, every option, any size, channels and classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hubel.errors import UsageError
from hubel.nn.blocks import InvertedResidual
from hubel.nn.convnext import convnext_tiny
from hubel.nn.courses import simple_cnn
from hubel.nn.layers import SqueezeExcitation, StochasticDepth
from hubel.nn.mobilenet import mobilenet_v1, mobilenet_v2, mobilenet_v3_large
from hubel.nn.zoo import NETWORKS as ZOO

MOBILE = (
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_lite0",
)
OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "vgg11": ({"down": "average"}, {"down": "stride"}, {"kernel": 5}, {"dropout": 0.0}, {"se": True}),
    "vgg11_bn": ({"kernel": 1}, {"norm": "none"}),
    "mobilenet_v1": ({"kernel": 5}, {"separable": False}, {"multiplier": 0.25}, {"dropout": 0.1}),
    "mobilenet_v2": ({"kernel": 7}, {"multiplier": 1.4}, {"dropout": 0.0}),
    "mobilenet_v3_small": ({"se": False}, {"multiplier": 0.5}),
    "mobilenet_v3_large": ({"se": False}, {"multiplier": 0.75}),
    "efficientnet_b0": ({"se": False}, {"stochastic_depth": 0.0}, {"dropout": 0.5}),
    "efficientnet_lite0": ({"se": True}, {"dropout": 0.5}),
    "convnext_tiny": ({"kernel": 3}, {"norm": "layer"}, {"stochastic_depth": 0.0}),
}
NETWORKS: dict[str, Callable[..., nn.Module]] = {name: ZOO[name].build for name in OPTIONS}
ALL = ({}, {"stem": "small"}, {"norm": "batch"}, {"norm": "group"}, {"norm": "none"}, {"activation": "tanh"})


def on_meta(build: Callable[..., nn.Module], **arguments: Any) -> nn.Module:
    with torch.device("meta"):
        return build(**arguments)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def megamacs(model: nn.Module, side: int) -> float:
    """Million multiply-accumulates for one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops() / 2e6


@pytest.mark.parametrize(
    ("arguments", "side", "operations", "parameters"),
    [  # Howard et al. 2017, tables 4, 6 and 7
        ({}, 224, 569, 4.2),
        ({"separable": False}, 224, 4866, 29.3),
        ({"multiplier": 0.75}, 224, 325, 2.6),
        ({"multiplier": 0.5}, 224, 149, 1.3),
        ({"multiplier": 0.25}, 224, 41, 0.5),
        ({}, 192, 418, 4.2),
        ({}, 160, 290, 4.2),
        ({}, 128, 186, 4.2),
    ],
)
def test_mobilenet_v1_has_the_papers_figures(
    arguments: dict[str, Any], side: int, operations: int, parameters: float
) -> None:
    model = on_meta(mobilenet_v1, classes=1000, **arguments)
    # The paper's 4,866 leaves out the dense layer's 1.0, its 569 does not.
    assert megamacs(model, side) == pytest.approx(operations, abs=1.5)
    assert count(model) / 1e6 == pytest.approx(parameters, abs=0.05)


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name in NETWORKS for options in (*ALL, *OPTIONS[name])], ids=str
)
def test_every_option_gives_logits(name: str, options: dict[str, Any]) -> None:
    """On shapes alone, so without arithmetic; odd sides, two channels."""
    model = on_meta(NETWORKS[name], classes=7, channels=2, **options)
    assert model(torch.empty(2, 2, 45, 33, device="meta")).shape == (2, 7)
    if set(options) <= {"activation", "dropout", "stochastic_depth"}:
        usual = on_meta(NETWORKS[name], classes=7, channels=2)
        assert list(model.state_dict()) == list(usual.state_dict())
    assert not any(getattr(module, "inplace", False) for module in model.modules())
    assert not any(isinstance(m, SqueezeExcitation) for m in model.modules() if options.get("se") is False)
    if "norm" in options:
        kinds = {type(m).__name__ for m in model.modules() if "Norm" in type(m).__name__}
        assert kinds == {"batch": {"BatchNorm2d"}, "group": {"GroupNorm"}, "layer": {"LayerNorm2d"}}.get(
            options["norm"], set()
        )


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_small_images_train(name: str, norm: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name](classes=3, channels=1, stem="small", norm=norm)
    logits = model(torch.randn(4, 1, 17, 24))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    first = next(iter(model.parameters())).grad
    assert first is not None
    assert float(first.norm()) > 1e-6  # the signal reaches the beginning


@pytest.mark.parametrize("name", [*MOBILE, "convnext_tiny"])
def test_a_small_stem_divides_the_side_by_8_and_not_by_32(name: str) -> None:
    usual, small = (on_meta(NETWORKS[name], classes=2, stem=stem).features for stem in ("imagenet", "small"))
    x = torch.empty(1, 3, 64, 96, device="meta")
    assert usual(x).shape[2:] == (2, 3)
    assert small(x).shape[2:] == (8, 12)
    if name != "convnext_tiny":  # which has another first convolution
        assert [p.shape for p in usual.parameters()] == [p.shape for p in small.parameters()]


def test_vgg_with_a_small_stem_keeps_one_halving_and_shrinks_the_head() -> None:
    usual, small = (on_meta(NETWORKS["vgg11"], classes=1000, stem=stem) for stem in ("imagenet", "small"))
    x = torch.empty(1, 3, 64, 64, device="meta")
    assert usual.features(x).shape[2:] == (2, 2)
    assert small.features(x).shape[2:] == (4, 4)
    assert count(usual) - count(small) == 512 * 48 * 4096


@pytest.mark.parametrize(
    ("name", "stem", "smallest"),
    [
        ("vgg11", "imagenet", 32),
        ("vgg11", "small", 16),
        ("convnext_tiny", "imagenet", 32),
        ("convnext_tiny", "small", 8),
    ],
)
def test_too_small_images_are_refused_with_the_smallest_size(name: str, stem: str, smallest: int) -> None:
    model = on_meta(NETWORKS[name], classes=2, stem=stem, size=(smallest, smallest + 1))
    assert model(torch.empty(1, 3, smallest, smallest + 1, device="meta")).shape == (1, 2)
    with pytest.raises(RuntimeError):
        model(torch.empty(1, 3, smallest - 1, smallest, device="meta"))
    with pytest.raises(UsageError, match=f"smallest size is {smallest}x{smallest}"):
        NETWORKS[name](classes=2, stem=stem, size=(smallest - 1, 50))


@pytest.mark.parametrize("name", MOBILE)
def test_others_take_any_size(name: str) -> None:
    assert on_meta(NETWORKS[name], classes=2)(torch.empty(2, 3, 2, 1, device="meta")).shape == (2, 2)


def test_strided_vgg_takes_any_size() -> None:
    model = on_meta(NETWORKS["vgg11"], classes=2, down="stride", size=(3, 3))
    assert model(torch.empty(2, 3, 3, 3, device="meta")).shape == (2, 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_unknown_stem_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="unknown stem 'cifar'"), torch.device("meta"):
        NETWORKS[name](classes=2, stem="cifar")


def test_stochastic_depth_rises_with_depth() -> None:
    def rates(model: nn.Module) -> list[float]:
        return [m.probability for m in model.modules() if isinstance(m, StochasticDepth)]

    efficient, tiny = rates(on_meta(NETWORKS["efficientnet_b0"], classes=2)), rates(on_meta(convnext_tiny, classes=2))
    assert efficient == pytest.approx([0.2 * i / 16 for i in range(16)])  # as the released ones, it ends below 0.2
    assert tiny == pytest.approx([0.1 * i / 17 for i in range(18)])
    assert not any(rates(on_meta(mobilenet_v2, classes=2)))


def test_compound_scaling_of_b7() -> None:
    model = on_meta(ZOO["efficientnet_b7"].build, classes=1000)
    blocks = [len(stage) for stage in model.features[1:-1]]
    assert blocks == [4, 7, 7, 10, 10, 13, 4]  # ceil(3.1 n)
    assert [stage[0].block[-1][0].out_channels for stage in model.features[1:-1]] == [32, 48, 80, 160, 224, 384, 640]
    assert model.classifier[0].p == 0.5
    assert count(model) / 1e6 == pytest.approx(66, abs=0.5)
    assert 556 / (count(model) / 1e6) == pytest.approx(8.4, abs=0.05)  # GPipe, Tan and Le 2019, table 2


def test_activation_of_mobilenet_v3_changes_the_deep_blocks_only() -> None:
    model = on_meta(mobilenet_v3_large, classes=2, activation="silu")
    kinds = [type(block.block[0][2]) for block in model.features if isinstance(block, InvertedResidual)]
    assert kinds == [nn.ReLU] * 6 + [nn.SiLU] * 9


def test_two_threes_against_one_five() -> None:
    """18 C² against 25 C² weights at equal width, and biases."""
    widths = {"classes": 2, "channels": 64, "widths": (64,), "norm": "none"}
    threes, five = simple_cnn(repeats=2, **widths), simple_cnn(kernel=5, **widths)
    weights = [sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d)) for net in (threes, five)]
    assert weights == [18 * 64**2, 25 * 64**2]
    assert list(dict(threes.named_children())) == ["block1_1", "block1", "head"]
    x = torch.randn(1, 64, 32, 32)
    assert threes(x).shape == five(x).shape == (1, 2)
    with pytest.raises(UsageError, match="repeats must be"):
        simple_cnn(classes=2, repeats=0)


def test_squeeze_and_excitation_in_the_course_network() -> None:
    added = count(simple_cnn(classes=10, se=True)) - count(simple_cnn(classes=10))
    assert added == sum(2 * 8 * c + c + 8 for c in (32, 64, 128))
