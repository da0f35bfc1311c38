"""The parts that every network here is built from: convolution blocks, residual blocks and heads.

Tensors are (N, C, H, W) float. Activations are never in place, so that a hook keeps what it saw.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import ClassVar, Literal, TypeVar, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from hubel.errors import UsageError

Norm = Literal["batch", "group", "none"]
Activation = Literal["relu", "leaky_relu", "gelu", "silu", "hardswish"]
Down = Literal["none", "max", "average", "stride"]
Shortcut = Literal["identity", "projection", "pad", "none"]
HeadKind = Literal["flatten", "gap"]

KERNELS = (1, 3, 5, 7)
GROUP_SIZE_LIMIT = 32  # groups of a group norm, as in Wu and He 2018
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
}
M = TypeVar("M", bound=nn.Module)


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Return the normalisation of `channels` channels; group norm takes as many groups, up to 32, as divide them."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        groups = max(g for g in range(1, GROUP_SIZE_LIMIT + 1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    if norm == "none":
        return nn.Identity()
    raise UsageError(_unknown("norm", norm, get_args(Norm)))


def make_activation(activation: Activation) -> nn.Module:
    """Return the named activation function as a module."""
    if activation not in ACTIVATIONS:
        raise UsageError(_unknown("activation", activation, tuple(ACTIVATIONS)))
    return ACTIVATIONS[activation]()


def conv(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> nn.Conv2d:
    """Return a convolution that keeps the size at stride 1 (padding d(k-1)/2), with He's initialisation.

    Raises:
        UsageError: kernel not 1, 3, 5 or 7; a number below 1; channels that `groups` doesn't divide.
    """
    if kernel not in KERNELS:
        raise UsageError(f"kernel must be one of 1, 3, 5, 7 (odd, so that padding can keep the size), got {kernel!r}.")
    for name, value in (("input channels", inputs), ("output channels", outputs), ("stride", stride)):
        _positive(name, value)
    _positive("dilation", dilation)
    _positive("groups", groups)
    if inputs % groups or outputs % groups:
        raise UsageError(
            f"groups must divide both channel counts, but {groups} does not divide {inputs} and {outputs}."
        )
    layer = nn.Conv2d(
        inputs, outputs, kernel, stride, dilation * (kernel - 1) // 2, dilation=dilation, groups=groups, bias=bias
    )
    return he_init(layer)


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
) -> nn.Sequential:
    """Convolution, norm, activation and, if `down` says so, a halving of height and width.

    Args:
        bias: of the convolution; None leaves it out where a norm follows, which would subtract it again.
        down: ``max`` or ``average`` pools 2x2 windows, ``stride`` doubles the convolution's own stride.
        pool_first: pool before the activation instead of after it (the same for max pooling with a rising activation,
            and cheaper).

    Raises:
        UsageError: an unknown name or an impossible number.

    >>> [name for name, _ in conv_block(3, 32, down="max").named_children()]
    ['conv', 'norm', 'act', 'pool']
    """
    if down not in get_args(Down):
        raise UsageError(_unknown("down", down, get_args(Down)))
    stride = 2 * stride if down == "stride" else stride
    with_bias = norm == "none" if bias is None else bias
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = conv(inputs, outputs, kernel, stride=stride, dilation=dilation, groups=groups, bias=with_bias)
    if norm != "none":
        layers["norm"] = make_norm(norm, outputs)
    layers["act"] = make_activation(activation)
    if down in ("max", "average"):
        layers["pool"] = nn.MaxPool2d(2) if down == "max" else nn.AvgPool2d(2)
        if pool_first:
            layers.move_to_end("act")
    return nn.Sequential(layers)


class PadShortcut(nn.Module):
    """The shortcut without parameters: take every `stride`-th pixel, fill missing channels up with zeros.

    Half of the zeros go before and half after (option A of He et al. 2016, section 4.2).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        if outputs < inputs:
            raise UsageError(
                f"a parameter-free shortcut can't go from {inputs} to {outputs} channels: use a projection."
            )
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
    if kind not in get_args(Shortcut):
        raise UsageError(_unknown("shortcut", kind, get_args(Shortcut)))
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


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 5 left); ``none`` leaves the shortcut out.

    Shape: (N, inputs, H, W) → (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        inputs: int,
        channels: int,
        *,
        stride: int = 1,
        shortcut: Shortcut = "projection",
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = conv(inputs, channels, 3, stride=stride, bias=bias)
        self.bn1 = make_norm(norm, channels)
        self.act1 = make_activation(activation)
        self.conv2 = conv(channels, channels, 3, bias=bias)
        self.bn2 = make_norm(norm, channels)
        self.downsample = make_shortcut(shortcut, inputs, channels, stride, norm)
        self.act2 = make_activation(activation)
        self.residual = shortcut != "none"

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.residual:
            y = y + (x if self.downsample is None else self.downsample(x))
        return self.act2(y)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions round which a shortcut leads (He et al. 2016, figure 5 right).

    The stride sits in the 3x3 convolution, as in torchvision. Shape: (N, inputs, H, W) → (N, 4 channels, H', W').
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        inputs: int,
        channels: int,
        *,
        stride: int = 1,
        shortcut: Shortcut = "projection",
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        bias, outputs = norm == "none", channels * self.expansion
        self.conv1 = conv(inputs, channels, 1, bias=bias)
        self.bn1 = make_norm(norm, channels)
        self.act1 = make_activation(activation)
        self.conv2 = conv(channels, channels, 3, stride=stride, bias=bias)
        self.bn2 = make_norm(norm, channels)
        self.act2 = make_activation(activation)
        self.conv3 = conv(channels, outputs, 1, bias=bias)
        self.bn3 = make_norm(norm, outputs)
        self.downsample = make_shortcut(shortcut, inputs, outputs, stride, norm)
        self.act3 = make_activation(activation)
        self.residual = shortcut != "none"

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.residual:
            y = y + (x if self.downsample is None else self.downsample(x))
        return self.act3(y)  # type: ignore[no-any-return]


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
    if kind not in get_args(HeadKind):
        raise UsageError(_unknown("head", kind, get_args(HeadKind)))
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout is a probability of at least 0 and below 1, got {dropout!r}.")
    _positive("features", features)
    _positive("classes", classes)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if kind == "gap":
        layers["gap"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    if hidden is not None:
        _positive("hidden", hidden)
        layers["hidden"] = he_init(nn.Linear(features, hidden))
        layers["act"] = make_activation(activation)
        features = hidden
    if dropout > 0:
        layers["drop"] = nn.Dropout(dropout)
    layers["out"] = nn.Linear(features, classes)
    return nn.Sequential(layers)


def he_init(layer: M) -> M:
    """Draw the weights of a convolution or dense layer so that ReLU keeps the variance; biases become 0.

    Convolutions keep that of the gradients (fan out, as torchvision's ResNet does), dense layers that of the
    activations (fan in). Source: He et al. 2015, "Delving Deep into Rectifiers", equations 10 and 14.
    """
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        mode: Literal["fan_in", "fan_out"] = "fan_out" if isinstance(layer, nn.Conv2d) else "fan_in"
        nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layer


def _positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} must be a whole number of at least 1, got {value!r}.")


def _unknown(what: str, name: object, known: tuple[str, ...]) -> str:
    return f"unknown {what} {name!r}: choose one of {', '.join(known)}."
