"""Fine-tuning and the user's own networks, from the folder to the reloaded model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import hubel
from hubel.cli import main
from hubel.errors import DataError, ModelError, UsageError
from hubel.events import EpochRow, Note, Planned
from hubel.evidence import RunRecord
from hubel.jobs.phases import phases_for
from hubel.jobs.recipe import Recipe, read_recipe, with_settings
from hubel.jobs.rules import choose_size
from hubel.jobs.train import resuming, training
from hubel.learning.transfer import Phase, parse_phases
from hubel.nn.weights import IMAGENET_MEAN, IMAGENET_STD
from hubel.nn.zoo import build
from hubel.records import Preprocess

CODE = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 8, 3, 2), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3, 2))
        self.out = nn.Linear(16, classes)

    def forward(self, x):
        x = self.features(x).relu()
        return self.out(x.mean((2, 3)) if x.shape[-1] > 1 else x.flatten(1))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "resnet20.safetensors"
    save_file(build("resnet20", classes=10).state_dict(), file)
    return file


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(CODE)
    return f"{tmp_path / 'mine.py'}:Net"


def test_phases_of_fine_tuning(few_digits: Path, weights: Path, tmp_path: Path) -> None:
    stages = "head:3:0.01,last:2:0.001,all:1:0.0001"
    recipe = with_settings(Recipe(), {"model": "resnet20", "weights": str(weights), "stages": stages, "size": 32})
    events = list(training(few_digits, recipe, output=tmp_path / "run"))
    rows = [event for event in events if isinstance(event, EpochRow)]
    assert [row.epoch for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row.step for row in rows] == sorted({row.step for row in rows})
    assert rows[2].lr < 0.01
    plan = next(event for event in events if isinstance(event, Planned))
    said = {what: f"{value} {why}" for what, value, why in plan.rows}
    assert "head 3 epochs at 0.01, then last 2 epochs at 0.001, then all 1 epochs at 0.0001" in said["phases"]
    assert "ImageNet's values are assumed" in said["weights"]
    notes = " ".join(event.text for event in events if isinstance(event, Note))
    assert "The layer for the classes was replaced by a new one: linear.weight, linear.bias." in notes
    card = hubel.load(tmp_path / "run").card
    assert (card.preprocess.mean, card.preprocess.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert card.preprocess.channels == 3, "grey digits are shown in the weights' three channels"
    again = read_recipe(tmp_path / "run")
    assert (again.train.stages, again.train.epochs, again.train.lr) == (stages, 6, 0.0001)
    assert phases_for(again, lambda _: 1.0)[1] == Phase(depth=1, epochs=2, lr=0.001)


def test_frozen_stages_keep_every_number(few_digits: Path, weights: Path, tmp_path: Path) -> None:
    hubel.train(
        few_digits,
        model="resnet20",
        weights=str(weights),
        stages="head:2:0.01,last:1:0.01",
        size=32,
        output=tmp_path / "run",
        show_as="none",
    )
    before, after = load_file(weights), load_file(tmp_path / "run" / "model" / "model.safetensors")
    for key, value in before.items():
        if not key.startswith(("linear.", "layer3.")):
            assert torch.equal(value, after[key]), key


def test_a_run_is_a_start_for_another(few_digits: Path, tmp_path: Path) -> None:
    first = hubel.train(few_digits, model="resnet20", epochs=1, output=tmp_path / "a", show_as="none")
    second = hubel.train(few_digits, weights=str(first.path), epochs=1, output=tmp_path / "b", show_as="none")
    said = read_recipe(second.path)
    assert said.model.model == "resnet20"
    rows = RunRecord.open(second.path).history
    assert said.train.stages == ("fit,last2:1:0.0005" if rows[-1].epoch else "fit"), "what was trained"
    card = second.load().card
    assert card.preprocess.mean == first.load().card.preprocess.mean


def test_what_a_run_was_trained_on_is_never_reported_by_one_that_starts_from_it(
    few_digits: Path, tmp_path: Path
) -> None:
    data, renamed = tmp_path / "data", tmp_path / "renamed"
    files = sorted(few_digits.rglob("*.png"))
    for number, file in enumerate(files):
        if number % 3:
            (data / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, data / file.parent.name)
    first = hubel.train(data, model="resnet20", weights="none", epochs=1, output=tmp_path / "a", show_as="none")
    before = json.loads((first.path / "split.json").read_text())
    for file in files:
        shutil.copy(file, data / file.parent.name)
        (renamed / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, renamed / file.parent.name / f"new-{file.name}")
    settings = {"weights": str(first.path), "stages": "head:1:0.001", "show_as": "none"}
    grown = hubel.train(data, output=tmp_path / "b", **settings)
    after = json.loads((grown.path / "split.json").read_text())
    for part in ("train", "val", "test"):
        assert set(before[part]) <= set(after[part]), "each file keeps its part"
    assert len(after["test"]) > len(before["test"]), "new ones are divided as well"
    moved = json.loads((hubel.train(renamed, output=tmp_path / "c", **settings).path / "split.json").read_text())
    for part, known in (("val", before["train"]), ("test", before["train"] + before["val"])):
        seen = {(data / path).read_bytes() for path in known}
        assert not [path for path in moved[part] if (renamed / path).read_bytes() in seen]
    list(resuming(grown.path, extend=1))
    assert json.loads((grown.path / "split.json").read_text()) == after, "also when the weights' run is gone"
    only = tmp_path / "only"
    for path in before["train"]:
        (only / Path(path).parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(data / path, only / Path(path).parent / f"x-{Path(path).name}")
    with pytest.raises(DataError, match="were used to train .*add new images"):
        hubel.train(only, output=tmp_path / "d", **settings)


@pytest.mark.parametrize("stages", ["fit", "fit,last1:5:0.001,all:5:0.001"], ids=["the head alone", "stopped early"])
def test_a_run_that_ended_before_its_deeper_phases_is_extended(
    stages: str, few_digits: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubel.jobs.training.why_no_deeper", lambda _, number: "enough" if number == 1 else None)
    settings = {"model": "resnet20", "weights": str(weights), "stages": stages, "size": 32, "seed": 0}
    list(training(few_digits, with_settings(Recipe(), settings), output=tmp_path / "run"))
    assert read_recipe(tmp_path / "run").train.stages == "fit", "the recipe says what was trained"
    monkeypatch.undo()
    events = list(resuming(tmp_path / "run", extend=2))
    assert [row.epoch for row in events if isinstance(row, EpochRow)] == [1, 2]
    assert read_recipe(tmp_path / "run").train.stages == "fit,last2:2:0.0005"
    list(resuming(tmp_path / "run", extend=1, lr=0.001))
    assert [row.epoch for row in RunRecord.open(tmp_path / "run").history] == [0, 1, 2, 3]


def test_weights_that_know_all_classes_are_the_first_candidate(few_digits: Path, tmp_path: Path) -> None:
    first = hubel.train(few_digits, model="resnet20", epochs=2, output=tmp_path / "a", show_as="none")
    recipe = with_settings(Recipe(), {"weights": str(first.path), "stages": "all", "epochs": 1, "lr": 100.0})
    events = list(training(few_digits, recipe, output=tmp_path / "b"))
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any(text.startswith("Before any training:") for text in notes)
    assert [event.best for event in events if isinstance(event, EpochRow)] == [False], "a rate of 100 ruins it"
    before = load_file(first.path / "model" / "model.safetensors")
    after = load_file(tmp_path / "b" / "model" / "model.safetensors")
    assert all(torch.equal(value, after[key]) for key, value in before.items())


QUIET: dict[str, Any] = {"show_as": "none", "report": False}


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red, green and blue images called 0, 1, 2; and in another folder 1, 2, 0."""
    root, rng = tmp_path_factory.mktemp("coloured"), np.random.default_rng(0)
    for folder, names in (("a", "012"), ("b", "120")):
        for colour, name in enumerate(names):
            (root / folder / name).mkdir(parents=True)
            for i in range(40):
                pixels = rng.normal(60, 30, (16, 16, 3))
                pixels[..., colour] += 120
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / folder / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def colours(coloured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows red, green and blue as 0, 1, 2."""
    settings = {"epochs": 6, "width": 16, "batch_size": 16, "output": tmp_path_factory.mktemp("colours") / "run"}
    run = hubel.train(coloured / "a", weights="none", **settings, **QUIET)
    assert run.scores.accuracy == 1
    return run.path


def test_names_that_mean_something_else_are_not_taken_over(coloured: Path, colours: Path, tmp_path: Path) -> None:
    settings = {"weights": str(colours), "stages": "all", "epochs": 8, "batch_size": 16, "lr": 0.01, **QUIET}
    for data, known in (("a", True), ("b", False)):
        run = RunRecord.open(hubel.train(coloured / data, output=tmp_path / data, **settings).path)
        assert any(note.startswith("Before any training:") for note in run.facts.notes) is known
        said = [(value, why) for what, value, why in run.plan if what == "classes"]
        assert bool(said) is not known
        if said:
            assert re.search(r"the weights know them by name, but only [\d.]+% of 90 training images", said[0][1])
            assert any("replaced by a new one" in note for note in run.facts.notes)
        assert run.scores.accuracy > 0.8


def test_classes_of_which_not_all_are_known_start_anew(coloured: Path, colours: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("0", "1", "2"):
        target = tmp_path / "data" / (name if name < "2" else "other")
        target.symlink_to(coloured / "a" / name)
    run = hubel.train(tmp_path / "data", output=tmp_path / "b", weights=str(colours), epochs=1, **QUIET)
    notes = " ".join(RunRecord.open(run.path).facts.notes)
    assert "replaced by a new one" in notes
    assert "keep their rows" not in notes


def test_known_classes_that_start_at_nothing_are_said(coloured: Path, colours: Path, tmp_path: Path) -> None:
    shutil.copytree(coloured / "a", tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "2")
    shutil.copytree(coloured / "b" / "2", tmp_path / "data" / "2")  # green ones
    settings = {"weights": str(colours), "stages": "all", "epochs": 1, "output": tmp_path / "b"}
    notes = RunRecord.open(hubel.train(tmp_path / "data", **QUIET, **settings).path).facts.notes
    (before,) = [note for note in notes if note.startswith("Before any training:")]
    assert before.endswith("Known by name, but not one image right: 2.")


@pytest.mark.parametrize(
    ("changes", "phases"),
    [
        ({}, "head:20:0.001,all:7:0.0002"),
        ({"epochs": 3, "lr": 0.01}, "head:20:0.001,all:3:0.01"),
        ({"stages": "course"}, "head:7:0.001,last:7:1e-05"),
        ({"stages": "course", "epochs": 8}, "head:4:0.001,last:4:1e-05"),
        ({"stages": "head"}, "head:20:0.001"),
        ({"stages": "all", "epochs": 2}, "all:2:0.0002"),
    ],
)
def test_presets(changes: dict[str, object], phases: str) -> None:
    assert ",".join(map(str, phases_for(with_settings(Recipe(), changes), lambda _: 7.9))) == phases


@pytest.mark.parametrize(
    ("changes", "last", "everything", "phases"),
    [
        ({}, 100.0, 50.0, "fit,last2:8:0.0005,all:30:0.0005"),
        ({}, 16.0, 8.0, "fit,last2:8:0.0005,all:6:0.0005"),
        ({}, 3.0, 1.0, "fit,last2:4:0.0005"),  # more than there seems to be time for: the clock paces it
        ({}, 0.6, 0.2, "fit,last2:2:0.0005"),
        ({}, 0.2, 0.1, "fit"),
        ({"epochs": 1}, 9.0, 9.0, "fit,last2:1:0.0005"),
        ({"epochs": 20, "lr": 0.001}, 9.0, 9.0, "fit,last2:8:0.001,all:12:0.001"),
        ({"stages": "all"}, 9.0, 7.0, "all:7:0.0002"),
        ({"stages": "fit"}, 9.0, 7.0, "fit"),
    ],
)
def test_after_a_fitted_head_time_goes_to_the_last_stages_first(
    changes: dict[str, object], last: float, everything: float, phases: str
) -> None:
    found = phases_for(with_settings(Recipe(), changes), lambda depth: last if depth else everything, linear=True)
    assert ",".join(map(str, found)) == phases
    assert parse_phases(phases) == found


def test_settings_that_contradict_each_other_are_refused(few_digits: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave --epochs and --lr out"):
        phases_for(with_settings(Recipe(), {"stages": "head:2:0.1", "epochs": 3}), lambda _: 1)
    for changes, message in (
        ({"stages": "course"}, "goes with --weights only"),
        ({"weights": str(weights), "model": "resnet20", "find_lr": True}, "--find-lr is for training from scratch"),
        ({"weights": str(weights)}, "add --model"),
        ({"weights": str(weights), "model": "resnet20", "stages": "tail:1:1"}, "is no phase"),
    ):
        with pytest.raises(UsageError, match=message):
            hubel.train(few_digits, output=tmp_path / "run", show_as="none", **changes)
    assert not (tmp_path / "run").exists()


def test_images_are_enlarged_towards_the_weights_size() -> None:
    weights = Preprocess(size=(224, 224))
    sides = {side: choose_size(side, None, weights) for side in (28, 100)}
    assert sides == {28: 32, 100: 128}
    assert choose_size(500, None, weights) == 224
    assert choose_size(500, 96, weights) == 96


def test_evaluate_published_weights(few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    save_file(build("resnet20", classes=3).state_dict(), tmp_path / "three.safetensors")
    asked = ["--model", "resnet20", "--weights", str(tmp_path / "three.safetensors")]
    assert main(["evaluate", *asked, str(few_digits)]) == 0
    said = capsys.readouterr().out
    assert "mean 0.485 0.456 0.406, std 0.229 0.224 0.225, 32×32 pixels" in said
    assert "in alphabetical order: 0, 1, 7" in said
    assert main(["evaluate", str(few_digits), *asked, "--size", "40", "--mean", "0", "0", "0"]) == 0
    assert "mean 0 0 0, std 0.229 0.224 0.225, 40×40 pixels" in capsys.readouterr().out
    assert main(["evaluate", "runs/x", str(few_digits), *asked]) == 2
    image = next((few_digits / "0").iterdir())
    assert main(["predict", *asked, str(image)]) == 1
    assert "there are names for 0 classes" in capsys.readouterr().err
    with pytest.raises(UsageError, match="Which model"):
        hubel.evaluate(None, few_digits)


def test_your_own_class_trains_and_is_asked_for_again(
    few_digits: Path, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", str(few_digits), "--model", code, "--epochs", "1", "--output", str(run)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), str(few_digits)]) == 1
    refusal = capsys.readouterr().err
    assert "nothing is run because a folder says so" in refusal
    assert f"--model {code}" in refusal
    assert main(["evaluate", str(run), str(few_digits), "--model", code]) == 0
    image = next((few_digits / "0").iterdir())
    assert hubel.predict(run, image, model=code)[0].label in {"0", "1", "7"}
    with pytest.raises(UsageError, match="The recipe asks for the code"):
        hubel.train(few_digits, recipe=run, output=tmp_path / "again")
    with pytest.raises(ModelError, match="hubel's own resnet20: leave --model out"):
        own = hubel.train(few_digits, model="resnet20", epochs=1, output=tmp_path / "own", show_as="none")
        hubel.load(own.path, model=code)


def test_the_code_in_a_folder_is_never_run(few_digits: Path, code: str, tmp_path: Path) -> None:
    run = hubel.train(few_digits, model=code, epochs=1, output=tmp_path / "run", show_as="none")
    Path(code.rpartition(":")[0]).write_text("raise SystemExit('ran')\n")
    (run.path / "model" / "mine.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(ModelError, match="nothing is run"):
        hubel.load(run.path / "model")


class Tiny(nn.Module):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 5, 2)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.conv(x).relu().amax((2, 3)))
        return y


def test_an_object_in_python(few_digits: Path, tmp_path: Path) -> None:
    run = hubel.train(few_digits, model=Tiny(), epochs=1, output=tmp_path / "run", show_as="none")
    assert read_recipe(run.path).model.model == "test_fine_tuning.py:Tiny"
    images = np.zeros((2, *hubel.load(run.path, model=Tiny).card.preprocess.size, 1), np.uint8)
    by_class, by_object = (hubel.load(run.path, model=model).logits(images) for model in (Tiny, Tiny(3)))
    np.testing.assert_array_equal(by_class, by_object)


def test_weights_that_are_nowhere_are_said(few_digits: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match="There are no weights maybe: give a file or folder that is there, auto, none or imagenet"
    ):
        hubel.train(few_digits, weights="maybe", output=tmp_path / "run", show_as="none")
