"""The callback sees steps and evaluations of Lightning's loop, and leaves nothing behind."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hubel.doctor import lightning_callback
from hubel.errors import UsageError


def test_without_lightning_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(UsageError, match="pip install lightning"):
        lightning_callback()


@pytest.mark.filterwarnings("ignore")  # of Lightning's own
def test_a_softmax_before_cross_entropy_is_seen_in_a_module() -> None:
    pytest.importorskip("lightning")
    pl: Any = importlib.import_module("lightning.pytorch")
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(images, (images.mean((1, 2, 3)) > 0).long()), batch_size=16)

    class Module(pl.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2), nn.Softmax(1))

        def training_step(self, batch: Any, _: int) -> Any:
            return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-3)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    callback = lightning_callback(tell=lambda _: None)
    pl.Trainer(max_epochs=5, accelerator="cpu", callbacks=[callback], **quiet).fit(Module(), loader)
    assert [finding.code for finding in callback.doctor.findings] == ["softmax-twice"]
    assert len(callback.doctor.case.steps) == 20
    assert not callback.doctor.model._forward_hooks
