"""Two processes under torchrun take the steps of one: in float64, with uneven parts, mixing and accumulation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hubel.learning.distributed import from_first, gathered, largest, rank, summed, world_size

SCRIPT = '''
"""Train a small network with group norm in float64 for 100 steps, and write the losses."""
import json, os, sys
import numpy as np
import torch
from torch import nn
from hubel.dataset.config import Augmentation
from hubel.dataset.loader import Loader
from hubel.learning.config import TrainConfig
from hubel.learning.distributed import gathered, joined, largest, rank, world_size
from hubel.learning.engine import TrainState, fit
from hubel.learning.optim import optimizers
from hubel.records import EpochEnd, Preprocess, Step

class Double(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    def forward(self, x):
        return self.layers(x.double())

given = json.loads(sys.argv[2])
torch.manual_seed(0)
model = Double().double()
pixels = np.random.default_rng(0).integers(0, 256, (150, 8, 8, 1), dtype=np.uint8)
labels = (np.arange(150) % 3).astype(np.int64)
epochs = 10 * given["accumulate"]
config = TrainConfig(epochs=epochs, lr=0.05, optimizer="sgd", precision="float32", weight_decay=1e-3, **given)
with joined():
    loader = Loader(pixels, labels, np.arange(150), classes=3, batch_size=15,
        preprocess=Preprocess(size=(8, 8), channels=1, mean=(0.5,), std=(0.25,)),
        augmentation=Augmentation(flip=True, shift=0.2, cutmix=1.0, mixup=1.0), seed=1, device=torch.device("cpu"),
        part=(rank(), world_size()))
    state = TrainState(model=model, optimizers=optimizers(model, config))
    events = list(fit(state, loader, config, size=8))
    losses = [float(e.loss) for e in events if isinstance(e, Step)]
    ends = [(e.loss, e.accuracy, e.images) for e in events if isinstance(e, EpochEnd)]
    assert [len(part) for part in gathered(torch.zeros(rank() + 1))] == list(range(1, world_size() + 1))
    assert largest([float(rank()), -float(rank())]) == [world_size() - 1, 0]
    if rank() == 0:
        weight = model.layers[0].weight.detach().flatten().tolist()
        open(sys.argv[1], "w").write(json.dumps([losses, ends, weight]))
'''


@pytest.mark.parametrize("settings", [{"accumulate": 1}, {"accumulate": 2, "clip": 0.5}], ids=str)
def test_two_processes_take_the_steps_of_one(settings: dict[str, float], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    found = []
    for command in ([], ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]):
        output = tmp_path / "losses.json"
        done = subprocess.run(
            [sys.executable, *command, str(tmp_path / "script.py"), str(output), json.dumps(settings)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(output.read_text()))
    (one, ends, weight), (two, same_ends, same_weight) = found
    assert len(one) == 100
    assert len(set(one)) == 100
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-9)
    np.testing.assert_allclose(same_weight, weight, rtol=0, atol=1e-9)
    np.testing.assert_allclose(same_ends, ends, rtol=0, atol=1e-9)


def test_one_process_is_the_identity() -> None:
    value = torch.ones(3)
    assert (rank(), world_size()) == (0, 1)
    assert summed(value) is value
    assert largest([1.0, 2.0]) == [1.0, 2.0]
    assert gathered(value)[0] is value
    assert from_first("text") == "text"
