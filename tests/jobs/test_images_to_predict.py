"""Which files of a folder are predicted, and how the answers are written."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from hubel.jobs.answer import Answer, answers_csv, list_images


def test_hidden_and_system_files_are_left_out_and_others_named(tmp_path: Path) -> None:
    names = ("cat/0.png", "labels.txt", ".ipynb_checkpoints/x.png", "Thumbs.db", "cat/.DS_Store", "__MACOSX/cat/0.png")
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "more/1.png").touch()
    (tmp_path / "in/more").symlink_to(tmp_path / "more")
    (tmp_path / "in/round").symlink_to("..")
    found = [str(Path(str(file)).relative_to(tmp_path)) for file in list_images([tmp_path / "in"])]
    assert found == ["in/cat/0.png", "in/labels.txt", "in/more/1.png"]
    assert list_images([tmp_path / "in/.ipynb_checkpoints/x.png"])  # as asked


def test_class_names_go_round_in_the_answers_csv() -> None:
    answers = [
        Answer(path="=a.png", label="-1", confidence=0.5, probabilities={}),
        Answer(path="b", label="=x", confidence=1.0, probabilities={}),
    ]
    rows = list(csv.DictReader(io.StringIO(answers_csv(answers))))
    assert [(row["file_name"], row["label"]) for row in rows] == [("=a.png", "-1"), ("b", "=x")]
    assert "'=a.png,'-1," in answers_csv(answers, spreadsheet=True)
