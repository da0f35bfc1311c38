"""The command line as its users meet it: another process, exit codes, one sentence for what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hubel
from hubel.cli import main, parser
from hubel.runs import verify

Done = subprocess.CompletedProcess[str]


def command(*arguments: object, cwd: Path | None = None, **variables: str) -> Done:
    return subprocess.run(
        [sys.executable, "-m", "hubel", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **variables},
    )


def here(*arguments: object) -> int | str | None:
    """The command's exit code, in this process: cheaper where nothing hangs on the process."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as error:
        return error.code
    finally:
        signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def trained(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    output = tmp_path_factory.mktemp("cli") / "run"
    done = command("train", few_digits, "--output", output, "--epochs", 4, "--width", 16, NO_COLOR="1")
    assert done.returncode == 0, done.stderr
    return output, done


def test_without_a_terminal_lines_are_plain(trained: tuple[Path, Done]) -> None:
    _, done = trained
    assert "\x1b" not in done.stdout
    assert "120 usable images, 3 classes" in done.stdout
    assert "   4/4 " in done.stdout
    assert "Test accuracy" in done.stdout
    assert "logistic regression" in done.stdout
    assert "report.html" in done.stdout


def test_json_is_one_object_per_line(few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert here("train", few_digits, "--output", tmp_path / "run", "--epochs", 1, "--width", 16, "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["event"] for e in events[-3:]] == ["epoch_row", "measured", "finished"]


def test_report_draws_a_copied_run_again(trained: tuple[Path, Done], tmp_path: Path) -> None:
    run, _ = trained
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "report.html").unlink()
    done = command("report", copy, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"event": "report", "report": str(copy / "report.html")}
    assert (copy / "report.html").read_bytes() == (run / "report.html").read_bytes()
    verify(copy)


def test_drawing_works_where_docstrings_are_left_out(trained: tuple[Path, Done], tmp_path: Path) -> None:
    copy = shutil.copytree(trained[0], tmp_path / "copy")
    done = command("report", copy, PYTHONOPTIMIZE="2")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{copy / 'report.html'}\n", "")


def test_another_process_answers_the_same(trained: tuple[Path, Done], few_digits: Path, tmp_path: Path) -> None:
    run, _ = trained
    done = command("evaluate", run, few_digits, "--json")
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["scores"] == json.loads((run / "scores.json").read_text())["scores"]
    output = tmp_path / "preds.csv"
    one = sorted((few_digits / "1").iterdir())[0]
    done = command("predict", run, few_digits / "0", one, "--output", output)
    assert done.returncode == 0, done.stderr
    lines = output.read_text().splitlines()
    assert lines[0] == "file_name,label,confidence,error"
    here = hubel.load(run).predict([few_digits / "0", one])
    assert [line.split(",")[1] for line in lines[1:]] == [answer.label for answer in here]


def test_evaluate_writes_answers_errors_and_a_page(
    trained: tuple[Path, Done], few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = shutil.copytree(trained[0], tmp_path / "run"), tmp_path / "out"
    shutil.copytree(few_digits, tmp_path / "data")
    (tmp_path / "data" / "0").rename(tmp_path / "data" / "new")  # so that "0" is a 7 and the network is wrong
    (tmp_path / "data" / "7").rename(tmp_path / "data" / "0")
    shutil.rmtree(tmp_path / "data" / "new")
    hubel.rename(run, {"1": "<b>one"})
    assert here("evaluate", run, tmp_path / "data", "--output", output) == 0
    scores = json.loads((output / "scores.json").read_text())["scores"]
    wrong = scores["n"] - round(scores["accuracy"] * scores["n"])
    rows = (output / "predictions.csv").read_text().splitlines()
    assert len(rows) - 1 == scores["n"] == 80
    assert sum(row.split(",")[1] != row.split(",")[2] for row in rows[1:]) == wrong > 20
    assert len(list((output / "wrong").iterdir())) == min(wrong, 100)
    page = (output / "index.html").read_text()
    assert page.count("<figure>") == min(wrong, 100)
    assert "&lt;b&gt;one" in page
    assert "<b>one" not in page
    assert here("evaluate", run, tmp_path / "data", "--output", output) == 1
    assert "not an empty folder" in capsys.readouterr().err


def test_predict_names_a_bad_image_and_goes_on(
    trained: tuple[Path, Done], few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = trained
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    good = next((few_digits / "0").iterdir())
    assert here("predict", run, bad, good) == 0
    printed = capsys.readouterr().out
    assert f"{bad}: left out, " in printed
    assert f"{good}: " in printed
    assert here("predict", run, bad) == 1


def test_data_audits_and_its_findings_exclude(
    few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    for name in ("0", "1", "7"):
        (folder / name).mkdir(parents=True)
        for file in (few_digits / name).iterdir():
            (folder / name / file.name).write_bytes(file.read_bytes())
    double = next((folder / "0").iterdir())
    (folder / "0" / "zz-double.png").write_bytes(double.read_bytes())
    findings = tmp_path / "findings.json"
    assert here("data", folder, "--output", findings) == 0
    assert "zz-double.png" in capsys.readouterr().out
    run = tmp_path / "run"
    assert here("train", folder, "--exclude", findings, "--epochs", 1, "--width", 16, "--output", run) == 0
    assert json.loads((run / "split.json").read_text())["left_out"] == {"0/zz-double.png": "excluded as asked"}


def test_the_cache_says_where_and_how_big(few_digits: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache"
    assert command("data", few_digits, HUBEL_CACHE=str(home)).returncode == 0
    held = json.loads(command("cache", "--json", HUBEL_CACHE=str(home)).stdout)
    assert held["home"] == str(home)
    assert len(held["entries"]) == 1
    done = command("cache", "--clear", HUBEL_CACHE=str(home))
    assert "MiB freed" in done.stdout
    assert json.loads(command("cache", "--json", HUBEL_CACHE=str(home)).stdout)["entries"] == {}


def test_ctrl_c_in_another_process(few_digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["train", few_digits, "--output", run, "--epochs", 100_000, "--width", 16, "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "hubel", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "epoch_row":
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read().splitlines()
        said = process.stderr.read()
        assert process.wait() == 130
    assert json.loads(rest[-1])["event"] == "finished"
    kept = f"the best model so far and its report are in {run}, and hubel resume {run} goes on."
    assert said.strip() == f"hubel: Stopped by Ctrl-C; {kept}"
    hubel.load(run)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "/nowhere"], 2, "There is no file or folder '/nowhere'"),
        (["train", "cifar11"], 2, "cifar10"),
        (["train", "{digits}", "--model", "resnet19"], 2, "resnet"),
        (["train", "{digits}", "--epochs", "0"], 2, "--epochs 0: expected a number above zero"),
        (["train", "{digits}", "--lr", "-0.1"], 2, "--lr -0.1: expected a number above zero"),
        (["train", "{digits}", "--epochs", "x"], 2, "invalid int value: 'x'"),
        (["train", "{digits}", "--minutes", "-3"], 2, "--minutes -3.0: expected a number above zero"),
        (["train", "{digits}", "--optimizer", "sgdd"], 2, "invalid choice"),
        (["train", "{digits}", "-c", "/nowhere.yaml"], 2, "no recipe /nowhere.yaml"),
        (["train", "{digits}", "--output", "/dev/null"], 2, "is not a folder"),
        (["train", "{empty}"], 1, "There are no images in"),
        (["train", "{one_class}"], 1, "one class"),
        (["train", "{one_each}", "--epochs", "1"], 1, "too few images"),
        (["evaluate", "/nowhere", "{digits}"], 1, "There is no folder /nowhere"),
        (["evaluate", "{digits}", "{digits}"], 1, "no config.json"),
        (["predict", "{empty}", "x.jpg"], 1, "no config.json"),
        (["resume", "/nowhere"], 1, "/nowhere does not exist"),
        (["resume", "one_class/a/1.png"], 1, "is not a folder"),
        (["frobnicate"], 2, "invalid choice"),
        (["evaluate"], 2, "expected RUN DATA, got nothing: see hubel evaluate --help"),
        (["predict"], 2, "expected RUN IMAGE, got nothing: see hubel predict --help"),
        (["predict", "run"], 2, "expected RUN IMAGE, got run: see hubel predict --help"),
        (["compare", "run"], 2, "expected RUN RUN and perhaps DATA, got run: see hubel compare --help"),
        (["rename"], 2, "expected RUN OLD=NEW, got nothing: see hubel rename --help"),
        (["resume"], 2, "arguments are required: RUN; see hubel resume --help"),
        (["train", "{digits}", "--epochs", "10000000000000000000000"], 2, "expected a finite number of ordinary size"),
        (["train", "{digits}", "--epochs", "1e22"], 2, "invalid int value: '1e22'"),
        (["train", "{digits}", "--minutes", "inf"], 2, "expected a finite number of ordinary size, got inf"),
        (["train", "{digits}", "--minutes", "1e300"], 2, "at most 527,040 (a year)"),
        (["train", "{digits}", "--device", "meta"], 2, "The device 'meta' is not there"),
        (["train", "{digits}", "--weights", "x" * 300], 1, "There are no weights xxx"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_what_is_wrong_is_one_sentence(
    arguments: list[str],
    code: int,
    said: str,
    few_digits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    one = (few_digits / "0" / sorted(os.listdir(few_digits / "0"))[0]).read_bytes()
    two = (few_digits / "1" / sorted(os.listdir(few_digits / "1"))[0]).read_bytes()
    for path, content in (("one_class/a/1.png", one), ("one_each/a/1.png", one), ("one_each/b/2.png", two)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    (tmp_path / "empty").mkdir()
    places = {
        "digits": few_digits,
        "empty": tmp_path / "empty",
        "one_class": tmp_path / "one_class",
        "one_each": tmp_path / "one_each",
    }
    result = here(*(argument.format(**places) for argument in arguments))
    printed = capsys.readouterr()
    assert result == code
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert "usage:" not in printed.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_sentence_and_a_closed_pipe_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for place, said in (("/dev/full", "hubel: The output can't be used (No space left on device)"), (writer, "")):
        with open(place, "w", encoding="utf-8") as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            assert here("conv", "--input", "32", "--kernel", "3") == 1
        assert capsys.readouterr().err.startswith(said)


def test_help_names_every_command_and_flag() -> None:
    text = parser().format_help()
    for name in ("demo", "data", "train", "evaluate", "predict", "cache"):
        assert name in text
    done = command("train", "--help")
    for flag in ("--model", "--epochs", "--batch-size", "--lr", "--seed", "--device", "--output", "-c", "--minutes"):
        assert flag in done.stdout
    assert command("--version").stdout.strip() == f"hubel {hubel.__version__}"
    assert command().returncode == 0


def test_the_python_names_are_all_there() -> None:
    for name in dir(hubel):
        assert getattr(hubel, name) is not None
    with pytest.raises(AttributeError, match="has no 'fly'"):
        _ = hubel.fly  # type: ignore[attr-defined]


def test_started_is_near_the_start_of_the_process() -> None:
    from hubel.verbs import STARTED

    assert STARTED <= time.monotonic()
