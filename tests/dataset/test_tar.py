"""Tar shards: an image in one is a path like any other, hostile entries are named, and a stream resumes to the bit."""

from __future__ import annotations

import io
import json
import tarfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hubel.cli import main
from hubel.dataset import tar as module
from hubel.dataset.cache import cache_clear, cache_entries
from hubel.dataset.config import DataConfig
from hubel.dataset.decode import decode, examine
from hubel.dataset.find import scan, scanning
from hubel.dataset.loader import Batch, Loader
from hubel.dataset.pack import pack
from hubel.dataset.tar import expand, labels_in
from hubel.errors import DataError, ImageError, UsageError
from hubel.events import outcome
from hubel.jobs.prepare import look
from hubel.learning.checkpoint import captured, restore
from hubel.learning.config import TrainConfig
from hubel.learning.engine import EpochEnd, Step, TrainState, fit
from hubel.learning.optim import optimizers
from hubel.records import Preprocess, Scores
from hubel.runs import read_json

VIEW = Preprocess(size=(8, 8), channels=1, mean=(0.4,), std=(0.3,))
SIZES = (40, 7, 25, 33, 20)  # of the shards: 125 images
Member = tuple[str, bytes]


def write(path: Path, members: Iterable[Member | tarfile.TarInfo], **how: object) -> Path:
    with tarfile.open(path, "w", **how) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return path


@pytest.fixture(scope="module")
def pictures(digits: Path) -> list[tuple[str, bytes, str]]:
    """Name, file and class of the digits, in an order without meaning."""
    catalog = scan(digits)
    order = np.random.default_rng(0).permutation(len(catalog.paths))[:400]
    return [(Path(p).stem, (digits / p).read_bytes(), Path(p).parts[0]) for p in np.array(catalog.paths)[order]]


def samples(pictures: Sequence[tuple[str, bytes, str]]) -> list[Member]:
    return [m for name, data, label in pictures for m in ((f"{name}.png", data), (f"{name}.cls", label.encode()))]


@pytest.fixture(scope="module")
def shards(pictures: list[tuple[str, bytes, str]], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, first = tmp_path_factory.mktemp("shards"), 0
    for number, size in enumerate(SIZES):
        write(folder / f"train-{number:03d}.tar", samples(pictures[first : first + size]))
        first += size
    return str(folder / "train-{000..004}.tar")


def stream(source: str | Path, **changes: object) -> Loader:
    options = {"batch_size": 12, "preprocess": VIEW, "augment": "shift=0.2,flip,erase=0.5", "seed": 3}
    return Loader.streaming(source, **{**options, **changes})


def equal(one: Iterable[Batch], two: Iterable[Batch]) -> None:
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(getattr(a, f), getattr(b, f)) for f in ("images", "targets", "labels", "ids"))
        assert a.count == b.count


# A member is a path


def test_an_image_in_a_tar_file_is_a_path(shards: str, pictures: list[tuple[str, bytes, str]]) -> None:
    catalog = scan(shards)
    assert catalog.classes == tuple("0123456789")
    assert len(catalog.paths) == 125
    assert (catalog.parts, catalog.findings) == (None, ())
    truth = {name: (data, label) for name, data, label in pictures}
    packed = outcome(pack(catalog.root, catalog.paths, VIEW))
    assert packed.reasons == {}
    for i, path in enumerate(catalog.paths):
        data, label = truth[Path(path).stem]
        assert catalog.classes[catalog.labels[i]] == label
        pixels, facts = decode(data, VIEW)
        np.testing.assert_array_equal(packed.images[i], pixels)
        assert packed.facts["sha256"][i].decode() == facts.sha256
        assert examine(catalog.root / path).width == 8
    assert look(catalog, DataConfig()).side == 8
    assert not outcome(pack(catalog.root, catalog.paths, VIEW)).fresh


def test_workers_read_tar_files_too(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubel.dataset.pack.ALONE", 0)
    catalog = scan(shards)
    view = Preprocess(size=(9, 9), channels=1)
    packed = outcome(pack(catalog.root, catalog.paths, view))
    np.testing.assert_array_equal(packed.images[77], decode(catalog.root / catalog.paths[77], view)[0])


@pytest.mark.parametrize("source", ["one file", "folder", "pattern", "braces"])
def test_every_way_to_name_tar_files(source: str, shards: str, pictures: list[tuple[str, bytes, str]]) -> None:
    folder = Path(shards).parent
    given = {
        "folder": folder,
        "pattern": folder / "train-*.tar",
        "braces": shards,
        "one file": folder / "train-000.tar",
    }
    catalog = scan(given[source])
    assert len(catalog.paths) == (40 if source == "one file" else 125)
    assert catalog.root == (folder / "train-000.tar" if source == "one file" else folder)
    assert all(decode(catalog.root / path, VIEW)[0].shape == (8, 8, 1) for path in catalog.paths[:3])


def test_braces_are_those_of_a_shell(tmp_path: Path) -> None:
    for name in ("a-08.tar", "a-09.tar", "a-10.tar", "b-08.tar"):
        (tmp_path / name).touch()
    assert [file.name for file in expand(f"{tmp_path}/a-{{08..10}}.tar")] == ["a-08.tar", "a-09.tar", "a-10.tar"]
    wrong = {"a-{08..11}": "no file .*a-11", "c-*": "no file", "a-{08*": "expanded", "a-*{0..1}*": "twice"}
    for name, said in wrong.items():
        with pytest.raises(UsageError, match=said):
            scan(f"{tmp_path}/{name}.tar")
    shell = pytest.importorskip("webdataset").shardlists.expand_urls
    for text in (f"{tmp_path}/a-{{08..10}}.tar", f"{tmp_path}/a-{{08..09}}.tar"):
        assert [str(file) for file in expand(text)] == shell(text)


@pytest.mark.parametrize("how", ["name", "number", "json", "json number", "folder", "folder beside json"])
def test_every_kind_of_label(how: str, pictures: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    members: list[Member] = [("README", b"about")] if how == "folder" else []
    for key, data, digit in pictures[:40]:
        name = names[int(digit)]
        folder = f"./train/{name}/" if how.startswith("folder") else ""
        members.append((f"{folder}{key}.PNG", data))
        said = {"json": {"label": name}, "json number": {"label": int(digit)}, "folder beside json": {"width": 8}}
        if how in said:
            members.append((f"{folder}{key}.json", json.dumps(said[how]).encode()))
        elif how != "folder":
            members.append((f"{folder}{key}.cls", (name if how == "name" else digit).encode() + b"\n"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = stream(write(tmp_path / "a.tar", members), classes=names)
    truth = {key: int(digit) for key, _, digit in pictures[:40]}
    paths = scan(tmp_path / "a.tar").paths
    labels = {
        Path(paths[i]).stem: k for b in read.once() for i, k in zip(b.ids.tolist(), b.labels.tolist(), strict=True)
    }
    assert labels == truth
    expected = [("tar-entry", ("README",))] if how == "folder" else []
    assert [(f.code, f.paths) for f in read.findings] == expected


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_samples_are_those_of_webdataset(shards: str) -> None:
    """Names, images and labels, as the package that the layout comes from reads them."""
    webdataset = pytest.importorskip("webdataset")
    read = {s["__key__"]: (s["png"], s["cls"].decode()) for s in webdataset.WebDataset(shards, shardshuffle=False)}
    catalog = scan(shards)
    mine = {
        Path(path).stem: ((catalog.root / path.split("/")[0], path), catalog.classes[label])
        for path, label in zip(catalog.paths, catalog.labels.tolist(), strict=True)
    }
    assert {key: label for key, (_, label) in mine.items()} == {key: label for key, (_, label) in read.items()}
    for key in list(mine)[:5]:
        np.testing.assert_array_equal(decode(catalog.root / mine[key][0][1], VIEW)[0], decode(read[key][0], VIEW)[0])


@pytest.mark.parametrize("where", ["shards", "folders", "above the label"])
def test_parts_are_named_by_shards_or_folders(
    where: str, pictures: list[tuple[str, bytes, str]], tmp_path: Path
) -> None:
    def members(part: str, some: slice) -> list[Member]:
        if where == "above the label":
            return [(f"{part}/{name}", data) for name, data in samples(pictures[some])]
        return [(f"{part}/{label}/{name}.png", data) for name, data, label in pictures[some]]

    train, val = members("train", slice(100)), members("val", slice(100, 140))
    if where == "shards":
        write(tmp_path / "set-train-0.tar", [(name.partition("/")[2], data) for name, data in train[:50]])
        write(tmp_path / "set-train-1.tar", [(name.partition("/")[2], data) for name, data in train[50:]])
        write(tmp_path / "set_val.tar", [(name.partition("/")[2], data) for name, data in val])
    else:
        write(tmp_path / "all.tar", [*train, *val])
    catalog = scan(tmp_path)
    assert catalog.parts is not None
    assert (catalog.parts.count("train"), catalog.parts.count("val")) == (100, 40)
    assert catalog.reported_part == "val"
    with pytest.raises(UsageError, match="parts train, val"):
        stream(tmp_path)


def test_train_evaluate_and_data_take_tar_files(
    pictures: list[tuple[str, bytes, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.tar", samples(pictures[:200]))
    write(tmp_path / "b.tar", samples(pictures[200:300]))
    assert main(["data", str(tmp_path / "a.tar")]) == 0
    few = ["--epochs", "1", "--width", "16", "--val", "0.2", "--test", "0.3"]
    assert main(["train", str(tmp_path / "a.tar"), "--output", str(tmp_path / "run"), *few]) == 0
    held = read_json(tmp_path / "run" / "split.json")
    assert held["source"] == str((tmp_path / "a.tar").resolve())
    assert all(name.endswith(".png") for name in held["test"])
    for source, n in (("a.tar", len(held["test"])), ("b.tar", 100)):
        out = tmp_path / "scores.json"
        assert main(["evaluate", str(tmp_path / "run"), str(tmp_path / source), "--output", str(out)]) == 0
        assert read_json(out)["scores"]["n"] == n
        assert set(read_json(out)["scores"]) == set(Scores.__dataclass_fields__)


# Archives are hostile


def test_what_cannot_be_used_is_named(pictures: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    good, image = samples(pictures[:30]), pictures[0][1]
    links = []
    for name, kind in (("link.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("pipe.png", tarfile.FIFOTYPE)):
        links.append(tarfile.TarInfo(name))
        links[-1].type, links[-1].linkname = kind, "/etc/passwd"
    bad: list[tuple[str, list[Member | tarfile.TarInfo], str]] = [
        ("../up.png", [("../up.png", image), ("../up.cls", b"1")], "leads out"),
        ("/top.png", [("/top.png", image), ("/top.cls", b"1")], "leads out"),
        ("a/../../b.png", [("a/../../b.png", image)], "leads out"),
        ("C:\\c.png", [("C:\\c.png", image)], "leads out"),
        ("a\\..\\d.png", [("a\\..\\d.png", image)], "leads out"),
        ("caf\\xe9/1.png", [("caf\udce9/1.png", image)], "not UTF-8"),
        *((info.name, [info], "a link, a device") for info in links),
        ("bare.png", [("bare.png", image)], "no label"),
        ("empty.png", [("empty.png", image), ("empty.cls", b" ")], "no label"),
        ("odd.png", [("odd.png", image), ("odd.json", b"[" * 100_000)], "no label"),
        ("list.png", [("list.png", image), ("list.json", b'{"label": [1]}')], "no label"),
        ("latin.png", [("latin.png", image), ("latin.cls", b"\xff\xfe")], "no label"),
        ("alone.cls", [("alone.cls", b"1")], "no image"),
        ("inner.tar", [("inner.tar", b"x" * 2048)], "no image"),
        ("two.png", [("two.png", image), ("two.jpg", image), ("two.cls", b"1")], "more than one image"),
        ("twice.png", [("twice.png", image), ("twice.png", image)], "twice in a row"),
        ("._0001.png", [("._0001.png", image)], "no image"),
        (good[0][0], [("other.cls", b"1"), *good[:2]], "was there before"),
    ]
    entries = [member for _, members, _ in bad for member in members]
    file = write(tmp_path / "a.tar", [*good[:20], *entries, *good[20:]], errors="surrogateescape")
    labels, left_out = labels_in(file)
    assert list(labels) == [name for name, _ in good[::2]]
    said = {name: words for name, _, words in bad} | {"other.cls": "no image"}
    assert left_out.keys() == said.keys()
    assert all(words in left_out[name] for name, words in said.items())
    catalog = scan(file)
    assert {name for finding in catalog.findings for name in finding.exclude} == said.keys()
    assert all(f.left_out and f.code == "tar-entry" and f.paths[0] in f.message for f in catalog.findings)
    for name in ("../up.png", "/etc/passwd", "link.png", "a.tar", "nothing.png"):
        with pytest.raises(ImageError):
            decode(f"{file}/{name}", VIEW)


def test_what_a_name_hides_is_refused(pictures: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    """Long names, NUL characters and sparse files come in headers of their own."""
    image = pictures[0][1]
    nul, long = tarfile.TarInfo("x"), tarfile.TarInfo("cat/" + "n" * 300 + ".png")
    nul.pax_headers = {"path": "cat/a\0b.png"}
    sparse = tarfile.TarInfo("cat/sparse.png")
    sparse.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,4",
        "GNU.sparse.size": "999",
    }
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for info in (nul, long, sparse):
            info.size = len(image)
            tar.addfile(info, io.BytesIO(image))
    labels, left_out = labels_in(tmp_path / "a.tar")
    assert list(labels) == [long.name]
    assert {name: reason.split()[-1] for name, reason in left_out.items()} == {
        "cat/a\\x00b.png": "elsewhere",
        "cat/sparse.png": "file",
    }
    np.testing.assert_array_equal(decode(tmp_path / "a.tar" / long.name, VIEW)[0], decode(image, VIEW)[0])


@pytest.mark.parametrize("damage", ["image", "header", "label", "edge", "mark", "overwritten", "empty", "text", "gzip"])
def test_a_damaged_shard_is_one_sentence(damage: str, pictures: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    file = write(tmp_path / "a.tar", samples(pictures[:20]))
    whole = bytearray(file.read_bytes())
    end = 20 * 4 * 512  # headers and contents of image and label, a block of 512 bytes each
    if damage == "overwritten":
        whole[20 * 512 : 20 * 512 + 100] = bytes(100)
    cuts = {"image": end - 3 * 512 + 50, "header": end - 700, "label": end - 300, "edge": end - 1024, "mark": end}
    cut = {**cuts, "empty": 0}.get(damage, len(whole))
    file.write_bytes(b"no tar" * 500 if damage == "text" else whole[:cut])
    if damage == "gzip":
        with tarfile.open(file, "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(
        DataError, match=r"a\.tar can't be read to its end as a plain tar file \(.+\): .*leave it out\.$"
    ):
        scan(file)
    assert not [entry for entry, _ in cache_entries() if "making" in entry]


def test_a_shard_that_changes_is_indexed_anew(pictures: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    file = write(tmp_path / "a.tar", samples(pictures[:30]))
    catalog = scan(file)
    name = f"{pictures[29][0]}.png"
    whole = decode(file / name, VIEW)[0]
    write(file, samples(pictures[20:30]))
    np.testing.assert_array_equal(decode(file / name, VIEW)[0], whole)
    with pytest.raises(ImageError, match="holds no such image"):
        decode(file / f"{pictures[0][0]}.png", VIEW)
    assert len(outcome(pack(catalog.root, catalog.paths, VIEW)).reasons) == 20
    file.unlink()
    with pytest.raises(ImageError, match="vanished"):
        decode(file / name, VIEW)


def test_an_index_is_made_once(
    pictures: list[tuple[str, bytes, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBEL_CACHE", str(tmp_path / "cache"))
    file = write(tmp_path / "a.tar", samples(pictures[:30]))
    said = list(scanning(file))
    assert [(event.task, event.done, event.total) for event in said] == [("indexing tar files", n, 1) for n in (0, 1)]
    [(entry, size)] = cache_entries()
    walked = module._walked
    monkeypatch.setattr(module, "_walked", lambda *_: pytest.fail("indexed again"))
    assert len(scan(file).paths) == 30
    for damaged in ("labels.json", "places.npy"):
        (tmp_path / "cache" / entry / damaged).write_bytes(b"rubbish")
    monkeypatch.setattr(module, "_walked", walked)
    module._places.cache_clear()
    assert len(scan(file).paths) == 30
    assert decode(file / f"{pictures[0][0]}.png", VIEW)[0].shape == (8, 8, 1)
    assert cache_clear() == size


# Streaming


def test_an_epoch_is_whole_batches_of_different_images(shards: str, pictures: list[tuple[str, bytes, str]]) -> None:
    read, truth = stream(shards), {name: int(label) for name, _, label in pictures}
    batches = list(read.epoch(0, 8))
    assert len(batches) == len(read) == 10
    assert {tuple(batch.images.shape) for batch in batches} == {(12, 1, 8, 8)}
    assert len(torch.cat([batch.ids for batch in batches]).unique()) == 120
    paths = [Path(path).stem for path in scan(shards).paths]
    assert all(truth[paths[i]] == k for b in batches for i, k in zip(b.ids.tolist(), b.labels.tolist(), strict=True))
    assert (read.names, read.classes) == (tuple("0123456789"), 10)
    assert read.sample(10).shape == (10, 1, 8, 8)


@pytest.mark.parametrize("augment", ["small", "strong"])
def test_a_stream_shows_what_a_pack_shows(augment: str, shards: str) -> None:
    """The same images, changed in the same way, in another order."""
    catalog = scan(shards)
    view = Preprocess(size=(24, 24), channels=1, mean=(0.4,), std=(0.3,))
    packed = outcome(pack(catalog.root, catalog.paths, view))
    read = stream(shards, preprocess=view, augment=augment)
    held = Loader(
        packed.images,
        catalog.labels,
        np.arange(125),
        classes=10,
        batch_size=12,
        preprocess=view,
        augmentation=read.augmentation,
        seed=3,
        device=torch.device("cpu"),
    )
    rows = torch.arange(12)
    for size in (24, 10):
        equal([read.batch(rows, 1, size)], [held.batch(rows, 1, size)])


@pytest.mark.parametrize("start", [0, 1, 4, 9, 10])
def test_an_epoch_can_begin_anywhere(start: int, shards: str) -> None:
    whole = list(stream(shards, augment="mixup=0.4,flip").epoch(4, 8))
    read = stream(shards, augment="mixup=0.4,flip")
    decoded: list[int] = []
    inner = read._stored._decode
    read._stored._decode = lambda i: decoded.append(i) or inner(i)
    equal(read.epoch(4, 8, start=start), whole[start:])
    assert len(decoded) == 12 * (10 - start), "what was passed over is not read"


def test_few_tar_files_are_read_at_a_time(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubel.dataset.loader.MIXED", 2)
    read = stream(shards)
    orders = [read.order(epoch) for epoch in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    for order in orders:
        files = torch.from_numpy(read._stored.files)[order].tolist()
        first = {file: files.index(file) for file in set(files)}
        last = {file: len(files) - files[::-1].index(file) for file in set(files)}
        assert max(sum(first[f] <= n < last[f] for f in first) for n in range(len(files))) == 2
        assert len(set(order.tolist())) == 120


@pytest.mark.parametrize("augment", ["flip,shift=0.2", "mixup=1"])
def test_processes_share_every_batch(augment: str, shards: str) -> None:
    whole = list(stream(shards, augment=augment).epoch(1, 8))
    parts = [stream(shards, augment=augment, part=(n, 3)) for n in range(3)]
    for number, mine in enumerate(zip(*(part.epoch(1, 8) for part in parts), strict=True)):
        for field in ("images", "targets", "labels", "ids"):
            assert torch.equal(torch.cat([getattr(batch, field) for batch in mine]), getattr(whole[number], field))
    ids = [i for part in parts for batch in part.once() for i in batch.ids.tolist()]
    assert sorted(ids) == list(range(125))


def test_once_is_every_image_unchanged(shards: str) -> None:
    batches = list(stream(shards).once())
    assert [len(b.ids) for b in batches] == [12] * 10 + [5]
    assert torch.cat([b.ids for b in batches]).tolist() == list(range(125))
    catalog = scan(shards)
    first = torch.from_numpy(decode(catalog.root / catalog.paths[0], VIEW)[0]).permute(2, 0, 1)
    torch.testing.assert_close(batches[0].images[0], (first / 255 - 0.4) / 0.3)


def test_broken_images_give_their_places_to_others(pictures: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    bad = [("broken.png", pictures[0][1][:60]), ("broken.cls", b"1"), ("text.jpg", b"hello"), ("text.cls", b"2")]
    file = write(tmp_path / "a.tar", [*samples(pictures[:30]), *bad, ("weird.png", b"x"), ("weird.cls", b"eleven")])
    with pytest.warns(UserWarning, match="1 image was left out, whose label 'eleven' is none of the classes"):
        read = stream(file, batch_size=8, classes=tuple("0123456789"))
    with pytest.warns(UserWarning, match=r"(broken|text)\.\w+ can't be used and is left out"):
        batches = list(read.epoch(0, 8))
    assert [len(b.ids) for b in batches] == [8] * 4
    assert len(torch.cat([b.ids for b in batches]).unique()) == 30
    assert {f.message for f in read.findings if f.code == "unreadable"} == {
        "broken.png can't be used and is left out: truncated PNG.",
        "text.jpg can't be used and is left out: not an image (the file is text).",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is said twice
        equal(read.epoch(0, 8, start=2), batches[2:])
        assert sum(len(b.ids) for b in read.once()) == 30


def test_streams_that_teach_nothing(pictures: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    file = write(tmp_path / "a.tar", samples([(name, b"", label) for name, _, label in pictures[:20]]))
    with (
        pytest.warns(UserWarning, match="empty file"),
        pytest.raises(DataError, match=r"None of 12 images in a row .* \(empty file\)"),
    ):
        next(stream(file).epoch(0, 8))
    other = write(tmp_path / "other.tar", samples([(name, data, f"n{label}") for name, data, label in pictures[:20]]))
    with pytest.raises(DataError, match=r"None of the labels n1, .* is one of the classes cat, dog"):
        stream(other, classes=("cat", "dog"))
    with pytest.raises(DataError, match="Only one class, '3'"):
        stream(write(tmp_path / "one.tar", samples([p for p in pictures if p[2] == "3"])))


CONFIG = TrainConfig(epochs=3, batch_size=12, lr=0.1, optimizer="sgd", precision="float32", label_smoothing=0.0)


def begun() -> TrainState:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(288, 10)
    )
    return TrainState(model=model, optimizers=optimizers(model, CONFIG))


def test_a_training_that_was_broken_off_ends_with_the_same_weights(shards: str) -> None:
    whole = begun()
    torch.manual_seed(1)
    ends = [e for e in fit(whole, stream(shards), CONFIG, size=8) if isinstance(e, EpochEnd)]
    assert [end.images for end in ends] == [120] * 3
    assert ends[-1].loss < ends[0].loss
    part = begun()
    torch.manual_seed(1)
    for event in fit(part, stream(shards), CONFIG, size=8):
        if isinstance(event, Step) and event.step == 14:  # in the middle of the second epoch
            break
    tensors, said = captured(part, part.model)
    stored = {name: value.clone() for name, value in tensors.items()}
    rest = begun()
    restore(rest, rest.model, stored, said)
    for _ in fit(rest, stream(shards), CONFIG, size=8):
        pass
    for one, two in zip(whole.model.state_dict().values(), rest.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)
