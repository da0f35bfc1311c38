"""The losses of a small network with group norm over 100 steps in float64: in one process, or as a file in several."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hubel.dataset.config import Augmentation
from hubel.dataset.loader import Loader
from hubel.events import EpochEnd, Step
from hubel.learning.config import TrainConfig
from hubel.learning.distributed import gathered, joined, largest, rank, world_size
from hubel.learning.engine import TrainState, fit
from hubel.learning.optim import optimizers
from hubel.records import Preprocess

SETTINGS: tuple[dict[str, Any], ...] = ({"accumulate": 1}, {"accumulate": 2, "clip": 0.5})


class Double(nn.Module):
    """Two convolutions and a dense layer, which calculate in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2),
            nn.GroupNorm(2, 8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x.double())
        return y


def trained(settings: dict[str, Any]) -> list[Any]:
    """Train on this process' part: losses of the steps, figures of the epochs, and the first weights."""
    torch.manual_seed(0)
    model = Double().double()
    loader = Loader(
        np.random.default_rng(0).integers(0, 256, (150, 8, 8, 1), dtype=np.uint8),
        (np.arange(150) % 3).astype(np.int64),
        np.arange(150),
        classes=3,
        batch_size=15,
        preprocess=Preprocess(size=(8, 8), channels=1, mean=(0.5,), std=(0.25,)),
        augmentation=Augmentation(flip=True, shift=0.2, cutmix=1.0, mixup=1.0),
        seed=1,
        device=torch.device("cpu"),
        part=(rank(), world_size()),
    )
    config = TrainConfig(
        epochs=10 * settings["accumulate"],
        lr=0.05,
        optimizer="sgd",
        precision="float32",
        weight_decay=1e-3,
        **settings,
    )
    state = TrainState(model=model, optimizers=optimizers(model, config))
    events = list(fit(state, loader, config, size=8))
    losses = [float(e.loss) for e in events if isinstance(e, Step)]
    ends = [(e.loss, e.accuracy, e.images) for e in events if isinstance(e, EpochEnd)]
    return [losses, ends, model.layers[0].weight.detach().flatten().tolist()]


if __name__ == "__main__":
    with joined():
        found = [trained(settings) for settings in SETTINGS]
        assert [len(part) for part in gathered(torch.zeros(rank() + 1))] == list(range(1, world_size() + 1))
        assert largest([float(rank()), -float(rank())]) == [world_size() - 1, 0]
        if rank() == 0:
            Path(sys.argv[1]).write_text(json.dumps([world_size(), *found]))
