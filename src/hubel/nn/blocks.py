"""The parts that every network here is built from: convolution blocks, residual blocks, attention and heads.

Tensors are (N, C, H, W) float. Activations are never in place, so that a hook keeps what it saw.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import ClassVar, Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.errors import UsageError

Norm = Literal["batch", "group", "layer", "none"]
Activation = Literal[
    "relu", "relu6", "leaky_relu", "gelu", "silu", "hardswish", "sigmoid", "hardsigmoid", "tanh", "none"
]
Attention = Literal["none", "spatial", "cbam"]
Down = Literal["none", "max", "average", "stride"]
Shortcut = Literal["identity", "projection", "pad", "none"]
HeadKind = Literal["flatten", "gap"]

KERNELS = (1, 3, 5, 7)
GROUP_SIZE_LIMIT = 32  # groups of a group norm, as in Wu and He 2018
REDUCTION = 16  # channels per channel inside of a squeeze-and-excitation (Hu et al. 2018, table 10)
SMALLEST_SQUEEZE = 8  # channels; narrow stages would be left with one or two
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "tanh": nn.Tanh,
    "none": nn.Identity,
}
M = TypeVar("M", bound=nn.Module)


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Return the normalisation of `channels` channels; group norm takes as many groups, up to 32, as divide them."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        groups = max(g for g in range(1, GROUP_SIZE_LIMIT + 1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    if norm == "layer":
        return LayerNorm2d(channels)
    if norm == "none":
        return nn.Identity()
    raise UsageError(unknown_name("norm", norm, get_args(Norm)))


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of each position by itself: (N, C, H, W) → (N, C, H, W).

    The epsilon is ConvNeXt's.
    """

    def __init__(self, channels: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1)
        return F.layer_norm(last, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


def make_activation(activation: Activation) -> nn.Module:
    """Return the named activation function as a module."""
    if activation not in ACTIVATIONS:
        raise UsageError(unknown_name("activation", activation, tuple(ACTIVATIONS)))
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
    se: bool = False,
) -> nn.Sequential:
    """Convolution, norm, activation and, if `down` says so, a halving of height and width.

    Args:
        bias: of the convolution; None leaves it out where a norm follows, which would subtract it again.
        down: ``max`` or ``average`` pools 2x2 windows, ``stride`` doubles the convolution's own stride.
        pool_first: pool before the activation instead of after it (the same for max pooling with a rising activation,
            and cheaper).
        se: end with a squeeze-and-excitation.

    Raises:
        UsageError: an unknown name or an impossible number.

    >>> [name for name, _ in conv_block(3, 32, down="max").named_children()]
    ['conv', 'norm', 'act', 'pool']
    """
    if down not in get_args(Down):
        raise UsageError(unknown_name("down", down, get_args(Down)))
    stride = 2 * stride if down == "stride" else stride
    with_bias = norm == "none" if bias is None else bias
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = conv(inputs, outputs, kernel, stride=stride, dilation=dilation, groups=groups, bias=with_bias)
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
    depthwise = conv_block(
        inputs, inputs, kernel=kernel, stride=stride, groups=inputs, norm=norm, activation=activation
    )
    pointwise = conv_block(inputs, outputs, kernel=1, norm=norm, activation=activation)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))


class SqueezeExcitation(nn.Module):
    """Scale each channel by a number in [0, 1] that is computed from the means of all channels (Hu et al. 2018).

    Shape: (N, C, H, W) → (N, C, H, W). Keys fc1 and fc2 are torchvision's.

    Args:
        squeezed: channels between the two layers; None is C/16, but at least 8.
        maximum: add the maxima to the means, through the same layers: CBAM's channel attention (Woo et al. 2018).
    """

    def __init__(
        self,
        channels: int,
        squeezed: int | None = None,
        *,
        activation: Activation = "relu",
        gate: Activation = "sigmoid",
        maximum: bool = False,
    ) -> None:
        super().__init__()
        squeezed = max(SMALLEST_SQUEEZE, channels // REDUCTION) if squeezed is None else squeezed
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.maxpool = nn.AdaptiveMaxPool2d(1) if maximum else None
        self.fc1 = conv(channels, squeezed, 1, bias=True)
        self.act = make_activation(activation)
        self.fc2 = conv(squeezed, channels, 1, bias=True)
        self.gate = make_activation(gate)

    def forward(self, x: Tensor) -> Tensor:
        weights = self._excite(self.avgpool(x))
        if self.maxpool is not None:
            weights = weights + self._excite(self.maxpool(x))
        return x * self.gate(weights)  # type: ignore[no-any-return]

    def _excite(self, pooled: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(pooled)))  # type: ignore[no-any-return]


class SpatialAttention(nn.Module):
    """Scale each position by a number in (0, 1), from a convolution over its channels' mean and maximum.

    Shape: (N, C, H, W) → (N, C, H, W). Source: CBAM (Woo et al. 2018), equation 3.
    """

    def __init__(self, kernel: int = 7) -> None:
        super().__init__()
        self.conv = conv(2, 1, kernel)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1)
        return x * self.gate(self.conv(pooled))  # type: ignore[no-any-return]


def make_attention(kind: Attention, channels: int, *, se: bool = False) -> nn.Module:
    """Return what weighs channels and positions at the end of a residual branch; the identity for nothing.

    Args:
        kind: ``spatial`` weighs positions, ``cbam`` channels by their means and maxima, then positions.
        se: begin with a squeeze-and-excitation.
    """
    if kind not in get_args(Attention):
        raise UsageError(unknown_name("attention", kind, get_args(Attention)))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if se:
        layers["se"] = SqueezeExcitation(channels)
    if kind == "cbam":
        layers["channel"] = SqueezeExcitation(channels, maximum=True)
    if kind != "none":
        layers["spatial"] = SpatialAttention()
    return nn.Sequential(layers) if layers else nn.Identity()


def make_dropout(probability: float) -> nn.Dropout:
    """Return dropout that zeroes a number with that probability while training."""
    return nn.Dropout(_probability("dropout", probability))


class StochasticDepth(nn.Module):
    """While training, leave a residual branch out for each image with some probability (Huang et al. 2016).

    What stays is divided by the probability of staying, so the mean doesn't change; in eval it is the identity.
    Shape: (N, C, H, W) → the same.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = _probability("stochastic_depth", probability)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        stays = 1 - self.probability
        mask = torch.empty_like(x[:, :1, :1, :1]).bernoulli_(stays)
        return x * mask / stays

    def extra_repr(self) -> str:
        return f"{self.probability:.4g}"


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
        raise UsageError(unknown_name("shortcut", kind, get_args(Shortcut)))
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

    Attention, where there is any, weighs the branch before the shortcut is added.
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
        kernel: int = 3,
        se: bool = False,
        attention: Attention = "none",
    ) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = conv(inputs, channels, kernel, stride=stride, bias=bias)
        self.bn1 = make_norm(norm, channels)
        self.act1 = make_activation(activation)
        self.conv2 = conv(channels, channels, kernel, bias=bias)
        self.bn2 = make_norm(norm, channels)
        self.attention = make_attention(attention, channels, se=se)
        self.downsample = make_shortcut(shortcut, inputs, channels, stride, norm)
        self.act2 = make_activation(activation)
        self.residual = shortcut != "none"

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.attention(self.bn2(self.conv2(y)))
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
        kernel: int = 3,
        se: bool = False,
        attention: Attention = "none",
    ) -> None:
        super().__init__()
        bias, outputs = norm == "none", channels * self.expansion
        self.conv1 = conv(inputs, channels, 1, bias=bias)
        self.bn1 = make_norm(norm, channels)
        self.act1 = make_activation(activation)
        self.conv2 = conv(channels, channels, kernel, stride=stride, bias=bias)
        self.bn2 = make_norm(norm, channels)
        self.act2 = make_activation(activation)
        self.conv3 = conv(channels, outputs, 1, bias=bias)
        self.bn3 = make_norm(norm, outputs)
        self.attention = make_attention(attention, outputs, se=se)
        self.downsample = make_shortcut(shortcut, inputs, outputs, stride, norm)
        self.act3 = make_activation(activation)
        self.residual = shortcut != "none"

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        y = self.attention(self.bn3(self.conv3(y)))
        if self.residual:
            y = y + (x if self.downsample is None else self.downsample(x))
        return self.act3(y)  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, a gate, 1x1 projection without activation; also called MBConv.

    MobileNet V2's block (Sandler et al. 2018, figure 3b); V3 and EfficientNet add the gate. A shortcut joins the ends
    where stride is 1 and the number of channels stays. Shape: (N, inputs, H, W) → (N, outputs, H / stride, W / stride),
    rounded up.

    Args:
        expanded: channels of the depthwise convolution; there is no expansion where it equals `inputs`.
        gate: a squeeze-and-excitation for `expanded` channels, or None.
        stochastic_depth: probability that the branch is left out while training.
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
        key: Literal["block", "conv"] = "block",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(numbered(conv_block(inputs, expanded, kernel=1, norm=norm, activation=activation)))
        depthwise = conv_block(
            expanded, expanded, kernel=kernel, stride=stride, groups=expanded, norm=norm, activation=activation
        )
        layers.append(numbered(depthwise))
        if gate is not None:
            layers.append(gate)
        project = numbered(conv_block(expanded, outputs, kernel=1, norm=norm, activation="none"))
        layers.extend(project if key == "conv" else [project])
        self.add_module(key, nn.Sequential(*layers))
        self.key = key
        self.residual = stride == 1 and inputs == outputs
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = getattr(self, self.key)(x)
        return x + self.stochastic_depth(y) if self.residual else y


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
        raise UsageError(unknown_name("head", kind, get_args(HeadKind)))
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
    if dropout != 0:
        layers["drop"] = make_dropout(dropout)
    layers["out"] = nn.Linear(features, classes)
    return nn.Sequential(layers)


def he_init(layer: M) -> M:
    """Draw the weights of a convolution or dense layer so that ReLU keeps the variance; biases become 0.

    Convolutions keep that of the gradients (fan out, as torchvision's ResNet does), dense layers that of the
    activations (fan in). Of a convolution in groups, an output goes to its own group only.
    Source: He et al. 2015, "Delving Deep into Rectifiers", equations 10 and 14.
    """
    if isinstance(layer, (nn.Conv2d, nn.Linear)):
        mode: Literal["fan_in", "fan_out"] = "fan_out" if isinstance(layer, nn.Conv2d) else "fan_in"
        nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            with torch.no_grad():
                layer.weight.mul_(layer.groups**0.5)  # the library counts all outputs
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layer


def _positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} must be a whole number of at least 1, got {value!r}.")


def _probability(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise UsageError(f"{name} is a probability of at least 0 and below 1, got {value!r}.")
    return value


def unknown_name(what: str, name: object, known: tuple[str, ...]) -> str:
    """Say that a name is unknown, and which are known."""
    return f"unknown {what} {name!r}: choose one of {', '.join(known)}."
