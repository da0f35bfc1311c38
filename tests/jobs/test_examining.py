"""`hubel doctor`: scripts that know of nothing, runs, folders, and the list of rules."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import hubel
from hubel.cli import main
from hubel.doctor.rules import RULES
from hubel.errors import UsageError

SCRIPT = """
import sys
import torch
from torch import nn

torch.manual_seed(0)
images, labels = torch.randn(64, 1, 8, 8), torch.arange(64) % 4
network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
optimizer = torch.optim.SGD(network.parameters(), lr=float(sys.argv[1]))
for step in range(12):
    loss = nn.functional.cross_entropy(network(images), labels)
    loss.backward()
    optimizer.step()
    assert loss < 5, "too large"
print("trained")
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "train.py"
    file.write_text(text)
    return file


def test_a_script_is_run_and_the_line_of_its_mistake_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sys.argv[:], sys.path[:]
    found = hubel.examine(written(tmp_path, SCRIPT), ["0.01"])
    assert [each.code for each in found] == ["not-cleared"]
    assert "(train.py:12)" in found[0].message
    said = capsys.readouterr().out
    assert "trained" in said
    assert "zero_grad" in said
    assert (sys.argv, sys.path) == before


def test_a_script_that_fails_or_trains_nothing_is_said_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mended = SCRIPT.replace("    loss.backward()", "    optimizer.zero_grad()\n    loss.backward()")
    assert main(["doctor", str(written(tmp_path, mended)), "0.01"]) == 0
    assert "Nothing is wrong with the training in train.py" in capsys.readouterr().out
    assert main(["doctor", str(written(tmp_path, mended.replace("< 5", "< 0"))), "0.01"]) == 1
    assert "It ended with AssertionError: too large: mend that first." in capsys.readouterr().err
    assert main(["doctor", str(written(tmp_path, "print('hello')"))]) == 0
    assert "trained no network on images" in capsys.readouterr().out
    with pytest.raises(UsageError, match="does not exist"):
        hubel.examine(tmp_path / "none.py")


def test_a_run_and_a_folder_are_examined(few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"weights": "none", "epochs": 2, "width": 4, "show_as": "none", "report": False}
    run = hubel.train(few_digits, output=tmp_path / "run", **settings)
    assert hubel.examine(run.path) == ()
    assert "Nothing is wrong with the training of" in capsys.readouterr().out
    (run.path / "log.jsonl").write_text('{"event": "step"}\n')
    assert main(["doctor", str(run.path)]) == 1
    assert "log.jsonl can't be used ('loss'): restore it from a copy" in capsys.readouterr().err
    (run.path / "log.jsonl").unlink()
    assert main(["doctor", str(run.path)]) == 1
    assert "log.jsonl is missing" in capsys.readouterr().err
    assert main(["doctor", str(few_digits)]) == 0
    assert "120 usable images" in capsys.readouterr().out
    assert main(["doctor"]) == 2
    assert "SCRIPT.py" in capsys.readouterr().err


def test_the_rules_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--rules", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["code"] for row in rows} == set(RULES)
    assert main(["doctor", "--rules"]) == 0
    assert "gradients are not cleared" in capsys.readouterr().out
