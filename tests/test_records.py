"""Records survive JSON, and wrong JSON is refused by name."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from hubel.as_json import from_json, json_text, to_json
from hubel.events import Note, Progress, event_json
from hubel.records import ClassScore, Finding, ModelCard, Preprocess, Scores

CARD = ModelCard(
    architecture="quick",
    arguments={"width": 32},
    classes=("cat", "<script>", "=cmd"),
    preprocess=Preprocess(size=(32, 48), channels=1, mean=(0.5,), std=(0.25,)),
    metrics={"accuracy": 1.0},
)


def test_a_nested_record_survives_json() -> None:
    assert from_json(ModelCard, json.loads(json.dumps(to_json(CARD)))) == CARD


def test_an_optional_and_a_default_survive() -> None:
    finding = Finding(code="leak", severity="error", message="x", paths=("a", "b"))
    assert from_json(Finding, {"code": "leak", "severity": "error", "message": "x", "paths": ["a", "b"]}) == finding


def test_no_nan_stands_in_json() -> None:
    one = ClassScore(name="a", precision=0.0, recall=0.0, f1=0.0, support=1)
    shares: Any = {"accuracy": 0.0, "interval": (0.0, 0.8), "top5": None, "balanced_accuracy": 0.0}
    lost = Scores(n=1, loss=math.nan, per_class=(one,), confusion=((0,),), **shares)
    text = json_text({"scores": lost, "losses": [1.5, -math.inf]})
    said = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert said["losses"] == [1.5, None]
    assert math.isnan(from_json(Scores, said["scores"]).loss)
    with pytest.raises(ValueError, match="accuracy"):
        from_json(Scores, {**said["scores"], "accuracy": None})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": [32]}, "Preprocess.size: expected 2 values, got 1"),
        ({"size": "big"}, "Preprocess.size: expected a list, got 'big'"),
        ({"fit": "stretch"}, "Preprocess.fit: expected one of crop, pad, squash"),
        ({"channels": "3"}, "Preprocess.channels: expected int, got '3'"),
        ({"channels": True}, "Preprocess.channels: expected int, got True"),
        ({"shape": 3}, "unknown key 'shape'"),
    ],
)
def test_wrong_json_is_refused_by_name(change: dict[str, object], said: str) -> None:
    good = to_json(Preprocess(size=(8, 8)))
    with pytest.raises(ValueError, match="Preprocess") as error:
        from_json(Preprocess, {**good, **change})
    assert said in str(error.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match="'size' is missing"):
        from_json(Preprocess, {"channels": 3})


def test_events_say_what_they_are() -> None:
    assert event_json(Note(text="hello")) == {"event": "note", "text": "hello"}
    assert event_json(Progress(task="t", done=1, total=2))["event"] == "progress"
