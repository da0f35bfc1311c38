"""`hubel lab fault`: a healthy and a sick training side by side."""

from __future__ import annotations

import json

import pytest

from hubel.cli import main
from hubel.errors import UsageError
from hubel.lab.fault import fault


def test_a_fault_is_shown_beside_a_healthy_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "fault", "not-cleared", "--severity", "1"]) == 0
    said = capsys.readouterr().out
    assert "healthy  " in said
    assert "What the doctor says of the healthy one:\n  nothing" in said
    assert "1. In" in said.split("sick one:")[1]
    assert main(["lab", "fault", "softmax-twice", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["healthy"]["accuracy"] > 0.8
    assert [finding["code"] for finding in found["sick"]["findings"]][:1] == ["softmax-twice"]


def test_other_faults_are_refused_with_the_names() -> None:
    with pytest.raises(UsageError, match="NAME is one of axes, bad-head-start"):
        fault("wrong")
