"""The whole report: self-contained, escaped, complete, and alive without its optional parts."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chromium import started
from hubel.errors import RunError
from hubel.evaluation.calibration import calibration, confidences, levels, threshold
from hubel.evidence import LOGITS, PICTURES, THUMBNAILS, RunRecord, keep_arrays
from hubel.records import Baselines, Finding
from hubel.report.confidence import confidence
from hubel.report.page import DRAWN, write_report
from hubel.runs import RunFolder, verify

from . import sample

VOID = {"meta", "img", "br", "link", "input", "hr", "wbr", "rect", "path", "line"}


class Reader(HTMLParser):
    """Collects tags, attributes, ids and the text of a page, and checks that tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def ids(self) -> list[str]:
        return [attrs["id"] or "" for _, attrs in self.tags if "id" in attrs]


def report(folder: Path, **changes: Any) -> Path:
    return write_report(sample.run(folder, **changes).path)


def hostile_report(folder: Path) -> Path:
    names = sample.HOSTILE
    paths = tuple(f"test/{names[i % 10]}/{names[i // 10 % 10]}" for i in range(200))
    plan, environment = ((names[0], names[1], names[7]),), {names[0]: names[7]}
    sample.run(
        folder, n=200, names=names, paths=paths, title=names[0] + names[8], source=names[1], stopped=names[0],
        recipe=names[7],
        command=names[0], environment=environment, notes=(names[0], names[6]), explained_by=names[7], plan=plan,
        created=names[0], augmented_by=names[0], error=0.4,
    )  # fmt: skip
    return write_report(folder)


@pytest.fixture(scope="module")
def plain_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def evil_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile_report(tmp_path_factory.mktemp("evil"))


def test_every_section_is_there(plain_report: Path) -> None:
    reader = Reader(plain_report.read_text(encoding="utf-8"))
    sections = ["causes", "curves", "confusion", "classes", "confidence", "slices", "worst", "gradcam", "filters"]
    sections += ["augmentation", "findings", "settings", "use", "notes"]
    assert [name for name in reader.ids() if name in sections] == sections
    assert not reader.open
    assert len(reader.ids()) == len(set(reader.ids()))


def test_headline_says_accuracy_interval_and_baselines(plain_report: Path) -> None:
    evidence = RunRecord(plain_report.parent)
    text = Reader(plain_report.read_text(encoding="utf-8")).text.replace("\xa0", " ")
    low, high = evidence.scores.interval
    assert f"{100 * evidence.scores.accuracy:.1f} %" in text
    assert f"interval {100 * low:.1f} to {100 * high:.1f} %, n = 600" in text
    assert "above the best baseline, logistic regression on small pixels (72.0 %)" in text
    assert 'hubel.load("' in text


def test_page_loads_nothing_from_elsewhere(plain_report: Path) -> None:
    reader = Reader(plain_report.read_text(encoding="utf-8"))
    links = [attrs[key] or "" for _, attrs in reader.tags for key in ("src", "href", "xlink:href") if key in attrs]
    assert links
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert "url(" not in plain_report.read_text(encoding="utf-8").replace("url(#", "")
    assert not {tag for tag, _ in reader.tags} & {"link", "iframe", "object", "embed", "base", "form"}


def test_every_link_has_its_target_and_every_image_its_text(plain_report: Path) -> None:
    reader = Reader(plain_report.read_text(encoding="utf-8"))
    targets = set(reader.ids())
    assert all((a["href"] or "")[1:] in targets for tag, a in reader.tags if tag == "a")
    assert all(a.get("alt") for tag, a in reader.tags if tag == "img")


def test_script_is_allowed_by_its_hash_only(plain_report: Path) -> None:
    page = plain_report.read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


def test_hostile_names_stay_text(evil_report: Path) -> None:
    reader = Reader(evil_report.read_text(encoding="utf-8"))
    assert sum(tag == "script" for tag, _ in reader.tags) == 1
    assert not [key for _, attrs in reader.tags for key in attrs if key.startswith("on")]
    assert all((attrs.get("src") or "").startswith("data:image/") for tag, attrs in reader.tags if tag == "img")
    assert "<script>alert(1)</script>" in reader.text
    assert "{{ 7*7 }}" in reader.text
    assert "\u202e" not in reader.text
    assert not reader.open


def test_csv_is_neutral_and_whole(evil_report: Path) -> None:
    with (evil_report.parent / "confusion.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert [len(row) for row in rows] == [11] * 11
    assert not [cell for row in rows for cell in row if cell.startswith(tuple("=+-@\t\r\n"))]
    assert "'=cmd|' /C calc'!A0" in rows[0]


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_are_png_and_not_blank(evil_report: Path, name: str) -> None:
    with Image.open(evil_report.parent / "pictures" / f"{name}.png") as picture:
        assert min(picture.size) > 80
        colours = picture.convert("RGB").getcolors(picture.width * picture.height) or []
    assert (255, 255, 255) in {colour for _, colour in colours}
    assert len(colours) > 20


def test_no_temporary_file_is_left(plain_report: Path) -> None:
    assert not [path for path in plain_report.parent.rglob("*") if path.name.startswith(".") or path.suffix == ".part"]
    assert {path.name for path in (plain_report.parent / "pictures").iterdir()} == {f"{name}.png" for name in DRAWN}


def test_two_hundred_classes_stay_small(tmp_path: Path) -> None:
    page = report(tmp_path, k=200, n=4000, size=48, channels=3, error=0.5)
    text = page.read_text(encoding="utf-8")
    reader = Reader(text)
    assert page.stat().st_size < 3_000_000
    assert "Shown are the 30 most confused of 200 classes" in reader.text
    assert sum(attrs.get("scope") == "row" for tag, attrs in reader.tags if tag == "th") >= 30 + 200
    assert len((tmp_path / "confusion.csv").read_text(encoding="utf-8").splitlines()) == 201
    assert "among the top five" in text


def test_large_photographs_stay_small(tmp_path: Path) -> None:
    page = report(tmp_path, n=500, size=160, channels=3, error=0.6)
    assert page.stat().st_size < 3_000_000


def test_without_errors(tmp_path: Path) -> None:
    text = Reader(report(tmp_path, error=0.0).read_text(encoding="utf-8")).text
    assert "There are no errors to explain" in text
    assert "No image was answered wrong." in text
    assert not (tmp_path / "pictures" / "worst.png").exists()


def test_without_optional_parts(tmp_path: Path) -> None:
    report(tmp_path)
    (tmp_path / "results.csv").unlink()
    bare = report(
        tmp_path, explain=False, explained_by="", explained=(), pictures=False, augmented_by="", notes=(), findings=(),
        plan=(), history=(), environment={}, recipe="", baselines=Baselines(majority=0.1),
    )  # fmt: skip
    reader = Reader(bare.read_text(encoding="utf-8"))
    assert not {"curves", "gradcam", "filters", "augmentation", "notes"} & set(reader.ids())
    assert {p.stem for p in (tmp_path / "pictures").iterdir()} == {"confusion", "per_class", "confidence", "worst"}
    assert all((a["href"] or "")[1:] in {*reader.ids()} for tag, a in reader.tags if tag == "a")


def test_diverged_run(tmp_path: Path) -> None:
    likely = sample.run(tmp_path, error=0.8).probabilities.copy()
    likely[::5] = np.nan
    history = sample.history(12, ("bag",), final=0.4, diverged=True)
    page = report(tmp_path, error=0.8, history=history, probabilities=likely)
    text = Reader(page.read_text(encoding="utf-8")).text
    assert "The run diverged: from epoch 7 on" in text
    assert not re.search(r"\bnan\b", re.sub(r"data:image[^\"]*", "", page.read_text(encoding="utf-8")), re.IGNORECASE)


def test_history_of_nothing_but_nan(tmp_path: Path) -> None:
    rows = sample.history(1, ("bag",), final=math.nan, diverged=True)
    text = Reader(report(tmp_path, history=rows).read_text(encoding="utf-8")).text
    assert "from epoch 1 on the loss is not a finite number" in text


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3), (12, 4)])
def test_kinds_of_images(tmp_path: Path, size: int, channels: int) -> None:
    page = report(tmp_path, n=60, size=size, channels=channels, epochs=1, error=0.3)
    assert 'class="px"' in page.read_text(encoding="utf-8")


def test_one_image_of_two_classes(tmp_path: Path) -> None:
    text = Reader(report(tmp_path, n=1, k=2, explain=False).read_text(encoding="utf-8")).text
    assert "n\xa0=\xa01" in text


def test_reported_val_part_and_early_end_are_said(tmp_path: Path) -> None:
    page = report(tmp_path, reported="val", stopped="Ctrl-C was pressed after epoch 3.")
    text = Reader(page.read_text(encoding="utf-8")).text
    assert "came without a test part" in text
    assert "not used for choosing" in text
    assert "Ctrl-C was pressed after epoch 3." in text
    assert "validation accuracy" in text


def test_why_there_is_no_grad_cam_is_said(tmp_path: Path) -> None:
    page = report(tmp_path, explain=False, explained_by="This network has no convolution to look at.")
    reader = Reader(page.read_text(encoding="utf-8"))
    assert "This network has no convolution to look at." in reader.text
    assert "warm regions" not in reader.text


def test_many_paths_are_capped(plain_report: Path) -> None:
    text = Reader(plain_report.read_text(encoding="utf-8")).text
    assert "and 230 more" in text


def test_a_copied_folder_gives_the_same_page(plain_report: Path, tmp_path: Path) -> None:
    shutil.copytree(plain_report.parent, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "report.html").unlink()
    drawn = write_report(tmp_path / "elsewhere")
    assert drawn.read_bytes() == plain_report.read_bytes()
    for name in DRAWN:
        there, here = (folder / "pictures" / f"{name}.png" for folder in (drawn.parent, plain_report.parent))
        assert there.read_bytes() == here.read_bytes()


def test_drawing_again_renews_the_manifest_of_what_it_writes_and_of_nothing_else(tmp_path: Path) -> None:
    page = report(tmp_path)
    RunFolder(tmp_path).seal()
    page.write_text("old")
    (tmp_path / "recipe.yaml").write_text("changed")
    write_report(tmp_path)
    with pytest.raises(RunError, match="recipe.yaml was changed"):
        verify(tmp_path)
    (tmp_path / "recipe.yaml").write_text(sample.RECIPE)
    verify(tmp_path)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    report(tmp_path)
    (tmp_path / PICTURES).unlink()
    (tmp_path / THUMBNAILS).unlink()
    reader = Reader(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "evidence/pictures.safetensors is missing from the run folder" in reader.text
    assert "evidence/thumbnails.zip is missing from the run folder" in reader.text
    assert "no picture kept" in reader.text
    assert not [attrs for tag, attrs in reader.tags if tag == "img"]
    assert not {"filters", "augmentation"} & set(reader.ids())
    assert {path.stem for path in (tmp_path / "pictures").iterdir()} == {
        "curves",
        "confusion",
        "per_class",
        "confidence",
    }


def test_an_older_run_gains_what_its_logits_say_and_is_told_what_it_lacks(tmp_path: Path) -> None:
    """Without temperature and facts of images, and with validation logits that are twice too sure."""
    run = sample.run(tmp_path, n=600, known=False)
    rng = np.random.default_rng(0)
    chances = run.probabilities.cumsum(1) > rng.random((600, 1))
    answers = {"reported.logits": 2 * run.logits, "reported.labels": run.labels}
    answers |= {"validation.logits": 2 * run.logits, "validation.labels": chances.argmax(1)}
    said = json.loads((tmp_path / "split.json").read_text())
    (tmp_path / "split.json").write_text(json.dumps({**said, "val": said["test"]}))
    keep_arrays(tmp_path, LOGITS, answers)
    text = Reader(write_report(tmp_path).read_text(encoding="utf-8")).text.replace("\xa0", " ")
    found = re.search(r"saved without a temperature; one of ([\d.]+) would make it ([\d.]+) percentage points", text)
    assert found is not None
    assert float(found[1]) == pytest.approx(2, rel=0.1)
    assert "images.safetensors is missing from the run folder: accuracy by size, brightness" in text
    assert 'id="slices"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_confidence_is_told_with_intervals_and_kept_promises(tmp_path: Path) -> None:
    run = sample.run(tmp_path, n=600)
    answers = {"reported.logits": run.logits, "reported.labels": run.labels, "temperature": np.array([1.25])}
    said = json.loads((tmp_path / "split.json").read_text())
    (tmp_path / "split.json").write_text(json.dumps({**said, "val": said["test"]}))
    keep_arrays(tmp_path, LOGITS, answers | {"validation.logits": run.logits, "validation.labels": run.labels})
    run = RunRecord.open(tmp_path)
    told = confidence(run)
    assert set(told["reliability"]) == {"as it answers", "without temperature"}
    assert "Without its temperature of 1.25 it would be " in told["calibration"][1]
    text = Reader(write_report(tmp_path).read_text(encoding="utf-8")).text.replace("\xa0", " ")
    assert f"lie {100 * calibration(run.confidence, run.predictions == run.labels).ece:.1f} percentage points" in text
    accepted = {row[0]: row for row in told["promises"]}
    known = levels(*confidences(run.validation_logits, run.validation_labels, 1.25))
    for share, row in zip((0.01, 0.02, 0.05, 0.1), told["promises"], strict=True):
        least = threshold(known, share)
        answered = run.confidence >= (2 if least is None else least)
        assert row[2] == f"{100 * answered.mean():.1f}\xa0%"
        assert (least is None) == (row[1] == "none is sure enough")
    assert accepted["10\xa0%"] == told["promises"][-1]
    assert told["coverage"][-1] == {"share": 1.0, "accuracy": pytest.approx(run.scores.accuracy)}
    assert [s.name.split(" (")[0] for s in told["slices"]][:2] == ["the darkest fifth", "the brightest fifth"]


def test_absolute_folder_is_not_told(plain_report: Path) -> None:
    assert str(plain_report.parent.parent) not in plain_report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    yield from started()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(browser: object, evil_report: Path, width: int, scheme: str) -> None:
    page = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()  # type: ignore[attr-defined]
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith("data:") else None)
    page.goto(evil_report.as_uri())
    cell = page.locator("#matrix td:not(.right) a").first
    cell.focus()
    page.keyboard.press("Enter")
    assert page.locator(".panel.open img").count() >= 1
    page.keyboard.press("Escape")
    assert page.locator(".panel.open").count() == 0
    page.locator("#classes thead button").nth(2).click()
    assert page.locator("#classes th[aria-sort]").inner_text().startswith("precision")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert said == [evil_report.as_uri()]
    page.close()


def test_findings_of_one_kind_are_told_once(tmp_path: Path) -> None:
    many = tuple(
        Finding(
            code="near-leak", severity="warning", message=f"pair number {i} leaks", paths=(f"a{i}.png", f"b{i}.png")
        )
        for i in range(500)
    )
    page = report(tmp_path, findings=many).read_text("utf-8")
    assert page.count('class="finding') == 1
    assert "500 times, for example:" in page
    assert re.search(r"near leak, 1,000\sfiles", page)
    assert "pair number 199 leaks" in page
    assert "and 300 more" in page
