"""Colours, words, pictures, charts and the confusion grid."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hubel.report import charts
from hubel.report.confidence import confidence
from hubel.report.confusion import MOST_CLASSES, as_csv, grid, pairs, surest_errors, worst_first
from hubel.report.pictures import augmentation, contact_sheet, encoded, filters, overlay, picture, shrunk
from hubel.report.style import (
    LEVELS,
    NIGHT,
    PAPER,
    ROLES,
    contrast,
    from_oklch,
    heat_table,
    shades,
)
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


def test_csv_holds_the_counts() -> None:
    assert as_csv(("a", "b"), ((3, 1), (0, 2))) == "label / predicted,a,b\na,3,1\nb,0,2\n"


def test_pairs_are_counted_both_ways() -> None:
    found = pairs(np.array([[5, 1, 0], [4, 5, 2], [0, 0, 9]]))
    assert [(p.first, p.second, p.there, p.back) for p in found] == [(1, 0, 4, 1), (1, 2, 2, 0)]


def test_cells_hold_their_images_worst_first(tmp_path: Path) -> None:
    run = sample.run(tmp_path)
    for row in grid(run).rows:
        for cell in row:
            images = list(cell.images)
            assert len(images) == min(cell.count, 12)
            assert all(run.labels[i] == cell.row and run.predictions[i] == cell.column for i in images)
            confidence = run.confidence[images] * (1 if cell.row == cell.column else -1)
            assert (np.diff(confidence) >= 0).all()


def test_every_cell_gets_an_image_before_any_gets_a_second(tmp_path: Path) -> None:
    shown = grid(sample.run(tmp_path))
    places = [cell.images.index(image) for cell, image in shown.cells_in_turn()]
    assert places == sorted(places)
    assert len(places) == sum(len(cell.images) for row in shown.rows for cell in row)


def test_a_large_grid_shows_the_most_frequent_pairs(tmp_path: Path) -> None:
    run = sample.run(tmp_path, k=60, n=3000, error=0.4)
    shown = grid(run)
    top = pairs(np.array(run.scores.confusion))[:10]
    assert len(shown.names) == MOST_CLASSES
    assert shown.hidden == 30
    assert {run.card.classes[i] for p in top for i in (p.first, p.second)} <= set(shown.names)


def test_worst_errors_are_wrong_and_sure(tmp_path: Path) -> None:
    run = sample.run(tmp_path)
    worst, wrong = surest_errors(run, 5), run.predictions != run.labels
    assert wrong[worst].all()
    assert run.confidence[worst].min() >= np.sort(run.confidence[wrong])[-5:].min()
    assert sorted(worst_first(run)) == list(range(len(run.labels)))
    assert len(surest_errors(run, 10_000)) == wrong.sum()


def test_overlay_is_warm_where_the_heat_is() -> None:
    pixels = np.full((20, 20, 3), 128, np.uint8)
    heat = np.zeros((20, 20), np.uint8)
    heat[:10] = 255
    mixed = np.asarray(overlay(pixels, heat)).astype(int)
    assert mixed[2, 5].sum() > mixed[15, 5].sum()
    assert mixed[2, 5, 0] > mixed[2, 5, 2]
    assert overlay(pixels, np.zeros((5, 5), np.uint8)).size == (20, 20)


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
    assert sheet.shape[:2] == (2 * 4 + 1, 3 * 4 + 1 + 1)
    assert (sheet[5:, -4:, 0] == tiles[1, 2, :, :, 0]).all()


def test_small_grey_pictures_are_exact() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(encoded(picture(pixels))))) == pixels[..., 0]).all()
    assert shrunk(Image.new("L", (300, 100)), 90).size == (90, 30)


def test_a_contact_sheet_keeps_its_texts_apart() -> None:
    image = Image.new("L", (20, 10), 128)
    sheet = contact_sheet([((image, image), ("a" * 200, "right"))] * 3, side=60, columns=2)
    assert sheet.getpixel((0, 0)) == (255, 255, 255, 255)
    columns = (np.asarray(sheet.convert("L")) < 250).any(axis=0)
    assert not columns[32 + 128 + 1 : 32 + 128 + 39].any()  # between the two columns


@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 2), (1, 3), (1, 7), (5, 14), (1, 30), (1, 97), (3, 1000)])
@pytest.mark.parametrize("most", [4, 6])
def test_ticks_are_whole_apart_and_few(first: int, last: int, most: int) -> None:
    ticks = charts.epoch_ticks(first, last, most)
    assert {ticks[0], ticks[-1]} == {first, last}
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= most + 1
    gaps = np.diff(ticks)
    assert len(gaps) == 0 or gaps.min() >= (last - first) / (2 * most)


def test_axes_write_no_number_twice(tmp_path: Path) -> None:
    for rows in (sample.history(3, ("bag",), final=0.9), sample.history(30, ("bag",), final=0.9)):
        flat = tuple(replace(row, val_accuracy=0.99991 + 1e-6 * row.epoch, train_accuracy=0.99993) for row in rows)
        for draw in (charts.loss, charts.accuracy, charts.rate):
            axes = re.findall(r'role-axis-label"[^>]*>(.*?)</g>', charts.svg(draw(flat)))
            assert len(axes) == 2
            for labels in (re.findall(r">([^<]+)</text>", axis) for axis in axes):
                assert len(labels) == len(set(labels)) > 1


def test_charts_draw_in_the_palette_only(tmp_path: Path) -> None:
    run = sample.run(tmp_path)
    for drawn in charts.for_page(run.history, confidence(run)).values():
        used = set(re.findall(r'(?:fill|stroke)="(#[0-9a-fA-F]+)"', drawn))
        assert used <= {pair[0] for pair in ROLES.values()}
        assert " id=" not in drawn


def test_charts_with_hostile_names(tmp_path: Path) -> None:
    names = ("same", "Same", "</text><script>", "a very long name " * 9)
    run = sample.run(tmp_path, names=names, n=80, error=0.4)
    drawn = charts.for_files(run, grid(run), confidence(run))
    assert drawn["per_class"].count(">same<") == drawn["per_class"].count(">Same<") == 1
    assert "<script>" not in drawn["confusion"]
    with Image.open(io.BytesIO(charts.png(drawn["confusion"]))) as opened:
        assert opened.format == "PNG"
