"""Colours, words, pictures, charts and the confusion grid."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hubel.report import charts
from hubel.report.colour import (
    LEVELS,
    NIGHT,
    PAPER,
    ROLES,
    contrast,
    from_oklch,
    heat_table,
    shades,
)
from hubel.report.confusion import MOST_CLASSES, answers, as_csv, grid, neutral, pairs, worst_errors
from hubel.report.pictures import augmentation, data_uri, filters, overlay, picture, shrunk
from hubel.report.wording import apart, certainty, compact, counted, duration, percent, plain, shortened

from . import sample


@pytest.mark.parametrize("dark", [False, True])
def test_counts_are_readable_on_every_shade(dark: bool) -> None:
    steps = shades(dark=dark)
    assert len(steps) == LEVELS
    assert min(contrast(ground, text) for ground, text in steps) >= 4.5


def test_text_and_series_are_readable_on_both_grounds() -> None:
    for role in ("ink", "muted", "accent", "second"):
        assert contrast(ROLES[role][0], PAPER) >= 4.5
        assert contrast(ROLES[role][1], NIGHT) >= 4.5


def test_known_colours() -> None:
    white, black = from_oklch(np.array([1.0, 0.0]), np.zeros(2), np.zeros(2))
    assert white == pytest.approx([1, 1, 1], abs=1e-3)
    assert black == pytest.approx([0, 0, 0], abs=1e-3)
    red = from_oklch(np.array([0.6279554]), np.array([0.2576833]), np.array([29.2338851]))[0]
    assert red == pytest.approx([1, 0, 0], abs=2e-3)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_heat_grows_lighter_all_the_way() -> None:
    table = heat_table().astype(float) / 255
    linear = np.where(table <= 0.04045, table / 12.92, ((table + 0.055) / 1.055) ** 2.4)
    assert (np.diff(linear @ [0.2126, 0.7152, 0.0722])[::8] > 0).all()


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent(0.9154, 10_000), "91.5\xa0%"),
        (percent(0.5, 12), "50\xa0%"),
        (percent(float("nan")), "not known"),
        (certainty(0.99999), ">\xa099.9\xa0%"),
        (certainty(1.0), "100.0\xa0%"),
        (counted(1, "image"), "1\xa0image"),
        (counted(10_000, "image"), "10,000\xa0images"),
        (compact(2_236_682), "2.24\xa0million"),
        (duration(192), "3\xa0min 12\xa0s"),
        (duration(3_840), "1\xa0h 4\xa0min"),
        (plain("a\x00b\udcffc\u202ed"), "a\ufffdb\ufffdc\ufffdd"),
        (shortened("test/dog/0001.png", 9), "te…01.png"),
        (apart("דגל"), "\u2068דגל\u2069"),
    ],
)
def test_wording(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "  =1", "＝1"])
def test_formulas_are_neutral(text: str) -> None:
    assert neutral(text) == f"'{text}"


def test_csv_holds_the_counts() -> None:
    assert as_csv(("a", "b"), ((3, 1), (0, 2))) == "label / predicted,a,b\na,3,1\nb,0,2\n"


def test_pairs_are_counted_both_ways() -> None:
    found = pairs(np.array([[5, 1, 0], [4, 5, 2], [0, 0, 9]]))
    assert [(p.first, p.second, p.there, p.back) for p in found] == [(1, 0, 4, 1), (1, 2, 2, 0)]


def test_cells_hold_their_images_worst_first() -> None:
    evidence = sample.evidence()
    said = answers(evidence)
    for row in grid(evidence, said).rows:
        for cell in row:
            images = list(cell.images)
            assert len(images) == min(cell.count, 12)
            assert all(evidence.labels[i] == cell.row and said.predictions[i] == cell.column for i in images)
            confidence = said.confidence[images] * (1 if cell.row == cell.column else -1)
            assert (np.diff(confidence) >= 0).all()


def test_a_large_grid_shows_the_most_frequent_pairs() -> None:
    evidence = sample.evidence(k=60, n=3000, error=0.4)
    shown = grid(evidence, answers(evidence))
    top = pairs(np.array(evidence.scores.confusion))[:10]
    assert len(shown.names) == MOST_CLASSES
    assert shown.hidden == 30
    assert {evidence.card.classes[i] for p in top for i in (p.first, p.second)} <= set(shown.names)


def test_worst_errors_are_wrong_and_sure() -> None:
    evidence = sample.evidence()
    said = answers(evidence)
    worst = worst_errors(evidence, said, 5)
    wrong = said.predictions != evidence.labels
    assert wrong[worst].all()
    assert said.confidence[worst].min() >= np.sort(said.confidence[wrong])[-5:].min()


def test_overlay_is_warm_where_the_heat_is() -> None:
    pixels = np.full((20, 20, 3), 128, np.uint8)
    heat = np.zeros((20, 20), np.float32)
    heat[:10] = 1.0
    mixed = np.asarray(overlay(pixels, heat)).astype(int)
    assert mixed[2, 5].sum() > mixed[15, 5].sum()
    assert mixed[2, 5, 0] > mixed[2, 5, 2]
    assert overlay(pixels, np.zeros((5, 5), np.float32)).size == (20, 20)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_filters_put_zero_at_grey(channels: int) -> None:
    weights = np.zeros((9, channels, 3, 3), np.float32)
    weights[0, 0, 0, 0], weights[1, 0, 0, 0] = 2.0, -0.1
    sheet = np.asarray(filters(weights, side=3))
    assert sheet.shape[2] == 4
    assert sheet[1, 1].tolist() == [128, 128, 128, 255]
    assert sheet[0, 0, 0] == 255
    assert sheet[0, 7, 0] == 0
    assert sheet[0, 4, 3] == 0


def test_augmentation_sheet_keeps_rows_and_columns() -> None:
    tiles = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4, 1)
    sheet = np.asarray(augmentation(tiles, side=4))
    assert sheet.shape[:2] == (2 * 4 + 4, 3 * 4 + 14 + 4)
    assert (sheet[8:, -4:, 0] == tiles[1, 2, :, :, 0]).all()


def test_small_grey_pictures_are_exact() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    import base64

    packed = base64.b64decode(data_uri(picture(pixels)).split(",")[1])
    assert (np.asarray(Image.open(io.BytesIO(packed))) == pixels[..., 0]).all()
    assert shrunk(Image.new("L", (300, 100)), 90).size == (90, 30)


def test_charts_draw_in_the_palette_only() -> None:
    evidence = sample.evidence()
    for drawn in charts.for_page(evidence).values():
        used = set(re.findall(r'(?:fill|stroke)="(#[0-9a-fA-F]+)"', drawn))
        assert used <= {pair[0] for pair in ROLES.values()}
        assert " id=" not in drawn


def test_charts_with_repeated_and_hostile_names(tmp_path: Path) -> None:
    names = ("same", "same", "</text><script>", "a very long name " * 9)
    evidence = sample.evidence(names=names, n=80, error=0.4)
    said = answers(evidence)
    drawn = charts.for_files(evidence, grid(evidence, said), shades(dark=False))
    assert drawn["per_class"].count(">same<") == 2
    assert "<script>" not in drawn["confusion"]
    (tmp_path / "confusion.png").write_bytes(charts.png(drawn["confusion"]))
    with Image.open(tmp_path / "confusion.png") as opened:
        assert opened.format == "PNG"
