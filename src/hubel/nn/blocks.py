"""The parts that networks are built from: convolution blocks, residual blocks and heads, out of `layers`.

Tensors are (N, C, H, W) float. Activations are never in place, so that a hook keeps what it saw.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import ClassVar, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.nn.layers import (
    Activation,
    Attention,
    Norm,
    SqueezeExcitation,
    StochasticDepth,
    check_name,
    check_positive,
    conv,
    he_init,
    make_activation,
    make_attention,
    make_dropout,
    make_norm,
)

Down = Literal["none", "max", "average", "stride"]
Shortcut = Literal["identity", "projection", "pad", "none"]
HeadKind = Literal["flatten", "gap"]


def conv_block(
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool | None = None,
    norm: Norm = "batch",
    activation: Activation = "relu",
    down: Down = "none",
    pool_first: bool = False,
    se: bool = False,
    same: bool = False,
) -> nn.Sequential:
    """Convolution, norm, activation and, if `down` says so, a halving of height and width.

    Args:
        bias: of the convolution; None leaves it out where a norm follows, which would subtract it again.
        down: ``max`` or ``average`` pools 2x2 windows, ``stride`` doubles the convolution's own stride.
        pool_first: pool before the activation instead of after it (the same for max pooling with a rising activation,
            and cheaper).
        se: end with a squeeze-and-excitation. same: with a stride, pad as TensorFlow does.

    Raises:
        UsageError: an unknown name or an impossible number.

    >>> [name for name, _ in conv_block(3, 32, down="max").named_children()]
    ['conv', 'norm', 'act', 'pool']
    """
    check_name("down", down, get_args(Down))
    stride = 2 * stride if down == "stride" else stride
    with_bias = norm == "none" if bias is None else bias
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    how = {"stride": stride, "dilation": dilation, "groups": groups}
    layers["conv"] = conv(inputs, outputs, kernel, **how, bias=with_bias, same=same)
    if norm != "none":
        layers["norm"] = make_norm(norm, outputs)
    if activation != "none":
        layers["act"] = make_activation(activation)
    if down in ("max", "average"):
        layers["pool"] = nn.MaxPool2d(2) if down == "max" else nn.AvgPool2d(2)
        if pool_first and "act" in layers:
            layers.move_to_end("act")
    if se:
        layers["se"] = SqueezeExcitation(outputs)
    return nn.Sequential(layers)


def numbered(block: nn.Sequential) -> nn.Sequential:
    """Return the same modules named 0, 1, 2, …, as torchvision's keys have them."""
    return nn.Sequential(*block)


def depthwise_separable(
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    norm: Norm = "batch",
    activation: Activation = "relu",
) -> nn.Sequential:
    """One filter for each channel, then 1x1 over the channels, each with norm and activation.

    It needs 1/outputs + 1/kernel² of a standard convolution's multiply-accumulates (Howard et al. 2017, section 3.1).

    >>> sum(p.numel() for p in depthwise_separable(32, 64, norm="none").parameters()) == 32 * 10 + 64 * 33
    True
    """
    block = partial(conv_block, norm=norm, activation=activation)
    depthwise = block(inputs, inputs, kernel=kernel, stride=stride, groups=inputs)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=block(inputs, outputs, kernel=1)))


class Add(nn.Module):
    """The addition at the end of a residual branch: a module without parameters, so that hooks see both addends.

    Shape: twice (N, C, H, W) → (N, C, H, W).
    """

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        return shortcut + branch


class PadShortcut(nn.Module):
    """The shortcut without parameters: take every `stride`-th pixel, fill missing channels up with zeros.

    Half of the zeros go before and half after (option A of He et al. 2016, section 4.2).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        if outputs < inputs:
            raise UsageError(f"a shortcut that pads can't go from {inputs} to {outputs} channels: use a projection.")
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def make_shortcut(kind: Shortcut, inputs: int, outputs: int, stride: int, norm: Norm) -> nn.Module | None:
    """Return what the input passes on its way round a residual block; None where it passes unchanged, or not at all.

    ``projection`` and ``pad`` act only where the shape changes.

    Raises:
        UsageError: ``identity`` between different shapes, or an unknown kind.
    """
    check_name("shortcut", kind, get_args(Shortcut))
    if kind == "none" or (inputs == outputs and stride == 1):
        return None
    if kind == "identity":
        raise UsageError(
            f"an identity shortcut can't change the shape ({inputs} to {outputs} channels, stride {stride}): "
            "use 'projection' or 'pad'."
        )
    if kind == "pad":
        return PadShortcut(inputs, outputs, stride)
    return nn.Sequential(conv(inputs, outputs, 1, stride=stride, bias=norm == "none"), make_norm(norm, outputs))


class Residual(nn.Module):
    """Convolutions with norm and activation, round which a shortcut leads; ``none`` leaves the shortcut out.

    Attention, where there is any, weighs the branch before the shortcut is added. Keys: conv1, bn1, conv2, …,
    attention, downsample. Shape: (N, inputs, H, W) → (N, expansion · channels, ceil(H / stride), ceil(W / stride)).
    """

    expansion: ClassVar[int]

    def __init__(
        self,
        inputs: int,
        channels: int,
        *,
        stride: int = 1,
        shortcut: Shortcut = "projection",
        norm: Norm = "batch",
        activation: Activation = "relu",
        kernel: int = 3,
        se: bool = False,
        attention: Attention = "none",
    ) -> None:
        super().__init__()
        outputs = channels * self.expansion
        rows = [(kernel, stride, channels), (kernel, 1, outputs)]
        if self.expansion > 1:  # 1x1 convolutions lead to the channels of the kernel and back
            rows = [(1, 1, channels), (kernel, stride, channels), (1, 1, outputs)]
        self.depth, width = len(rows), inputs
        for number, (size, step, wide) in enumerate(rows, 1):
            self.add_module(f"conv{number}", conv(width, wide, size, stride=step, bias=norm == "none"))
            self.add_module(f"bn{number}", make_norm(norm, wide))
            if number < self.depth:
                self.add_module(f"act{number}", make_activation(activation))
            width = wide
        self.attention = make_attention(attention, outputs, se=se)
        self.downsample = make_shortcut(shortcut, inputs, outputs, stride, norm)
        self.add = None if shortcut == "none" else Add()
        self.add_module(f"act{self.depth}", make_activation(activation))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.depth + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            if number == self.depth:
                y = self.attention(y)
                y = y if self.add is None else self.add(x if self.downsample is None else self.downsample(x), y)
            y = getattr(self, f"act{number}")(y)
        return y


class BasicBlock(Residual):
    """Two 3x3 convolutions (He et al. 2016, figure 5 left)."""

    expansion = 1


class Bottleneck(Residual):
    """1x1, 3x3 and 1x1 convolutions (figure 5 right); the stride sits in the 3x3 one, as in torchvision."""

    expansion = 4


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, a gate, 1x1 projection without activation; also called MBConv.

    MobileNet V2's block (Sandler et al. 2018, figure 3b); V3 and EfficientNet add the gate. A shortcut joins the ends
    where stride is 1 and the number of channels stays. Shape: (N, inputs, H, W) → (N, outputs, H / stride, W / stride),
    rounded up.

    Args:
        expanded: channels of the depthwise convolution; there is no expansion where it equals `inputs`.
        gate: a squeeze-and-excitation for `expanded` channels, or None.
        stochastic_depth: probability that the branch is left out while training.
        same: with a stride, pad as TensorFlow does.
        key: how the state dict calls the layers; in MobileNet V2's ``conv`` the projection is not a part by itself.
    """

    def __init__(
        self,
        inputs: int,
        expanded: int,
        outputs: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        norm: Norm = "batch",
        activation: Activation = "relu6",
        gate: nn.Module | None = None,
        stochastic_depth: float = 0.0,
        same: bool = False,
        key: Literal["block", "conv"] = "block",
    ) -> None:
        super().__init__()
        convolution = partial(conv_block, norm=norm, activation=activation, same=same)
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(numbered(convolution(inputs, expanded, kernel=1)))
        layers.append(numbered(convolution(expanded, expanded, kernel=kernel, stride=stride, groups=expanded)))
        if gate is not None:
            layers.append(gate)
        project = numbered(conv_block(expanded, outputs, kernel=1, norm=norm, activation="none"))
        layers.extend(project if key == "conv" else [project])
        self.add_module(key, nn.Sequential(*layers))
        self.key = key
        self.stochastic_depth = StochasticDepth(stochastic_depth)
        self.add = Add() if stride == 1 and inputs == outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = getattr(self, self.key)(x)
        return y if self.add is None else self.add(x, self.stochastic_depth(y))


def head(
    kind: HeadKind,
    features: int,
    classes: int,
    *,
    hidden: int | None = None,
    dropout: float = 0.0,
    activation: Activation = "relu",
) -> nn.Sequential:
    """Return the classifier that ends a network: (N, C, H, W) → logits (N, classes).

    Args:
        kind: ``flatten`` sees every position (`features` is C·H·W), ``gap`` their mean (`features` is C).
        hidden: width of a dense layer before the last one, followed by the activation; None for none.
        dropout: probability that an input of the last layer is zeroed while training.
    """
    check_name("head", kind, get_args(HeadKind))
    check_positive("features", features)
    check_positive("classes", classes)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if kind == "gap":
        layers["gap"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    if hidden is not None:
        check_positive("hidden", hidden)
        layers["hidden"] = he_init(nn.Linear(features, hidden))
        layers["act"] = make_activation(activation)
        features = hidden
    if dropout != 0:
        layers["drop"] = make_dropout(dropout)
    layers["out"] = nn.Linear(features, classes)
    return nn.Sequential(layers)
