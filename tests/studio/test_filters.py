"""The filters view, as a person uses it; its arithmetic against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_digits

from studio.conftest import Studio

REFERENCE = """async ([images, weights, settings]) => {
  const { convolve, pool } = await import("/static/convolve.js");
  const image = { planes: Float32Array.from(images.flat(2)), channels: images.length, height: images[0].length,
                  width: images[0][0].length };
  return { convolution: [...convolve(image, weights, settings).planes], max: [...pool(image, "max", settings).planes],
           average: [...pool(image, "average", settings).planes] };
}"""


@pytest.mark.parametrize("page", [(1280, "light")], indirect=True)
def test_convolution_and_pooling_are_torchs(page: Any) -> None:
    rng = np.random.default_rng(0)
    for alike in (True, False) * 12:
        k, channels = int(rng.integers(1, 12)), int(rng.choice([1, 3]))
        settings = {"kernel": k, "stride": int(rng.integers(1, 5)), "padding": int(rng.integers(0, k // 2 + 1))}
        settings["dilation"] = int(rng.integers(1, 4))
        height, width = (int(side) for side in rng.integers(settings["dilation"] * (k - 1) + 1, 48, 2))
        image = torch.from_numpy(rng.normal(size=(channels, height, width)).astype(np.float32))
        kernel = torch.from_numpy(rng.normal(size=(1 if alike else channels, k, k)).astype(np.float32))
        kernel = kernel.expand(channels, k, k)
        said = page.evaluate(REFERENCE, [image.tolist(), kernel.flatten().tolist(), settings])
        window = {"stride": settings["stride"], "padding": settings["padding"]}
        expected = F.conv2d(image[None], kernel[None], dilation=settings["dilation"], **window)
        torch.testing.assert_close(torch.tensor(said["convolution"]), expected.flatten(), rtol=1e-4, atol=1e-4)
        expected = F.max_pool2d(image[None], k, dilation=settings["dilation"], **window)
        torch.testing.assert_close(torch.tensor(said["max"]), expected.flatten())
        if settings["dilation"] == 1:  # which average pooling has not
            expected = F.avg_pool2d(image[None], k, **window)
            torch.testing.assert_close(torch.tensor(said["average"]), expected.flatten(), rtol=1e-4, atol=1e-5)


def choose(page: Any, **settings: str) -> None:
    for name, value in settings.items():
        control = page.locator(f".controls [name={name}]")
        if control.evaluate("e => e.tagName") == "SELECT":
            control.select_option(value)
        else:
            control.fill(value)
            control.press("Enter")


def test_a_student_chooses_sobel_and_looks_at_a_pixel(page: Any) -> None:
    page.goto(page.url.split("#")[0] + "#/filters?image=digit")
    choose(page, image="digit", preset="Sobel x", padding="0", stride="1")
    assert "= 6" in page.locator(".formula tr").first.inner_text()
    pixels = torch.tensor(np.uint8(load_digits().images[3] * 255 / 16)).float()
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    expected = F.conv2d(pixels[None, None], sobel[None, None])[0, 0]
    output = page.get_by_role("slider", name="Output pixel")
    box = output.bounding_box()
    output.hover(position={"x": box["width"] * 2.5 / 6, "y": box["height"] * 1.5 / 6})  # row 1, column 2
    assert page.locator(".sum h2").inner_text() == "Output at row 1, column 2"
    told = page.locator(".total").inner_text().replace("−", "-")
    assert told == f"{expected[1, 2]:.0f} → ReLU → {max(0, expected[1, 2]):.0f}"
    assert [int(cell) for cell in page.locator(".equation .grid").first.inner_text().split()] == [
        *pixels[1:4, 2:5].flatten().int().tolist()
    ]
    output.press("ArrowRight")
    output.press("ArrowDown")
    assert output.get_attribute("aria-valuetext").replace("−", "-") == f"row 2, column 3: {expected[2, 3]:.0f}"
    choose(page, stride="2")
    assert page.locator(".formula tr").first.inner_text().split() == [
        "height",
        "⌊(8",
        "+",
        "2·0",
        "−",
        "1·(3",
        "−",
        "1)",
        "−",
        "1)",
        "/",
        "2⌋",
        "+",
        "1",
        "=",
        "3",
    ]
    page.get_by_label("row 2, column 2").fill("1")  # of the kernel's numbers
    page.get_by_label("row 2, column 2").press("Enter")
    assert page.locator("[name=preset]").input_value() == "own numbers"
    expected = F.conv2d(
        pixels[None, None], (sobel + torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]))[None, None], stride=2
    )
    output.press("Home")
    row = int(output.get_attribute("aria-valuenow")) // 3
    assert output.get_attribute("aria-valuetext").replace("−", "-").endswith(f"{expected[0, 0, row, 0]:.0f}")
    choose(page, kernel="11")
    assert "The window spans 11 pixels" in page.locator(".formula").inner_text()
    choose(page, kernel="2", operation="max")
    assert "largest =" in page.locator(".sum").inner_text()


def test_the_window_slides(page: Any) -> None:
    page.goto(page.url.split("#")[0] + "#/filters?image=digit&padding=0")
    page.locator(".controls [name=image]").select_option("digit")
    scrub = page.get_by_role("slider", name="Position of the window")
    page.get_by_role("button", name="Step").click()
    assert page.locator(".sum h2").inner_text() == "Output at row 0, column 1"
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => document.querySelector('.slide input').valueAsNumber > 3")
    page.get_by_role("button", name="Pause").click()
    stopped = scrub.input_value()
    scrub.press("ArrowRight")
    assert int(scrub.input_value()) == int(stopped) + 1


def test_own_images_and_learned_filters(page: Any, studio: Studio, tmp_path: Any) -> None:
    file = page.locator("#own-image")
    Image.fromarray(np.full((40, 60, 3), (200, 30, 60), np.uint8)).save(tmp_path / "mine.png")
    file.set_input_files(tmp_path / "mine.png")
    page.wait_for_function("() => document.querySelector('.pictures figcaption').textContent.startsWith('40 × 60')")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    file.set_input_files(tmp_path / "broken.jpg")
    page.get_by_role("alert").get_by_text("broken.jpg can't be read as an image").wait_for()
    page.locator("[name=image]").select_option("digit")
    page.locator("[name=preset]").select_option("run runs/digits")
    page.locator(".learned").wait_for()
    kernel = page.locator(".editor .grid input")
    first = [float(kernel.nth(i).input_value()) for i in range(9)]
    from hubel.evidence import RunRecord

    kept = RunRecord.open(studio.folder / "digits").pictures["filters.after"]
    np.testing.assert_allclose(first, kept[0].ravel(), rtol=6e-3)


@pytest.mark.parametrize("page", [(1280, "light")], indirect=True)
def test_the_address_of_another_view_stays(page: Any) -> None:
    page.evaluate("""async () => {
        const { keep } = await import("/static/dom.js");
        location.hash = "#/runs";
        keep("filters", { preset: "edge" }); // before the view has heard of it
    }""")
    page.get_by_role("heading", name="Runs", exact=True).wait_for()
    assert page.url.split("#")[1].startswith("/runs")
