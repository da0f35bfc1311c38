"""The picture of a network: its structure, and that nothing in it touches anything else, measured with a real font."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import combinations
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
import torch
from PIL import ImageFont
from torch import Tensor, nn

from hubel.geometry.summary import summarise
from hubel.records import Summary
from hubel.report.layers import inspection_page
from hubel.report.network import COLOURS, NARROW, WIDE, architecture_svg, text_width
from hubel.report.operations import Unit, stages
from hubel.report.style import NIGHT, PAPER, contrast

from . import network_sample as sample

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


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_text_touches_another_or_leaves_the_picture(name: str, width: float) -> None:
    svg = architecture_svg(drawn(name), width=width)
    root = ElementTree.fromstring(svg)
    _, _, wide, high = map(float, root.get("viewBox", "").split())
    assert wide <= width
    areas = texts(svg)
    for area in areas:
        assert min(area.left, area.top) >= 0
        assert area.right <= wide
        assert area.bottom <= high
    for one, other in combinations(areas, 2):
        apart = one.right <= other.left or other.right <= one.left or one.bottom <= other.top or other.bottom <= one.top
        assert apart, f"{one.words!r} touches {other.words!r}"


def boxes(svg: str) -> list[tuple[float, float, float, float]]:
    found = []
    for element in ElementTree.fromstring(svg).iter(f"{SVG}rect"):
        if element.get("class") in COLOURS:
            x, y, w, h = (float(element.get(key, "0")) for key in ("x", "y", "width", "height"))
            found.append((x, y, x + w, y + h))
    return found


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", NETWORKS)
def test_boxes_do_not_overlap_and_hold_their_text(name: str, width: float) -> None:
    svg = architecture_svg(drawn(name), width=width)
    for one, other in combinations(boxes(svg), 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    within = [
        (box, area)
        for box in boxes(svg)
        for area in texts(svg)
        if box[0] <= area.left and area.right <= box[2] and box[1] <= area.top and area.bottom <= box[3]
    ]
    assert len(within) == len(boxes(svg))


def units(summary: Summary) -> list[Unit]:
    """What is drawn, repeats as often as they are; without the image."""
    runs = [run for row in stages(summary)[1:] for run in row.runs]
    return [unit for several, often in runs for _ in range(often) for unit in several]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_operation_is_in_exactly_one_box(name: str) -> None:
    summary = drawn(name)
    operations = [n for n, a in enumerate(summary.layers) if a.macs > 0 or "Pool" in a.kind or a.kind == "mean"]
    for linked in (True, False):
        root = ElementTree.fromstring(architecture_svg(summary, linked=linked))
        named = [int(n) for element in root.iter() for n in element.get("data-layer", "").split()]
        assert sorted(named) == operations
    told = " ".join(element.text or "" for element in root.iter(f"{SVG}title"))
    assert all(f"{summary.layers[n].name}: " in told for n in operations if name != "hostile")
    assert told.count(" parameters, sees ") == len(operations)


def joins(name: str) -> list[tuple[str, bool]]:
    """What happens where ways come together, and whether one of them is a skip."""
    return [(unit.join, unit.skip) for unit in units(drawn(name)) if unit.join]


def count(svg: str, kind: str) -> int:
    return sum(element.get("class") == kind for element in ElementTree.fromstring(svg).iter(f"{SVG}g"))


def repeats(svg: str) -> list[str]:
    return [area.words for area in texts(svg) if re.fullmatch(r"×\d+", area.words)]


def test_each_residual_block_is_drawn_with_its_skip_or_its_projection() -> None:
    svg = architecture_svg(drawn("resnet18"))
    assert count(svg, "join") == 8  # two in each of four stages
    assert count(svg, "skip") == 5  # the others have a 1×1 convolution, where the shape changes
    assert [lane[0].label for unit in units(drawn("resnet18")) for lane in unit.lanes[1:]] == [
        "1×1 /2, 128",
        "1×1 /2, 256",
        "1×1 /2, 512",
    ]


def test_resnet152_folds_its_3_8_36_3_blocks() -> None:
    svg = architecture_svg(drawn("resnet152"))
    assert repeats(svg) == ["×2", "×7", "×35", "×2"]  # the first block of each stage is another one
    assert joins("resnet152").count(("added", True)) == 46
    assert "60.2\xa0million parameters · 11.5\xa0billion multiply-accumulates · receptive field 1451 pixels" in svg
    shapes = ["64 × 112 × 112", "256 × 56 × 56", "512 × 28 × 28", "1024 × 14 × 14", "2048 × 7 × 7", "1000"]
    assert [area.words for area in texts(svg) if area.words in shapes] == shapes


def test_a_row_tells_parameters_operations_and_field() -> None:
    summary = drawn("resnet18")
    rows = stages(summary)
    assert sum(row.parameters for row in rows) == summary.parameters
    assert sum(row.macs for row in rows) == summary.macs
    assert [row.field for row in rows if row.field] == [(7, 7), (43, 43), (99, 99), (211, 211), (435, 435)]
    words = {area.words for area in texts(architecture_svg(summary))}
    assert {"148 k parameters", "462 M MACs", "sees 43 pixels"} <= words


def test_densenet121_folds_its_6_12_24_16_layers() -> None:
    assert repeats(architecture_svg(drawn("densenet121"))) == ["×6", "×12", "×24", "×16"]
    assert joins("densenet121") == [("concatenated", True)] * (6 + 12 + 24 + 16)


def test_mobilenet_v2_has_its_ten_residual_blocks() -> None:
    assert joins("mobilenet_v2") == [("added", True)] * 10  # 1 + 2 + 3 + 2 + 2 of the paper's table 2
    kinds = [box.kind for unit in units(drawn("mobilenet_v2")) for lane in unit.lanes for box in lane]
    assert kinds.count("depthwise") == 17


def test_branches_lie_below_each_other() -> None:
    (block,) = [unit for unit in units(drawn("branching")) if unit.join]
    assert [[box.label for box in lane] for lane in block.lanes] == [
        ["1×1, 48"],
        ["1×1, 16", "3×3, 64"],
        ["mean 3×3", "5×5, 16"],
    ]
    assert (block.join, block.skip, block.channels, block.size) == ("concatenated", False, 128, (16, 16))


def test_inception_modules_have_four_branches() -> None:
    assert [len(unit.lanes) for unit in units(drawn("googlenet")) if unit.join] == [4] * 9


def test_a_join_with_something_far_away_says_what() -> None:
    told = [(unit.told, unit.skip) for unit in units(drawn("hourglass")) if unit.join]
    assert told == [("cat1: concatenated", True), ("cat2: concatenated, with what left layer0", False)]


def test_squeeze_and_excitation_is_one_box() -> None:
    _, gate = [unit.lanes[0][0] for unit in units(drawn("gated"))]
    assert (gate.kind, gate.layers) == ("gate", (1, 2, 3))
    assert gate.title.count("Conv2d 1×1") == 2


def test_a_skip_over_several_units_is_an_arc() -> None:
    svg = architecture_svg(sample.nested())
    assert (count(svg, "join"), count(svg, "skip")) == (2, 2)


def test_repeats_are_folded_only_where_there_are_many() -> None:
    few, many = architecture_svg(sample.inverted(2)), architecture_svg(sample.inverted(40))
    assert (count(few, "skip"), repeats(few)) == (2, [])
    assert (count(many, "skip"), repeats(many)) == (1, ["×40"])


def test_taller_is_a_larger_map() -> None:
    svg = architecture_svg(drawn("vgg16"))
    heights = [round(y1 - y0, 1) for _, y0, _, y1 in boxes(svg)]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == 7  # five sizes in convolutions, 7 × 7 and vectors; the image has the first


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
    assert "3 × 32 × 32, 16 × 32 × 32, 16 × 16 × 16, 64 × 8 × 8, 10" in (described.text or "")
    assert root.get("role") == "img"


def test_the_picture_needs_nothing_else() -> None:
    svg = architecture_svg(drawn("resnet18"))
    assert "href" not in svg
    assert "url(" not in svg
    assert "prefers-color-scheme:dark" in svg


def test_colours_stand_out_on_both_grounds() -> None:
    for _, paper, night in COLOURS.values():
        assert contrast(paper, PAPER) >= 4.5
        assert contrast(night, NIGHT) >= 4.5


def test_text_is_not_wider_than_it_is_taken_for() -> None:
    for words in ("image 3×224×224", "3×3 depthwise", "1024 × 14 × 14", "global mean", "ÄÖÜ WWW mmm", "4096 → 1000"):
        for size in (11.0, 13.0, 20.0):
            assert ImageFont.load_default(size).getlength(words) <= text_width(words, size)


def test_the_page_shows_every_layer_and_needs_nothing_else() -> None:
    summary = drawn("resnet18")
    page = inspection_page(summary)
    assert page.count("<tr") == 1 + len(summary.layers)
    assert all(f"<bdi>{layer.name}</bdi>" in page for layer in summary.layers)
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert "<script" not in page
    assert "src=" not in page
    assert page.count("<svg") == 2  # for wide screens and for narrow ones
    for figure in ("11.7\xa0million", "1.81\xa0billion", "435\xa0pixels", "whole image"):
        assert figure in page


def test_boxes_of_the_page_link_to_rows() -> None:
    page = inspection_page(drawn("resnet18"))
    linked = re.findall(r'href="#(layer-\d+)"', page)
    assert len(linked) == 2 * (1 + 1 + 16 + 3 + 2)
    assert set(linked) <= set(re.findall(r'<tr id="(layer-\d+)"', page))


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
    code = "import sys, hubel.report.layers; print('torch' in sys.modules, 'altair' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False"]
