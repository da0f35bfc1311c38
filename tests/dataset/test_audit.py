"""The audit names every planted defect and leaves healthy images alone."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from defects import HEALTHY, SHAPES, plant, shape
from hubel.as_json import to_json
from hubel.dataset.audit import audit, exclusions, read_exclusions
from hubel.dataset.copies import groups_from, near_pairs
from hubel.dataset.decode import decode
from hubel.dataset.find import Catalog, scan
from hubel.dataset.pack import FACTS, Facts, facts_row
from hubel.errors import DataError, ImageError
from hubel.records import PARTS, Finding, ImageFacts, Part, Preprocess

Pixels = npt.NDArray[np.uint8]
FACT = ImageFacts(width=32, height=32, mode="RGB", format="PNG")


def table_of(facts: Sequence[ImageFacts | None]) -> Facts:
    """What a pack knows of the images; None is one that can't be used."""
    unusable = tuple(np.zeros(1, FACTS)[0])
    return np.array([unusable if fact is None else facts_row(fact) for fact in facts], FACTS)


def looked_at(catalog: Catalog, size: int = 48) -> tuple[Pixels, Facts, dict[int, str]]:
    """Decode a catalog's images as a pack does."""
    images = np.zeros((len(catalog.paths), size, size, 3), np.uint8)
    facts: list[ImageFacts | None] = []
    reasons = {}
    for i, path in enumerate(catalog.paths):
        try:
            images[i], fact = decode(catalog.root / path, Preprocess(size=(size, size)))
            facts.append(fact)
        except ImageError as error:
            reasons[i] = error.reason
            facts.append(None)
    return images, table_of(facts), reasons


def catalog_of(
    labels: Sequence[int], parts: Sequence[Part] | None = None, groups: Sequence[str] | None = None
) -> Catalog:
    """A catalog without files."""
    return Catalog(
        root=Path("nowhere"),
        classes=tuple("abcdefgh"[: max(labels) + 1]),
        paths=tuple(f"{i}.png" for i in range(len(labels))),
        labels=np.array(labels, np.int64),
        parts=None if parts is None else tuple(parts),
        groups=None if groups is None else tuple(groups),
        findings=(),
        reported_part="test",
    )


def noise(count: int, size: int = 32, channels: int = 3, seed: int = 0) -> Pixels:
    """Smooth pictures that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 7, 7, channels), dtype=np.uint8)
    bigger = [Image.fromarray(x.squeeze()).resize((size, size), Image.Resampling.BICUBIC) for x in small]
    return np.stack([np.asarray(x).reshape(size, size, channels) for x in bigger])


def facts_of(count: int) -> Facts:
    return table_of([replace(FACT, sha256=f"{i:064x}") for i in range(count)])


def named(findings: Sequence[Finding], code: str) -> list[Finding]:
    return [finding for finding in findings if finding.code == code]


# The planted folder


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, dict[str, str], tuple[Finding, ...]]:
    root = tmp_path_factory.mktemp("planted") / "data"
    what = plant(root)
    catalog = scan(root)
    images, facts, reasons = looked_at(catalog)
    return catalog, what, (*catalog.findings, *audit(catalog, images, facts, reasons, parts=None))


def test_every_planted_defect_is_named(planted: tuple[Catalog, dict[str, str], tuple[Finding, ...]]) -> None:
    catalog, what, findings = planted
    assert len(what) >= 40
    hits = {(finding.code, path) for finding in findings for path in finding.paths}
    expected = {(code.partition(":")[0], path) for path, code in what.items()}
    assert {pair for pair in expected if pair[0] != "fine"} - hits == set()
    fine = {path for code, path in expected if code == "fine"}
    assert fine <= set(catalog.paths)
    assert not fine & {path for finding in findings for path in finding.exclude}


def test_healthy_images_are_neither_left_out_nor_warned_about(
    planted: tuple[Catalog, dict[str, str], tuple[Finding, ...]],
) -> None:
    catalog, what, findings = planted
    healthy = {f"{kind}/{i:03d}.png" for kind in SHAPES for i in range(HEALTHY)}
    assert healthy <= set(catalog.paths)
    assert catalog.classes == tuple(sorted(SHAPES))
    blamed = {path for f in findings if f.severity != "note" for path in f.paths} & healthy
    conflict = next(f for f in findings if f.code == "label-conflict")
    assert blamed == {"circle/003.png", "square/001.png"} | set(conflict.paths) & healthy
    assert not healthy & {path for finding in findings if finding.left_out for path in finding.exclude}
    assert set(what) & healthy == set()


def test_unusable_images_are_named_one_by_one_with_the_reason(
    planted: tuple[Catalog, dict[str, str], tuple[Finding, ...]],
) -> None:
    _, what, findings = planted
    unreadable = {finding.paths[0]: finding for finding in named(findings, "unreadable")}
    assert set(unreadable) == {path for path, code in what.items() if code.startswith("unreadable")}
    for path, finding in unreadable.items():
        assert finding.left_out
        assert finding.exclude == finding.paths
        assert path in finding.message
        assert len(finding.evidence["reason"]) > 4


def test_findings_survive_json(planted: tuple[Catalog, dict[str, str], tuple[Finding, ...]], tmp_path: Path) -> None:
    _, _, findings = planted
    (tmp_path / "findings.json").write_text(json.dumps(to_json(findings), ensure_ascii=False), "utf-8")
    assert read_exclusions(tmp_path / "findings.json") == {path for f in findings for path in f.exclude}


def test_an_innocent_folder_has_no_findings(tmp_path: Path) -> None:
    for kind in ("circle", "square"):
        (tmp_path / kind).mkdir()
        for i in range(12):
            shape(kind, i, 40).save(tmp_path / kind / f"{i}.png")
    catalog = scan(tmp_path)
    images, facts, reasons = looked_at(catalog)
    assert catalog.findings == ()
    assert audit(catalog, images, facts, reasons, parts=None) == ()


# Copies


def test_copies_across_parts_and_labels() -> None:
    facts = facts_of(80)
    same = {1: 0, 11: 10, 21: 20, 31: 30, 32: 30}  # copy: original
    for copy, original in same.items():
        facts[copy] = facts[original]
    labels = [0] * 40 + [1] * 40
    labels[11] = 1
    parts: list[Part] = ["test" if i >= 60 else "train" for i in range(80)]
    parts[20], parts[31] = "val", "test"
    catalog = catalog_of(labels, parts)
    images = noise(80)
    for copy, original in same.items():
        images[copy] = images[original]
    findings = audit(catalog, images, facts, {}, parts=parts)
    assert [(f.paths, f.exclude) for f in named(findings, "duplicate")] == [(("0.png", "1.png"), ("1.png",))]
    assert [f.exclude for f in named(findings, "label-conflict")] == [("10.png", "11.png")]
    leaks = {f.paths: f.exclude for f in named(findings, "leak")}
    assert leaks == {("20.png", "21.png"): ("21.png",), ("30.png", "31.png", "32.png"): ("30.png", "32.png")}
    assert not [f for f in findings if f.code.startswith("near")]
    groups = groups_from(findings, catalog)
    assert len(np.unique(groups)) == 80 - len(same)
    assert all(groups[copy] == groups[original] for copy, original in same.items())


def recoded(picture: Pixels, quality: int) -> Pixels:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def resized(picture: Pixels, side: int) -> Pixels:
    size = picture.shape[1::-1]
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR).resize(size))


def cropped(picture: Pixels, share: float) -> Pixels:
    height, width = picture.shape[:2]
    box = (share * width, 0, width, (1 - share) * height)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR, box=box))


def brighter(picture: Pixels) -> Pixels:
    return np.array(np.clip(picture * 1.1 + 5, 0, 255), np.uint8)


@pytest.mark.parametrize("size", [32, 96])
def test_pictures_that_were_saved_again_are_found(size: int) -> None:
    images = noise(120, size)
    changes = (
        recoded(images[0], 60),
        resized(images[1], size * 3 // 4),
        cropped(images[2], 0.05),
        brighter(images[3]),
        recoded(cropped(images[4], 0.03), 80),
    )
    copies = np.stack(changes)
    together = np.concatenate([images, copies])
    labels = np.arange(len(together)) % 3
    pairs, residuals = near_pairs(together, labels, np.arange(len(together)))
    assert sorted(map(tuple, pairs.tolist())) == [(i, 120 + i) for i in range(5)]
    assert (residuals < 0.05).all()


def test_look_alikes_are_told_apart() -> None:
    """Discs on black that differ by a few pixels in width and height are different things."""
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.35, 0.8, (2, 400, 1, 1))
    images = (np.clip(1.5 - (x / a) ** 2 - (y / b) ** 2, 0, 1) * 220)[..., None].astype(np.uint8)
    pairs, _ = near_pairs(images, np.zeros(400, np.int64), np.arange(400))
    assert len(pairs) <= 4


def test_the_search_is_deterministic_and_keeps_to_the_members() -> None:
    images = noise(60, channels=1)
    images[7] = images[3]
    images[9] = images[3]
    labels = np.zeros(60, np.int64)
    members = np.setdiff1d(np.arange(60), [9])
    found = [near_pairs(images, labels, members)[0].tolist() for _ in range(2)]
    assert found == [[[3, 7]]] * 2
    nothing, _ = near_pairs(images, labels, members[:1])
    flat, _ = near_pairs(np.full((5, 1, 1, 3), 9, np.uint8), labels[:5], np.arange(5))
    assert nothing.shape == flat.shape == (0, 2)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (8, 8), (20, 60)])
def test_the_search_bears_any_size(height: int, width: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, height, width, 3), dtype=np.uint8)
    images[20] = images[10]
    pairs, _ = near_pairs(images, np.zeros(30, np.int64), np.arange(30))
    assert [10, 20] in pairs.tolist() or (height, width) == (1, 1)


def test_near_copies_across_parts_and_labels() -> None:
    images = noise(90)
    for original in (0, 10, 20):
        images[original + 1] = recoded(images[original], 85)
    labels = [0] * 45 + [1] * 45
    labels[11] = 1
    parts: list[Part] = ["val" if i >= 70 else "train" for i in range(90)]
    parts[20] = "val"
    catalog = catalog_of(labels, parts)
    findings = audit(catalog, images, facts_of(90), {}, parts=None)
    assert [f.exclude for f in named(findings, "near-duplicate")] == [("1.png",)]
    assert [(f.paths, f.exclude) for f in named(findings, "near-conflict")] == [(("10.png", "11.png"), ())]
    assert [(f.paths, f.exclude) for f in named(findings, "near-leak")] == [(("20.png", "21.png"), ("21.png",))]
    assert len(np.unique(groups_from(findings, catalog))) == 87


def test_groups_of_the_table_are_joined_with_copies() -> None:
    catalog = catalog_of([0, 0, 1, 1, 1], groups=["p", "p", "q", "r", "s"])
    copies = Finding(code="duplicate", severity="warning", message="", paths=("1.png", "2.png"))
    other = Finding(code="tiny", severity="warning", message="", paths=("3.png", "4.png"))
    groups = groups_from([copies, other], catalog).tolist()
    assert groups == [0, 0, 0, 1, 2]


# Classes, sizes, kinds


def test_groups_that_the_tables_parts_tear_are_named() -> None:
    parts: tuple[Part, ...] = ("train", "test", "train", "train", "val")
    catalog = catalog_of([0, 0, 1, 1, 1], parts, groups=("p", "p", "q", "q", "r"))
    [leak] = named(audit(catalog, noise(5), facts_of(5), {}, parts=None), "group-leak")
    assert leak.message.startswith("1 group of 3 is in several parts at once: p (train and test)")
    assert (leak.paths, leak.exclude) == (catalog.paths[:2], catalog.paths[:1])


def test_small_and_uneven_classes() -> None:
    labels = [0] * 60 + [1] * 4
    findings = audit(catalog_of(labels), noise(64), facts_of(64), {}, parts=None)
    assert [f.code for f in findings] == ["small-class", "imbalance"]
    assert findings[1].severity == "warning"
    assert findings[1].evidence["ratio"] == 15
    assert "b (4)" in findings[0].message


def test_classes_are_counted_in_the_training_part() -> None:
    labels = [0] * 30 + [1] * 30
    parts = ["train"] * 30 + ["test"] * 30
    findings = audit(catalog_of(labels), noise(60), facts_of(60), {}, parts=parts)
    assert [f.code for f in findings] == ["class-without-images"]
    assert findings[0].severity == "error"


def test_sizes_that_stand_out() -> None:
    facts = facts_of(40)
    for i, size in enumerate([(5, 5), (200, 30), (4000, 3000)]):
        facts["width"][i], facts["height"][i] = size
    findings = audit(catalog_of([0] * 20 + [1] * 20), noise(40), facts, {}, parts=None)
    assert {f.code: f.paths for f in findings if f.paths} == {
        "tiny": ("0.png",),
        "aspect": ("1.png",),
        "size-outlier": ("2.png",),
    }
    assert "5x5 to 4000x3000" in named(findings, "mixed-sizes")[0].message


def test_kinds_are_counted() -> None:
    facts = facts_of(40)
    changes = (("mode", b"I;16"), ("mode", b"CMYK"), ("transparent", True), ("orientation", 6), ("frames", 4))
    for i, (column, value) in enumerate((*changes, ("colour", False))):
        facts[column][i] = value
    images = noise(40)
    images[6] = [3, 200, 90]
    findings = audit(catalog_of([0] * 20 + [1] * 20), images, facts, {}, parts=None)
    codes = ["deep", "cmyk", "transparent", "rotated", "frames", "grey-among-colour", "one-colour"]
    assert [(f.code, f.paths) for f in findings] == [(code, (f"{i}.png",)) for i, code in enumerate(codes)]


def test_nothing_usable_is_no_crash() -> None:
    catalog = catalog_of([0, 1])
    images, reasons = np.zeros((2, 8, 8, 3), np.uint8), {0: "empty file", 1: "text"}
    findings = audit(catalog, images, table_of([None, None]), reasons, parts=None)
    assert [f.code for f in findings] == ["unreadable", "unreadable", "class-without-images"]


@pytest.mark.parametrize("parts", [None, PARTS[:1] * 2])
def test_one_image_in_each_class(parts: Sequence[str] | None) -> None:
    findings = audit(catalog_of([0, 1]), noise(2), facts_of(2), {}, parts=parts)
    assert [f.code for f in findings] == ["small-class"]


# Exclusions


def test_exclusions_from_a_text(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("\ufeff# mine\ncat/1.png\n\n  dog/2.png  \n", "utf-8")
    assert read_exclusions(tmp_path / "out.txt") == {"cat/1.png", "dog/2.png"}


def test_exclusions_however_the_paths_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    for name in ("cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/caf\u00e9.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root / "dog")
    lines = ["./cat/0.png", "cat\\1.png", f"{tmp_path}/link/../link/cat/2.png", "0.png", "data/dog/cafe\u0301.png"]
    (tmp_path / "out.txt").write_text("\n".join(lines), "utf-8")
    assert exclusions(tmp_path / "out.txt", scan(root)) == set(scan(root).paths)


def test_exclusions_that_match_nothing_are_named(tmp_path: Path) -> None:
    for name in ("cat/0.png", "dog/0.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
        (tmp_path / "data" / name).touch()
    (tmp_path / "data/dog/lost.png").symlink_to("nowhere")
    catalog = scan(tmp_path / "data")
    (tmp_path / "out.txt").write_text("cat/0.png\ncat/1.png\n", "utf-8")
    with pytest.raises(DataError, match=r"doesn't hold, cat/1\.png"):
        exclusions(tmp_path / "out.txt", catalog)
    (tmp_path / "findings.json").write_text(json.dumps(to_json(catalog.findings)), "utf-8")
    assert exclusions(tmp_path / "findings.json", catalog) == set()  # what is left out anyway is no mistake


@pytest.mark.parametrize("text", ["[1]", '{"a": 1}', "[{", '[{"code": "x"}]'])
def test_exclusions_that_are_no_findings(text: str, tmp_path: Path) -> None:
    (tmp_path / "findings.json").write_text(text)
    with pytest.raises(DataError, match=r"no findings\.json"):
        read_exclusions(tmp_path / "findings.json")


def test_exclusions_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be read"):
        read_exclusions(tmp_path / "missing.json")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="UTF-8"):
        read_exclusions(os.fspath(tmp_path / "latin.txt"))
