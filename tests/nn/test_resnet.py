"""ResNets against torchvision, and against weights that others published."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file

from hubel.evaluation.predict import predict
from hubel.nn import resnet
from hubel.records import Preprocess

SHARED = Path(os.environ.get("HUBEL_SHARED", Path(__file__).parents[3] / "shared"))
WEIGHTS = SHARED / "weights"
CIFAR = SHARED / "data" / "cifar10"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGENET = Preprocess(size=(32, 32), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_torchvisions_weights_give_torchvisions_logits(name: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(num_classes=12).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics that matter
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    ours = getattr(resnet, name)(classes=12).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 80)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_functions_can_be_imported_and_called() -> None:
    assert resnet.resnet18(classes=10, channels=3).fc.out_features == 10
    assert resnet.resnet20(classes=10, channels=1).conv1.in_channels == 1


def test_option_b_adds_projections_only() -> None:
    a, b = resnet.resnet20(classes=10), resnet.resnet20(classes=10, shortcut="projection")
    added = set(b.state_dict()) - set(a.state_dict())
    assert {key.split(".downsample.")[0] for key in added} == {"layer2.0", "layer3.0"}


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
    model = getattr(resnet, name)(classes=10)
    assert {k for k in weights if "num_batches" not in k} == {k for k in model.state_dict() if "num_batches" not in k}
    model.load_state_dict(weights, strict=False)
    images = np.concatenate([sheet(c)[:each] for c in CLASSES])
    labels = torch.arange(10).repeat_interleave(each)
    right = (predict(model, images, IMAGENET).argmax(dim=1) == labels).float().mean()
    assert float(right) == pytest.approx(accuracy, abs=0.035)  # three standard errors of 600 images
