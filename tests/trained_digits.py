"""A small network trained on scikit-learn's digits within seconds, and maps of it."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from hubel.explanation.methods import attribute


@functools.cache
def trained() -> tuple[nn.Sequential, Tensor, Tensor]:
    """The network in eval mode, and the 297 images (N, 1, 16, 16) and labels that it was not trained on."""
    digits = load_digits()
    images = F.interpolate(torch.tensor(digits.images[:, None]).float() / 8 - 1, size=(16, 16), mode="bilinear")
    labels = torch.tensor(digits.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for channels, stride in ((1, 1), (16, 1), (32, 2), (32, 1)):
            width = 16 if channels == 1 else 32
            layers += [nn.Conv2d(channels, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(3):
            for rows in torch.randperm(1500).split(50):
                optimizer.zero_grad()
                F.cross_entropy(model(images[rows]), labels[rows]).backward()
                optimizer.step()
    return model.eval(), images[1500:], labels[1500:]


def gradient(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Simonyan et al. 2013: the gradient of the logit, summed over channels."""
    images = images.clone().requires_grad_()
    score = model(images).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(score, images)[0].sum(dim=1)


def enlarged(method: str, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """A method's signed maps, in the size of the images."""
    maps = attribute(model, images, targets, method=method).maps[:, None]
    return F.interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
