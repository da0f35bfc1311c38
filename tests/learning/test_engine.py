"""The loop against plain PyTorch, step by step; and what it promises to whoever iterates it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hubel.dataset.config import Augmentation
from hubel.dataset.loader import Loader
from hubel.errors import UsageError
from hubel.events import EpochEnd, Step
from hubel.learning.average import averaged
from hubel.learning.checkpoint import forked, snapshot
from hubel.learning.config import TrainConfig
from hubel.learning.engine import TrainState, fit
from hubel.learning.finder import find_lr
from hubel.learning.optim import Muon, optimizers, orthogonal, parameter_groups
from hubel.learning.schedule import factor
from hubel.records import Preprocess

RNG = np.random.default_rng(0)
LABELS = (np.arange(96) % 3).astype(np.int64)
PIXELS = (RNG.integers(0, 120, (96, 8, 8, 1)) + 60 * LABELS[:, None, None, None]).astype(np.uint8)
CONFIG = TrainConfig(
    epochs=2, batch_size=32, lr=0.1, optimizer="sgd", weight_decay=0.01, precision="float32", label_smoothing=0.1
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(4 * 36, 3)
    )


def loader(batch_size: int = 32) -> Loader:
    return Loader(
        PIXELS,
        LABELS,
        np.arange(96),
        classes=3,
        batch_size=batch_size,
        preprocess=Preprocess(size=(8, 8), channels=1, mean=(0.4,), std=(0.2,)),
        augmentation=Augmentation(shift=0.1),
        seed=0,
        device=torch.device("cpu"),
    )


def state(config: TrainConfig = CONFIG) -> TrainState:
    model = network()
    return TrainState(model=model, optimizers=optimizers(model, config))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def plain_loop(config: TrainConfig) -> nn.Module:
    """The same training as a newcomer would write it."""
    model = network()
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=config.lr,
        momentum=0.9,
        nesterov=True,
    )
    torch.manual_seed(1)
    step = 0
    for epoch in range(config.epochs):
        for batch in loader().epoch(epoch, 8):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * factor(config.schedule, step / 6, config.warmup)
            optimizer.zero_grad()
            F.cross_entropy(model(batch.images), batch.labels, label_smoothing=0.1).backward()
            optimizer.step()
            step += 1
    return model


def test_the_loop_equals_a_plain_one() -> None:
    mine = state()
    torch.manual_seed(1)
    events = list(fit(mine, loader(), CONFIG, size=8))
    assert [type(e) for e in events] == [Step, Step, Step, EpochEnd] * 2
    torch.testing.assert_close(weights(mine.model), weights(plain_loop(CONFIG)), rtol=1e-6, atol=1e-7)
    assert (mine.epoch, mine.position, mine.step) == (2, 0, 6)


@pytest.mark.parametrize(
    ("optimizer", "lr", "losses"),
    [
        ("sgd", 0.1, [1.3697, 1.2585, 0.7986, 0.7010, 0.6302, 0.6210]),
        ("muon", 0.05, [1.3697, 1.2535, 0.6710, 0.6707, 0.6119, 0.4669]),
        ("adamw", 0.01, [1.3697, 1.2708, 0.9873, 0.8164, 0.7250, 0.7077]),
    ],
)
def test_losses_are_what_they_were(optimizer: str, lr: float, losses: list[float]) -> None:
    """Whoever moves these curves says why in the changelog."""
    config = dataclasses.replace(CONFIG, optimizer=optimizer, lr=lr)
    mine = state(config)
    torch.manual_seed(1)
    steps = [event for event in fit(mine, loader(), config, size=8) if isinstance(event, Step)]
    assert [float(step.loss) for step in steps] == pytest.approx(losses, abs=2e-3)


def test_gradients_are_there_at_a_step() -> None:
    mine = state()
    for event in fit(mine, loader(), CONFIG, size=8):
        if isinstance(event, Step):
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mine.model.parameters() if p.ndim > 1)


def test_nothing_is_open_across_a_yield() -> None:
    config = dataclasses.replace(CONFIG, precision="bfloat16")
    for event in fit(state(config), loader(), config, size=8):
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        assert not isinstance(event, Step) or (event.loss.ndim == 0 and not event.loss.requires_grad)


def test_evaluating_in_between_changes_nothing() -> None:
    def train(meddle: bool) -> torch.Tensor:
        mine = state()
        torch.manual_seed(1)
        for _ in fit(mine, loader(), CONFIG, size=8):
            if meddle:
                mine.model.eval()
        return weights(mine.model)

    torch.testing.assert_close(train(True), train(False), rtol=0, atol=0)


def test_a_frozen_norm_stays_in_eval_mode() -> None:
    mine = state()
    norm = mine.model[1]
    norm.eval()
    before = norm.running_mean.clone()
    for _ in fit(mine, loader(), CONFIG, size=8):
        mine.model.train(False)
    assert torch.equal(norm.running_mean, before)


def test_accumulated_batches_equal_one_large_batch() -> None:
    def without_norm(config: TrainConfig, batches: Loader) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        mine = TrainState(model=model, optimizers=optimizers(model, config))
        assert sum(isinstance(e, Step) for e in fit(mine, batches, config, size=8)) == 2
        return weights(model)

    large = without_norm(CONFIG, loader(96))
    small = without_norm(dataclasses.replace(CONFIG, accumulate=3), loader(32))
    torch.testing.assert_close(large, small, rtol=1e-5, atol=1e-6)


def test_clipping_limits_the_gradient() -> None:
    config = dataclasses.replace(CONFIG, clip=0.01)
    mine = state(config)
    for event in fit(mine, loader(), config, size=8):
        if isinstance(event, Step):
            norm = torch.cat([p.grad.flatten() for p in mine.model.parameters() if p.grad is not None]).norm()
            assert norm <= 0.0101


def test_pace_compresses_the_schedule_and_ends_the_loop() -> None:
    config = dataclasses.replace(CONFIG, epochs=100, warmup=0.0)
    mine, paces = state(config), iter([0.0, 0.5, 1.0])
    rates, ends = [], 0
    for event in fit(mine, loader(), config, size=8):
        if isinstance(event, Step):
            rates.append(event.lr)
            mine.pace = next(paces)
        else:
            ends += 1
    assert len(rates) == 3, "the step at which the time is up is the last"
    assert rates == pytest.approx([0.1, 0.1 * 299 / 300, 0.05])
    assert ends == 1


def test_a_step_says_what_was_measured() -> None:
    mine = state()
    first = next(iter(fit(mine, loader(), CONFIG, size=8)))
    assert isinstance(first, Step)
    gradients = torch.cat([p.grad.flatten() for p in mine.model.parameters() if p.grad is not None])
    assert float(first.grad_norm) == pytest.approx(float(gradients.norm()))
    assert (first.epoch, first.epochs, first.batch, first.batches, first.step, first.steps) == (1, 2, 1, 3, 1, 6)
    assert (first.size, first.images) == (8, 32)
    assert 0 <= first.waited <= first.seconds


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("at", [0, 4])
def test_a_fork_leaves_no_trace(optimizer: str, at: int) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer, ema=0.9)

    def trained(*, fork: bool) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(3)  # of dropout
        mine = state(config)
        mine.average = averaged(mine.model)
        kept = snapshot(mine)
        if fork and at == 0:
            with forked(mine) as branch:
                list(fit(branch, loader(), config, size=8))
        for event in fit(mine, loader(), config, size=8):
            if fork and isinstance(event, Step) and event.step == at:
                grads = [p.grad.clone() for p in mine.model.parameters() if p.grad is not None]
                with forked(mine, kept) as branch:
                    assert branch.step == 0, "it starts at the earlier moment"
                    ended = [e.step for e in fit(branch, loader(), config, size=8) if isinstance(e, EpochEnd)]
                    mine.model.eval()
                    np.random.rand()
                assert ended == [3, 6]
                assert all(
                    torch.equal(p.grad, g)  # type: ignore[arg-type]
                    for p, g in zip(mine.model.parameters(), grads, strict=True)
                )
        return (*mine.model.state_dict().values(), *mine.average.state_dict().values(), torch.get_rng_state())

    np.random.seed(0)
    expected, drawn = trained(fork=False), np.random.get_state()[1]
    for one, other in zip(trained(fork=True), expected, strict=True):
        assert torch.equal(one, other)
    assert np.array_equal(np.random.get_state()[1], drawn)  # type: ignore[arg-type]


def test_break_leaves_a_usable_state_that_goes_on() -> None:
    mine = state()
    for event in fit(mine, loader(), CONFIG, size=8):
        if isinstance(event, Step) and event.step == 4:
            break
    assert (mine.epoch, mine.position, mine.step) == (1, 1, 4)
    rest = list(fit(mine, loader(), CONFIG, size=8))
    assert [e.step for e in rest if isinstance(e, Step)] == [5, 6]


def test_class_weights_reach_the_loss() -> None:
    config = dataclasses.replace(CONFIG, lr=1e-9, label_smoothing=0.0, epochs=1)
    mine = state(config)
    plain = [float(e.loss) for e in fit(mine, loader(96), config, size=8) if isinstance(e, Step)]
    weighted = [
        float(e.loss)
        for e in fit(state(config), loader(96), config, size=8, class_weights=torch.full((3,), 2.0))
        if isinstance(e, Step)
    ]
    assert weighted[0] == pytest.approx(2 * plain[0], rel=0.1)


def test_the_tally_is_the_mean_over_the_epoch() -> None:
    losses, sizes = [], []
    for event in fit(state(), loader(), dataclasses.replace(CONFIG, epochs=1), size=8):
        if isinstance(event, Step):
            losses.append(float(event.loss))
            sizes.append(event.images)
        else:
            assert event.loss == pytest.approx(np.average(losses, weights=sizes), rel=1e-5)
            assert event.images == 96
            assert 0 <= event.accuracy <= 1


def test_it_learns() -> None:
    config = dataclasses.replace(CONFIG, epochs=8)
    ends = [e for e in fit(state(config), loader(), config, size=8) if isinstance(e, EpochEnd)]
    assert ends[-1].accuracy > 0.9


def test_decay_spares_biases_and_norms() -> None:
    decayed, spared = parameter_groups(network(), 0.1)
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert [p.ndim for p in spared["params"]] == [1, 1, 1, 1]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_optimizers_are_pytorchs(name: str, kind: type) -> None:
    [optimizer] = optimizers(network(), dataclasses.replace(CONFIG, optimizer=name))
    assert type(optimizer) is kind


def test_muon_has_the_filters_and_sgd_the_rest() -> None:
    filters, rest = optimizers(network(), dataclasses.replace(CONFIG, optimizer="muon"))
    assert type(filters) is Muon
    assert [p.ndim for group in filters.param_groups for p in group["params"]] == [4]
    assert sorted(p.ndim for group in rest.param_groups for p in group["params"]) == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("shape", [(8, 27), (27, 8)])
def test_an_orthogonal_update_has_the_directions_of_the_gradient(shape: tuple[int, int]) -> None:
    """Against the singular value decomposition: the same directions, every singular value near 1."""
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    update = orthogonal(matrix)
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.3
    assert values.max() < 1.4
    along = u.T @ update @ v.T
    torch.testing.assert_close(along, along.diagonal().diag(), atol=1e-9, rtol=0)


def test_muon_keeps_the_norm_and_changes_by_its_rate() -> None:
    config = dataclasses.replace(CONFIG, optimizer="muon", lr=0.05, warmup=0.0, schedule="constant", epochs=1)
    mine = state(config)
    bank = mine.model[0].weight
    for event in fit(mine, loader(96), config, size=8):
        if isinstance(event, Step):
            assert bank.norm().item() == pytest.approx(len(bank) ** 0.5, rel=0.1)


def test_the_average_follows_the_weights() -> None:
    """Against the recursion, written out for one weight."""
    config = dataclasses.replace(CONFIG, ema=0.9)
    mine = state(config)
    mine.average = averaged(mine.model)
    expected = mine.average[5].weight.clone()
    for event in fit(mine, loader(), config, size=8):
        if isinstance(event, Step):
            decay = min(0.9, (1 + event.step) / (10 + event.step))
            expected = decay * expected + (1 - decay) * mine.model[5].weight.detach()
            torch.testing.assert_close(mine.average[5].weight, expected)
    assert int(mine.average[1].num_batches_tracked) == 6


def test_the_finder_suggests_a_rate_that_learns_and_changes_nothing() -> None:
    mine = state()
    before = weights(mine.model).clone()
    curve = find_lr(mine, loader(), CONFIG, size=8)
    assert torch.equal(weights(mine.model), before)
    assert 1e-4 < curve.suggestion < 3
    assert list(curve.rates) == sorted(curve.rates)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"batch_size": 0},
        {"label_smoothing": 1.0},
        {"weight_decay": -1e-4},
        {"small_first": 1.5},
        {"accumulate": 0},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        TrainConfig(**wrong)
