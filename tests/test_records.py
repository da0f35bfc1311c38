"""Records survive JSON, and wrong JSON is refused by name."""

from __future__ import annotations

import json

import pytest

from hubel.as_json import from_json, to_json
from hubel.events import Note, Progress, event_json
from hubel.records import Finding, ModelCard, Preprocess

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
