"""Tar shards: the same batches wherever a pass begins, every image as often as asked, and nothing lost unsaid."""

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

from hubel.dataset import survey
from hubel.dataset.config import Augmentation
from hubel.dataset.find import scan
from hubel.dataset.stream import TarStream
from hubel.errors import DataError, UsageError
from hubel.learning.checkpoint import captured, restore
from hubel.learning.config import TrainConfig
from hubel.learning.engine import EpochEnd, Step, TrainState, fit
from hubel.learning.optim import optimizers
from hubel.records import Preprocess, Progress

pytest.importorskip("webdataset")

VIEW = Preprocess(size=(8, 8), channels=1, mean=(0.4,), std=(0.3,))
CHANGES = Augmentation(flip=True, shift=0.2, erase=0.5)
SIZES = (40, 7, 25, 33, 20)  # of the shards: 125 images
Member = tuple[str, bytes]


def write(path: Path, members: Iterable[Member | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w") as tar:
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


def stream(source: str | Path | Sequence[Path], **changes: object) -> TarStream:
    options = {"batch_size": 12, "preprocess": VIEW, "augmentation": CHANGES, "seed": 3, "buffer": 32}
    return TarStream(source, **{**options, **changes})


def equal(one: Iterable[object], two: Iterable[object]) -> None:
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(getattr(a, f), getattr(b, f)) for f in ("images", "targets", "labels", "ids"))
        assert a.count == b.count


def test_an_epoch_is_whole_batches_of_different_images(shards: str, pictures: list[tuple[str, bytes, str]]) -> None:
    read = stream(shards)
    batches = list(read.epoch(0, 8))
    assert len(batches) == len(read) == 10
    assert {tuple(batch.images.shape) for batch in batches} == {(12, 1, 8, 8)}
    assert len(torch.cat([batch.ids for batch in batches]).unique()) == 120
    labels = [int(label) for _, _, label in pictures]
    assert all(labels[i] == k for b in batches for i, k in zip(b.ids.tolist(), b.labels.tolist(), strict=True))
    assert sum(read.counts) == 125


def test_the_order_is_mixed_and_another_one_each_epoch(shards: str) -> None:
    first, again, second = (torch.cat([b.ids for b in stream(shards).epoch(e, 8)]) for e in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    near = (first[1:] - first[:-1]).abs() == 1
    assert near.float().mean() < 0.2, "neighbours in a shard are parted"


@pytest.mark.parametrize("start", [0, 1, 4, 7, 10])
@pytest.mark.parametrize("buffer", [2, 32, 1000])
def test_an_epoch_can_begin_anywhere(shards: str, start: int, buffer: int) -> None:
    """To the bit: in the middle of a shard, at the edge of a block, with mixed images, and at the end."""
    how = Augmentation(flip=True, shift=0.2, mixup=0.4)
    whole = list(stream(shards, buffer=buffer, augmentation=how).epoch(4, 8))
    equal(stream(shards, buffer=buffer, augmentation=how).epoch(4, 8, start=start), whole[start:])


def test_what_is_passed_over_is_not_read(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    decoded: list[bytes] = []
    read = stream(shards, buffer=20)
    real, walk = read._decode, tarfile.open
    monkeypatch.setattr(read, "_decode", lambda image: decoded.append(image.data) or real(image))
    monkeypatch.setattr(tarfile, "open", lambda **k: opened.append(k["fileobj"].name) or walk(**k))
    last = next(iter(read.epoch(0, 8, start=9)))
    assert len(last.ids) == 12
    assert len(opened) < len(SIZES)
    assert sum(data is not None for data in decoded) <= 125 - 9 * 12


def test_processes_read_shards_of_their_own(shards: str) -> None:
    for processes in (2, 3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts = [stream(shards, part=(n, processes)) for n in range(processes)]
        assert len({len(part) for part in parts}) == 1
        ids = [{i for batch in part.once() for i in batch.ids.tolist()} for part in parts]
        assert sum(map(len, ids)) == len(set().union(*ids)) == 125
        for part, own in zip(parts, ids, strict=True):
            batches = list(part.epoch(2, 8))
            assert len(batches) == len(part)
            assert {(len(b.ids), b.count) for b in batches} == {(12 // processes, 12)}
            assert {i for b in batches for i in b.ids.tolist()} <= own


def test_an_even_deal_shows_every_image_once(pictures: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.tar", samples(pictures[24 * number : 24 * (number + 1)]))
    parts = [stream(str(tmp_path / "*.tar"), part=(n, 2)) for n in (0, 1)]
    assert [len(part) for part in parts] == [8, 8]
    ids = [i for part in parts for b in part.epoch(1, 8) for i in b.ids.tolist()]
    assert sorted(ids) == list(range(96))


def test_an_image_meets_the_same_fate_in_any_process_and_batch(shards: str) -> None:
    """Of the same epoch, and another one in the next."""

    def fates(epoch: int, **how: object) -> dict[int, torch.Tensor]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {
                int(i): x for b in stream(shards, **how).epoch(epoch, 8) for i, x in zip(b.ids, b.images, strict=True)
            }

    alone, other = fates(1), fates(1, part=(1, 2), batch_size=8, buffer=50)
    assert all(torch.equal(alone[i], other[i]) for i in alone.keys() & other.keys())
    later = fates(2)
    assert not all(torch.equal(alone[i], later[i]) for i in alone.keys() & later.keys())


def test_once_is_every_image_unchanged(shards: str, pictures: list[tuple[str, bytes, str]]) -> None:
    batches = list(stream(shards).once())
    assert [len(b.ids) for b in batches] == [12] * 10 + [5]
    assert sorted(torch.cat([b.ids for b in batches]).tolist()) == list(range(125))
    plain = stream(shards, augmentation=Augmentation(), batch_size=125)
    (every,) = plain.epoch(0, 8)
    order = every.ids.argsort()
    seen = torch.cat([b.images for b in batches])[torch.cat([b.ids for b in batches]).argsort()]
    torch.testing.assert_close(seen, every.images[order])
    assert stream(shards).sample(10).shape == (10, 1, 8, 8)


def test_smaller_images_are_reduced_first(shards: str) -> None:
    assert next(stream(shards).epoch(0, 4)).images.shape == (12, 1, 4, 4)


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
    write(tmp_path / "a.tar", members)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = stream(str(tmp_path / "a.tar"), classes=names)
    labels = {int(i): int(k) for b in read.once() for i, k in zip(b.ids, b.labels, strict=True)}
    assert [labels[i] for i in range(40)] == [int(digit) for _, _, digit in pictures[:40]]
    left_out = "README can't be used and is left out: no image of this name, which ends at the first dot (README)."
    expected = [f"{tmp_path}/a.tar/{left_out}"] if how == "folder" else []
    assert [f.message for f in read.findings] == expected


def test_classes_are_the_labels_found_in_natural_order(shards: str) -> None:
    assert stream(shards).classes == tuple("0123456789")


def test_what_cannot_be_used_is_counted_and_named(pictures: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    good = samples(pictures[:30])
    image = pictures[0][1]
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    bad = [
        ("../up.png", image),
        ("../up.cls", b"1"),
        ("/top.png", image),
        ("/top.cls", b"1"),
        ("a/../../b.png", image),
        ("C:\\c.png", image),
        link,
        ("bare.png", image),
        ("empty.png", image),
        ("empty.cls", b" "),
        ("odd.png", image),
        ("odd.json", b"[" * 100_000),
        ("list.png", image),
        ("list.json", b'{"label": [1]}'),
        ("latin.png", image),
        ("latin.cls", b"\xff\xfe"),
        ("alone.cls", b"1"),
        ("two.png", image),
        ("two.jpg", image),
        ("two.cls", b"1"),
        ("twice.png", image),
        ("twice.png", image),
        ("img.0001.png", image),
        ("._0001.png", image),
        ("weird.png", image),
        ("weird.cls", b"eleven"),
        ("broken.png", image[:60]),
        ("broken.cls", b"1"),
        ("text.jpg", b"hello"),
        ("text.cls", b"2"),
    ]
    write(tmp_path / "a.tar", [*good[:20], *bad, *good[20:]])
    with pytest.warns(UserWarning, match=r"can't be used and is left out: .*more; all are in `findings`"):
        read = stream(tmp_path / "a.tar", batch_size=8, classes=tuple("0123456789"))
    said = {f.paths[0].removeprefix(f"{tmp_path}/a.tar/"): f.message for f in read.findings}
    assert said.keys() == {
        *(
            "../up",
            "/top",
            "a/../../b",
            "C:\\c",
            "link",
            "bare",
            "empty",
            "odd",
            "list",
            "latin",
            "alone",
            "two",
            "twice",
        ),
        *("img", "._0001.png", f"{tmp_path}/a.tar"),
    }
    assert all("leads out of the archive" in said[name] for name in ("../up", "/top", "a/../../b", "C:\\c"))
    assert "1 image was left out, whose label 'eleven' is none of the classes" in said[f"{tmp_path}/a.tar"]
    with pytest.warns(UserWarning, match="broken|text"):
        batches = list(read.epoch(0, 8))
    assert len(batches) == len(read) == 4
    assert {len(b.ids) for b in batches} == {8}, "others of the batch take the places of images that can't be decoded"
    assert len(torch.cat([b.ids for b in batches]).unique()) == 30
    assert {f.message for f in read.findings} - set(said.values()) == {
        f"{tmp_path}/a.tar/broken can't be used and is left out: truncated PNG.",
        f"{tmp_path}/a.tar/text can't be used and is left out: not an image (the file is text).",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is said twice
        list(read.epoch(1, 8))
        fresh = iter(read.epoch(0, 8, start=2))
        equal(fresh, batches[2:])
        assert sum(len(b.ids) for b in read.once()) == 30


def test_a_batch_without_any_image_ends_in_a_sentence(pictures: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    write(tmp_path / "a.tar", samples([(name, b"", label) for name, _, label in pictures[:20]]))
    with (
        pytest.warns(UserWarning, match="empty file"),
        pytest.raises(DataError, match=r"None of 12 images in a row .* \(empty file\)"),
    ):
        next(iter(stream(tmp_path / "a.tar").epoch(0, 8)))


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
        stream(file)


def test_a_shard_that_changes_while_it_is_used(pictures: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    file = write(tmp_path / "a.tar", samples(pictures[:30]))
    read = stream(file)
    write(file, samples(pictures[:20]))
    with pytest.raises(DataError, match="has changed since its images were counted"):
        list(read.epoch(0, 8))
    assert sum(stream(file).counts) == 20, "counted anew"


def test_counts_are_kept(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []
    stream(shards, advance=seen.append)
    assert len(seen) >= len(SIZES)
    assert (seen[-1].task, seen[-1].done) == ("counting images", seen[-1].total)
    monkeypatch.setattr(survey, "members", lambda *_: pytest.fail("counted again"))
    assert len(stream(shards)) == 10


def test_calls_that_cannot_be_meant(shards: str, pictures: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    first = Path(shards.replace("{000..004}", "000"))
    with pytest.raises(UsageError, match=r"There is no file .*train-005\.tar: check the path"):
        stream(shards.replace("004", "005"))
    with pytest.raises(UsageError, match=r"There is no file .*no-\*\.tar"):
        stream(str(tmp_path / "no-*.tar"))
    with pytest.raises(UsageError, match="can't be expanded"):
        stream("train-{000..004.tar")
    with pytest.raises(UsageError, match="named twice"):
        stream([first, first])
    with pytest.raises(UsageError, match="empty"):
        stream([])
    with pytest.raises(UsageError, match="5 shards can't feed 6 processes"):
        stream(shards, part=(0, 6))
    with pytest.raises(UsageError, match="divided evenly"):
        stream(shards, part=(0, 5))
    with pytest.raises(
        DataError, match=r"at least two classes, and here are \d+ usable images, classes: 1; left out: nothing"
    ):
        stream(write(tmp_path / "one.tar", samples([p for p in pictures if p[2] == "3"])))
    with pytest.raises(DataError, match="0 usable images, classes: 2; .* label '3' is none of the classes"):
        stream(tmp_path / "one.tar", classes=("cat", "dog"))
    assert sum(stream(tmp_path / "one.tar", classes=tuple("0123")).counts) > 30, "one class is enough to measure on"


def test_shards_that_cannot_be_shared_evenly_are_said(pictures: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.tar", samples(pictures[24 * number : 24 * (number + 1)]))
    with pytest.warns(UserWarning, match=r"33% of the images, others each time, .* 2 processes can't share 3 shards"):
        read = stream(str(tmp_path / "*.tar"), part=(0, 2))
    seen = [{i for b in read.epoch(e, 8) for i in b.ids.tolist()} for e in range(4)]
    assert [len(ids) for ids in seen] == [24] * 4
    assert len(set().union(*seen)) > 36, "others each time"


def test_a_command_says_where_shards_are_taken(shards: str) -> None:
    with pytest.raises(DataError, match=r"000\.tar is a tar archive: unpack .*docs/streaming\.md"):
        scan(shards.replace("{000..004}", "000"))
    with pytest.raises(UsageError, match=r"stands for tar shards, no folder: unpack .*docs/streaming\.md"):
        scan(shards)


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
