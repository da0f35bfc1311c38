"""Published weights or from scratch: what is tried, what decides, and that the plan says so."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hubel.events import EpochRow, Planned, Progress
from hubel.jobs import choice
from hubel.jobs.choice import opening
from hubel.jobs.clock import Clock
from hubel.jobs.prepare import View
from hubel.jobs.recipe import Recipe, read_recipe, with_settings
from hubel.jobs.train import training

PHOTOS, CPU = View(side=300, colour=True), torch.device("cpu")


def no_hurry() -> Clock:
    return Clock(time.monotonic(), None)


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """Forty pictures of 64 pixels in two classes, stripes that lie or stand."""
    random = np.random.default_rng(0)
    for name, axis in (("lying", 0), ("standing", 1)):
        (tmp_path / "stripes" / name).mkdir(parents=True)
        for number in range(20):
            wave = np.sin(np.arange(64) / random.uniform(1.5, 4))
            pixels = (np.broadcast_to(wave, (64, 64)).T if axis == 0 else np.broadcast_to(wave, (64, 64))) * 60 + 120
            noisy = (pixels[..., None] + random.normal(0, 20, (64, 64, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / "stripes" / name / f"{number}.png")
    return tmp_path / "stripes"


@pytest.mark.parametrize(
    ("changes", "side", "reason"),
    [
        ({"model": "resnet18"}, 300, "--weights imagenet starts from published ones"),
        ({"width": 16}, 300, "as the settings that were given ask for it"),
        ({"find_lr": True}, 300, "as the settings"),
        ({"channels": 1}, 300, "as the settings"),
        ({}, 28, "images of 28 pixels are too small"),
    ],
)
def test_from_scratch_where_the_recipe_or_the_images_ask_for_it(
    changes: dict[str, object], side: int, reason: str
) -> None:
    found = opening(with_settings(Recipe(), changes), None, View(side=side, colour=True), 500, CPU, no_hurry())
    assert found.start.weights is None
    assert found.recipe.model.weights == "none"
    assert reason in found.start.reason


def test_what_is_asked_for_is_done() -> None:
    found = opening(with_settings(Recipe(), {"weights": "none"}), None, PHOTOS, 500, CPU, no_hurry())
    assert (found.start.weights, found.undecided, found.start.reason) == (None, False, "")
    named = opening(with_settings(Recipe(), {"model": "efficientnet_lite0"}), None, PHOTOS, 500, CPU, no_hurry())
    assert named.start.weights is not None
    assert not named.undecided, "the network was asked for"


@pytest.mark.parametrize(
    ("side", "count", "seconds", "size"),
    [
        (300, 500, math.inf, 224),
        (40, 500, math.inf, 160),
        (300, 4000, 15.0, 128),  # hardly any time: some of the images are enough for a head
        (300, 10_000_000, 600.0, None),  # and so many are enough for a start from scratch
    ],
)
def test_the_side_is_what_time_and_images_allow(side: int, count: int, seconds: float, size: int | None) -> None:
    clock = Clock(time.monotonic(), None if math.isinf(seconds) else seconds)
    found = opening(Recipe(), None, View(side=side, colour=True), count, CPU, clock)
    assert found.size == size
    assert found.undecided == (size is not None)


@pytest.mark.parametrize(("accuracy", "network"), [(1.1, "quick"), (0.0, "efficientnet_lite0")])
def test_the_better_one_goes_on_and_the_plan_says_both_figures(
    accuracy: float, network: str, stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trial(*_: object) -> Generator[Progress, None, float]:
        yield Progress(task="trying from scratch", done=1, total=1)
        return accuracy

    monkeypatch.setattr(choice, "_trial", trial)
    monkeypatch.setattr(choice, "FEW_ERRORS", -1.0)
    recipe = with_settings(Recipe(), {"epochs": 1, "size": 64})
    events = list(training(stripes, recipe, output=tmp_path / "run", report=False))
    said = {what: f"{value} {why}" for e in events if isinstance(e, Planned) for what, value, why in e.rows}
    reason = said["weights"] if network == "quick" else said["start"]
    assert f"{accuracy:.1%} from scratch" in reason
    assert "validation images with its head alone" in reason
    again = read_recipe(tmp_path / "run")
    assert again.model.model == network
    assert again.model.weights == ("none" if network == "quick" else "imagenet")


def test_a_trial_from_scratch_is_a_short_training(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "FEW_ERRORS", -1.0)
    monkeypatch.setattr(choice, "WITHOUT_BUDGET", 2.0)
    recipe = with_settings(Recipe(), {"epochs": 1, "size": 64})
    events = list(training(stripes, recipe, output=tmp_path / "run", report=False))
    assert any(isinstance(e, Progress) and e.task == "trying from scratch" for e in events)
    rows = [event.epoch for event in events if isinstance(event, EpochRow)]
    assert rows in ([0, 1], [0], [1])
