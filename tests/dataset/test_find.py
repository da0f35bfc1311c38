"""Every layout is understood or refused in one sentence, and nothing outside the folder is touched."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest

from hubel.dataset.find import Catalog, scan
from hubel.dataset.folder import natural, parts_among
from hubel.errors import DataError, HubelError, UsageError


def make(root: Path, paths: Iterable[str]) -> Path:
    """Empty files: a scan opens none."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def codes(catalog: Catalog) -> list[str]:
    return [finding.code for finding in catalog.findings]


def refusal(source: Path | str, kind: type[HubelError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        scan(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TWO = ("cat/1.jpg", "dog/1.jpg")
PARTS = tuple(f"{part}/{path}" for part in ("train", "val", "test") for path in TWO)


# Layouts


def test_a_folder_for_each_class_in_natural_order(tmp_path: Path) -> None:
    make(tmp_path, ("10/a.png", "9/img10.png", "9/img9.png", "9/more/deep/x.png", "2/b.JPG"))
    catalog = scan(tmp_path)
    assert catalog.classes == ("2", "9", "10")
    assert catalog.paths == ("2/b.JPG", "9/img9.png", "9/img10.png", "9/more/deep/x.png", "10/a.png")
    assert catalog.labels.tolist() == [0, 1, 1, 1, 2]
    assert catalog.labels.dtype == "int64"
    assert (catalog.parts, catalog.groups, catalog.findings) == (None, None, ())
    assert catalog.root == tmp_path
    assert scan(str(tmp_path)).paths == catalog.paths


def test_natural_order_bears_any_text() -> None:
    names = ["b", "a10", "a9", "a09", "10", "9", "", "\u00b2", "\u0663", "a", "9" * 300]
    assert sorted(names, key=natural)[:4] == ["", "9", "10", "9" * 300]
    assert sorted(["a10", "a9", "a"], key=natural) == ["a", "a9", "a10"]


@pytest.mark.parametrize(
    ("names", "expected", "reported"),
    [
        (("train", "val", "test"), ("train", "val", "test"), "test"),
        (("Training", "VALID", "testing"), ("train", "val", "test"), "test"),
        (("train", "validation"), ("train", "val"), "val"),
        (("train", "dev"), ("train", "val"), "val"),
        (("train", "eval"), ("train", "val"), "val"),
        (("train", "test"), ("train", "test"), "test"),
        (("train", "val", "eval"), ("train", "val", "test"), "test"),
        (("train", "test", "eval"), ("train", "test", "val"), "test"),
    ],
)
def test_parts_by_their_usual_names(
    names: tuple[str, ...], expected: tuple[str, ...], reported: str, tmp_path: Path
) -> None:
    catalog = scan(make(tmp_path, [f"{name}/{path}" for name in names for path in TWO]))
    assert catalog.classes == ("cat", "dog")
    assert catalog.reported_part == reported
    assert catalog.parts is not None
    found = {path.split("/")[0]: part for path, part in zip(catalog.paths, catalog.parts, strict=True)}
    assert found == dict(zip(names, expected, strict=True))
    assert parts_among(["cat", "dog"]) == {}


def test_classes_may_be_called_like_parts(tmp_path: Path) -> None:
    catalog = scan(make(tmp_path, ("bus/1.jpg", "car/1.jpg", "train/1.jpg", "test/1.jpg")))
    assert catalog.classes == ("bus", "car", "test", "train")
    assert catalog.parts is None


def test_train_alone_is_data_without_parts(tmp_path: Path) -> None:
    catalog = scan(make(tmp_path, ("train/cat/1.jpg", "train/dog/1.jpg")))
    assert catalog.classes == ("cat", "dog")
    assert catalog.parts is None
    assert codes(catalog) == ["nested"]


def test_folders_beside_the_parts_are_named(tmp_path: Path) -> None:
    make(tmp_path, (*PARTS, "extra/cat/1.jpg", "train/stray.jpg", "readme.png"))
    (tmp_path / "train/stray.jpg").unlink()
    catalog = scan(tmp_path)
    assert codes(catalog) == ["part-neighbour", "stray-files"]
    assert catalog.findings[0].paths == ("extra",)
    assert catalog.findings[1].paths == ("readme.png",)


def test_images_right_inside_a_part_are_named(tmp_path: Path) -> None:
    catalog = scan(make(tmp_path, (*PARTS, "train/loose.jpg", "test/loose.jpg")))
    assert catalog.classes == ("cat", "dog")
    assert [f.paths for f in catalog.findings if f.code == "stray-files"] == [("test/loose.jpg", "train/loose.jpg")]


def test_a_test_part_without_labels_is_named(tmp_path: Path) -> None:
    catalog = scan(make(tmp_path, ("train/cat/1.jpg", "train/dog/1.jpg", "test/1.jpg", "test/2.jpg")))
    assert catalog.classes == ("cat", "dog")
    assert catalog.parts is None
    assert [(f.code, f.paths) for f in catalog.findings] == [("part-neighbour", ("test",))]


def test_one_folder_too_deep_is_unwrapped_and_said(tmp_path: Path) -> None:
    make(tmp_path, [f"download/data/{path}" for path in PARTS])
    make(tmp_path, ("__MACOSX/x", ".DS_Store"))
    catalog = scan(tmp_path)
    assert catalog.root == tmp_path / "download" / "data"
    assert catalog.parts is not None
    assert codes(catalog) == ["nested"]
    assert "download" in catalog.findings[0].message


def test_class_names_are_data(tmp_path: Path) -> None:
    names = ("<script>", "=cmd", "a b", "\u732b", "x" * 255)
    assert scan(make(tmp_path, [f"{name}/1.png" for name in names])).classes == tuple(sorted(names))


# Classes and parts


def test_a_class_that_cannot_be_learned_is_refused(tmp_path: Path) -> None:
    message = refusal(make(tmp_path, (*PARTS, "test/fox/1.jpg")))
    assert "'fox'" in message
    assert "add training images" in message
    (tmp_path / "train/fox").mkdir()
    assert "'fox'" in refusal(tmp_path)


def test_a_class_that_cannot_be_measured_is_named(tmp_path: Path) -> None:
    catalog = scan(make(tmp_path, (*PARTS, "train/fox/1.jpg", "val/fox/1.jpg")))
    assert catalog.classes == ("cat", "dog", "fox")
    assert [(f.code, f.evidence["classes"]) for f in catalog.findings] == [("missing-class", ["fox"])]
    assert "test part" in catalog.findings[0].message


def test_a_class_spelt_differently_in_a_part(tmp_path: Path) -> None:
    assert "Only the case differs" in refusal(
        make(tmp_path / "a", ("train/cat/1.jpg", "train/dog/1.jpg", "test/Cat/1.jpg"))
    )
    composed, split_up = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    make(tmp_path / "b", (f"train/{composed}/1.jpg", "train/dog/1.jpg", f"test/{split_up}/1.jpg", "test/dog/1.jpg"))
    assert scan(tmp_path / "b").classes == (composed, "dog")


def test_classes_that_differ_only_by_case(tmp_path: Path) -> None:
    catalog = scan(make(tmp_path, ("Cat/1.jpg", "cat/1.jpg")))
    assert catalog.classes == ("Cat", "cat")
    assert set(codes(catalog)) == {"class-collision", "name-collision"}


def test_an_empty_class_folder_makes_no_class(tmp_path: Path) -> None:
    make(tmp_path, (*TWO, "fox/notes.txt"))
    (tmp_path / "owl").mkdir()
    catalog = scan(tmp_path)
    assert catalog.classes == ("cat", "dog")
    assert {f.paths for f in catalog.findings if f.code == "empty-class"} == {("fox", "owl")}


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ((), "no images"),
        (("notes.txt",), "no images"),
        (("a.jpg", "b.jpg"), "no folder for each class"),
        (("cat/1.jpg", "cat/2.jpg"), "Only one class, 'cat'"),
        (("cat/notes.txt", "dog/notes.txt"), "no images"),
        (("val/cat/1.jpg", "val/dog/1.jpg", "test/cat/1.jpg"), "none to train on"),
    ],
)
def test_folders_that_are_no_data_set(paths: tuple[str, ...], words: str, tmp_path: Path) -> None:
    message = refusal(make(tmp_path, paths))
    assert words in message


def test_what_is_no_folder(tmp_path: Path) -> None:
    make(tmp_path, ("model.bin", "data.zip"))
    assert "neither a folder nor a CSV" in refusal(tmp_path / "model.bin")
    assert "unpack it" in refusal(tmp_path / "data.zip")
    assert "check the path" in refusal(tmp_path / "missing", UsageError)
    assert "did you mean fashion-mnist" in refusal("fashon-mnist", UsageError)
    assert "known sets are digits, mnist" in refusal("zebra", UsageError)
    assert "no file or folder" in refusal("a\0b", UsageError)


def test_a_folder_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, (*TWO, "fox/1.jpg"))
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name in closed:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    closed = {"fox"}
    catalog = scan(tmp_path)
    assert [(f.code, f.paths, f.left_out) for f in catalog.findings if f.severity == "warning"] == [
        ("empty-class", ("fox",), False),
        ("unreadable-folder", ("fox",), True),
    ]
    closed = {tmp_path.name}
    assert "Permission denied" in refusal(tmp_path)


# Trees nobody vouches for


def test_links_lead_neither_out_nor_round(tmp_path: Path) -> None:
    make(tmp_path / "outside", ("secret.jpg",))
    root = make(tmp_path / "data", (*TWO, "dog/2.jpg"))
    (root / "cat/out.jpg").symlink_to(tmp_path / "outside/secret.jpg")
    (root / "cat/outside").symlink_to(tmp_path / "outside")
    (root / "cat/up").symlink_to("../..")
    (root / "cat/round").symlink_to("..")
    (root / "cat/here").symlink_to(".")
    (root / "cat/inside.jpg").symlink_to("../dog/2.jpg")
    (root / "cat/dogs").symlink_to("../dog")
    (root / "dog/cats").symlink_to("../cat")
    catalog = scan(root)
    found = {f.code: f.paths for f in catalog.findings}
    assert found["outside-link"][:2] == ("cat/out.jpg", "cat/outside")
    assert {"cat/here", "cat/round", "cat/dogs/cats", "dog/cats/dogs"} <= set(found["link-loop"])
    assert {"cat/inside.jpg", "cat/dogs/1.jpg", "dog/cats/1.jpg"} <= set(catalog.paths)
    assert not [path for path in catalog.paths if "secret" in path]
    assert all(f.left_out and f.exclude == f.paths for f in catalog.findings)


def test_a_data_set_of_links_out_says_so(tmp_path: Path) -> None:
    make(tmp_path / "all", TWO)
    for path in TWO:
        (tmp_path / "data" / path).parent.mkdir(parents=True)
        (tmp_path / "data" / path).symlink_to(tmp_path / "all" / path)
    assert "leading out of the data's folder" in refusal(tmp_path / "data")
    (tmp_path / "entrance").symlink_to("all")
    assert scan(tmp_path / "entrance").classes == ("cat", "dog")


def test_many_links_to_each_other_end(tmp_path: Path) -> None:
    make(tmp_path, [f"{i}/x.png" for i in range(8)])
    for i in range(8):
        for k in range(8):
            (tmp_path / f"{i}/to{k}").symlink_to(f"../{k}")
    assert len(scan(tmp_path).paths) == 8 + 8 * 7


def test_what_is_ignored_is_counted(tmp_path: Path) -> None:
    make(
        tmp_path, (*TWO, "cat/.DS_Store", "cat/Thumbs.db", "__MACOSX/cat/._1.jpg", ".git/x", "cat/a.txt", "dog/b.json")
    )
    found = {f.code: f for f in scan(tmp_path).findings}
    assert set(found) == {"hidden", "other-files"}
    assert found["hidden"].paths == (".git", "__MACOSX", "cat/.DS_Store", "cat/Thumbs.db")
    assert found["other-files"].message.startswith("2 files were ignored")
    assert {f.severity for f in found.values()} == {"note"}


def test_files_without_or_with_odd_endings(tmp_path: Path) -> None:
    make(
        tmp_path, (*TWO, "cat/noending", "cat/a.b.PNG", "cat/picture.", "cat/vector.svg", "cat/x.heic", "cat/x.jpg.txt")
    )
    catalog = scan(tmp_path)
    assert {"cat/noending", "cat/a.b.PNG", "cat/vector.svg", "cat/x.heic"} <= set(catalog.paths)
    assert next(f.paths for f in catalog.findings if f.code == "other-files") == ("cat/picture.", "cat/x.jpg.txt")


# Tables


def table(root: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root / name


def test_a_table_with_groups_and_parts(tmp_path: Path) -> None:
    make(tmp_path, ("a/1.png", "a/2.png", "a/10.png", "b.png"))
    catalog = scan(
        table(
            tmp_path,
            "file_name,label,group,split\na/10.png,dog,p,train\na/2.png, cat ,p,train\n./a/1.png,dog,q,Test\n\n"
            "b.png,cat,,test\n",
        )
    )
    assert catalog.root == tmp_path
    assert catalog.classes == ("cat", "dog")
    assert catalog.paths == ("a/2.png", "b.png", "a/1.png", "a/10.png")
    assert catalog.parts == ("train", "test", "test", "train")
    assert catalog.groups == ("p", "b.png", "q", "p")
    assert catalog.findings == ()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", ["Path|Class", "filename|kind", "image|category"])
def test_headers_and_delimiters(delimiter: str, header: str, tmp_path: Path) -> None:
    make(tmp_path, ("a, b; c.png", "d.png"))
    text = f'\ufeff{header}\r\n"a, b; c.png"|x\r\nd.png|"y, ""z"""\r\n'.replace("|", delimiter)
    catalog = scan(table(tmp_path, text, "labels.tsv"))
    assert dict(zip(catalog.paths, catalog.labels.tolist(), strict=True)) == {"a, b; c.png": 0, "d.png": 1}
    assert catalog.classes == ("x", 'y, "z"')
    assert catalog.parts is None


def test_rows_that_cannot_be_used_are_named_with_their_line(tmp_path: Path) -> None:
    make(tmp_path / "outside", ("x.png",))
    root = make(tmp_path / "data", ("1.png", "2.png", "sub/3.png"))
    (root / "link.png").symlink_to(tmp_path / "outside/x.png")
    (root / "away").symlink_to(tmp_path / "outside")
    os.mkfifo(root / "pipe.png")
    bad = (
        ("../outside/x.png", "(..)"),
        ("sub/../../outside/x.png", "(..)"),
        (str(tmp_path / "outside/x.png"), "absolute"),
        ("C:\\images\\x.png", "absolute"),
        ("link.png", "leads out"),
        ("away/x.png", "leads out"),
        ("pipe.png", "not a regular file"),
        ("sub", "not a regular file"),
        ("missing.png", "no such file"),
        ("n\0l.png", "NUL"),
        ("x" * 300, "File name too long"),
        ("", "no file name"),
    )
    lines = ["file_name,label,split", "1.png,a,train", "2.png,b,train", "sub\\3.png,a,test"]
    lines += [f"{path},a,train" for path, _ in bad] + ["1.png,,train", "1.png,a,someday"]
    catalog = scan(table(root, "\n".join(lines)))
    assert catalog.paths == ("1.png", "sub/3.png", "2.png")
    finding = catalog.findings[0]
    assert (finding.code, finding.left_out) == ("table-row", True)
    said = finding.evidence["rows"]
    assert len(said) == len(bad) + 2
    for number, ((_, words), text) in enumerate(zip(bad, said, strict=False), start=5):
        assert f"line {number}:" in text
        assert words in text
    assert "no label" in said[-2]
    assert "'someday'" in said[-1]


def test_files_that_are_listed_twice(tmp_path: Path) -> None:
    make(tmp_path, ("1.png", "2.png", "3.png", "4.png"))
    rows = "1.png,a,train\n1.png,a,test\n2.png,a,train\n2.png,b,train\n3.png,b,train\n4.png,a,train\n"
    catalog = scan(table(tmp_path, f"file_name,label,split\n{rows}"))
    assert catalog.paths == ("1.png", "4.png", "3.png")
    assert catalog.parts == ("test", "train", "train")
    found = {f.code: (f.paths, f.left_out) for f in catalog.findings}
    assert found["repeated-row"] == (("1.png",), False)
    assert found["label-conflict"] == (("2.png",), True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "no column file_name"),
        (b"1.png,a\n2.png,b\n", "first line must name the columns"),
        (b"file_name,number\n1.png,3\n", "no column label"),
        (b"\xff\xfe\x00\x01", "UTF-8"),
        (b"file_name,label\n", "No row"),
        (b"file_name,label\nmissing.png,a\n", "there is no such file"),
        (b"file_name,label\n1.png,a\n", "Only one class"),
        (b'file_name,label\n"' + b"x" * 200_000 + b'",a\n', "no CSV"),
    ],
)
def test_tables_that_are_refused(text: bytes, words: str, tmp_path: Path) -> None:
    make(tmp_path, ("1.png",))
    assert words in refusal(table(tmp_path, text))


def test_a_table_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path, "file_name,label\n")

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "Permission denied" in refusal(path)


# Sets


def test_a_set_by_name_is_a_folder_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBEL_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    catalog = scan("Digits")
    assert catalog.classes == tuple("0123456789")
    assert len(catalog.paths) == 1797
    assert (catalog.parts, catalog.findings) == (None, ())
    assert scan(catalog.root).paths == catalog.paths
    make(tmp_path / "digits", TWO)
    assert scan("digits").classes == ("cat", "dog")  # a path goes before a name
