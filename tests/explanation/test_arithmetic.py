"""The arithmetic of random numbers of networks of all kinds, against the numbers in the networks' own tensors."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.explanation.arithmetic import Arithmetic, explain
from hubel.explanation.numbers import Numbers, numbers_of
from hubel.geometry.rows import IMAGE
from hubel.nn.zoo import build


class Excited(nn.Module):
    """One ReLU for all, a squeeze-and-excitation, paddings of two kinds, a concatenation, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.wrapped = nn.Conv2d(3, 16, 3, 2, 1, padding_mode="circular")
        self.spread = nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4, padding_mode="reflect")
        self.norm, self.groups, self.relu = nn.BatchNorm2d(16), nn.GroupNorm(4, 32), nn.ReLU(inplace=True)
        self.squeeze, self.excite, self.drop = nn.Linear(16, 4), nn.Linear(4, 16), nn.Dropout()
        self.head = nn.Linear(32 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.wrapped(x)))
        y = self.relu(self.spread(x))
        weight = torch.sigmoid(self.excite(self.relu(self.squeeze(y.mean((2, 3))))))
        x = self.groups(torch.cat([x, y * weight[:, :, None, None]], 1))
        x = F.adaptive_avg_pool2d(F.max_pool2d(x, 3, 2, 1), 4)
        return self.head(self.drop(x.flatten(1)))


class Functional(nn.Module):
    """Functions on bare weights, norms that look at the image, slices written in place, ceiling, upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, 5, 3) / 5)
        self.instance, self.layer = nn.InstanceNorm2d(8), nn.LayerNorm(8)
        self.edge, self.up = (
            nn.Conv2d(8, 8, 3, padding="same", padding_mode="replicate"),
            nn.ConvTranspose2d(8, 4, 2, 2),
        )
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.instance(F.conv2d(x, self.weight, stride=(2, 1), padding=(2, 1))))
        x = self.layer((x + 0.5 * F.hardswish(x)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x[:, :4] += 1
        a, b = x.chunk(2, 1)
        x = self.edge(torch.cat([F.relu6(a), b.abs().sqrt()], 1))
        x = F.interpolate(F.avg_pool2d(x, 2, ceil_mode=True, padding=1), scale_factor=2, mode="bilinear")
        x = F.pad(F.leaky_relu_(self.up(x)), (1, 2, 0, 1), value=0.5)
        return self.head(x.amax((2, 3))).log_softmax(1)


def course(name: str) -> Callable[[], nn.Module]:
    return lambda: build(name, classes=10, channels=3, size=(48, 48))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{name: getattr(torchvision.models, name) for name in ("resnet18", "mobilenet_v2", "vgg11")},
    **{name: course(name) for name in ("simple-cnn", "simple-cnn-gap", "two-block", "lenet5")},
    "excited": Excited,
    "functional": Functional,
}


def unsettled(model: nn.Module) -> nn.Module:
    """With statistics in its norms, as training leaves them."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight, module.bias):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def shown(found: Arithmetic) -> float:
    """The total, from nothing but what a page would show."""
    part = {each.label: each.total for each in found.parts}
    if "γ" in part:
        return (part["x"] - part["mean"]) / math.sqrt(part["var"] + part["eps"]) * part["γ"] + part["β"]
    if found.formula.startswith("e^x"):
        return found.parts[0].total / found.parts[1].total
    if found.kind in ("mul", "div"):
        return found.parts[0].total * found.parts[1].total ** (1 if found.kind == "mul" else -1)
    if found.formula.startswith(("sum of", "mean of", "weighted sum", "a +", "the")):
        return math.fsum(part.total for part in found.parts)
    assert found.total is not None
    return found.total


@pytest.mark.parametrize("name", NETWORKS)
def test_totals_are_the_tensors_numbers(name: str) -> None:
    torch.manual_seed(0)
    numbers = numbers_of(unsettled(NETWORKS[name]()), torch.randn(1, 3, 48, 48), temperature=1.5)
    kinds: dict[str, list[int]] = {}
    for index, step in enumerate(numbers.steps):
        kinds.setdefault(step.call.name, []).append(index)
    chance = random.Random(0)
    for turn in range(112):
        index = chance.choice([*kinds.values()][turn % len(kinds)])
        value = numbers.value(index)
        found = explain(numbers, index, [chance.randrange(n) for n in value.shape])
        assert found.total is not None, found.formula
        tolerance = 1e-5 * max(float(value.abs().max()), 1e-6)
        assert abs(found.total - found.value) <= tolerance, (found.name, found.kind, found.place)
        assert abs(shown(found) - found.total) <= tolerance, (found.name, found.kind, found.formula)
        for term in (term for part in found.parts for term in part.terms):
            assert term.step is None or term.number == float(numbers.value(term.step)[term.place])


def walked(numbers: Numbers, layer: str, place: tuple[int, ...]) -> list[str]:
    """Names of the steps from a number back to the image, by the first term of each."""
    step, names = numbers.find(layer), []
    while step != IMAGE:
        found = explain(numbers, step, place)
        names.append(found.name)
        sources = ((term.step, term.place) for part in found.parts for term in part.terms if term.step is not None)
        step, place = next(sources)
    return names


def test_a_walk_ends_at_the_image() -> None:
    torch.manual_seed(0)
    numbers = numbers_of(NETWORKS["resnet18"](), torch.randn(1, 3, 48, 48), temperature=1.0)
    names = walked(numbers, "softmax", (3,))
    assert names[:5] == ["softmax", "temperature", "fc", "flatten", "avgpool"]
    assert "layer2.0.add" in names
    assert names[-3:] == ["relu", "bn1", "conv1"]


def test_what_can_not_be_explained_is_said() -> None:
    model = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(16, 2, batch_first=True))
    numbers = numbers_of(model, torch.randn(1, 3, 4, 4))
    said = [explain(numbers, index, (0,) * step.value.ndim) for index, step in enumerate(numbers.steps)]
    assert any("no arithmetic is shown; its inputs are" in found.formula for found in said if found.total is None)
    with pytest.raises(UsageError, match="of which none is at"):
        explain(numbers, 0, (0, 99, 0))
    with pytest.raises(UsageError, match="went through no layer 'nowhere'"):
        numbers.find("nowhere")
