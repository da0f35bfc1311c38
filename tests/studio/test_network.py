"""The network view in a browser, used as a person would, on a network that was trained; what is shown is compared."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import hubel
from hubel.dataset.tensors import normalise, to_tensor
from hubel.evidence import RunRecord
from hubel.nn.hooks import capture


@pytest.fixture
def network(page: Any) -> Any:
    """The view, when it shows its first number."""
    page.get_by_role("link", name="Network").click()
    page.locator(".net-value output").wait_for()
    return page


def open_layer(page: Any, name: str) -> None:
    page.get_by_role("button", name=re.compile(rf"^{re.escape(name)} ")).click()
    page.get_by_role("heading", name=re.compile(rf"^{re.escape(name)}")).wait_for()


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


def test_a_number_is_the_tensors_and_leads_back_to_the_image(network: Any, studio: Any) -> None:
    page, layer = network, "stages.0.conv1"
    image, map_ = tensors(studio.folder / "digits", layer)
    open_layer(page, layer)
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


def test_a_probability_leads_to_the_softmax_and_the_box_to_the_image(network: Any) -> None:
    page = network
    answer = page.locator(".net-answer button").first
    answer.click()
    page.locator(".net-name", has_text="softmax").wait_for()
    assert number(page)["value"] == pytest.approx(float(answer.inner_text().split(" %")[0]) / 100, abs=6e-4)
    assert page.get_by_text("It sees the whole image.").is_visible()
    open_layer(page, "stem")
    page.get_by_text(re.compile("It sees 3 × 3 pixels: rows ")).wait_for()


def test_another_stride_changes_what_comes_after(network: Any) -> None:
    page = network
    open_layer(page, "stages.1.conv1")
    page.get_by_text("What if its kernel, stride or dilation were others?").click()
    page.get_by_label("stride").fill("2")
    changed = page.get_by_role("region", name="Layers that change")
    row = changed.get_by_role("row").filter(has=page.get_by_role("rowheader", name="stages.1.conv1"))
    before, after = (row.locator(f"td:first-of-type {tag}").inner_text().split(" × ") for tag in ("s", "b"))
    assert [int(n) for n in after[1:]] == [(int(n) + 1) // 2 for n in before[1:]]
    page.get_by_label("stride").fill("99")
    page.get_by_text("stride must be from 1 to 64, got 99").wait_for()


def test_an_image_of_ones_own(network: Any) -> None:
    page, file = network, io.BytesIO()
    Image.new("RGB", (300, 200), "white").save(file, "png")
    page.locator("#net-file").set_input_files({"name": "white.png", "mimeType": "image/png", "buffer": file.getvalue()})
    page.get_by_role("button", name="yours", pressed=True).wait_for()
    page.locator("#net-file").set_input_files({"name": "no.png", "mimeType": "image/png", "buffer": b"no image"})
    assert "image" in page.get_by_role("alert").locator("p").inner_text()
