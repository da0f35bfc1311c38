"""The examples run as they stand, and show what they say: the fork, and the exercises in their short form."""

from __future__ import annotations

import ast
import csv
import json
import math
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.metrics import precision_recall_fscore_support

import hubel

EXAMPLES = Path(__file__).parents[1] / "examples"
EXERCISES = sorted(EXAMPLES.glob("x[1-9]_*.py"))
SCRIPT = """
import runpy, sys
for sys.argv[1:] in ([], ["--straight"]):
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
Do = Callable[..., dict[str, Any]]


def test_a_fork_leaves_the_training_as_it_was() -> None:
    """Both ways in one interpreter, whose start takes longer than they do."""
    command = [sys.executable, "-c", f"import sys\nsys.argv[0] = {str(EXAMPLES / 'fork.py')!r}\n{SCRIPT}"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    forked, straight = lines[:-43], lines[-43:]
    assert [line for line in forked if not line.startswith("ten slower")] == straight
    assert len(forked) == 44
    assert straight[-1].startswith("weights ")


@pytest.fixture
def do(few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Do]:
    """Run an exercise in its short form on 120 digits, and return its names; its results are in `tmp_path`."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(name: str, *options: str) -> dict[str, Any]:
        monkeypatch.setattr(
            sys, "argv", [f"{name}.py", str(few_digits), "--output", str(tmp_path), "--short", *options]
        )
        return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")

    yield run
    for name in ("exercise", "checks", "notebook"):
        sys.modules.pop(name, None)


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def check_results(folder: Path, *, rows: int, pictures: tuple[str, ...]) -> list[dict[str, str]]:
    """Look at the table of accuracies and the pictures, and return the table."""
    found = table(folder / "results.csv")
    assert len(found) == rows
    for row in found:
        assert 0 <= float(row["low"]) <= float(row["accuracy"]) <= float(row["high"]) <= 1
        assert int(row["n"]) == 18  # 15 % of 120
        assert int(row["parameters"]) > 100
    assert len((folder / "results.md").read_text("utf-8").splitlines()) == rows + 2
    for name in pictures:
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 150
            assert len(set(picture.convert("L").tobytes())) > 20  # and not empty
    return found


@pytest.mark.parametrize("script", EXERCISES, ids=lambda script: script.stem)
def test_an_exercise_is_short_and_uses_public_names(script: Path) -> None:
    text = script.read_text("utf-8")
    assert len(text.splitlines()) < 60
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    modules = {alias.name if isinstance(node, ast.Import) else node.module for node in imports for alias in node.names}
    assert not [module for module in modules if module is not None and module.startswith("hubel.")]
    used = {node.attr for node in ast.walk(ast.parse(text)) if _is_hubels(node)}
    assert used <= set(hubel.__all__)


def _is_hubels(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hubel"


def test_there_are_nine_exercises() -> None:
    assert [script.stem[:2] for script in EXERCISES] == [f"x{number}" for number in range(1, 10)]
    assert {script.stem for script in EXERCISES} == set(runpy.run_path(str(EXAMPLES / "run_all.py"))["DATA"])


def test_x1_trains_three_blocks_and_what_is_finished_stays(
    do: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = do("x1_cifar10")
    check_results(tmp_path, rows=2, pictures=("curves", "confusion", "gradcam"))
    kinds = [type(module).__name__ for module in names["Net"](10, 3).modules()]
    assert (kinds.count("MaxPool2d"), kinds.count("BatchNorm2d"), kinds.count("Dropout")) == (3, 5, 4)
    written = (tmp_path / "run" / "manifest.json").stat().st_mtime_ns
    assert names["trained"](tmp_path / "run", "nowhere").scores == names["run"].scores
    assert (tmp_path / "run" / "manifest.json").stat().st_mtime_ns == written
    monkeypatch.setattr(sys, "argv", ["x1_cifar10.py", "other-images", "--output", str(tmp_path)])
    with pytest.raises(SystemExit):
        names["asked"]("X1", data="cifar10")
    assert "holds results of other arguments" in capsys.readouterr().err


def test_x2_counts_what_each_variant_costs(do: Do, tmp_path: Path) -> None:
    do("x2_variants")
    rows = table(tmp_path / "results.csv")
    parameters, work = ([float(row[name]) for row in rows] for name in ("parameters", "million multiply-adds"))
    pooled, strided, one, five, se = parameters
    assert pooled == strided
    assert pooled - one == 8 * (32 + 32 * 64 + 64 * 128)  # nine weights against one for each pair of channels
    assert five - pooled == 16 * (32 + 32 * 64 + 64 * 128)
    assert se > pooled
    assert work[1] < work[0]


def test_x3_draws_filters_before_and_after(do: Do, tmp_path: Path) -> None:
    do("x3_filters")
    before, after = table(tmp_path / "results.csv")
    assert before["n"] == after["n"] == "32"
    assert abs(float(before["smoothness"])) < 0.2  # of 640 pairs of independent numbers
    assert after["smoothness"] != before["smoothness"]
    with Image.open(tmp_path / "filters.png") as picture:
        assert picture.width > 2 * 8 * 50


def test_x4_writes_grad_cam_with_hooks(do: Do, tmp_path: Path) -> None:
    names = do("x4_gradcam")
    (row,) = table(tmp_path / "results.csv")
    assert float(row["largest difference from hubel's"]) < 1e-4
    assert float(names["maps"].std()) > 0
    assert not any(module._forward_hooks for module in names["classifier"].model.modules())
    assert (tmp_path / "gradcam.png").exists()


def test_x5_has_all_that_is_to_be_handed_in(do: Do, tmp_path: Path) -> None:
    do("x5_signs")
    first, _ = check_results(tmp_path, rows=2, pictures=("curves", "gradcam"))
    assert int(first["epochs"]) <= 10
    said = table(tmp_path / "run" / "predictions.csv")
    labels, answers = [row["label"] for row in said], [row["prediction"] for row in said]
    measures = precision_recall_fscore_support(labels, answers, labels=["0", "1", "7"], zero_division=0.0)
    rows = table(tmp_path / "per_class.csv")
    for name, expected in zip(("precision", "recall", "f1", "support"), measures, strict=True):
        assert [float(row[name]) for row in rows] == pytest.approx(list(expected))


def test_x6_builds_the_notes_network(do: Do, tmp_path: Path) -> None:
    names = do("x6_fashion")
    check_results(tmp_path, rows=2, pictures=("curves", "confusion"))
    assert sum(p.numel() for p in names["Net"](10, 1, (28, 28)).parameters()) == 421_706


def test_x7_follows_a_cosine_and_says_every_epoch(do: Do, tmp_path: Path) -> None:
    do("x7_augmentation")
    check_results(tmp_path, rows=1, pictures=("curves", "augmentation"))
    rows = table(tmp_path / "epochs.csv")
    steps = [int(row["step"]) for row in table(tmp_path / "run" / "results.csv")]
    for row, step in zip(rows, steps, strict=True):
        assert float(row["lr"]) == pytest.approx(1e-3 * (1 + math.cos(math.pi * (step - 1) / steps[-1])) / 2)
    assert {"train_loss", "train_accuracy", "val_accuracy"} <= rows[0].keys()


def test_x8_keeps_what_is_frozen(do: Do, tmp_path: Path) -> None:
    weights = tmp_path / "resnet20.safetensors"
    save_file(hubel.build("resnet20", classes=10).state_dict(), weights)
    do("x8_finetune", "--model", "resnet20", "--weights", str(weights))
    check_results(tmp_path, rows=3, pictures=("curves", "gradcam"))
    before, after = load_file(weights), load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert after["linear.weight"].shape == (3, 64)
    frozen = [name for name in before if name.startswith(("conv1", "bn1", "layer1", "layer2"))]
    assert len(frozen) > 20
    assert all((before[name] == after[name]).all() for name in frozen)


def test_x9_measures_its_answers(do: Do, tmp_path: Path) -> None:
    do("x9_questions")
    rows = table(tmp_path / "results.csv")
    assert len(rows) == 9
    assert all(any(letter.isdigit() for letter in row["measured"]) for row in rows)
    without_data = [row["as the notes say"] for row in rows[:4] + rows[5:6]]
    assert without_data == ["yes"] * 5  # the other answers are those of the images, of which there are few here


@pytest.mark.parametrize("script", EXERCISES, ids=lambda script: script.stem)
def test_a_notebook_holds_the_script(script: Path) -> None:
    made = _notebook(script, "DATA")
    code = ["".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "code"]
    body = ast.parse(script.read_text("utf-8")).body[1:]
    assert ast.dump(ast.parse("\n".join(code[1:]))) == ast.dump(ast.Module(body, []))
    assert len({cell["id"] for cell in made["cells"]}) == len(made["cells"])
    assert (made["nbformat"], json.loads(json.dumps(made))) == (4, made)


def test_a_notebook_runs_cell_by_cell(few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _notebook(EXAMPLES / "x7_augmentation.py", str(few_digits), "--output", str(tmp_path / "x7"), "--short")
    monkeypatch.setattr(sys, "argv", ["kernel", "-f", "kernel.json"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in made["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    check_results(tmp_path / "x7", rows=1, pictures=("curves",))
    sys.modules.pop("exercise")


def _notebook(script: Path, *arguments: str) -> dict[str, Any]:
    made: dict[str, Any] = runpy.run_path(str(EXAMPLES / "notebook.py"))["notebook"](script, list(arguments))
    return made


def test_all_are_done_once(few_digits: Path, tmp_path: Path) -> None:
    options = ["--short", "--cifar10", str(few_digits), "--sign-digits", "nowhere", "--output", str(tmp_path / "all")]
    command = [sys.executable, str(EXAMPLES / "run_all.py"), "x3_filters", "x5_signs", *options]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ}).stdout
    assert "x3_filters: done" in said
    assert "x5_signs: FAILED" in said
    assert "nowhere" in (tmp_path / "all" / "x5_signs" / "log.txt").read_text("utf-8")
    (found,) = json.loads((tmp_path / "all" / "exercises.json").read_text("utf-8"))
    assert [row["n"] for row in found["results"]] == [32, 32]
    assert found["machine"]["cores"] == os.cpu_count()
