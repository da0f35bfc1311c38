"""Classes of a run under other names: what it answers, and that it goes on."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import pytest

import hubel
from hubel.cli import main
from hubel.errors import HubelError
from hubel.jobs.answer import Classifier
from hubel.runs import verify

NAMES = {"0": "zero", "7": "seven"}


@pytest.fixture(scope="module")
def trained(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "run"
    return hubel.train(few_digits, output=output, epochs=4, width=16, batch_size=16, show_as="none").path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def extended(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> hubel.Run:
    """The run as it goes on with its own names."""
    copy = shutil.copytree(trained, tmp_path_factory.mktemp("runs") / "run")
    return hubel.resume(copy, extend=1, show_as="none")


def everything(folder: Path) -> dict[str, str]:
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_answers_scores_and_report_have_the_new_names(run: Path, few_digits: Path, tmp_path: Path) -> None:
    before = hubel.predict(run, few_digits)
    measured = hubel.evaluate(run, few_digits, show_as="none")
    assert hubel.rename(run, NAMES) == ("zero", "1", "seven")
    verify(run)
    after = hubel.predict(run, few_digits)
    for old, new in zip(before, after, strict=True):
        assert new.probabilities == {NAMES.get(name, name): p for name, p in old.probabilities.items()}
    assert [each.name for each in hubel.Run(run).scores.per_class] == ["zero", "1", "seven"]
    rows = csv.DictReader(io.StringIO((run / "predictions.csv").read_text()))
    assert {row["label"] for row in rows} == {"zero", "1", "seven"}
    assert "seven" in (run / "report.html").read_text()
    assert "`seven`" in (run / "model" / "README.md").read_text()
    shutil.copytree(few_digits, tmp_path / "new")
    for old, new in NAMES.items():
        (tmp_path / "new" / old).rename(tmp_path / "new" / new)
    for folder in (few_digits, tmp_path / "new"):
        now = hubel.evaluate(run, folder, show_as="none")
        assert (now.accuracy, now.n) == (
            (measured.accuracy, measured.n) if folder == few_digits else (now.accuracy, 120)
        )


@pytest.mark.parametrize("names", [NAMES, {"0": "1", "1": "0"}], ids=["other names", "exchanged"])
def test_a_renamed_run_goes_on_with_the_same_folders(names: dict[str, str], run: Path, extended: hubel.Run) -> None:
    hubel.rename(run, names)
    hubel.rename(run, {"1": "one"})
    hubel.resume(run, extend=1, show_as="none")
    after, model = hubel.Run(run).scores, hubel.load(run)
    renamed = [names.get(each.name, each.name) for each in extended.scores.per_class]
    assert [each.name for each in after.per_class] == ["one" if name == "1" else name for name in renamed]
    assert after.confusion == extended.scores.confusion
    assert isinstance(model, Classifier)
    assert model.classes == tuple(each.name for each in after.per_class)
    verify(run)


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ({"0": "1"}, "'1' would be the name of two classes.*train again, with --weights"),
        ({"0": "x", "1": "x"}, "'x' would be the name of two classes"),
        ({"0": " "}, "or of none"),
        ({"8": "eight"}, "has no class '8'; its classes are 0, 1, 7"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(names: dict[str, str], why: str, run: Path) -> None:
    before = everything(run)
    with pytest.raises(HubelError, match=why):
        hubel.rename(run, names)
    assert everything(run) == before


def test_the_command(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def here(*arguments: Any) -> int:
        return main([str(argument) for argument in arguments])

    assert here("rename", run, "0=a=b", "1=-1") == 2, "a name that isn't there: 0=a"
    assert here("rename", run, "0=zero", "1=-1") == 0
    assert "are now zero, -1, 7." in capsys.readouterr().out
    assert here("rename", run, "--", "-1=one") == 0
    assert here("rename", run) == 2
    assert "expected RUN OLD=NEW" in capsys.readouterr().err
    assert here("rename", run.parent, "a=b") == 1
