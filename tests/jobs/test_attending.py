"""The doctor in hubel's own loop: silent where all is well, exact, and able to mend a rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hubel
from hubel.doctor.doctor import Doctor
from hubel.events import Event, Note
from hubel.jobs.recipe import Recipe, with_settings
from hubel.jobs.training import Training
from hubel.learning.checkpoint import digest
from hubel.learning.config import TrainConfig
from hubel.learning.engine import Batches, fit
from hubel.records import Finding

SETTINGS = {"weights": "none", "epochs": 6, "batch_size": 16, "width": 4, "seed": 0}


def events(few_digits: Path, output: Path, **changes: Any) -> list[Event]:
    recipe = with_settings(Recipe(), {**SETTINGS, **changes})
    return list(hubel.training(str(few_digits), recipe, output=output, report=False))


def unattended(training: Training, batches: Batches, config: TrainConfig) -> Iterator[Event]:
    size, weights = training.plan.size, training.class_weights
    yield from fit(training.state, batches, config, size=size, class_weights=weights)


def test_weights_are_the_same_with_and_without_it_and_nothing_is_said(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = events(few_digits, tmp_path / "with")
    assert not [event for event in said if isinstance(event, Finding)]
    monkeypatch.setattr("hubel.jobs.attend.attended", unattended)
    events(few_digits, tmp_path / "without")
    first, second = (hubel.load(tmp_path / name).model for name in ("with", "without"))  # type: ignore[union-attr]
    assert digest(first) == digest(second)


def test_a_rate_that_is_far_too_high_is_taken_back_to_the_start(few_digits: Path, tmp_path: Path) -> None:
    fast = {"lr": 300.0, "optimizer": "sgd", "schedule": "constant", "epochs": 80}
    said = events(few_digits, tmp_path / "fast", **fast, heal=True)
    found = next(event for event in said if isinstance(event, Finding))
    assert (found.code, found.known) == ("rate-too-high", "decided by a fork")
    assert any("back to the weights of" in event.text for event in said if isinstance(event, Note))
    assert hubel.Run(tmp_path / "fast").scores.accuracy > 0.6


def test_numbers_that_break_are_gone_back_from(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = Doctor.taken

    def broken(self: Doctor, **values: Any) -> Iterator[Finding]:
        if self.step == 120:
            with torch.no_grad():
                next(self.model.parameters()).fill_(math.nan)
        return taken(self, **values)

    monkeypatch.setattr(Doctor, "taken", broken)
    said = events(few_digits, tmp_path / "broken", epochs=40, heal=True)
    [healed] = [event.text for event in said if isinstance(event, Note) and "Healed" in event.text]
    assert "with 0.5 times the rate" in healed
    assert hubel.Run(tmp_path / "broken").scores.accuracy > 0.6


def test_a_rate_that_is_far_too_low_is_tested_and_healed(few_digits: Path, tmp_path: Path) -> None:
    slow = {"lr": 1e-6, "optimizer": "sgd", "schedule": "constant", "epochs": 80}
    said = events(few_digits, tmp_path / "slow", **slow, heal=True)
    found = next(event for event in said if isinstance(event, Finding))
    assert (found.code, found.known) == ("rate-too-low", "decided by a fork")
    assert found.evidence["treated"] < found.evidence["without"]
    assert [event for event in said if isinstance(event, Note) and event.text.startswith("Healed rate too low")]
    assert hubel.Run(tmp_path / "slow").scores.accuracy > 0.9
    assert "rate-too-low" in [each.code for each in hubel.Run(tmp_path / "slow").findings]
