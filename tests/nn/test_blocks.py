"""Blocks: layouts, shapes and refusals; initialisation against its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from hubel.errors import UsageError
from hubel.nn.blocks import (
    ACTIVATIONS,
    BasicBlock,
    Bottleneck,
    PadShortcut,
    conv,
    conv_block,
    head,
    make_norm,
    make_shortcut,
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
@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm2d), ("group", nn.GroupNorm), ("none", None)])
def test_norms_and_activations(norm: Any, kind: type[nn.Module] | None, activation: Any) -> None:
    block = conv_block(4, 6, norm=norm, activation=activation)
    assert any(isinstance(m, kind) for m in block) == (kind is not None) if kind else "norm" not in names(block)
    assert (block.conv.bias is None) == (norm != "none")
    assert torch.isfinite(block(torch.randn(2, 4, 8, 8))).all()


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
        (lambda: conv_block(3, 8, norm="layer"), "unknown norm 'layer'"),
        (lambda: conv_block(3, 8, activation="tanh"), "unknown activation 'tanh'"),
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
