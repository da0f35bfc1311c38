"""Phases as text, and kept features that train the head as forwarding each time would."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hubel.dataset.config import Augmentation
from hubel.dataset.loader import Loader
from hubel.errors import UsageError
from hubel.events import EpochEnd, outcome
from hubel.learning.config import TrainConfig
from hubel.learning.engine import TrainState, fit
from hubel.learning.optim import optimizers, parameter_groups
from hubel.learning.transfer import Features, HeadOnly, Phase, backbone_features, dropout, parse_phases
from hubel.nn.stages import find_stages, set_trainable
from hubel.nn.zoo import build
from hubel.records import Preprocess

PREPROCESS = Preprocess(size=(32, 32))


def test_phases_are_read_and_written() -> None:
    text = "head:5:0.001,last:10:1e-05,last2:1:0.1,all:3:0.0002"
    phases = parse_phases(text)
    assert phases[2] == Phase(depth=2, epochs=1, lr=0.1)
    assert [phase.depth for phase in phases] == [0, 1, 2, None]
    assert ",".join(map(str, phases)) == text


@pytest.mark.parametrize(
    "text", ["head", "head:5", "head:0:0.1", "tail:1:0.1", "head:5:0", "head:1:0.1,", "", "all:x:1"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no phase; expected auto, course, head, all"):
        parse_phases(text)


def loader(flip: bool = False) -> Loader:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(40) % 3
    return Loader(
        images,
        labels,
        np.arange(30),
        classes=3,
        batch_size=10,
        preprocess=PREPROCESS,
        augmentation=Augmentation(flip=flip),
        seed=3,
        device=torch.device("cpu"),
    )


def views(model: torch.nn.Module, batches: Loader, *mirrored: bool) -> list[torch.Tensor]:
    images, device = batches._stored[batches.indices.numpy()], torch.device("cpu")
    return [
        outcome(backbone_features(model, "linear", images, PREPROCESS, device=device, autocast=None, mirrored=m))
        for m in mirrored
    ]


@pytest.mark.parametrize("flip", [False, True])
def test_kept_features_train_the_head_as_forwarding_does(flip: bool) -> None:
    """The same losses, whether the frozen layers run each time or once: the same images, order and flips."""
    config = TrainConfig(epochs=3, lr=0.05, optimizer="adam", precision="float32")
    losses = []
    for kept in (False, True):
        torch.manual_seed(0)
        model, batches = build("resnet20", classes=3), loader(flip)
        stages = find_stages(model, (3, 32, 32))
        set_trainable(model, stages, 0)
        if kept:
            features = Features(batches, views(model, batches, *((False, True) if flip else (False,))))
            state = TrainState(model=HeadOnly(model, "linear"), optimizers=optimizers(model, config))
            events = fit(state, features, config, size=32)
        else:
            state = TrainState(model=model, optimizers=optimizers(model, config))
            events = fit(state, batches, config, size=32)
        losses.append([event.loss for event in events if isinstance(event, EpochEnd)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5])
def test_dropout_zeroes_the_right_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    dropped = dropout(torch.ones(1000, 1001), p)
    assert (dropped == 0).double().mean().item() == pytest.approx(p, abs=0.003)
    assert dropped.double().mean().item() == pytest.approx(1, abs=0.003)
    assert set(dropped.unique().tolist()) <= {0.0, torch.tensor(1 / (1 - p)).item()}
    torch.manual_seed(0)
    assert torch.equal(dropped, dropout(torch.ones(1000, 1001), p))


def test_a_head_that_begins_with_dropout() -> None:
    torch.manual_seed(0)
    model = build("torchvision/squeezenet1_1", classes=4, size=(64, 64))
    head = HeadOnly(model, "classifier")
    features = torch.randn(2, 512, 3, 3)
    assert len({id(p) for p in head.parameters()}) == 2
    model.eval()
    torch.testing.assert_close(head(features), model.classifier(features).flatten(1))
    model.train()
    assert not torch.equal(head(features), head(features))


def test_mirrored_features_are_drawn_for_half_of_the_images() -> None:
    batches = loader(flip=True)
    features = Features(batches, [torch.zeros(30, 2), torch.ones(30, 2)])
    drawn = torch.cat([batch.images[:, 0] for epoch in range(20) for batch in features.epoch(epoch, 32)])
    assert len(features) == len(batches) == 3
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.06)
    again = torch.cat([batch.images[:, 0] for batch in features.epoch(0, 32)])
    assert torch.equal(again, drawn[:30])


def test_each_stage_has_its_own_rate() -> None:
    model = build("resnet20", classes=3)
    stages = find_stages(model, (3, 32, 32))
    groups = parameter_groups(model, 0.1, stages=stages.groups, stage_decay=0.5)
    shares = {id(p): group["share"] for group in groups for p in group["params"]}
    assert shares[id(model.linear.weight)] == 1
    assert shares[id(model.layer3[0].conv1.weight)] == 0.5
    assert shares[id(model.layer2[0].bn1.weight)] == 0.25
    assert shares[id(model.conv1.weight)] == shares[id(model.layer1[0].conv1.weight)] == 0.125
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_the_loop_uses_the_rates() -> None:
    torch.manual_seed(0)
    model = build("resnet20", classes=3)
    stages = find_stages(model, (3, 32, 32))
    config = TrainConfig(epochs=1, lr=0.1, optimizer="sgd", precision="float32", schedule="constant", warmup=0)
    config = type(config)(**{**vars(config), "stage_decay": 0.1})
    state = TrainState(model=model, optimizers=optimizers(model, config, stages=stages.groups))
    next(iter(fit(state, loader(), config, size=32)))
    rates = sorted({round(group["lr"], 6) for group in state.optimizers[0].param_groups})
    assert rates == [0.0001, 0.001, 0.01, 0.1]
