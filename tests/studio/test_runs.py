"""The runs view, as a person uses it: a training that goes on, and what a finished run got right and wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import hubel
from hubel.evidence import RunRecord
from hubel.studio import runs
from studio.conftest import TOKEN, Studio

POINTS = "(document.querySelector('polyline.faint')?.getAttribute('points').split(' ').length ?? 0)"


def go(page: Any, place: str) -> None:
    page.goto(f"{page.url.split('#')[0]}#/runs{place}")


def steps(numbers: range, base: float = 2.0) -> str:
    rows = ({"event": "step", "step": n, "loss": base / n, "lr": 0.1} for n in numbers)
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def live(studio: Studio) -> Iterator[Path]:
    """The log of a training in another process."""
    log = studio.folder / "live" / "log.jsonl"
    log.parent.mkdir()
    log.write_text(steps(range(1, 6)))
    yield log
    log.unlink()
    log.parent.rmdir()


def test_a_curve_grows_while_a_training_goes_on(page: Any, live: Path) -> None:
    go(page, "")
    page.get_by_role("link", name="runs/live").click()
    page.wait_for_function(f"() => {POINTS} === 5")
    with live.open("a") as log:
        log.write(steps(range(6, 9)) + '{"event": "step", "step": 9, "lo')  # the rest is not written yet
        log.flush()
        page.wait_for_function(f"() => {POINTS} === 8")
        log.write('ss": 0.2, "lr": 0.1}\n')
    page.wait_for_function(f"() => {POINTS} === 9")
    live.write_text(steps(range(1, 4)))  # it was killed, goes on, and has cut its log back
    page.wait_for_function(f"() => {POINTS} === 3")
    with live.open("a") as log:
        log.write(steps(range(4, 8)) + steps(range(5, 7)))  # and once more from its beginning, without a state
    page.wait_for_function(f"() => {POINTS} === 6")
    assert "At step 6" in page.locator("[aria-live=polite]").first.inner_text()


@pytest.mark.parametrize("page", [(1280, "light")], indirect=True)
def test_the_curve_of_a_training_that_was_killed_goes_on(page: Any, studio: Studio, few_digits: Path) -> None:
    folder, step = studio.folder / "killed", "[aria-live=polite]"
    command = [sys.executable, "-m", "hubel"]
    begun = [*command, "train", str(few_digits), "--output", str(folder), "--epochs", "40", "--weights", "none"]
    training = subprocess.Popen(begun, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (folder / "log.jsonl").exists():
            assert training.poll() is None
            time.sleep(0.1)
        go(page, "?run=runs/killed")
        page.locator(step).get_by_text(re.compile(r"epoch \d+ of 40")).wait_for(timeout=60_000)
    finally:
        training.kill()
        training.wait()
    assert "Finished" not in page.locator(step).inner_text()
    read = "e => e.getAttribute('points').split(' ').map(parseFloat)"
    before = page.locator("polyline.faint").evaluate(read)
    subprocess.run([*command, "resume", str(folder)], check=True, capture_output=True)
    page.locator(step).get_by_text("Finished; epoch 40 of 40").wait_for()
    across = page.locator("polyline.faint").evaluate(read)
    shutil.rmtree(folder)
    assert across == sorted(set(across)), "each step is there once"
    assert len(across) > len(before)


@pytest.mark.parametrize("page", [(1280, "light")], indirect=True)
def test_it_opens_on_a_sound_run_and_a_missing_picture_is_said(page: Any, studio: Studio, monkeypatch: Any) -> None:
    broken = studio.folder / "a-broken"
    shutil.copytree(studio.folder / "digits", broken)
    (broken / "model" / "model.safetensors").write_bytes(b"damaged")
    (broken / "plan.json").write_text("{")
    try:
        go(page, "")
        page.get_by_role("row").filter(has=page.get_by_role("link", name="runs/a-broken")).wait_for()
        assert not page.get_by_label("Show the curves of runs/a-broken").is_checked()
        assert page.get_by_label("Show the curves of runs/digits").is_checked()
        page.get_by_role("link", name="Network").click()
        page.locator(".net-value output").wait_for()
        assert page.get_by_label("Run", exact=True).input_value() == "runs/digits"
        assert page.get_by_text("Opened instead of what can’t be").is_visible()
    finally:
        shutil.rmtree(broken)
    runs._record.cache_clear()  # a record that was read keeps its pictures
    monkeypatch.setattr(RunRecord, "thumbnails", {})
    go(page, "?run=runs/digits")
    page.locator(".matrix button").first.click()
    card = page.locator(".opened .cards li").first
    card.get_by_text("The run keeps no picture of this one").wait_for()
    assert card.locator(".path").inner_text() in RunRecord.open(studio.folder / "digits").paths
    assert card.get_by_role("button", name="Explain").count() == 0


def test_a_cell_opens_its_images_and_one_is_explained(page: Any, studio: Studio) -> None:
    record = RunRecord.open(studio.folder / "digits")
    row, column = int(record.labels[0]), int(record.predictions[0])
    count = int(((record.labels == row) & (record.predictions == column)).sum())
    names = record.card.classes
    go(page, "?run=runs/digits")
    cell = page.get_by_role("button", name=f"{names[row]} answered as {names[column]}: {count}", exact=True)
    cell.focus()
    page.keyboard.press("Enter")
    page.locator(".opened .cards li").first.wait_for()
    assert page.locator(".opened .cards li").count() == count
    page.wait_for_function("() => [...document.querySelectorAll('.opened img')].every((each) => each.naturalWidth > 0)")
    page.locator(".opened").get_by_role("button", name="Explain").first.click()
    page.locator(".maps .map").wait_for()
    page.locator("[name=method]").select_option("occlusion")
    page.locator(".maps figcaption").filter(has_text=f"What speaks for {names[column]}: occlusion").wait_for()
    assert page.locator(".odds tr").first.inner_text().startswith(names[column]), (
        "as the run answered when it was measured"
    )
    assert page.locator(".trust").inner_text().startswith(("What the map points at", "Do not rely", "No map"))


def test_a_photo_of_ones_own_gets_a_map(page: Any, tmp_path: Path) -> None:
    go(page, "?run=runs/digits")
    photo = np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.jpg")
    page.locator("#explain-file").set_input_files(tmp_path / "photo.jpg")
    page.locator(".maps .map").wait_for()
    assert page.locator(".odds tr").count() == 3
    choice = page.locator("[name=layer]")
    layer = choice.locator("option").nth(1).inner_text()
    choice.select_option(layer)
    page.get_by_text(f"gradcam at {layer}").wait_for()
    other = page.context.new_page()  # a second tab, which was given no token
    other.goto(page.url.replace(TOKEN, ""))
    other.locator("#explain-file").set_input_files(tmp_path / "photo.jpg")
    other.locator(".maps .map").wait_for()
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    page.locator("#explain-file").set_input_files(tmp_path / "broken.jpg")
    page.get_by_role("alert").get_by_text("This image can't be explained").wait_for()


@pytest.mark.parametrize("page", [(1280, "light")], indirect=True)
def test_a_training_is_started_and_stopped(page: Any, studio: Studio, few_digits: Path) -> None:
    go(page, "")
    page.get_by_text("Start a training").click()
    start = page.get_by_role("button", name="Start", exact=True)
    page.get_by_label("name of the run").fill("../outside")
    start.click()
    page.get_by_role("alert").get_by_text("can't name a run").wait_for()
    page.get_by_label("images: a folder").fill(str(few_digits))
    page.get_by_label("minutes").fill("30")
    page.get_by_label("name of the run").fill("started")
    start.click()
    page.get_by_role("button", name="Stop started").wait_for()
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="runs/started"))
    row.get_by_text(re.compile(r"^\d+ of \d+$")).wait_for(timeout=120_000)  # the first epoch has ended
    page.get_by_role("button", name="Stop started").click()
    page.get_by_text("started has ended").wait_for(timeout=120_000)
    assert (studio.folder / "started" / "model" / "model.safetensors").exists(), "the best weights are kept"


@pytest.mark.parametrize("page", [(1280, "light")], indirect=True)
def test_a_label_is_corrected_and_the_next_training_learns_it(
    page: Any, studio: Studio, few_digits: Path, tmp_path: Path
) -> None:
    before = {file: file.read_bytes() for file in few_digits.rglob("*.png")}
    record = RunRecord.open(studio.folder / "digits")
    go(page, "?run=runs/digits")
    page.locator(".matrix button").first.click()
    path = page.locator(".opened .path").first.inner_text()
    now = next(name for name in record.card.classes if not path.startswith(name))
    page.locator(".opened .relabel summary").first.click()
    page.get_by_label(f"Right label of {path}").select_option(now)
    page.locator(".opened").get_by_text(f"Now {now}").wait_for()
    file = studio.folder / "digits.labels.csv"
    assert file.read_text() == f"path,label\n{path},{now}\n"
    found = hubel.train(
        few_digits, output=tmp_path / "again", epochs=1, weights="none", relabel=str(file), show_as="none"
    )
    learned = RunRecord.open(found.path)
    counts = {part: sum(numbers) for part, numbers in learned.facts.counts.items()}
    assert sum(counts.values()) == 120
    place = learned.card.classes.index(now)
    assert sum(numbers[place] for numbers in learned.facts.counts.values()) == 41
    assert (found.path / "relabelled.csv").read_text() == file.read_text()
    assert {file: file.read_bytes() for file in few_digits.rglob("*.png")} == before
