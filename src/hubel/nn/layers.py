"""The layers that blocks are built from: convolution, norm, activation, attention, dropout, and their first weights.

Tensors are (N, C, H, W) float. Activations are never in place, so that a hook keeps what it saw.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.errors import UsageError

Norm = Literal["batch", "group", "layer", "none"]
Activation = Literal[
    "relu", "relu6", "leaky_relu", "gelu", "silu", "hardswish", "sigmoid", "hardsigmoid", "tanh", "none"
]
Attention = Literal["none", "spatial", "cbam"]
KERNELS = (1, 3, 5, 7)
MOST_GROUPS = 32  # groups of a group norm, as in Wu and He 2018
LAYER_EPSILON = 1e-6  # of layer norms, ConvNeXt's
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
RISING = ("relu", "relu6", "leaky_relu", "sigmoid", "hardsigmoid", "tanh", "none")  # max pooling may come before them
M = TypeVar("M", bound=nn.Module)


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Return the normalisation of `channels` channels; group norm takes as many groups, up to 32, as divide them."""
    check_name("norm", norm, get_args(Norm))
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(max(g for g in range(1, MOST_GROUPS + 1) if channels % g == 0), channels)
    return LayerNorm2d(channels, eps=LAYER_EPSILON) if norm == "layer" else nn.Identity()


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each position by itself: (N, C, H, W) → (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def make_activation(activation: Activation) -> nn.Module:
    """Return the named activation function as a module."""
    check_name("activation", activation, tuple(ACTIVATIONS))
    return ACTIVATIONS[activation]()


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's ``SAME``: to ceil(n / stride) outputs, an odd row or column at the end.

    At even sizes and stride 2, its windows lie one pixel further on than with the same padding at both ends.
    """

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for axis in (1, 0):
            n, kernel, stride = x.shape[axis + 2], self.kernel_size[axis], self.stride[axis]
            missing = max((-(-n // stride) - 1) * stride + self.dilation[axis] * (kernel - 1) + 1 - n, 0)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, pads))


def conv(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
    same: bool = False,
) -> nn.Conv2d:
    """Return a convolution that keeps the size at stride 1 (padding d(k-1)/2), with He's initialisation.

    Args:
        same: with a stride, pad as TensorFlow does.

    Raises:
        UsageError: kernel not 1, 3, 5 or 7; a number below 1; channels that `groups` doesn't divide.
    """
    if kernel not in KERNELS:
        raise UsageError(f"kernel must be one of 1, 3, 5, 7 (odd, so that padding can keep the size), got {kernel!r}.")
    numbers = {"input channels": inputs, "output channels": outputs, "stride": stride, "dilation": dilation}
    for name, value in {**numbers, "groups": groups}.items():
        check_positive(name, value)
    if inputs % groups or outputs % groups:
        raise UsageError(
            f"groups must divide both channel counts, but {groups} does not divide {inputs} and {outputs}."
        )
    kind, padding = (SameConv2d, 0) if same and stride > 1 else (nn.Conv2d, dilation * (kernel - 1) // 2)
    layer = kind(inputs, outputs, kernel, stride, padding, dilation=dilation, groups=groups, bias=bias)
    return he_init(layer)


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
    check_name("attention", kind, get_args(Attention))
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
    return nn.Dropout(check_probability("dropout", probability))


class StochasticDepth(nn.Module):
    """While training, leave a residual branch out for each image with some probability (Huang et al. 2016).

    What stays is divided by the probability of staying, so the mean doesn't change; in eval it is the identity.
    Shape: (N, C, H, W) → the same.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = check_probability("stochastic_depth", probability)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        stays = 1 - self.probability
        mask = torch.empty_like(x[:, :1, :1, :1]).bernoulli_(stays)
        return x * mask / stays

    def extra_repr(self) -> str:
        return f"{self.probability:.4g}"


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


def check_positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} must be a whole number of at least 1, got {value!r}.")


def check_probability(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise UsageError(f"{name} is a probability of at least 0 and below 1, got {value!r}.")
    return value


def check_name(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UsageError(f"unknown {what} {name!r}: choose one of {', '.join(known)}.")
