"""The main road on real digits, from Python: what is said, what is written, what can be read again."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

import defects
import hubel
from hubel.dataset.find import scan
from hubel.dataset.pack import Rows
from hubel.errors import HubelError, ImageError, Interrupted, RunError, Terminated, UsageError
from hubel.evaluation import baseline
from hubel.events import DataSeen, EpochRow, Finished, Measured, Note, Planned, Progress, Step
from hubel.evidence import RunRecord
from hubel.jobs import training as state
from hubel.jobs.evaluate import bind
from hubel.jobs.prepare import mean_and_std
from hubel.jobs.recipe import Recipe, read_recipe, with_settings
from hubel.jobs.rules import batch_size_for, wanted_epochs
from hubel.jobs.train import training

QUICK = {"epochs": 2, "width": 16, "seed": 3}


class Still(torch.nn.Module):
    """A network that learns nothing."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))[:, :1].expand(-1, self.classes)


@pytest.fixture(scope="module")
def run(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> hubel.Run:
    return hubel.train(few_digits, output=tmp_path_factory.mktemp("runs") / "few", show_as="none", epochs=6, width=16)


def test_images_are_what_the_network_is_given(run: hubel.Run, few_digits: Path) -> None:
    classifier, files = run.load(), sorted((few_digits / "7").iterdir())[:5]
    images = classifier.images(files)
    assert images.shape == (5, 1, *classifier.card.preprocess.size)
    probabilities = classifier.model.eval()(images).softmax(1)
    for row, answer in zip(probabilities, classifier.predict(files), strict=True):
        assert row.tolist() == pytest.approx([answer.probabilities[name] for name in classifier.classes], abs=1e-5)
    assert torch.equal(classifier.images([few_digits / "7"])[:5], images)  # a folder stands for its files
    with pytest.raises(ImageError):
        classifier.images([b"nothing"])


def test_the_events_come_in_order(few_digits: Path, tmp_path: Path) -> None:
    recipe = with_settings(Recipe(), QUICK)
    events = list(training(few_digits, recipe, output=tmp_path / "run"))
    kinds = [type(e) for e in events if not isinstance(e, (Progress, Step))]
    assert kinds[1:] == [DataSeen, Planned, EpochRow, EpochRow, Measured, Finished]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines if line["event"] != "step"] == [
        "data_seen",
        "planned",
        "epoch_row",
        "epoch_row",
        "measured",
        "finished",
    ]


def test_it_learns_three_digits(run: hubel.Run) -> None:
    assert run.scores.accuracy >= 0.9
    assert run.baselines.majority < 0.5
    assert run.scores.interval[0] < run.scores.accuracy <= run.scores.interval[1]


def test_the_run_folder_is_complete_and_sealed(run: hubel.Run) -> None:
    names = {f.relative_to(run.path).as_posix() for f in run.path.rglob("*") if f.is_file()}
    expected = {"recipe.yaml", "plan.json", "env.json", "split.json", "log.jsonl", "results.csv", "findings.json"}
    expected |= {"scores.json", "predictions.csv", "report.html", "manifest.json", "model/model.safetensors"}
    expected |= {"model/config.json", "model/README.md", "pictures/curves.png", "pictures/confusion.png"}
    assert expected <= names
    assert not [n for n in names if n.endswith((".pkl", ".pt", ".part"))]
    run.verify()
    assert "report.html" in run._repr_html_()


def test_the_evidence_is_what_was_reported(run: hubel.Run) -> None:
    record = RunRecord.open(run.path)
    with (run.path / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == list(record.paths)
    assert [row["prediction"] for row in rows] == [record.card.classes[i] for i in record.predictions]
    assert [row["confidence"] for row in rows] == [f"{value:.6f}" for value in record.confidence]
    model = run.load()
    images = [Path(record_source(run)) / path for path in record.paths]
    answers = [answer.label for answer in model.predict(images)]
    assert answers == [row["prediction"] for row in rows]
    validation = (record.validation_logits.argmax(1) == record.validation_labels).mean()
    assert validation == pytest.approx(max(row.val_accuracy for row in record.history), abs=1e-5)
    assert (record.pictures["filters.before"] != record.pictures["filters.after"]).any()
    assert {e.index for e in record.facts.explained} <= set(range(len(record.paths)))
    assert record.pictures["explained.images"].shape[0] == len(record.facts.explained)
    assert set(np.flatnonzero(record.predictions != record.labels)) <= set(record.thumbnails)
    assert record.missing == ()


def record_source(run: hubel.Run) -> str:
    return str(json.loads((run.path / "split.json").read_text())["source"])


def test_the_card_tells_what_was_reported_from_what_was_chosen_by(few_digits: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number, file in enumerate(sorted(few_digits.rglob("*.png"))):
        to = data / ("train" if number % 4 else "val") / file.parent.name
        to.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, to)
    quiet = {"weights": "none", "report": False, "show_as": "none"}
    run = hubel.train(data, output=tmp_path / "run", epochs=1, width=16, **quiet)
    assert RunRecord.open(run.path).reported == "val"
    said, validation = run.load().card.metrics, len(RunRecord.open(run.path).validation_paths)
    assert (said["val_accuracy"], said["val_n"]) == (run.scores.accuracy, run.scores.n)
    assert said["chosen_by_n"] == validation != run.scores.n
    text = (run.path / "model" / "README.md").read_text()
    assert f"- val n: {run.scores.n}\n- chosen by accuracy: {said['chosen_by_accuracy']:.6g}\n" in text
    assert "is flattered by the choice" in text


def test_results_have_a_column_for_every_class(run: hubel.Run) -> None:
    rows = list(csv.DictReader((run.path / "results.csv").read_text().splitlines()))
    assert len(rows) == 6
    assert {"epoch", "train_loss", "val_accuracy", "lr", "images_per_second", "recall 0", "recall 7"} <= rows[0].keys()


def test_the_split_is_a_manifest_of_all_images(run: hubel.Run, few_digits: Path) -> None:
    said = json.loads((run.path / "split.json").read_text())
    paths = said["train"] + said["val"] + said["test"]
    assert sorted(paths) == sorted(scan(few_digits).paths)
    assert len(set(paths)) == len(paths) == 120


def test_the_figures_are_scikit_learns(run: hubel.Run) -> None:
    rows = list(csv.DictReader((run.path / "predictions.csv").read_text().splitlines()))
    truth, said = [r["label"] for r in rows], [r["prediction"] for r in rows]
    scores = run.scores
    assert scores.accuracy == pytest.approx(accuracy_score(truth, said))
    names = [c.name for c in scores.per_class]
    p, r, f, n = precision_recall_fscore_support(truth, said, labels=names, zero_division=0)
    np.testing.assert_allclose([c.precision for c in scores.per_class], p)
    np.testing.assert_allclose([c.recall for c in scores.per_class], r)
    np.testing.assert_allclose([c.f1 for c in scores.per_class], f)
    assert [c.support for c in scores.per_class] == n.tolist()


def test_evaluate_measures_the_held_out_images_of_the_same_folder(run: hubel.Run, few_digits: Path) -> None:
    again = hubel.evaluate(run.path, few_digits, show_as="none")
    assert again == run.scores


def test_the_loaded_model_predicts_what_the_report_says(run: hubel.Run, few_digits: Path) -> None:
    rows = list(csv.DictReader((run.path / "predictions.csv").read_text().splitlines()))
    answers = hubel.load(run.path).predict([few_digits / r["file_name"] for r in rows])
    assert [a.label for a in answers] == [r["prediction"] for r in rows]
    assert [a.confidence for a in answers] == pytest.approx([float(r["confidence"]) for r in rows], abs=1e-6)
    assert all(sum(a.probabilities.values()) == pytest.approx(1, abs=1e-5) for a in answers)


def test_the_recipe_of_a_run_makes_the_same_run_again(run: hubel.Run, few_digits: Path, tmp_path: Path) -> None:
    again = hubel.train(few_digits, recipe=run.path, output=tmp_path / "again", show_as="none")
    assert again.scores == run.scores
    assert read_recipe(again.path) == read_recipe(run.path)
    for name in ("split.json", "predictions.csv"):
        assert (again.path / name).read_text() == (run.path / name).read_text()


def test_the_log_is_of_the_resolved_recipe(run: hubel.Run) -> None:
    recipe = read_recipe(run.path)
    assert None not in (recipe.train.lr, recipe.train.batch_size, recipe.data.size, recipe.train.optimizer)
    assert recipe.model.model == "quick"
    assert recipe.data.flip is False, "digits don't survive a mirror"


@pytest.mark.parametrize("model", ["lenet5", "two-block", "simple-cnn-gap", "resnet20"])
def test_other_networks_take_the_same_road(model: str, few_digits: Path, tmp_path: Path) -> None:
    settings = {"epochs": 1, "size": 32} if model == "lenet5" else {"epochs": 1}
    run = hubel.train(few_digits, output=tmp_path / "run", show_as="none", model=model, **settings)
    assert hubel.load(run.path).card.architecture == model


@pytest.mark.parametrize(
    "settings",
    [
        {"balance": "loss"},
        {"balance": "sampler", "schedule": "cosine", "optimizer": "adam"},
        {"accumulate": 2, "clip": 1.0, "augment": "strong"},
        {"find_lr": True, "batch_size": 16},
        {"folds": 4, "fold": 1, "augment": "trivial", "channels": 3},
        {"precision": "float32", "channels_last": False, "fit": "pad", "augment": "rand"},
    ],
    ids=" ".join,
)
def test_settings_take_the_same_road(settings: dict[str, object], few_digits: Path, tmp_path: Path) -> None:
    run = hubel.train(few_digits, output=tmp_path / "run", show_as="none", **{**QUICK, "epochs": 1, **settings})
    saved = read_recipe(run.path)
    said = {**dataclasses.asdict(saved.data), **dataclasses.asdict(saved.train)}
    assert {k: said[k] for k in settings if k != "find_lr"} == {k: settings[k] for k in settings if k != "find_lr"}
    assert not said["find_lr"], "what was found is saved instead"
    assert run.report.stat().st_size > 20_000


def test_patience_stops_early_and_the_report_says_so(few_digits: Path, tmp_path: Path) -> None:
    run = hubel.train(
        few_digits, output=tmp_path / "run", show_as="none", **{**QUICK, "epochs": 40, "patience": 1, "lr": 1e-6}
    )
    assert len((run.path / "results.csv").read_text().splitlines()) < 30
    assert "no better validation accuracy" in run.report.read_text()


def test_a_loss_that_explodes_ends_in_a_sentence(few_digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match="the loss became nan in epoch 1: try a lower rate.*last sound weights"):
        hubel.train(few_digits, output=run, show_as="none", **{**QUICK, "epochs": 5, "lr": 1e30})
    assert "try a lower rate" in (run / "report.html").read_text()
    answer = hubel.predict(run, next((few_digits / "0").iterdir()))[0]
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    for file in (run / "log.jsonl", *run.glob("*.json")):
        for text in file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]:
            json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_hundreds_of_classes_take_little_room_and_nobody_wonders(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    rng = np.random.default_rng(0)
    for name in range(300):
        (tmp_path / "data" / f"c{name}").mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).save(tmp_path / "data" / f"c{name}" / f"{i}.png")
    run = hubel.train(tmp_path / "data", output=tmp_path / "run", report=False, **{**QUICK, "epochs": 2})
    assert not recwarn.list
    assert "Warning" not in "".join(capfd.readouterr())
    assert len(run.scores.confusion) == len(run.scores.confusion[0]) == 300
    assert (run.path / "scores.json").stat().st_size < 200 * 300  # a row of zeros would be 300 lines
    assert (run.path / "log.jsonl").stat().st_size < 200 * 300


@pytest.mark.parametrize(
    ("number", "error", "code"),
    [(signal.SIGINT, Interrupted, 130), (signal.SIGTERM, Terminated, 143), (signal.SIGHUP, Terminated, 143)],
)
def test_a_signal_finishes_the_step_and_keeps_the_model(
    number: int, error: type[HubelError], code: int, few_digits: Path, tmp_path: Path
) -> None:
    steps = 0
    with pytest.raises(error) as raised:
        for event in training(few_digits, with_settings(Recipe(), {**QUICK, "epochs": 50}), output=tmp_path / "run"):
            if isinstance(event, Step):
                steps += 1
                if steps == 7:
                    os.kill(os.getpid(), number)
    assert raised.value.exit_code == code
    assert steps == 7
    model = hubel.load(tmp_path / "run")
    assert model.predict([next((few_digits / "0").iterdir())])[0].label in model.classes
    if number == signal.SIGINT:
        assert "stopped by Ctrl-C" in (tmp_path / "run" / "report.html").read_text()


def test_an_existing_output_is_not_touched(run: hubel.Run, few_digits: Path) -> None:
    before = (run.path / "report.html").read_bytes()
    with pytest.raises(RunError, match="exists and is not empty"):
        hubel.train(few_digits, output=run.path, show_as="none", **QUICK)
    assert (run.path / "report.html").read_bytes() == before


def test_a_failure_leaves_nothing_behind(few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="free some space"):
        hubel.train(few_digits, output=tmp_path / "run", show_as="none", **QUICK)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "resnet19"}, "resnet1"),
        ({"device": "tpu"}, "'tpu' is not there"),
        ({"model": "lenet5", "width": 9}, "has no argument 'width'"),
        ({"size": 1}, "expected 4 to 2048"),
        ({"width": 0}, "--width 0: expected"),
        ({"dropout": 1.0}, "--dropout 1.0: expected"),
        ({"background": (0, 0, 256)}, "three numbers 0 to 255"),
        ({"val": 2.0}, "between 0 and 1"),
        ({"model": "quick", "size": 6}, "the smallest size is 8x8"),
        ({"exclude": "nowhere.json"}, "nowhere.json"),
        ({"batch_size": 1, "size": 8}, "give --batch-size 2"),
        ({"small_first": 0.0001}, "too small for quick"),
        ({"model": Still}, "has no numbers to learn: it can't be trained"),
    ],
)
def test_wrong_settings_are_one_sentence(
    settings: dict[str, object], said: str, few_digits: Path, tmp_path: Path
) -> None:
    with pytest.raises(HubelError) as error:
        hubel.train(few_digits, output=tmp_path / "run", show_as="none", **{"epochs": 1, **settings})
    assert said in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("size", "batch"), [(8, 2), (32, 1)])
def test_the_smallest_images_and_batches_train(size: int, batch: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(24):
        file = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(file)
    settings = {"weights": "none", "report": False, "show_as": "none", "size": size, "batch_size": batch}
    run = hubel.train(tmp_path / "data", output=tmp_path / "run", epochs=1, width=16, **settings)
    assert run.scores.n > 0


def test_images_of_classes_that_the_model_lacks_are_counted(
    run: hubel.Run, few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, known in (("0", "0"), ("cat", "1")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for file in sorted((few_digits / known).iterdir())[:6]:
            shutil.copy(file, tmp_path / "data" / name)
    scores = hubel.evaluate(run.path, tmp_path / "data", show_as="text")
    assert scores.n == 6
    said = capsys.readouterr().out
    assert "6 images of classes that the model does not know are left out: 'cat' (6)." in said
    assert "of 6 images were used in training (they are the same files)" in said


def test_classes_are_bound_by_name(run: hubel.Run, few_digits: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for name in ("7", "0"):
        os.symlink(few_digits / name, tmp_path / "new" / name)
    folder = tmp_path / "copied"
    for name in ("0", "7"):
        (folder / name).mkdir(parents=True)
        for file in sorted((few_digits / name).iterdir())[:5]:
            (folder / name / file.name).write_bytes(file.read_bytes())
    catalog = scan(folder)
    assert bind(catalog, ("0", "1", "7")).tolist() == [0] * 5 + [2] * 5
    scores = hubel.evaluate(run.path, folder, show_as="none")
    assert [c.support for c in scores.per_class] == [5, 0, 5]
    assert bind(catalog, ("0", "1")).tolist() == [0] * 5 + [-1] * 5
    with pytest.raises(HubelError, match="does not know the class '0', '7'"):
        bind(catalog, ("1", "2"))


def test_parts_are_read_in_pieces(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part may be larger than memory: nothing reads all of its images at once."""
    read: list[int] = []
    get = Rows.__getitem__

    def watched(self: Rows, place: object) -> npt.NDArray[np.uint8]:
        found = get(self, place)  # type: ignore[arg-type]
        read.append(len(found) if found.ndim == 4 else 1)
        return found

    monkeypatch.setattr(Rows, "__getitem__", watched)
    monkeypatch.setattr(baseline, "CHUNK", 64)
    events = list(training(digits, with_settings(Recipe(), {"epochs": 1, "width": 16}), output=tmp_path / "run"))
    [seen] = [event for event in events if isinstance(event, DataSeen)]
    assert sum(seen.counts["test"]) > 256
    assert sum(read) > 2 * sum(seen.counts["test"])
    assert max(read) <= 256


def test_mean_and_deviation_are_numpys() -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 5, 4, 3), dtype=np.uint8)
    images[..., 2] = 7
    mean, std = mean_and_std(images)
    assert mean == pytest.approx((images / 255).mean((0, 1, 2)), abs=5e-5)
    assert std[:2] == pytest.approx((images / 255).std((0, 1, 2))[:2], abs=5e-5)
    assert std[2] == pytest.approx(1 / 255, abs=5e-5)


def test_rules_of_the_plan_are_monotone() -> None:
    counts = [10, 100, 1_000, 10_000, 100_000]
    batches = [batch_size_for(n) for n in counts]
    assert batches == sorted(batches)
    assert set(batches) <= {16, 32, 64, 128, 256, 512}
    wanted = [wanted_epochs(n) for n in counts]
    assert wanted == sorted(wanted, reverse=True)


def test_unknown_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        hubel.train(tmp_path / "nowhere", output=tmp_path / "run", show_as="none")


def test_cuda_is_used_where_it_is(few_digits: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    run = hubel.train(few_digits, output=tmp_path / "run", show_as="none", device="cuda", **QUICK)
    assert hubel.load(run.path, device="cpu").predict([next((few_digits / "0").iterdir())])


def test_forty_planted_defects_are_named_and_training_goes_on(tmp_path: Path) -> None:
    planted = [path for path, what in defects.plant(tmp_path / "data").items() if not what.startswith("fine")]
    assert len(planted) >= 40
    run = hubel.train(tmp_path / "data", output=tmp_path / "run", show_as="none", epochs=12, width=16, size=32)
    messages = " ".join(finding.message for finding in run.findings)
    named = {path for finding in run.findings for path in finding.paths}
    handled = [path for path in planted if path not in named and path not in messages]
    assert not handled, "each planted defect is named by a finding"
    assert run.scores.accuracy > 0.6
    page = run.report.read_text("utf-8")
    assert "<script>alert" not in page
    left_out = json.loads((run.path / "split.json").read_text())["left_out"]
    assert all(reason for reason in left_out.values())
    assert len(left_out) >= 15


def test_a_machine_slower_than_measured_still_ends_in_time(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_settings(Recipe(), {**QUICK, "epochs": 30, "minutes": 60})
    shares = itertools.chain([0.0] * 4, [i / 20 for i in range(21)], itertools.repeat(1.0))
    monkeypatch.setattr(state, "phase_seconds", lambda training: next(shares) * training.allowed)
    events = list(training(few_digits, recipe, output=tmp_path / "run"))
    rows = [event for event in events if isinstance(event, EpochRow)]
    assert len(rows) < 30
    assert rows[-1].lr < 0.2 * max(row.lr for row in rows), "the schedule was completed"
    assert any(isinstance(event, Note) and "compressed to" in event.text for event in events)


def test_strict_stops_at_a_bad_image_unless_it_is_excluded(few_digits: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(few_digits, folder)
    (folder / "0" / "broken.png").write_bytes(b"no image")
    with pytest.raises(HubelError, match=r"^0/broken.png can't be used .* and --strict was given"):
        hubel.train(folder, output=tmp_path / "run", show_as="none", strict=True, **QUICK)
    (tmp_path / "without.txt").write_text("# found by hand\n0/broken.png\n")
    exclude = str(tmp_path / "without.txt")
    run = hubel.train(folder, output=tmp_path / "run", show_as="none", strict=True, exclude=exclude, **QUICK)
    [finding] = [f for f in run.findings if f.code == "unreadable"]
    assert finding.left_out
    assert finding.paths == ("0/broken.png",)
