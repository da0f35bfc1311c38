"""Each rule on measurements made by hand: what must be seen, and what looks alike and is healthy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from hubel.doctor.diagnosis import diagnose
from hubel.doctor.rules import RULES
from hubel.doctor.signs import Case, Checkup, Evaluated, Inputs, Intent, Layer, Look, Taken

INPUTS = Inputs(mean=(0.0,), std=(1.0,), low=(-1.0,), high=(3.0,), near=0.9, third=0.4)
LAYERS = (
    Layer(name="0", kind="conv", map=(12, 12), gradient=0.02),
    Layer(name="1", kind="norm", map=(12, 12), momentum=0.1),
    Layer(name="4", kind="conv", map=(6, 6), gradient=0.02),
    Layer(name="8", kind="linear", gradient=0.05),
)
LOOK = Look(
    step=0,
    inputs=INPUTS,
    layers=LAYERS,
    train_loss=2.4,
    eval_loss=2.4,
    outputs=10,
    accuracy=0.1,
    favourite=0.2,
    of_labels=0.15,
)
CHECKUP = Checkup(
    step=100,
    loss=0.5,
    accuracy=0.8,
    n=256,
    train_loss=0.4,
    train_accuracy=0.85,
    recalls=(0.8,) * 10,
    shares=(0.1,) * 10,
)


def taken(n: int, **changes: Any) -> Taken:
    """Step n of a loop that goes well."""
    usual = {
        "loss": 0.3 + 2 * math.exp(-n / 20),
        "accuracy": 0.8,
        "lr": 0.05,
        "images": 32,
        "labels": (4, 3, 3, 3, 3, 4, 3, 3, 3, 3),
    }
    sizes = {"norm": 1.0, "update": 0.01, "seconds": 0.02, "waited": 0.001}
    return Taken(**{**usual, **sizes, **changes})


def case(
    *, steps: int = 120, look: dict[str, Any] | None = None, step: dict[str, Any] | None = None, **changes: Any
) -> Case:
    """A healthy training, but for what is changed: in all looks, in all steps, in the rest."""
    looks = [replace(LOOK, step=n, **(look or {})) for n in (0, 50, 100)]
    checkups = [replace(CHECKUP, step=n) for n in (50, 100)]
    made = [taken(n, **(step or {})) for n in range(steps)]
    return Case(**{"steps": made, "looks": looks, "checkups": checkups, **changes})


def inputs(**changes: Any) -> dict[str, Any]:
    """Looks at other inputs."""
    return {"inputs": replace(INPUTS, **changes)}


def layers(place: int, **changes: Any) -> dict[str, Any]:
    """Looks at a network one layer of which is otherwise."""
    return {"layers": tuple(replace(layer, **changes) if n == place else layer for n, layer in enumerate(LAYERS))}


def evaluated(**changes: Any) -> list[Evaluated]:
    """Two evaluations."""
    usual: dict[str, Any] = {"passes": 8, "images": 256, "in_train_mode": False, "with_graph": 0, "favourite": 0.2}
    return [Evaluated(**{"step": n, **usual, "inputs": INPUTS, **changes}) for n in (50, 100)]


def swinging(n: int) -> float:
    """Falls, then goes up and down."""
    return 2.3 - 0.05 * n if n < 40 else 1.3 + 1.2 * math.sin(n / 5)


SICK: dict[str, Case] = {
    "raw-inputs": case(look=inputs(mean=(90.0,), std=(80.0,), high=(255.0,))),
    "normalised-twice": case(look=inputs(std=(0.001,), low=(0.0,), high=(0.004,))),
    "other-statistics": case(look=inputs(low=(-1.0,), high=(1.0,)), intent=Intent(mean=(0.485,), std=(0.229,))),
    "other-validation": case(
        evaluations=evaluated(inputs=replace(INPUTS, mean=(120.0,), std=(70.0,), low=(0.0,), high=(255.0,)))
    ),
    "softmax-twice": case(look={"sums_to_one": True}),
    "bad-head-start": case(look={**layers(3, gain=20.0), "train_loss": 20.0}),
    "constant-start": case(look=layers(2, alike=True)),
    "frozen": case(look={"frozen": ("0.weight",)}),
    "not-in-optimizer": case(look={"missing": ("8.weight",)}),
    "labels-unpaired": case(checkups=[replace(CHECKUP, accuracy=0.1, loss=4.0, train_accuracy=0.9)] * 3),
    "label-noise": case(steps=200, checkups=[replace(CHECKUP, accuracy=0.65, surest=0.7, train_accuracy=0.66)] * 2),
    "leak": case(doubles=20, compared=256),
    "imbalance": case(
        step={"labels": (3, 3, 4, 4, 4, 4, 4, 4, 4, 0)},
        checkups=[replace(CHECKUP, recalls=(*(0.8,) * 9, 0.1))],
    ),
    "unshuffled": case(),
    "axes": case(look=inputs(mean=(0.0,) * 3, std=(1.0,) * 3, low=(-1.0,) * 3, high=(3.0,) * 3, near=0.3, third=0.8)),
    "no-activation": case(look={"activations": 0}),
    "tiny-batches": case(step={"images": 2}),
    "rate-too-low": case(step={"loss": 2.3, "update": 1e-7}),
    "rate-too-high": case(step={"loss": 2.4, "update": 0.5}),
    "oscillation": case(steps=0),
    "schedule": case(),
    "not-cleared": case(step={"carried": True}),
    "no-step": case(step={"update": 0.0}),
    "eval-while-training": case(step={"learning": 0.0}),
    "train-while-evaluating": case(evaluations=evaluated(in_train_mode=True)),
    "stale-statistics": case(
        look=layers(1, momentum=1e-3), checkups=[replace(CHECKUP, step=n, train_loss=5.0) for n in (80, 100)]
    ),
    "vanishing": case(look=layers(0, gradient=1e-8)),
    "dead-channels": case(look=layers(2, dead=0.95)),
    "saturation": case(look=layers(3, saturated=0.8)),
    "broken-numbers": case(broken="image 3 of the batch holds numbers that are not finite"),
    "used-twice": case(look=layers(1, calls=3, apart=1.0)),
    "shapes": case(raised="RuntimeError: mat1 and mat2 shapes cannot be multiplied (64x1568 and 800x10)"),
    "head-and-loss": case(look={"clipped": True}),
    "detached": Case(unreached=5),
    "out-of-memory": case(raised="OutOfMemoryError: CUDA out of memory."),
    "growing-memory": case(alive=40),
    "evaluation-with-gradients": case(evaluations=evaluated(with_graph=8)),
    "starved": case(step={"seconds": 0.1, "waited": 0.08}),
    "labels-range": case(step={"labels": (32,) + (0,) * 9}),
    "destructive-augmentation": case(checkups=[replace(CHECKUP, train_accuracy=0.4, step=n) for n in (50, 100)]),
    "over-regularised": case(step={"loss": 2.3}, look={"shrink": 0.05}),
}
SICK["oscillation"].steps += [taken(n, loss=swinging(n)) for n in range(200)]
SICK["imbalance"].steps[:10] = [taken(n, labels=(0,) * 9 + (1,)) for n in range(10)]
SICK["unshuffled"].steps[:] = [taken(n, labels=(0,) * (n // 12) + (32,)) for n in range(120)]
SICK["schedule"].steps[60:] = [taken(n, lr=0.0) for n in range(60, 120)]


def test_a_healthy_case_is_silent() -> None:
    assert diagnose(case(evaluations=evaluated())) == []


@pytest.mark.parametrize("code", SICK)
def test_a_rule_sees_its_fault(code: str) -> None:
    found = [finding.code for finding in diagnose(SICK[code])]
    assert code in found


@pytest.mark.parametrize(
    "healthy",
    [
        case(look={"frozen": ("0.weight",)}, intent=Intent(frozen=True)),
        case(look={"frozen": ("0.weight",), "trained_before": True}),
        case(look=layers(2, dead=0.4)),
        case(look=inputs(low=(0.0,), high=(1.0,), mean=(0.1,), std=(0.2,))),
        case(checkups=[replace(CHECKUP, loss=0.3, accuracy=0.9, step=n) for n in (50, 100)]),
        case(step={"images": 16}),
        case(step={"learning": None}),
    ],
    ids=["declared", "pretrained", "sparse", "unit", "dropout", "batch-16", "no-norm"],
)
def test_odd_but_healthy_is_silent(healthy: Case) -> None:
    assert [finding.code for finding in diagnose(healthy)] == []


def test_causes_come_before_symptoms() -> None:
    both = case(step={"loss": 2.3, "carried": True}, look={"favourite": 1.0, "of_labels": 0.1, "eval_loss": 3.0})
    assert diagnose(both)[0].code == "not-cleared"


@pytest.mark.parametrize(
    ("sick", "code", "helps"),
    [
        (case(look={"outputs": 1, "in_unit": True}, step={"logit": True}), "head-and-loss", "the sigmoid out"),
        (case(look={"outputs": 1}, step={"averaged": True, "labels": (16, 16)}), "head-and-loss", "queeze the outputs"),
        (case(step={"norm": 0.0, "update": 2e-5}), "no-step", "not between it and step()"),
        (case(look={"unsteady": True}), "train-while-evaluating", "training=self.training"),
    ],
    ids=["sigmoid", "spread", "cleared between", "functional dropout"],
)
def test_the_remedy_fits_what_was_seen(sick: Case, code: str, helps: str) -> None:
    first = diagnose(sick)[0]
    assert first.code == code
    assert helps in first.message
    assert helps in first.remedy


def test_labels_that_images_tell_nothing_of_are_suspected() -> None:
    """Where the loss stays at chance with steps of a usual size; not where thumbnails do tell the classes apart."""
    stuck = {"loss": 2.3, "accuracy": 0.1, "update": 1e-3}
    poor = [replace(CHECKUP, accuracy=0.1, train_accuracy=0.1, loss=2.3, train_loss=2.3, recalls=())]
    for told, expected in ((0.1, "labels-unpaired"), (0.3, "stuck")):
        assert diagnose(case(steps=240, step=stuck, checkups=poor, telling=(told, 256)))[0].code == expected


def test_images_that_only_training_reorders_are_no_fault_of_the_labels() -> None:
    other = [replace(each, inputs=replace(INPUTS, near=0.4)) for each in evaluated()]
    unknown = [replace(CHECKUP, accuracy=0.1, loss=4.0, train_accuracy=0.9)] * 3
    found = [finding.code for finding in diagnose(case(checkups=unknown, evaluations=other))]
    assert found[0] == "other-validation"
    assert "labels-unpaired" not in found


def test_every_rule_has_words() -> None:
    for each in RULES.values():
        assert not each.cause.endswith(".")
        assert not each.remedy.endswith(".")
