"""ResNets: plain twins, options, and weights that others published; torchvision's are in test_shared_networks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hubel.errors import UsageError
from hubel.evaluation.predict import predict
from hubel.nn.blocks import Add, PadShortcut
from hubel.nn.zoo import build
from hubel.records import Preprocess

SHARED = Path(os.environ.get("HUBEL_SHARED", Path(__file__).parents[3] / "shared"))
WEIGHTS = SHARED / "weights"
CIFAR = SHARED / "data" / "cifar10"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGENET = Preprocess(size=(32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def test_option_b_adds_projections_only() -> None:
    a, b = build("resnet20", classes=10), build("resnet20", classes=10, shortcut="projection")
    added = set(b.state_dict()) - set(a.state_dict())
    assert {key.split(".downsample.")[0] for key in added} == {"layer2.0", "layer3.0"}


@pytest.mark.parametrize("depth", [20, 56])
def test_a_plain_twin_differs_in_the_shortcuts_only(depth: int) -> None:
    residual, plain = (build(f"{kind}{depth}", classes=10).double() for kind in ("resnet", "plain"))
    layers = [(name, type(m)) for name, m in residual.named_modules() if not isinstance(m, PadShortcut | Add)]
    assert layers == [(name, type(m)) for name, m in plain.named_modules()]
    assert [(k, v.shape) for k, v in residual.state_dict().items()] == [
        (k, v.shape) for k, v in plain.state_dict().items()
    ]
    plain.load_state_dict(residual.state_dict())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert not torch.allclose(residual(x), plain(x))

    for block in [*residual.layer1, *residual.layer2, *residual.layer3]:
        block.downsample = Zero()
    plain.load_state_dict(residual.state_dict())
    for train in (True, False):
        torch.testing.assert_close(residual.train(train)(x), plain.train(train)(x), rtol=0, atol=0)


class Zero(torch.nn.Module):
    """A shortcut that passes nothing on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(())


def shape_after(model: torch.nn.Module, layer: str, side: int = 64) -> tuple[int, ...]:
    """Height and width that a layer gives out for square images."""
    shapes: list[tuple[int, ...]] = []
    model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[2:]))
    model(torch.empty(1, 3, side, side, device="meta"))
    return tuple(shapes[0])


@pytest.mark.parametrize(
    ("arguments", "side"),
    [({}, 16), ({"down": "average"}, 16), ({"down": "stride"}, 16), ({"down": "none"}, 32), ({"stem": "small"}, 64)],
)
def test_what_the_stem_leaves(arguments: dict[str, Any], side: int) -> None:
    with torch.device("meta"):
        model, usual = build("resnet18", classes=10, **arguments), build("resnet18", classes=10)
        assert shape_after(model, "layer1") == (side, side)
    smaller = 64 * 3 * (49 - 9) if arguments.get("stem") == "small" else 0
    assert count(model) == count(usual) - smaller


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "each"),
    [
        ({"se": True}, lambda c: 2 * 8 * c + c + 8),
        ({"attention": "spatial"}, lambda c: 98),
        ({"attention": "cbam"}, lambda c: 2 * 8 * c + c + 8 + 98),
        ({"kernel": 5}, lambda c: 2 * c * c * 16),
        ({"activation": "gelu", "dropout": 0.3}, lambda c: 0),
    ],
)
def test_options_of_the_blocks_cost_what_they_should(arguments: dict[str, Any], each: Any) -> None:
    with torch.device("meta"):
        added = count(build("resnet20", classes=10, **arguments)) - count(build("resnet20", classes=10))
        assert list(build("resnet50", classes=10, **arguments)(torch.empty(2, 3, 40, 40)).shape) == [2, 10]
    expected = 3 * sum(each(c) for c in (16, 32, 64))
    if "kernel" in arguments:
        expected += 16 * (3 * 16 - 16 * 32 - 32 * 64)  # the stem; the stages that begin with half as many channels
    assert added == expected


def test_a_width_is_that_of_the_first_stage() -> None:
    with torch.device("meta"):
        narrow, usual = build("resnet20", classes=10, width=8), build("resnet20", classes=10)
        assert narrow.linear.in_features == 32
        assert build("resnet50", classes=10, width=16).fc.in_features == 16 * 8 * 4
    assert 3.7 < count(usual) / count(narrow) < 4


def test_unknown_choices_are_refused() -> None:
    for arguments, says in (
        ({"down": "up"}, "down: expected one of none, max, average, stride, got .up."),
        ({"attention": "self"}, "attention: expected one of"),
    ):
        with pytest.raises(UsageError, match=says):
            build("resnet18", classes=2, **arguments)
    with pytest.raises(UsageError, match="dropout is a probability"):
        build("resnet20", classes=2, dropout=1)


def sheet(name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A grid of 32x32 images → (N, 32, 32, 3), in reading order."""
    with Image.open(CIFAR / f"test.{name}.0.1000.32x32.webp") as image:
        pixels = np.asarray(image.convert("RGB"))
    rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
    return pixels.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)


@pytest.mark.skipif(not WEIGHTS.is_dir() or not CIFAR.is_dir(), reason="the shared weights and images are not here")
@pytest.mark.parametrize(("name", "accuracy", "each"), [("resnet20", 0.9173, 60), ("resnet56", 0.9339, 30)])
def test_published_cifar_weights_reach_their_accuracy(name: str, accuracy: float, each: int) -> None:
    weights = load_file(WEIGHTS / f"{name}-cifar10.safetensors")
    model = build(name, classes=10)
    assert {k for k in weights if "num_batches" not in k} == {k for k in model.state_dict() if "num_batches" not in k}
    model.load_state_dict(weights, strict=False)
    images = np.concatenate([sheet(c)[:each] for c in CLASSES])
    labels = torch.arange(10).repeat_interleave(each)
    right = (predict(model, images, IMAGENET).argmax(dim=1) == labels).float().mean()
    assert float(right) == pytest.approx(accuracy, abs=0.035)  # three standard errors of 600 images
