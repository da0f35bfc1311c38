"""The pack: the decoder's pixels, decoded once, in parallel, and made anew when a file changes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hubel.dataset import pack as module
from hubel.dataset.cache import cache_clear, cache_entries
from hubel.dataset.decode import decode
from hubel.dataset.pack import FACTS, Rows, facts_row
from hubel.errors import DataError
from hubel.events import Progress, outcome
from hubel.records import Preprocess

VIEW = Preprocess(size=(12, 12), channels=3)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HUBEL_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "images"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (16, 14, 3), dtype=np.uint8)).save(root / f"{i:02d}.png")
    (root / "05.png").write_bytes(b"no image")
    return root


def pack(root: Path, listed: list[str], view: Preprocess) -> module.Packed:
    return outcome(module.pack(root, listed, view))


def names(root: Path) -> list[str]:
    return sorted(file.name for file in root.iterdir())


@pytest.mark.parametrize("alone", [100, 0], ids=["in this process", "in workers"])
def test_pixels_are_the_decoders(folder: Path, monkeypatch: pytest.MonkeyPatch, alone: int) -> None:
    monkeypatch.setattr(module, "ALONE", alone)
    monkeypatch.setattr(module, "CHUNK", 3)
    packs: list[module.Packed] = []

    def told() -> Iterator[Progress]:
        packs.append((yield from module.pack(folder, names(folder), VIEW)))

    said = list(told())
    [packed] = packs
    assert [(event.task, event.total) for event in said] == [("decoding", 20)] * len(said)
    assert [event.done for event in said] == sorted(event.done for event in said)
    assert said[-1].done == 20
    assert list(packed.reasons) == [5]
    assert packed.facts[5] == np.zeros(1, FACTS)[0]
    assert not packed.images[5].any()
    for i in (0, 7, 19):
        pixels, facts = decode(folder / f"{i:02d}.png", VIEW)
        np.testing.assert_array_equal(packed.images[i], pixels)
        assert packed.facts[i] == np.array(facts_row(facts), FACTS)
        assert packed.facts["sha256"][i].decode() == facts.sha256


def test_large_files_go_to_workers_in_small_chunks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALONE_BYTES", 5_000)
    monkeypatch.setattr(module, "CHUNK_BYTES", 1_500)
    asked: list[int] = []
    ask = module._Worker._ask

    def counted(self: module._Worker, start: int, listed: list[str]) -> object:
        asked.append(len(listed))
        return ask(self, start, listed)

    monkeypatch.setattr(module._Worker, "_ask", counted)
    assert pack(folder, names(folder), VIEW).usable.sum() == 19
    assert sum(asked) == 20
    assert max(asked) <= 2  # of 670 bytes each


def test_a_pack_is_found_again_until_a_file_changes(folder: Path) -> None:
    assert pack(folder, names(folder), VIEW).fresh
    assert not pack(folder, names(folder), VIEW).fresh
    status = (folder / "00.png").stat()
    os.utime(folder / "00.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert pack(folder, names(folder), VIEW).fresh
    assert pack(folder, names(folder), Preprocess(size=(8, 8))).fresh


def test_files_in_each_others_place_are_decoded_anew(folder: Path) -> None:
    """Of the same name, size and time: as after two class folders were exchanged, or a file was written over."""
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        (folder / name).mkdir()
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / name / "x.bmp")
        os.utime(folder / name / "x.bmp", (1.6e9, 1.6e9))
    before = pack(folder, ["a/x.bmp", "b/x.bmp"], VIEW).images[:].copy()
    (folder / "a").rename(folder / "c")
    (folder / "b").rename(folder / "a")
    (folder / "c").rename(folder / "b")
    np.testing.assert_array_equal(pack(folder, ["a/x.bmp", "b/x.bmp"], VIEW).images, before[::-1])
    (folder / "a/x.bmp").write_bytes((folder / "b/x.bmp").read_bytes())
    os.utime(folder / "a/x.bmp", (1.6e9, 1.6e9))
    np.testing.assert_array_equal(pack(folder, ["a/x.bmp", "b/x.bmp"], VIEW).images, before[[0, 0]])


def test_what_was_refused_is_tried_again_by_another_reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.new("RGB", (64, 64), "red")).save(folder / "05.png", format="HEIF")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        assert list(pack(folder, names(folder), VIEW).reasons) == [5]
        assert not pack(folder, names(folder), VIEW).fresh
    assert pack(folder, names(folder), VIEW).reasons == {}
    (folder / "06.png").write_bytes(b"no image")
    sound = names(folder)[:5]
    assert pack(folder, sound, VIEW).fresh
    monkeypatch.setattr(module, "readers", lambda: ["another"])
    assert not pack(folder, sound, VIEW).fresh  # nothing of it was refused


def test_a_file_that_vanished_is_named(folder: Path) -> None:
    listed = names(folder)
    (folder / "03.png").unlink()
    packed = pack(folder, listed, VIEW)
    assert set(packed.reasons) == {3, 5}
    assert packed.usable.sum() == 18


@pytest.mark.parametrize("damaged", ["images.npy", "facts.npy", "reasons.json"])
def test_a_damaged_pack_is_made_again(folder: Path, damaged: str) -> None:
    packed = pack(folder, names(folder), VIEW)
    (packed.folder / damaged).write_bytes(b"rubbish")
    assert pack(folder, names(folder), VIEW).fresh
    np.save(packed.folder / "facts.npy", packed.facts[:3])
    assert pack(folder, names(folder), VIEW).fresh


def test_reasons_stand_in_the_order_of_the_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever worker comes first: they are written to split.json as they stand."""
    (folder / "01.png").write_bytes(b"no image either")
    decode_all = module._decode_all
    monkeypatch.setattr(module, "CHUNK", 3)
    monkeypatch.setattr(module, "_decode_all", lambda *job: reversed(list(decode_all(*job))))
    assert list(pack(folder, names(folder), VIEW).reasons) == [1, 5]


def test_a_worker_that_dies_costs_one_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALONE", 0)
    monkeypatch.setattr(module, "CHUNK", 4)
    ask = module._Worker._ask

    def dies(self: module._Worker, start: int, listed: list[str]) -> object:
        if "09.png" in listed:
            raise BrokenPipeError
        return ask(self, start, listed)

    monkeypatch.setattr(module._Worker, "_ask", dies)
    packed = pack(folder, names(folder), VIEW)
    assert packed.reasons[9] == "the decoder crashed on it"
    assert packed.usable.sum() == 18


def test_a_full_disk_is_one_sentence_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_reserve", full)
    with pytest.raises(DataError, match="No space left on device.*HUBEL_CACHE"):
        pack(folder, names(folder), VIEW)
    assert cache_entries() == []


def test_rows_are_those_of_the_array() -> None:
    images = np.arange(6 * 2 * 2, dtype=np.uint8).reshape(6, 2, 2, 1)
    rows = np.array([4, 0, 5])
    part = Rows(images, rows)
    assert (len(part), part.shape) == (3, (3, 2, 2, 1))
    np.testing.assert_array_equal(part[1], images[0])
    np.testing.assert_array_equal(part[1:], images[[0, 5]])
    np.testing.assert_array_equal(part[np.array([2, 2])], images[[5, 5]])
    np.testing.assert_array_equal(list(part), images[rows])


def test_the_cache_is_listed_and_cleared(folder: Path) -> None:
    packed = pack(folder, names(folder), VIEW)
    [(name, size)] = cache_entries()
    assert name == f"packs/{packed.folder.name}"
    assert size > 20 * 12 * 12 * 3
    assert cache_clear() == size
    assert cache_entries() == []
