"""`tune`: a search that sees no test image, and a comparison in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubel.cli import main
from hubel.evaluation.contrast import Compared
from hubel.jobs.recipe import read_recipe
from hubel.runs import read_record

optuna = pytest.importorskip("optuna")


def test_a_search_leaves_a_study_a_recipe_and_a_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubel.lab.tune.SEEDS", 1)
    asked = ["tune", "digits", "--model", "simple-cnn", "--arg", "widths=[4, 8]", "--size", "8", "--lr", "0.001"]
    assert main([*asked, "--minutes", "0.7", "--workers", "1", "--output", str(tmp_path / "t")]) == 0
    said = capsys.readouterr().out
    assert "of the validation images right" in " ".join(said.split())
    study = optuna.load_study(study_name="hubel", storage=f"sqlite:///{tmp_path / 't' / 'study.db'}")
    assert study.trials[0].params["augment"] == read_recipe(tmp_path / "t" / "default.yaml").data.augment
    assert not any("lr" in trial.params for trial in study.trials)
    assert not list((tmp_path / "t").glob("trial-*"))
    found = read_record(tmp_path / "t" / "final" / "results.json", Compared)
    assert found.question.seeds == 1
    assert found.rows[0].variant == "default"
    assert (
        read_recipe(tmp_path / "t" / "recipe.yaml").train.epochs
        == read_recipe(tmp_path / "t" / "default.yaml").train.epochs
    )


def test_too_few_minutes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "digits", "--minutes", "0.01", "--output", str(tmp_path / "t")]) == 2
    assert "hold no search beside the 6 trainings at its end: give more." in capsys.readouterr().err
