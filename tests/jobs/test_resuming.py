"""A run that is interrupted and resumed ends with the very weights of one that was not."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hubel
from hubel.errors import HubelError, Interrupted, RunError, Terminated, UsageError
from hubel.events import EpochRow, Event, Finished, Step
from hubel.jobs import state_file
from hubel.jobs.recipe import Recipe, read_recipe, with_settings
from hubel.jobs.train import resuming, training
from hubel.nn.tensor_file import read_tensors, tensor_writer
from hubel.runs import STATE

PLAIN: dict[str, Any] = {"epochs": 3, "width": 16, "seed": 3, "batch_size": 16, "dropout": 0.2}
RECIPES: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "muon and an average": {**PLAIN, "optimizer": "muon", "ema": 0.9},
    "adamw, accumulated": {**PLAIN, "optimizer": "adamw", "accumulate": 2, "augment": "strong", "precision": "float32"},
}


@pytest.fixture(autouse=True)
def _store_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_file, "LEAST", 0.0)
    monkeypatch.setattr(state_file, "SHARE", 0)


def digest(run: Path) -> str:
    tensors = dict(read_tensors(run / STATE)[0])
    tensors |= {f"kept.{name}": value for name, value in read_tensors(run / "model" / "model.safetensors")[0].items()}
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def start(images: Path, run: Path, recipe: dict[str, Any]) -> Iterator[Event]:
    return training(images, with_settings(Recipe(), recipe), output=run)


@pytest.fixture(scope="module")
def whole(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of the plain recipe."""
    run = tmp_path_factory.mktemp("whole") / "run"
    list(start(few_digits, run, PLAIN))
    return run


def leave_after(events: Iterator[Event], steps: int) -> None:
    """Stop listening in the middle: what a killed process leaves on disk is what was written so far."""
    for event in events:
        if isinstance(event, Step):
            steps -= 1
            if steps == 0:
                break


@pytest.mark.parametrize("name", RECIPES)
def test_the_weights_are_those_of_an_undisturbed_run(name: str, few_digits: Path, tmp_path: Path) -> None:
    """Stopped in the middle of an epoch, at an epoch's last step, and again later."""
    list(start(few_digits, tmp_path / "whole", RECIPES[name]))
    per_epoch = _per_epoch(tmp_path / "whole")
    leave_after(start(few_digits, tmp_path / "run", RECIPES[name]), per_epoch + 2)
    leave_after(resuming(tmp_path / "run"), per_epoch - 2)
    events = list(resuming(tmp_path / "run"))
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")
    assert isinstance(events[-1], Finished)
    hubel.Run(tmp_path / "run").verify()
    for file in ("predictions.csv", "split.json"):
        assert (tmp_path / "run" / file).read_text() == (tmp_path / "whole" / file).read_text()


def _per_epoch(run: Path) -> int:
    steps = [int(row["step"]) for row in csv.DictReader((run / "results.csv").read_text().splitlines())]
    return steps[0]


def test_results_and_log_have_every_epoch_once(few_digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    leave_after(start(few_digits, run, PLAIN), 8)
    list(resuming(run))
    rows = list(csv.DictReader((run / "results.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [e["epoch"] for e in events if e["event"] == "epoch_row"] == [1, 2, 3]


def test_a_run_without_a_stored_state_begins_again(whole: Path, few_digits: Path, tmp_path: Path) -> None:
    leave_after(start(few_digits, tmp_path / "run", PLAIN), 3)
    shutil.rmtree(tmp_path / "run" / "resume")
    list(resuming(tmp_path / "run"))
    assert digest(tmp_path / "run") == digest(whole)


def test_a_run_that_was_killed_before_it_had_a_split_begins_again(few_digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    leave_after(start(few_digits, run, PLAIN), 1)
    recipe = (run / "recipe.yaml").read_text()
    for name in ("split.json", "env.json", "findings.json", "resume/state.safetensors"):
        (run / name).unlink(missing_ok=True)
    leave_after(resuming(run), 1)
    assert (run / "split.json").exists()
    assert (run / "recipe.yaml").read_text() == recipe


@pytest.mark.parametrize("when", [2, 7], ids=["before the first epoch ends", "later"])
@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Terminated), (signal.SIGINT, Interrupted)])
def test_a_signal_loses_no_step(
    number: int, error: type[HubelError], when: int, whole: Path, few_digits: Path, tmp_path: Path
) -> None:
    steps = 0
    with pytest.raises(error, match="hubel resume"):
        for event in start(few_digits, tmp_path / "run", PLAIN):
            if isinstance(event, Step):
                steps += 1
                if steps == when:
                    os.kill(os.getpid(), number)
    kept = json.loads(read_tensors(tmp_path / "run" / STATE)[1]["values"])
    assert kept["loop"]["step"] == steps
    list(resuming(tmp_path / "run"))
    assert digest(tmp_path / "run") == digest(whole)


def test_a_finished_run_is_extended_or_refused(whole: Path, few_digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    with pytest.raises(RunError, match=r"is finished \(3 of 3 epochs\): --extend N"):
        list(resuming(run))
    events = list(resuming(run, extend=2, lr=0.01))
    rows = [event for event in events if isinstance(event, EpochRow)]
    assert [(row.epoch, row.epochs) for row in rows] == [(4, 5), (5, 5)]
    assert max(row.lr for row in rows) <= 0.01
    assert "extended by 2 epochs" in (run / "report.html").read_text()
    hubel.Run(run).verify()
    list(resuming(run, extend=1))
    leave_after(start(few_digits, tmp_path / "other", PLAIN), 4)
    with pytest.raises(RunError, match="is not finished"):
        list(resuming(tmp_path / "other", extend=1))


def test_another_machine_or_other_images_are_refused(few_digits: Path, tmp_path: Path) -> None:
    images, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(few_digits, images)
    leave_after(start(images, run, PLAIN), 4)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(RunError, match=rf"threads was {threads} and is {threads + 1} here.*--inexact"):
            list(resuming(run))
    finally:
        torch.set_num_threads(threads)
    moved = tmp_path / "moved"
    images.rename(moved)
    with pytest.raises(UsageError, match=f"are no longer at '{images}': hubel resume {run} DATA"):
        list(resuming(run))
    next(iter((moved / "0").iterdir())).unlink()
    with pytest.raises(RunError, match="images changed"):
        list(resuming(run, source=moved))
    assert isinstance(list(resuming(tmp_path / "run", source=few_digits))[-1], Finished)


def test_exclusions_lie_in_the_run_and_paths_lead_from_anywhere(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(few_digits, tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    name = f"0/{sorted(os.listdir(few_digits / '0'))[0]}"
    (tmp_path / "not.txt").write_text(f"./{name}\n")
    monkeypatch.chdir(tmp_path)
    leave_after(start(Path("data"), Path("run"), {**PLAIN, "exclude": "not.txt"}), 4)
    assert read_recipe("run").data.exclude == str(tmp_path / "not.txt")
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "not.txt").unlink()
    (tmp_path / "data").rename("data")
    list(resuming("../run", source="data"))
    assert json.loads((tmp_path / "run" / "split.json").read_text())["left_out"] == {name: "excluded as asked"}
    monkeypatch.chdir(tmp_path)
    assert isinstance(list(resuming("run", extend=1))[-1], Finished), "it knows the new place"


def test_a_damaged_state_is_one_sentence(few_digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    leave_after(start(few_digits, run, PLAIN), 4)
    content = bytearray((run / STATE).read_bytes())
    content[len(content) // 2] ^= 1
    (run / STATE).write_bytes(content)
    with pytest.raises(RunError, match="changed or damaged.*best model so far"):
        list(resuming(run))


def test_a_plan_without_its_measured_speed_is_refused(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "manifest.json").unlink()
    plan = json.loads((run / "plan.json").read_text())
    for speed in ({}, {"forward": 0.0}, {"forward": -1.0}):
        (run / "plan.json").write_text(json.dumps({**plan, "speed": speed}))
        with pytest.raises(RunError, match="no images a second"):
            list(resuming(run, extend=1))


def test_no_code_that_a_plan_names_is_run(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "manifest.json").unlink()
    (tmp_path / "net.py").write_text("raise SystemExit('ran')\n")
    plan = json.loads((run / "plan.json").read_text())
    plan["card"]["architecture"] = f"{tmp_path / 'net.py'}:Net"
    (run / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(HubelError):
        list(resuming(run, extend=1))


@pytest.mark.parametrize(
    "change",
    [{"lengths": {"../victim": 0, "results.csv": 0}}, {"lengths": {"log.jsonl": -1, "results.csv": 0}}, {"loop": []}],
    ids=str,
)
def test_a_state_that_says_what_cannot_be_changes_nothing(
    change: dict[str, Any], few_digits: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    leave_after(start(few_digits, run, PLAIN), 2)
    (tmp_path / "victim").write_text("mine")
    tensors, texts = read_tensors(run / STATE)
    tensor_writer(run / STATE, tensors, {"values": json.dumps({**json.loads(texts["values"]), **change})})()
    before = {file: file.read_bytes() for file in run.glob("*.*")}
    with pytest.raises(RunError):
        list(resuming(run))
    assert (tmp_path / "victim").read_text() == "mine"
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_what_is_no_run_is_one_sentence(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(HubelError, match="give the folder of a run|no run that can go on"):
        hubel.resume(tmp_path / place, show_as="none")


SCRIPT = """
import sys, torch
import hubel
torch.set_num_threads(1)
run = hubel.train(sys.argv[1], output=sys.argv[2], show_as="none", epochs=2, batch_size=15, precision="float32",
                  model="quick", augment="strong", seed=2)
"""
DYING = """
import os, signal
from hubel.jobs import state_file
from hubel.jobs import training
state_file.LEAST, state_file.SHARE = 0.0, 0
keep_pace = training.keep_pace

def keep_pace_and_die(self, event, **more):
    if event.step == 5 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return keep_pace(self, event, **more)

training.keep_pace = keep_pace_and_die
"""


def torchrun(script: Path, *arguments: object, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a script in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["--max-restarts", str(restarts), str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.torchrun
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_two_processes_train_one_network_and_go_on_after_one_dies(few_digits: Path, tmp_path: Path) -> None:
    """Under torchrun: both end, one writes, and the batch of 15 is divided unevenly."""
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "dying.py").write_text(DYING + SCRIPT)
    for script, name, restarts in (("script.py", "whole", 0), ("dying.py", "run", 1)):
        done = torchrun(tmp_path / script, few_digits, tmp_path / name, restarts=restarts)
        assert done.returncode == 0, done.stderr[-3000:]
        run = hubel.Run(tmp_path / name)
        run.verify()
        assert run.scores.n > 0
        kept = json.loads(read_tensors(run.path / STATE)[1]["values"])
        assert kept["made_with"]["processes"] == 2
        events = [json.loads(line)["event"] for line in (run.path / "log.jsonl").read_text().splitlines()]
        assert events.count("planned") == 1 + restarts
    assert digest(tmp_path / "run") == digest(tmp_path / "whole")
