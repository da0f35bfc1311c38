"""The network view in a browser, used as a person would, on a network that was trained; what is shown is compared."""

from __future__ import annotations

import io
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import hubel
from hubel.dataset.tensors import normalise, to_tensor
from hubel.evidence import RunRecord
from hubel.nn.hooks import capture

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
TOKEN = "for-this-test"


@pytest.fixture(scope="module")
def run(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"epochs": 2, "weights": "none", "seed": 0, "show_as": "none", "model": "simple-cnn"}
    return hubel.train(few_digits, output=tmp_path_factory.mktemp("runs") / "digits", **settings).path


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    from hubel.studio.serve import listening
    from hubel.studio.server import app

    server = uvicorn.Server(uvicorn.Config(app(run.parent, token=TOKEN), log_level="warning"))
    with listening(0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/?token={TOKEN}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as running:
        shown = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield shown
        shown.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    with browser.new_context(viewport={"width": 1440, "height": 900}) as context:
        opened = context.new_page()
        opened.said = []
        opened.on("console", lambda message: opened.said.append(message.text))
        opened.on("pageerror", lambda error: opened.said.append(str(error)))
        opened.goto(f"{address}#/network")
        yield opened


def number(page: Any) -> dict[str, float]:
    shown = page.locator(".net-value output")
    return {name: float(shown.get_attribute(f"data-{name}")) for name in ("value", "total")}


def settled(page: Any, name: str, place: str) -> None:
    """Wait until the arithmetic is that of a number."""
    page.locator(".net-name", has_text=re.compile(rf"^{re.escape(name)} \S+ \[{place}\]")).wait_for()


def tensors(run: Path, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The first image that the page shows, normalised, and what a layer makes of it."""
    classifier, record = hubel.load(run), RunRecord.open(run)
    image = normalise(to_tensor(record.pictures["explained.images"][:1]), classifier.card.preprocess)
    with torch.no_grad(), capture(classifier.model, [layer]) as kept:  # type: ignore[union-attr]
        classifier.model(image)  # type: ignore[union-attr]
    return image[0], kept[layer][0]


def test_a_number_is_the_tensors_and_leads_back_to_the_image(page: Any, run: Path) -> None:
    layer = "block2.conv"
    image, map_ = tensors(run, layer)
    page.get_by_role("button", name=re.compile(rf"^{layer} ")).click()
    page.get_by_role("button", name=re.compile("^channel 5:")).click()
    plane = page.get_by_role("application")
    frame = plane.bounding_box()
    height, width = map_.shape[1:]
    row, column = height // 2, width // 3
    plane.click(position={"x": frame["width"] * (column + 0.5) / width, "y": frame["height"] * (row + 0.5) / height})
    settled(page, layer, f"5,{row},{column}")
    assert number(page)["value"] == pytest.approx(float(map_[5, row, column]), abs=1e-6)
    assert number(page)["total"] == pytest.approx(number(page)["value"], abs=1e-5 * float(map_.abs().max()))
    plane.focus()
    page.keyboard.press("ArrowRight")
    settled(page, layer, f"5,{row},{column + 1}")
    assert number(page)["value"] == pytest.approx(float(map_[5, row, column + 1]), abs=1e-6)
    for _ in range(20):
        sources = page.locator(".net-parts button")
        name = sources.first.get_attribute("aria-label")
        sources.first.press("Enter")
        if found := re.search(r"from image \[(\d+),(\d+),(\d+)\]", name):
            break
        settled(page, *re.search(r"from (.+) \[(.+?)\]", name).groups())  # type: ignore[union-attr]
        assert number(page)["total"] == pytest.approx(number(page)["value"], abs=1e-4)
    page.get_by_role("heading", name="The image").wait_for()
    shown = float(page.locator(".net-value output").get_attribute("data-value"))
    assert shown == pytest.approx(float(image[tuple(int(n) for n in found.groups())]), abs=1e-6)  # type: ignore[union-attr]
    page.locator(".net-trail button").first.click()
    settled(page, layer, f"5,{row},{column + 1}")
    assert page.said == []


def test_a_probability_leads_to_the_softmax_and_the_box_to_the_image(page: Any) -> None:
    answer = page.locator(".net-answer button").first
    answer.click()
    page.locator(".net-name", has_text="softmax").wait_for()
    assert number(page)["value"] == pytest.approx(float(answer.inner_text().split(" %")[0]) / 100, abs=6e-4)
    assert page.get_by_text("It sees the whole image.").is_visible()
    page.get_by_role("button", name=re.compile("^block1.conv ")).click()
    page.get_by_text(re.compile("It sees 3 × 3 pixels: rows ")).wait_for()
    assert page.said == []


def test_another_stride_changes_what_comes_after_or_is_said_not_to_fit(page: Any) -> None:
    page.get_by_role("button", name=re.compile("^block3.conv ")).click()
    page.get_by_text("What if its kernel, stride or dilation were others?").click()
    page.get_by_label("dilation").fill("2")
    changed = page.get_by_role("region", name="Layers that change")
    changed.get_by_role("rowheader", name="block3.conv").wait_for()
    page.get_by_label("stride").fill("2")
    page.get_by_text(re.compile(r"no longer fits together: head.* \(Linear\)")).wait_for()


def test_an_image_of_ones_own(page: Any) -> None:
    page.locator(".net-images button[aria-pressed=true]").wait_for()
    file = io.BytesIO()
    Image.new("RGB", (300, 200), "white").save(file, "png")
    page.locator("#net-file").set_input_files({"name": "white.png", "mimeType": "image/png", "buffer": file.getvalue()})
    page.get_by_role("button", name="yours", pressed=True).wait_for()
    page.locator("#net-file").set_input_files({"name": "no.png", "mimeType": "image/png", "buffer": b"no image"})
    assert "image" in page.get_by_role("alert").locator("p").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_at_any_width(browser: Any, address: str, width: int, scheme: str) -> None:
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(f"{address}#/network")
        page.locator(".net-value output").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        unnamed = "button:not([aria-label]):empty, img:not([alt]), input:not([aria-label], label input)"
        assert page.locator(f".net :is({unnamed})").count() == 0
