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


@pytest.mark.parametrize(
    "names",
    [("training_set", "test_set"), ("train_images", "TestData"), ("seg_train/seg_train", "seg_test/seg_test")],
)
def test_parts_as_archives_call_them(names: tuple[str, str], tmp_path: Path) -> None:
    catalog = scan(make(tmp_path / "archive", [f"{name}/{path}" for name in names for path in TWO]))
    assert catalog.classes == ("cat", "dog")
    assert sorted(catalog.parts or ()) == ["test", "test", "train", "train"]
    assert codes(catalog) == []


def test_words_that_only_hold_a_parts_name_are_no_parts() -> None:
    assert parts_among(["latest", "contest", "bullet_train", "steam train", "test tube", "images", "data"]) == {}


def test_labels_in_file_names_are_said_to_be_that(tmp_path: Path) -> None:
    flat = [f"{part}/{kind}.{i}.png" for part in ("train", "test") for kind in ("cat", "dog") for i in range(5)]
    message = refusal(make(tmp_path / "parts", flat))
    assert "labels seem to stand in the file names (cat, dog)" in message
    assert "file_name,label,split" in message
    example = message.split("a line such as ")[1].split(" ")[0]
    path, label, part = example.split(",")
    assert path.startswith(f"{part}/{label}.")
    assert "a line such as cat" in refusal(
        make(tmp_path / "flat", [f"{k}_{i}.jpg" for k in ("cat", "dog") for i in "123"])
    )
    assert "file names" not in refusal(make(tmp_path / "numbers", [f"train/IMG_{i}.png" for i in range(5)]))


def test_folders_that_all_hold_the_same_folders_are_no_classes(tmp_path: Path) -> None:
    message = refusal(make(tmp_path / "halves", [f"{half}/{path}" for half in ("first", "second") for path in TWO]))
    assert "first, second" in message
    assert "cat, dog" in message
    catalog = scan(make(tmp_path / "tiny", ("cat/images/1.jpg", "dog/images/1.jpg")))
    assert catalog.classes == ("cat", "dog")


def test_classes_may_be_called_like_parts_and_it_is_said(tmp_path: Path) -> None:
    catalog = scan(make(tmp_path, ("bus/1.jpg", "car/1.jpg", "train/1.jpg", "test/1.jpg")))
    assert codes(catalog) == ["part-class"]
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


def test_links_are_followed_where_they_lead_but_not_round(tmp_path: Path) -> None:
    make(tmp_path / "outside", ("far.jpg",))
    root = make(tmp_path / "data", (*TWO, "dog/2.jpg"))
    (root / "cat/out.jpg").symlink_to(tmp_path / "outside/far.jpg")
    (root / "cat/outside").symlink_to(tmp_path / "outside")
    (root / "cat/up").symlink_to("../..")
    (root / "cat/round").symlink_to("..")
    (root / "cat/here").symlink_to(".")
    (root / "cat/inside.jpg").symlink_to("../dog/2.jpg")
    (root / "cat/dogs").symlink_to("../dog")
    (root / "dog/cats").symlink_to("../cat")
    catalog = scan(root)
    found = {f.code: f for f in catalog.findings}
    assert found["outside-link"].paths[0] == "cat/up"
    assert set(found["linked"].paths) >= {"cat/out.jpg", "cat/outside"}
    assert {"cat/here", "cat/round", "cat/dogs/cats", "dog/cats/dogs"} <= set(found["link-loop"].paths)
    assert {"cat/inside.jpg", "cat/dogs/1.jpg", "dog/cats/1.jpg", "cat/out.jpg", "cat/outside/far.jpg"} <= set(
        catalog.paths
    )
    assert all(f.left_out and f.exclude == f.paths for f in found.values() if f.code != "linked")


def test_a_data_set_of_links_is_read(tmp_path: Path) -> None:
    make(tmp_path / "all", TWO)
    (tmp_path / "data/train").mkdir(parents=True)
    (tmp_path / "data/test").symlink_to("../links")
    (tmp_path / "links").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "data/train" / name).symlink_to(tmp_path / "all" / name)
        (tmp_path / "links" / name).symlink_to(tmp_path / "all" / name)  # a link behind a link
    assert scan(tmp_path / "data/train").paths == TWO
    (tmp_path / "entrance").symlink_to("all")
    assert scan(tmp_path / "entrance").classes == ("cat", "dog")
    (tmp_path / "links/cat").unlink()
    (tmp_path / "links/cat").symlink_to(make(tmp_path / "others", ("3.jpg",)))
    assert "test/cat/3.jpg" in scan(tmp_path / "data").paths


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
    assert codes(catalog) == ["columns"]


def divided(root: Path, head: str, values: Iterable[object]) -> Catalog:
    """Of a table with images, labels and one more column."""
    rows = list(values)
    make(root, [f"{i}.png" for i in range(len(rows))])
    lines = [f"{i}.png,{'ab'[i % 2]},{value}" for i, value in enumerate(rows)]
    return scan(table(root, "\n".join([f"image,label,{head}", *lines])))


TENTH = [i % 10 in (0, 1) for i in range(20)]


@pytest.mark.parametrize(
    ("head", "values", "held", "words"),
    [
        ("split", [int(x) for x in TENTH], "test", "(0 is train, 1 is test)"),
        ("Split", TENTH, "test", "(False is train, True is test)"),
        ("subset", ["Test set" if x else "training" for x in TENTH], "test", "'subset' for the part."),
        ("is_valid", TENTH, "val", "(yes is val, no is train)"),
        ("valid", ["yes" if x else "no" for x in TENTH], "val", "(yes is val, no is train)"),
        ("val", [float(x) for x in TENTH], "val", "(yes is val, no is train)"),
        ("is_train", [int(not x) for x in TENTH], "test", "(yes is train, no is test)"),
        ("split", [f"fold{i // 2 % 5}" for i in range(20)], "test", "5 folds, of which fold 0 is held out"),
        ("fold", [i // 2 % 5 for i in range(20)], "test", "--folds 5 --fold N"),
        ("fold", [int(x) for x in TENTH], "test", "(0 is train, 1 is test)"),
        (
            "partition",
            [1 if 4 <= i < 8 else 2 * (i > 17) for i in range(20)],
            "val",
            "(0 is train, 1 is val, 2 is test)",
        ),
    ],
)
def test_columns_that_divide(head: str, values: list[object], held: str, words: str, tmp_path: Path) -> None:
    catalog = divided(tmp_path, head, values)
    assert catalog.parts is not None
    assert words in catalog.findings[0].message
    told = {int(path[:-4]) for path, part in zip(catalog.paths, catalog.parts, strict=True) if part == held}
    assert told == ({4, 5, 6, 7} if "partition" in head else {0, 1, 10, 11})


def test_flags_of_several_parts(tmp_path: Path) -> None:
    make(tmp_path, [f"{i}.png" for i in range(6)])
    rows = "0.png,a,1,0,0\n1.png,b,1,0,0\n2.png,a,0,1,0\n3.png,b,0,1,0\n4.png,a,0,0,1\n5.png,b,0,0,0\n"
    catalog = scan(table(tmp_path, f"file,label,train,val,test\n{rows}"))
    assert dict(zip(catalog.paths, catalog.parts or (), strict=True)) == {
        **{"0.png": "train", "1.png": "train", "2.png": "val", "3.png": "val", "4.png": "test"}
    }
    assert "5.png" in catalog.findings[0].message


@pytest.mark.parametrize(
    ("head", "values", "words"),
    [
        ("split", ["tset", "trian"], "'tset', 'trian'"),
        ("split", ["train", "test", "someday"], "'someday'"),
        ("part", ["leaf", "root"], "'leaf', 'root'"),
        ("is_valid", ["0", "maybe"], "'maybe'"),
        ("fold", ["0", "1", "two"], "'two'"),
        ("split", ["1", "1", "1", "0"], "the other way round"),
    ],
)
def test_values_that_mean_nothing_are_named(head: str, values: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        divided(tmp_path, head, values)


def test_another_fold_of_the_table(tmp_path: Path) -> None:
    catalog = divided(tmp_path, "fold", [i // 2 % 4 + 1 for i in range(16)])
    for fold in range(4):
        parts = catalog.folded(4, fold).parts or ()
        assert [path for path, part in zip(catalog.paths, parts, strict=True) if part == "test"] == [
            f"{i}.png" for kind in (0, 1) for i in (2 * fold + kind, 2 * fold + kind + 8)
        ]
    with pytest.raises(UsageError, match="4 folds"):
        catalog.folded(5, 0)
    with pytest.raises(UsageError, match="parts of its own"):
        scan(make(tmp_path / "parts", PARTS)).folded(3, 0)


@pytest.mark.parametrize(
    "head", ["patient_id", "PatientID", "Patient ID", "subject_id", "participant", "StudyInstanceUID"]
)
def test_columns_of_groups(head: str, tmp_path: Path) -> None:
    catalog = divided(tmp_path, head, ["x", "y", "x", "n/a"])
    assert catalog.groups == ("x", "x", "y", "3.png")
    assert f"'{head}' for the group" in catalog.findings[0].message


@pytest.mark.parametrize("head", ["source", "site", "age"])
def test_columns_that_are_not_used_are_said(head: str, tmp_path: Path) -> None:
    catalog = divided(tmp_path, head, ["x", "y", "x", "y"])
    assert (catalog.groups, catalog.parts) == (None, None)
    assert f"not used: '{head}'." in catalog.findings[0].message


def test_several_columns_of_groups_are_joined(tmp_path: Path) -> None:
    make(tmp_path, [f"{i}.png" for i in range(5)])
    rows = "0.png,a,p,1\n1.png,a,p,2\n2.png,a,q,2\n3.png,b,r,3\n4.png,b,,\n"
    groups = scan(table(tmp_path, f"image,label,patient,lesion_id\n{rows}")).groups
    assert groups is not None
    assert len({*groups[:3]}) == 1
    assert len({*groups}) == 3


@pytest.mark.parametrize("header", ["id,breed", "image_id,diagnosis", ",photo_of,id", "group,file"])
def test_usual_columns_and_names_without_an_ending(header: str, tmp_path: Path) -> None:
    make(tmp_path, ("cat/000.png", "dog/000.v2.jpg", "dog/000.txt"))
    label = next(n for n, name in enumerate(header.split(",")) if name in ("breed", "diagnosis", "photo_of", "group"))
    cells = {label: ("x", "y"), (label + 1) % 2 if header.count(",") < 2 else 2: ("cat/000", "dog/000.v2")}
    rows = [",".join(cells.get(n, ("7", "8"))[k] for n in range(header.count(",") + 1)) for k in (0, 1)]
    catalog = scan(table(tmp_path, "\n".join([header, *rows])))
    assert (catalog.classes, catalog.paths) == (("x", "y"), ("cat/000.png", "dog/000.v2.jpg"))
    make(tmp_path, ("cat/000.jpg",))
    assert "several files are called so" in refusal(tmp_path / "labels.csv")


def test_paths_are_read_where_they_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make(tmp_path, ("images/1.png", "images/2.png", "tables/3.png", "tables/4.png"))
    (tmp_path / "tables/link.png").symlink_to("../images/2.png")
    paths = [
        "../images/1.png",
        str(tmp_path / "images/2.png"),
        str(tmp_path / "tables/3.png"),
        "link.png",
        "sub/../4.png",
    ]
    (tmp_path / "tables/sub").mkdir()
    lines = ["file,label", *(f"{path},{'ab'[i % 2]}" for i, path in enumerate(paths)), "~/images/1.png,a"]
    catalog = scan(table(tmp_path / "tables", "\n".join(lines)))
    assert set(catalog.paths) == {"../images/1.png", str(tmp_path / "images/2.png"), "3.png", "link.png", "4.png"} | {
        str(tmp_path / "images/1.png")
    }
    assert all((catalog.root / path).is_file() for path in catalog.paths)


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
    root = make(tmp_path / "data", ("1.png", "2.png", "sub/3.png"))
    os.mkfifo(root / "pipe.png")
    bad = (
        ("../outside/x.png", "no such file"),
        (str(tmp_path / "outside/x.png"), "no such file"),
        ("C:\\images\\x.png", "no such file"),
        ("pipe.png", "not a regular file"),
        ("sub", "not a regular file"),
        ("missing.png", "no such file"),
        ("n\0l.png", "NUL"),
        ("x" * 300, "File name too long"),
        ("", "no file name"),
    )
    lines = ["file_name,label,split", "1.png,a,train", "2.png,b,train", "sub\\3.png,a,test"]
    lines += [f"{path},a,train" for path, _ in bad] + ["1.png,,train", "1.png,a,"]
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
    assert "nothing says which part" in said[-1]


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
        (b"file_name,number,age\n1.png,3,4\n", "no column label"),
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
