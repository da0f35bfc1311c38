"""Blocks: layouts, shapes and refusals; initialisation against its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models._utils import _make_divisible
from torchvision.models.convnext import LayerNorm2d as TheirLayerNorm2d

from hubel.errors import UsageError
from hubel.nn.assembly import check_size, round_channels, set_batch_norm, stem_strides
from hubel.nn.blocks import (
    BasicBlock,
    Bottleneck,
    InvertedResidual,
    PadShortcut,
    conv_block,
    depthwise_separable,
    head,
    make_shortcut,
    numbered,
)
from hubel.nn.layers import (
    ACTIVATIONS,
    LayerNorm2d,
    SpatialAttention,
    SqueezeExcitation,
    StochasticDepth,
    conv,
    make_attention,
    make_norm,
)


def names(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_children()]


def test_order_of_pooling_and_activation() -> None:
    assert names(conv_block(3, 8, down="max")) == ["conv", "norm", "act", "pool"]
    assert names(conv_block(3, 8, down="average", pool_first=True)) == ["conv", "norm", "pool", "act"]
    assert names(conv_block(3, 8, norm="none", down="stride")) == ["conv", "act"]


def test_max_pooling_commutes_with_relu() -> None:
    after, before = conv_block(3, 8, down="max"), conv_block(3, 8, down="max", pool_first=True)
    before.load_state_dict(after.state_dict())
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(after(x), before(x))


@pytest.mark.parametrize("down", ["max", "average", "stride"])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("dilation", [1, 2])
def test_each_kernel_keeps_the_size_and_each_downsampling_halves_it(down: Any, kernel: int, dilation: int) -> None:
    x = torch.randn(1, 4, 16, 20)
    assert conv_block(4, 6, kernel=kernel, dilation=dilation)(x).shape == (1, 6, 16, 20)
    assert conv_block(4, 6, kernel=kernel, dilation=dilation, down=down)(x).shape == (1, 6, 8, 10)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize(
    ("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm), ("layer", LayerNorm2d), ("none", None)]
)
def test_norms_and_activations(norm: Any, kind: type[nn.Module] | None, activation: Any) -> None:
    block = conv_block(4, 6, norm=norm, activation=activation)
    assert any(isinstance(m, kind) for m in block) == (kind is not None) if kind else "norm" not in names(block)
    assert (block.conv.bias is None) == (norm != "none")
    assert torch.isfinite(block(torch.randn(2, 4, 8, 8))).all()


def test_activations_are_the_functions_of_their_names() -> None:
    x = torch.linspace(-8, 8, 65)
    for name, make in ACTIVATIONS.items():
        expected = x if name == "none" else getattr(F, name)(x, 0.1) if name == "leaky_relu" else getattr(F, name)(x)
        torch.testing.assert_close(make()(x), expected, rtol=0, atol=0)
        assert not getattr(make(), "inplace", False)


def test_what_is_left_out_is_no_layer() -> None:
    assert names(conv_block(3, 8, activation="none", norm="none")) == ["conv"]
    assert names(conv_block(3, 8, activation="none", down="max", pool_first=True)) == ["conv", "norm", "pool"]
    assert names(conv_block(3, 8, down="max", se=True)) == ["conv", "norm", "act", "pool", "se"]
    assert names(numbered(conv_block(3, 8))) == ["0", "1", "2"]


def test_layer_norm_equals_torchvisions() -> None:
    ours, theirs = make_norm("layer", 6), TheirLayerNorm2d(6, eps=1e-6)
    nn.init.uniform_(theirs.weight)
    nn.init.uniform_(theirs.bias)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6, 4, 5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


def test_set_batch_norm_reaches_all() -> None:
    model = set_batch_norm(nn.Sequential(conv_block(3, 8), nn.Sequential(conv_block(8, 8))), eps=0.5, momentum=0.25)
    assert [(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == [(0.5, 0.25)] * 2


def test_group_norm_takes_the_largest_number_of_groups_that_divides() -> None:
    assert [make_norm("group", c).num_groups for c in (64, 48, 7, 34)] == [32, 24, 7, 17]


def test_parameters_of_one_convolution() -> None:
    assert sum(p.numel() for p in conv(3, 16, bias=True).parameters()) == 448
    assert sum(p.numel() for p in conv(3, 16).parameters()) == 432
    assert conv(8, 8, groups=8).weight.numel() == 72


def test_he_initialisation_has_the_variance_of_the_formula() -> None:
    torch.manual_seed(0)
    layer, dense = conv(64, 128, bias=True), head("gap", 400, 10, hidden=500).hidden
    assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / (128 * 9)), rel=0.02)
    assert float(dense.weight.detach().std()) == pytest.approx(math.sqrt(2 / 400), rel=0.02)
    assert layer.bias is not None
    assert not layer.bias.any()
    depthwise = conv(4000, 4000, groups=4000)  # an output goes to 9 places, not to 4000 times as many
    assert float(depthwise.weight.detach().std()) == pytest.approx(math.sqrt(2 / 9), rel=0.02)


def test_identity_block_equals_its_formula() -> None:
    block = BasicBlock(8, 8, shortcut="identity").eval()
    x = torch.randn(2, 8, 6, 6)
    inner = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    torch.testing.assert_close(block(x), torch.relu(x + inner))


def test_plain_block_has_the_same_layers_and_no_shortcut() -> None:
    plain, residual = BasicBlock(8, 8, shortcut="none").eval(), BasicBlock(8, 8).eval()
    assert plain.state_dict().keys() == residual.state_dict().keys()
    for parameter in [*plain.conv2.parameters(), *residual.conv2.parameters()]:
        nn.init.zeros_(parameter)
    x = torch.randn(1, 8, 4, 4).abs()
    assert not plain(x).any()
    torch.testing.assert_close(residual(x), x)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("shortcut", ["projection", "pad", "none"])
def test_residual_blocks_change_the_shape(block: Any, shortcut: Any) -> None:
    assert block(8, 16, stride=2, shortcut=shortcut)(torch.randn(2, 8, 7, 8)).shape == (2, 16 * block.expansion, 4, 4)


def test_pad_shortcut_by_hand() -> None:
    x = torch.arange(1.0, 17).view(1, 1, 4, 4)
    y = PadShortcut(1, 3, 2)(x)
    torch.testing.assert_close(y[0, 1], torch.tensor([[1.0, 3.0], [9.0, 11.0]]))
    assert not y[0, [0, 2]].any()


def test_shortcuts_that_keep_the_shape_need_no_layer() -> None:
    assert make_shortcut("projection", 8, 8, 1, "batch") is None
    assert make_shortcut("pad", 8, 8, 1, "batch") is None


def test_depthwise_separable_is_a_convolution_of_rank_one() -> None:
    block = depthwise_separable(3, 5, stride=2, norm="none", activation="none").double()
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    depthwise, pointwise = block.depthwise.conv, block.pointwise.conv
    standard = F.conv2d(x, pointwise.weight * depthwise.weight.view(1, 3, 3, 3), stride=2, padding=1)
    torch.testing.assert_close(block(x), standard)
    assert names(depthwise_separable(3, 5).depthwise) == ["conv", "norm", "act"]


@pytest.mark.parametrize("gate", ["sigmoid", "hardsigmoid"])
def test_squeeze_and_excitation_equals_torchvisions(gate: Any) -> None:
    ours = SqueezeExcitation(16, 4, activation="silu", gate=gate)
    scale = nn.Sigmoid if gate == "sigmoid" else nn.Hardsigmoid
    theirs = torchvision.ops.SqueezeExcitation(16, 4, activation=nn.SiLU, scale_activation=scale)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 16, 5, 6)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)


def test_squeeze_and_excitation_has_a_sixteenth_of_the_channels_inside() -> None:
    assert [SqueezeExcitation(c).fc1.out_channels for c in (16, 128, 256, 2048)] == [8, 8, 16, 128]


def test_channel_attention_counts_a_flat_map_twice() -> None:
    block = SqueezeExcitation(8, maximum=True)
    x = torch.randn(2, 8, 1, 1).expand(2, 8, 3, 3)  # means are maxima
    means = block.fc2(torch.relu(block.fc1(x[:, :, :1, :1])))
    torch.testing.assert_close(block(x), x * torch.sigmoid(2 * means))


def test_spatial_attention_by_hand() -> None:
    block, x = SpatialAttention(3), torch.randn(2, 5, 6, 7)
    weights = F.conv2d(torch.stack((x.mean(1), x.max(1).values), dim=1), block.conv.weight, padding=1)
    torch.testing.assert_close(block(x), x / (1 + torch.exp(-weights)))
    assert SpatialAttention().conv.weight.shape == (1, 2, 7, 7)


def test_attention_sits_at_the_end_of_the_branch() -> None:
    assert isinstance(make_attention("none", 8), nn.Identity)
    assert names(make_attention("cbam", 8)) == ["channel", "spatial"]
    assert names(make_attention("spatial", 8, se=True)) == ["se", "spatial"]
    for block in (BasicBlock(32, 32, attention="cbam"), Bottleneck(32, 8, attention="cbam")):
        block.attention = nn.Module()
        block.attention.forward = torch.zeros_like  # type: ignore[method-assign]
        x = torch.rand(2, 32, 4, 4)
        torch.testing.assert_close(block(x), x, rtol=0, atol=0)


def test_stochastic_depth_leaves_out_whole_images() -> None:
    torch.manual_seed(0)
    layer, x = StochasticDepth(0.2), torch.ones(20_000, 2, 1, 2)
    y = layer(x)
    assert set(y.unique().tolist()) == {0.0, 1.25}
    assert bool((y == y[:, :1, :, :1]).all())
    error = math.sqrt(0.2 * 0.8 / len(x)) / 0.8
    assert float(y.mean()) == pytest.approx(1, abs=4 * error)
    assert layer.eval()(x) is x
    assert StochasticDepth(0.0)(x) is x


def test_inverted_residual_equals_its_formula() -> None:
    block = InvertedResidual(8, 24, 8, activation="relu6", gate=SqueezeExcitation(24)).eval()
    x = torch.randn(2, 8, 5, 5)
    expand, depthwise, gate, project = block.block
    branch = project(gate(F.relu6(depthwise[:2](F.relu6(expand[:2](x))))))
    assert names(project) == ["0", "1"]
    torch.testing.assert_close(block(x), x + branch)
    assert depthwise[0].groups == 24


def test_inverted_residual_has_a_shortcut_only_where_the_shape_stays() -> None:
    assert InvertedResidual(8, 48, 8).add is not None
    for block in (InvertedResidual(8, 48, 16), InvertedResidual(8, 48, 8, stride=2)):
        assert block.add is None
    assert len(InvertedResidual(8, 8, 16).block) == 2  # nothing to expand
    assert names(InvertedResidual(8, 48, 8, key="conv").conv) == ["0", "1", "2", "3"]


def test_channels_are_rounded_as_torchvision_rounds() -> None:
    widths = [n * factor for n in range(1, 400) for factor in (0.25, 0.35, 1.1, 1.4)]
    assert [round_channels(w) for w in widths] == [_make_divisible(w, 8) for w in widths]


def test_a_small_stem_leaves_out_two_halvings() -> None:
    assert stem_strides("imagenet", (2, 1, 2, 2)) == [2, 1, 2, 2]
    assert stem_strides("small", (2, 1, 2, 2)) == [1, 1, 1, 2]


def test_heads() -> None:
    x = torch.randn(2, 6, 4, 4)
    assert names(head("gap", 6, 5)) == ["gap", "flatten", "out"]
    assert names(head("flatten", 96, 5, hidden=7, dropout=0.3)) == ["flatten", "hidden", "act", "drop", "out"]
    assert head("flatten", 96, 5, hidden=7, dropout=0.3)(x).shape == (2, 5)
    gap = head("gap", 6, 5)
    torch.testing.assert_close(gap(x), gap.out(x.mean(dim=(2, 3))))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: conv(3, 8, 4), "kernel must be one of 1, 3, 5, 7"),
        (lambda: conv(3, 0), "output channels must be"),
        (lambda: conv(3, 8, groups=2), "groups must divide"),
        (lambda: conv(3, 8, stride=0), "stride must be"),
        (lambda: conv_block(3, 8, down="up"), "unknown down 'up'"),
        (lambda: conv_block(3, 8, norm="instance"), "unknown norm 'instance'"),
        (lambda: conv_block(3, 8, activation="swish"), "unknown activation 'swish'"),
        (lambda: make_attention("channel", 8), "unknown attention 'channel'"),
        (lambda: StochasticDepth(1.0), "stochastic_depth is a probability"),
        (lambda: stem_strides("tiny", (2,)), "unknown stem 'tiny'"),
        (
            lambda: check_size("VGG", (40, 31), 32),
            "40x31 are too small for VGG: the smallest size is 32x32.$",
        ),
        (lambda: check_size("VGG", (16, 16), 32, stem="imagenet"), 'with stem="small" it takes smaller ones'),
        (lambda: BasicBlock(8, 16, shortcut="identity"), "can't change the shape"),
        (lambda: BasicBlock(8, 16, shortcut="skip"), "unknown shortcut"),
        (lambda: PadShortcut(8, 4, 1), "use a projection"),
        (lambda: head("mean", 8, 2), "unknown head"),
        (lambda: head("gap", 8, 2, dropout=1.0), "dropout is a probability"),
        (lambda: head("gap", 8, 0), "classes must be"),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(call: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        call()
