"""Watching changes nothing, leaves nothing behind, and says nothing about a healthy loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hubel.doctor import planting as p
from hubel.doctor.doctor import Doctor
from hubel.doctor.faults import FAULTS
from hubel.doctor.healthy import HEALTHY
from hubel.doctor.lesson import Lesson, run
from hubel.doctor.watch import watch
from hubel.errors import UsageError
from hubel.learning.checkpoint import digest

CHEAP = [
    "raw-inputs",
    "normalised-twice",
    "other-validation",
    "softmax-twice",
    "bad-head-start",
    "constant-start",
    "frozen",
    "not-in-optimizer",
    "unshuffled",
    "no-activation",
    "tiny-batches",
    "rate-too-low",
    "not-cleared",
    "no-step",
    "eval-while-training",
    "train-while-evaluating",
    "out-of-memory",
    "evaluation-with-gradients",
    "head-and-loss",
    "detached",
    "used-twice",
    "vanishing",
    "saturation",
]


@pytest.fixture(scope="session")
def restless(lesson: Lesson) -> Lesson:
    """Batch norm, dropout, and augmentation by chance."""
    return replace(
        HEALTHY["dropout"](lesson),
        augment=lambda x: x.roll(int(torch.randint(-1, 2, ())), 3) + 0.1 * torch.randn_like(x),
    )


def test_weights_are_the_same_to_the_bit(restless: Lesson) -> None:
    alone, watched = run(restless, watching=False), run(restless)
    assert len(watched.doctor.case.looks) > 3
    assert digest(alone.model) == digest(watched.model)


def test_nothing_stays_behind(lesson: Lesson) -> None:
    original = DataLoader.__iter__
    model = lesson.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ZeroDivisionError), watch(model, optimizer, tell=lambda finding: None):
        assert DataLoader.__iter__ is not original
        nn.functional.cross_entropy(model(lesson.train[0][:8]), lesson.train[1][:8]).backward()
        optimizer.step()
        raise ZeroDivisionError
    assert DataLoader.__iter__ is original
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize(
    "odd", ["plain", "warm-up", "smoothing", "accumulation", "batch-16", "restarts", "pretrained-prefix"]
)
def test_a_healthy_loop_is_silent(lesson: Lesson, odd: str) -> None:
    assert [finding.message for finding in run(HEALTHY[odd](lesson)).doctor.said() if finding.severity != "note"] == []


@pytest.mark.parametrize("fault", CHEAP)
def test_the_planted_fault_comes_first(lesson: Lesson, fault: str) -> None:
    planted = FAULTS[fault][0](replace(lesson, steps=36, every=18), 1)
    said = run(planted).doctor.said()
    assert [finding.code for finding in said][:1] == [fault]
    assert said[0].cause
    assert said[0].remedy


def test_what_the_loop_can_be_asked(lesson: Lesson) -> None:
    learned = run(replace(lesson, steps=30, every=15))
    case = learned.doctor.case
    assert [len(case.steps), len(case.evaluations)] == [30, 2]
    assert sum(case.counts) == 30 * 32
    assert case.steps[0].images == 32
    assert case.looks[0].step == 0


def test_labels_are_read_from_the_gradient(lesson: Lesson) -> None:
    labels = torch.full_like(lesson.train[1], 7)
    assert run(replace(p.labelled(lesson, labels), steps=3)).doctor.case.counts[7] == 96


def test_findings_are_told_once_and_at_once(lesson: Lesson) -> None:
    told: list[str] = []
    run(replace(lesson, clears=False, steps=40), tell=lambda finding: told.append(f"{finding.code} {finding.step}"))
    assert told.count("not-cleared 5") + told.count("not-cleared 10") == 1


def plain_loop(lesson: Lesson, train: TensorDataset, test: TensorDataset, epochs: int = 6, **options: Any) -> Doctor:
    """As courses print it: two loaders, nothing declared."""
    torch.manual_seed(0)
    model = lesson.network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    loaders = [DataLoader(train, 32, shuffle=True), DataLoader(test, 32)]
    with watch(model, optimizer, tell=lambda finding: None, **options) as doctor:
        for _ in range(epochs):
            for part, loader in enumerate(loaders):
                model.train(part == 0)
                with torch.set_grad_enabled(part == 0):
                    for images, labels in loader:
                        outputs = model(images)
                        if part == 0:
                            optimizer.zero_grad()
                            nn.functional.cross_entropy(outputs, labels).backward()
                            optimizer.step()
    return doctor


def test_held_out_images_are_those_that_the_loop_evaluates(lesson: Lesson) -> None:
    (images, labels), held_out = lesson.train, lesson.held_out
    doctor = plain_loop(lesson, TensorDataset(images, labels), TensorDataset(*held_out))
    assert [finding.code for finding in doctor.said() if finding.severity != "note"] == []
    assert len(doctor.case.checkups) >= 6
    assert doctor.case.checkups[-1].n == min(len(held_out[1]), 256)
    assert doctor.case.compared > 0
    known = torch.cat([held_out[0], images[len(held_out[0]) :]]), torch.cat([held_out[1], labels[len(held_out[1]) :]])
    assert plain_loop(lesson, TensorDataset(*known), TensorDataset(*held_out), 3).said()[0].code == "leak"


def test_labels_that_are_not_the_loader_s_are_seen(lesson: Lesson) -> None:
    original = nn.functional.cross_entropy

    def mixed(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return original(outputs, labels.roll(1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.functional, "cross_entropy", mixed)
        doctor = plain_loop(lesson, TensorDataset(*lesson.train), TensorDataset(*lesson.held_out), 1)
    assert doctor.said()[0].code == "labels-unpaired"
    assert "the loader gave for" in doctor.said()[0].message


def test_a_loss_that_is_not_made_of_the_outputs_is_seen(lesson: Lesson) -> None:
    model = lesson.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, tell=lambda finding: None) as doctor:
        for _ in range(5):
            loss = nn.functional.cross_entropy(model(lesson.train[0][:32]), lesson.train[1][:32]).item()
            torch.tensor(loss, requires_grad=True).backward()
            optimizer.step()
    assert [finding.code for finding in doctor.said()] == ["detached"]


def test_flat_inputs_and_single_outputs_are_watched(lesson: Lesson) -> None:
    images, labels = lesson.train[0].flatten(1), (lesson.train[1] % 2).float()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(images.shape[1], 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, tell=lambda finding: None) as doctor:
        for n in range(20):
            loss = nn.functional.binary_cross_entropy_with_logits(model(images[n::20]), labels[n::20])
            loss.backward()
            optimizer.step()
    assert doctor.said()[0].code == "not-cleared"
    assert doctor.case.steps[0].accuracy <= 1


def test_other_things_are_refused() -> None:
    with pytest.raises(UsageError, match=r"nn\.Module"), watch(object()):  # type: ignore[arg-type]
        pass
    with pytest.raises(UsageError, match="validation"), watch(nn.Linear(2, 2), validation=3):
        pass
