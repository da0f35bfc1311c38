"""What is printed: complete, one line where one line is promised, and harmless whatever the names are."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from hubel.events import DataSeen, EpochRow, Finished, Measured, Note, Planned, Progress
from hubel.records import Baselines, ClassScore, Finding, Scores
from hubel.report import terminal
from hubel.report.terminal import HEADER, confusion_lines, data_lines, epoch_line, finding_lines, show

HOSTILE = "[red]\x1b[31mevil\x07\n"
ROW = EpochRow(
    epoch=3, epochs=12, step=30, lr=0.1, train_loss=1.0, train_accuracy=0.5, val_loss=0.9, val_accuracy=0.625,
    worst_class=HOSTILE, worst_recall=0.25, recalls=(0.25, 1.0), images_per_second=1234.5, seconds=10.0,
    seconds_left=65.4, best=True,
)  # fmt: skip
SCORES = Scores(
    n=10, loss=0.5, accuracy=0.7, interval=(0.4, 0.9), top5=None, balanced_accuracy=0.7,
    per_class=(
        ClassScore(name="cat", precision=0.6, recall=0.8, f1=0.69, support=5),
        ClassScore(name=HOSTILE, precision=0.75, recall=0.6, f1=0.67, support=5),
    ),
    confusion=((4, 1), (2, 3)),
)  # fmt: skip
EVENTS = [
    Note(text="hello [bold]"),
    Progress(task="decoding", done=1, total=2),
    DataSeen(source="x", images=10, classes=("a", "b"), counts={"train": (3, 4)}, findings=(), divided=True),
    Planned(rows=(("network", "quick [1]", "why"),), folder="runs/x"),
    ROW,
    Measured(part="test", scores=SCORES, baselines=Baselines(majority=0.5, logistic=0.6, logistic_n=7)),
    Finished(folder="runs/a b", report="runs/a b/report.html", seconds=62.0, stopped=None),
]


def printed(width: int = 100) -> str:
    screen = io.StringIO()
    shown = terminal._Screen(Console(file=screen, width=width, highlight=False, soft_wrap=True, force_terminal=False))
    for event in EVENTS:
        shown.print(event)
    shown.close()
    return screen.getvalue()


def test_everything_is_said() -> None:
    text = printed()
    for said in ("hello [bold]", "10 usable images, 2 classes", "quick [1]", "3/12", "62.5%*", "1:05", "1,23"):
        assert said in text
    assert "Test accuracy 70.00% (95 % interval 40.00% to 90.00%, n = 10)" in text
    assert "always the most frequent class 50.0%, logistic regression on small pixels 60.0%" in text
    assert "Done in 1:02." in text
    assert "hubel predict 'runs/a b' IMAGE" in text


def test_hostile_names_are_shown_and_not_sent() -> None:
    assert "\x1b" not in printed()
    assert "\x07" not in printed()
    assert "\ufffd[31mevil" in epoch_line(ROW).replace("\\[", "[")


def test_an_epoch_is_one_line_under_its_header() -> None:
    line = epoch_line(ROW).replace("\\[", "[")
    assert "\n" not in line
    assert abs(len(line) - len(HEADER)) <= 2


def test_many_findings_of_a_kind_are_counted() -> None:
    findings = [Finding(code="note", severity="note", message="n")]
    findings += [Finding(code="bad", severity="error", message=f"number {i}") for i in range(10)]
    lines = finding_lines(findings, 3, "all in findings.json")
    assert len(lines) == 5
    assert "number 0" in lines[0]
    assert "… and 7 more of the kind 'bad': all in findings.json" in lines[3]


def test_the_classes_are_named() -> None:
    names = tuple(f"c{i}" for i in range(20))
    [head, *_] = data_lines(
        DataSeen(source="x", images=20, classes=names, counts={"all": (1,) * 20}, findings=(), divided=False)
    )
    assert head.endswith("20 classes: c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11 and 8 more")


def test_an_audit_names_more_than_a_training_does() -> None:
    findings = tuple(Finding(code="bad", severity="error", message=f"number {i}") for i in range(40))
    seen = {"source": "x", "images": 1, "classes": ("a",), "counts": {"all": (1,)}, "findings": findings}
    assert len(data_lines(DataSeen(**seen, divided=False))) == 42
    assert len(data_lines(DataSeen(**seen, divided=True))) < 10


def test_confusions_are_ranked() -> None:
    lines = confusion_lines(SCORES)
    assert "Most of the 3 errors" in lines[1]
    assert lines[2].endswith("taken for cat: 2 (67% of the errors)")


def test_json_lines_leave_progress_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(show(EVENTS, "json")) == EVENTS
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["note", "data_seen", "planned", "epoch_row", "measured", "finished"]
    assert lines[3]["worst_class"] == HOSTILE


def test_none_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(show(EVENTS, "none")) == EVENTS
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar() -> None:
    screen = io.StringIO()
    shown = terminal._Screen(Console(file=screen, force_terminal=True, width=80, legacy_windows=False))
    shown.print(Progress(task="decoding", done=1, total=2))
    shown.print(Progress(task="auditing", done=0, total=1))
    shown.print(Note(text="after"))
    assert "decoding" in screen.getvalue()
    assert "after" in screen.getvalue()


def test_a_finding_of_a_training_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    finding = Finding(code="dead-relu", severity="warning", message="40 of 64 channels are dead.", step=20)
    assert list(show([finding])) == [finding]
    assert "40 of 64 channels are dead." in capsys.readouterr().out
