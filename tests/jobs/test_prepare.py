"""From a folder to decoded images: the range of deep images, folds of a table, kinds that nothing reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hubel.dataset.config import DataConfig
from hubel.errors import UsageError
from hubel.events import outcome
from hubel.jobs.prepare import Dataset, audited


def prepared(source: Path, **settings: object) -> Dataset:
    return outcome(audited(str(source), DataConfig(**settings)))  # type: ignore[arg-type]


@pytest.fixture
def twelve_bits(tmp_path: Path) -> Path:
    """Values from 0 to 4000 in PNG files of 16 bits."""
    rng = np.random.default_rng(0)
    for i in range(10):
        file = tmp_path / "deep" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 4000, (16, 16)).astype(np.uint16)).save(file)
    return tmp_path / "deep"


def test_the_range_of_deep_images_is_measured_kept_and_said(twelve_bits: Path) -> None:
    found = prepared(twelve_bits)
    assert found.packed.preprocess.range == (0, 4095)
    values = np.asarray(Image.open(twelve_bits / "a/0.png"))
    np.testing.assert_array_equal(found.packed.images[0, ..., 0], np.rint(values / 4095 * 255))
    assert ["0 to 4095 become 0 to 255" in f.message for f in found.findings if f.code == "deep"] == [True]
    assert prepared(twelve_bits, range=(0.0, 8190.0)).packed.images.max() == 125
    with pytest.raises(UsageError, match="--range"):
        DataConfig(range=(5.0, 5.0))


def test_the_limit_of_pixels_travels(twelve_bits: Path) -> None:
    assert prepared(twelve_bits, max_pixels=1000).packed.preprocess.max_pixels == 1000


def test_images_of_a_kind_that_nothing_reads_are_one_line(twelve_bits: Path) -> None:
    for i in range(3):
        (twelve_bits / "a" / f"x{i}.tif").write_bytes(b"II*\0\x08\0\0\0\0\0\0\0\0\0")
    [finding] = [f for f in prepared(twelve_bits).findings if f.code == "unreadable"]
    assert finding.exclude == ("a/x0.tif", "a/x1.tif", "a/x2.tif")


def test_a_fold_of_the_table_is_held_out(twelve_bits: Path) -> None:
    rows = [f"{'ab'[i % 2]}/{i}.png,{'ab'[i % 2]},{i // 2}" for i in range(10)]
    (twelve_bits / "labels.csv").write_text("\n".join(["image,label,fold", *rows]))
    found = prepared(twelve_bits / "labels.csv")
    for fold in range(5):
        division = found.split(DataConfig(folds=5, fold=fold, val=0.3), seed=0)
        assert [found.catalog.paths[i] for i in division.test] == [f"a/{2 * fold}.png", f"b/{2 * fold + 1}.png"]
