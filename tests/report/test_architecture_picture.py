"""The picture of a network: its structure, and that nothing in it touches anything else, measured with a real font."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest
import torch
from PIL import ImageFont
from torch import Tensor, nn

from hubel.geometry.summary import summarise
from hubel.records import Summary
from hubel.report.architecture.elements import text_width
from hubel.report.architecture.fold import folded
from hubel.report.architecture.marks import COLOURS
from hubel.report.architecture.parts import parts
from hubel.report.architecture.picture import WIDEST, architecture_svg
from hubel.report.colour import NIGHT, PAPER, contrast
from hubel.report.inspection import inspection_page

from . import architecture_sample as sample

SVG = "{http://www.w3.org/2000/svg}"


class Branching(nn.Module):
    """What a user may write: three branches of different length, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.left = nn.Conv2d(32, 48, 1)
        self.middle = nn.Sequential(nn.Conv2d(32, 16, 1), nn.ReLU(), nn.Conv2d(16, 64, 3, padding=1))
        self.right = nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.Conv2d(32, 16, 5, padding=2))
        self.out = nn.Linear(128, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(torch.cat([self.left(x), self.middle(x), self.right(x)], dim=1))
        return self.out(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


@cache
def known(name: str) -> Summary:
    """A torchvision network, on shapes alone."""
    import torchvision

    options = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        model = torchvision.models.get_model(name, **options)
    return summarise(model, (3, 224, 224), name=name)


@cache
def drawn(name: str) -> Summary:
    if name == "branching":
        return summarise(Branching(), (3, 32, 32), name=name)
    if name == "one layer":
        return summarise(nn.Conv2d(3, 16, 3), (3, 32, 32), name=name)
    if name == "no layer":
        return summarise(nn.ReLU(), (3, 32, 32), name=name)
    own: dict[str, Callable[[], Summary]] = {
        "plain": sample.plain_chain,
        "gated": sample.gated,
        "hourglass": sample.hourglass,
        "hostile": lambda: sample.summary(list(sample.plain_chain().layers), name=sample.HOSTILE * 9),
        "long": lambda: sample.summary(sample.chain(*(("Conv2d", f"{n}×{n}", (n, 32, 32)) for n in range(1, 90)))),
    }
    return own[name]() if name in own else known(name)


NETWORKS = ["vgg16", "resnet18", "resnet152", "densenet121", "mobilenet_v2", "googlenet", "squeezenet1_1"]
NETWORKS += ["branching", "one layer", "no layer", "plain", "gated", "hourglass", "hostile", "long"]


class Area(NamedTuple):
    words: str
    left: float
    top: float
    right: float
    bottom: float


def texts(svg: str) -> list[Area]:
    """Where each text is, by the metrics of a font that the drawing code doesn't know."""
    areas = []
    for element in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        size, words = float(element.get("font-size", "0")), element.text or ""
        bold = 1.08 if element.get("font-weight") else 1.0
        wide = bold * ImageFont.load_default(size).getlength(words)
        x, y = float(element.get("x", "0")), float(element.get("y", "0"))
        start = {"start": 0.0, "middle": wide / 2, "end": wide}[element.get("text-anchor", "start")]
        up, down = 0.73 * size, 0.2 * size
        if element.get("transform"):
            areas.append(Area(words, x - up, y - wide + start, x + down, y + start))
        else:
            areas.append(Area(words, x - start, y - up, x - start + wide, y + down))
    return areas


@pytest.mark.parametrize("name", NETWORKS)
def test_no_text_touches_another_or_leaves_the_picture(name: str) -> None:
    svg = architecture_svg(drawn(name))
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.get("viewBox", "").split())
    assert width <= WIDEST
    areas = texts(svg)
    for area in areas:
        assert min(area.left, area.top) >= 0
        assert area.right <= width
        assert area.bottom <= height
    for one, other in combinations(areas, 2):
        apart = one.right <= other.left or other.right <= one.left or one.bottom <= other.top or other.bottom <= one.top
        assert apart, f"{one.words!r} touches {other.words!r}"


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_do_not_overlap_and_all_operations_are_told(name: str) -> None:
    summary = drawn(name)
    whole = parts(summary)
    blocks = [block for part in whole for block in (*part.blocks, *(cell.block for cell in part.cells))]
    on_skips = [block for part in whole for skip in part.skips for block in skip.blocks]
    told = sum(block.title.count(" parameters") for block in (*blocks, *on_skips))
    assert told == sum(layer.macs > 0 or "Pool" in layer.kind or layer.kind == "mean" for layer in summary.layers)
    boxes = []
    for element in ElementTree.fromstring(architecture_svg(summary)).iter(f"{SVG}rect"):
        if element.get("class") in COLOURS:
            x, y, w, h = (float(element.get(key, "0")) for key in ("x", "y", "width", "height"))
            boxes.append((x, y, x + w, y + h))
    for one, other in combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("loosely", [True, False])
def test_folding_loses_nothing(name: str, loosely: bool) -> None:
    def labels(shown: list[tuple[Any, int]]) -> Counter[str]:
        found: Counter[str] = Counter()
        for part, times in shown:
            inner = {n: t for first, count, t in part.spans for n in range(first, first + count)}
            for number, block in enumerate(part.blocks):
                found[block.label] += times * inner.get(number, 1)
            for cell in part.cells:
                found[cell.block.label] += times
        return found

    whole = parts(drawn(name))
    runs = folded(whole, loosely=loosely)
    assert labels([(part, 1) for part in whole]) == labels([(part, run.times) for run in runs for part in run.parts])


def skips(svg: str) -> list[ElementTree.Element]:
    return [element for element in ElementTree.fromstring(svg).iter(f"{SVG}g") if element.get("class") == "skip"]


def repeats(svg: str) -> list[str]:
    return [area.words for area in texts(svg) if area.words.startswith("×")]


def test_each_residual_block_has_one_arc() -> None:
    arcs = skips(architecture_svg(drawn("resnet18")))
    assert len(arcs) == 8  # two in each of four stages
    assert sum(arc.find(f"{SVG}g") is not None for arc in arcs) == 3  # with a 1×1 convolution where the shape changes


def test_resnet152_folds_its_3_8_36_3_blocks() -> None:
    svg = architecture_svg(drawn("resnet152"))
    assert repeats(svg) == ["×2", "×7", "×35", "×2"]  # the first block of each stage is another one
    assert len(skips(svg)) == 8
    assert "60.2\xa0million parameters · 11.5\xa0billion multiply-accumulates · receptive field 1451 pixels" in svg
    stages = ["256 × 56 × 56", "512 × 28 × 28", "1024 × 14 × 14", "2048 × 7 × 7", "2048 → 1000"]
    assert [area.words for area in texts(svg) if area.words in stages] == stages


def test_densenet121_folds_its_6_12_24_16_layers() -> None:
    svg = architecture_svg(drawn("densenet121"))
    assert repeats(svg) == ["×6", "×12", "×24", "×16"]
    assert {arc.findtext(f"{SVG}title") for arc in skips(svg)} == {"skip, concatenated"}


def test_mobilenet_v2_has_its_ten_residual_blocks() -> None:
    whole = parts(drawn("mobilenet_v2"))
    assert sum(len(part.skips) for part in whole) == 10  # 1 + 2 + 3 + 2 + 2 of the paper's table 2
    assert sum(block.kind == "depthwise" for part in whole for block in part.blocks) == 17


def test_branches_lie_above_each_other_and_are_wired_as_they_read() -> None:
    (part,) = [part for part in parts(drawn("branching")) if part.cells]
    labels = {cell.block.label: (cell.lane, cell.column) for cell in part.cells}
    assert len({lane for lane, _ in labels.values()}) == 3
    assert labels["3×3, 64"] == (labels["1×1, 16"][0], 1)
    assert labels["5×5, 16"] == (labels["mean 3×3"][0], 1)
    assert part.shape == (128, (16, 16))


def test_inception_modules_have_four_branches() -> None:
    found = [part for part in parts(drawn("googlenet")) if part.cells]
    assert len(found) == 9
    assert {1 + max(cell.lane for cell in part.cells) for part in found} == {4}


def test_skips_of_an_hourglass_are_nested() -> None:
    (part,) = [part for part in parts(drawn("hourglass")) if part.skips]
    outer, inner = part.skips
    assert outer.start < inner.start < inner.end < outer.end
    ways = [arc.findall(f"{SVG}path")[0].get("d", "") for arc in skips(architecture_svg(drawn("hourglass")))]
    tops = sorted(min(float(y) for y in re.findall(r"V([\d.]+)", way)) for way in ways)
    assert tops[1] - tops[0] > 8


def test_squeeze_and_excitation_is_one_block() -> None:
    whole = parts(drawn("gated"))
    assert [block.kind for part in whole for block in part.blocks] == ["conv", "gate"]
    assert whole[-1].blocks[0].title.count("1×1") == 2


def test_repeats_are_folded_only_where_there_are_many() -> None:
    few, many = architecture_svg(sample.inverted(3)), architecture_svg(sample.inverted(40))
    assert (len(skips(few)), repeats(few)) == (3, [])
    assert (len(skips(many)), repeats(many)) == (1, ["×40"])


def test_taller_is_larger_and_wider_has_more_channels() -> None:
    root = ElementTree.fromstring(architecture_svg(drawn("vgg16")))
    boxes = [e for e in root.iter(f"{SVG}rect") if e.get("class")]
    assert len(boxes) == 1 + 13 + 6 + 3  # image, convolutions, poolings, dense layers
    shown = [box for box in boxes if box.get("class") == "conv"]
    convolutions = [(float(box.get("height", "0")), float(box.get("width", "0"))) for box in shown]
    assert [h for h, _ in convolutions] == sorted((h for h, _ in convolutions), reverse=True)
    assert [w for _, w in convolutions] == sorted(w for _, w in convolutions)
    assert len({h for h, _ in convolutions}) == 5
    assert len({w for _, w in convolutions}) == 4


@pytest.mark.parametrize("name", ["resnet18", "hostile"])
def test_the_same_network_gives_the_same_picture(name: str) -> None:
    assert architecture_svg(drawn(name)) == architecture_svg(drawn(name))


def test_names_are_escaped_and_the_picture_is_described() -> None:
    svg = architecture_svg(drawn("hostile"))
    root = ElementTree.fromstring(svg)
    assert not list(root.iter(f"{SVG}script"))
    assert "\u202e" not in svg
    assert "&lt;script&gt;" in svg
    title, described = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None
    assert (title.text or "").startswith("Architecture of <script>")
    assert described is not None
    assert "16 × 32 × 32, 16 × 16 × 16, 64 × 8 × 8, 64 → 10" in (described.text or "")
    assert root.get("role") == "img"


def test_the_picture_needs_nothing_else() -> None:
    svg = architecture_svg(drawn("resnet18"))
    assert "href" not in svg
    assert "url(" not in svg
    assert "prefers-color-scheme:dark" in svg


def test_colours_stand_out_on_both_grounds() -> None:
    for kind, colour in COLOURS.items():
        least = 3.0 if kind == "image" else 4.5  # labels are written into blocks, but not into the image
        assert contrast(colour.paper, PAPER) >= least
        assert contrast(colour.night, NIGHT) >= least


def test_text_is_not_wider_than_it_is_taken_for() -> None:
    for words in ("image 3×224×224", "3×3 depthwise", "1024 × 14 × 14", "global mean", "ÄÖÜ WWW mmm", "4096 → 1000"):
        for size in (11.0, 13.0, 20.0):
            assert ImageFont.load_default(size).getlength(words) <= text_width(words, size)


def test_the_page_shows_every_layer_and_needs_nothing_else() -> None:
    summary = drawn("resnet18")
    page = inspection_page(summary)
    assert page.count("<tr>") == 1 + len(summary.layers)
    assert all(f"<bdi>{layer.name}</bdi>" in page for layer in summary.layers)
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert "<script" not in page
    assert "src=" not in page
    assert page.count("<svg") == 1
    for figure in ("11.7\xa0million", "1.81\xa0billion", "435\xa0pixels", "whole image"):
        assert figure in page


def test_the_page_escapes_names_and_shows_warnings() -> None:
    page = inspection_page(drawn("hostile"))
    assert "<script" not in page
    assert "\x00" not in page
    assert "is small" in page


def test_milliseconds_are_shown_where_they_were_measured() -> None:
    summary = sample.plain_chain()
    assert ">ms</th>" not in inspection_page(summary)
    layers = tuple(type(layer)(**{**layer.__dict__, "milliseconds": 1.25}) for layer in summary.layers)
    timed = type(summary)(**{**summary.__dict__, "layers": layers, "milliseconds": 8.75})
    page = inspection_page(timed)
    assert ">ms</th>" in page
    assert page.count(">1.25</td>") == len(layers)
    assert "8.75\xa0ms" in page


def test_it_loads_no_torch() -> None:
    code = "import sys, hubel.report.inspection; print('torch' in sys.modules, 'altair' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False"]
