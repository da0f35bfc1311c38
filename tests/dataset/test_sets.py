"""Sets by name become ordinary folders, once, or say in a sentence why not."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from hubel.dataset import sets
from hubel.dataset.find import scan
from hubel.dataset.sets import SETS, KnownSet, lookup, materialise, similar
from hubel.errors import DataError, UsageError


class Pictures:
    """A small set as torchvision's look: a sequence of (image, label), perhaps with names."""

    def __init__(self, count: int, size: tuple[int, int] = (9, 7), classes: list[Any] | None = None) -> None:
        self._count, self._size = count, size
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", self._size, (index * 20, 50, 90)), index % 3


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    root = materialise("digits", tmp_path)
    assert root == tmp_path / "sets" / "digits"
    given = load_digits()
    files = sorted(root.rglob("*.png"), key=lambda file: file.name)
    assert len(files) == 1797
    assert [int(file.parent.name) for file in files] == given.target.tolist()
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    assert np.array_equal(pixels, np.rint(given.images * 255 / 16))
    assert [entry.name for entry in root.parent.iterdir()] == ["digits"]


def test_a_set_is_made_once(tmp_path: Path) -> None:
    root = materialise("digits", tmp_path)
    (root / "0" / "mark").touch()
    assert materialise("digits", tmp_path) == root
    assert (root / "0" / "mark").exists()


def test_parts_and_names_come_from_the_set(tmp_path: Path) -> None:
    asked: list[Mapping[str, Any]] = []

    def opener(known: KnownSet, choice: Mapping[str, Any], folder: Path) -> Pictures:
        assert known.dataset == "FashionMNIST"
        (folder / "raw.gz").touch()
        asked.append(choice)
        return Pictures(6 if choice["train"] else 3, classes=["T-shirt/top", "Bag", ".Boot"])

    root = materialise("fashion-mnist", tmp_path, opener)
    assert asked == [{"train": True}, {"train": False}]
    catalog = scan(root)
    assert catalog.classes == ("Bag", "Boot", "T-shirt-top")
    assert catalog.parts is not None
    assert (catalog.parts.count("train"), catalog.parts.count("test")) == (6, 3)
    assert [entry.name for entry in root.parent.iterdir()] == ["fashion-mnist"]
    first = Image.open(root / "train/Bag/000001.png")
    assert first.getpixel((0, 0)) == (20, 50, 90)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (None, ("0", "1", "2")),
        (["0 - zero", "1 - one", "2 - two"], ("0", "1", "2")),
        ([("tench", "Tinca tinca"), ("church",), ("pump",)], ("church", "pump", "tench")),
    ],
)
def test_names_of_classes(classes: list[Any] | None, expected: tuple[str, ...], tmp_path: Path) -> None:
    root = materialise("eurosat", tmp_path, lambda *_: Pictures(6, classes=classes))
    assert scan(root).classes == expected


def test_large_pictures_are_stored_as_jpeg(tmp_path: Path) -> None:
    root = materialise("caltech101", tmp_path, lambda *_: Pictures(3, size=(200, 100)))
    files = sorted(path.name for path in root.rglob("*.*"))
    assert files == ["000000.jpg", "000001.jpg", "000002.jpg"]


def test_a_failed_download_says_what_to_do_and_leaves_no_set(tmp_path: Path) -> None:
    def opener(*_: Any) -> Any:
        raise OSError("name resolution failed\nmore")

    with pytest.raises(DataError, match="can't be downloaded") as caught:
        materialise("cifar10", tmp_path, opener)
    message = str(caught.value)
    assert "name resolution failed" in message
    assert "\n" not in message
    assert "torchvision.datasets.CIFAR10" in message
    assert str(tmp_path / "sets" / "cifar10.download") in message
    assert not (tmp_path / "sets" / "cifar10").exists()


def test_an_interrupted_set_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    class Broken(Pictures):
        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            if index == 4:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        materialise("svhn", tmp_path, lambda *_: Broken(6))
    assert [entry.name for entry in (tmp_path / "sets").iterdir()] == ["svhn.download"]
    assert len(scan(materialise("svhn", tmp_path, lambda *_: Pictures(6))).paths) == 12


def test_another_process_may_be_faster(tmp_path: Path) -> None:
    def opener(*_: Any) -> Pictures:
        (tmp_path / "sets" / "usps" / "train" / "0").mkdir(parents=True, exist_ok=True)
        return Pictures(3)

    root = materialise("usps", tmp_path, opener)
    assert [path.name for path in (root / "train").iterdir()] == ["0"]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "sets").touch()
    with pytest.raises(DataError, match="HUBEL_CACHE"):
        materialise("digits", tmp_path)


def test_names_are_found_however_they_are_written() -> None:
    assert lookup("Fashion_MNIST") == "fashion-mnist"
    assert lookup("CIFAR-10") == "cifar10"
    assert lookup("cifar") is None
    assert similar("cifar_11")[0].startswith("cifar1")
    with pytest.raises(UsageError, match="known sets are"):
        materialise("nothing", Path("nowhere"))


def test_every_set_exists_in_torchvision_with_these_arguments() -> None:
    from torchvision import datasets

    for name, known in SETS.items():
        if name == "digits":
            continue
        arguments = inspect.signature(getattr(datasets, known.dataset)).parameters
        taken = arguments.keys() | ({"train", "download"} if "kwargs" in arguments else set())
        for choice in known.parts.values():
            assert {"root", "download", *choice} <= taken, name


def test_torchvision_is_asked_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torchvision import datasets

    monkeypatch.setattr(datasets, "SVHN", lambda **options: options)
    options = sets.open_torchvision(SETS["svhn"], {"split": "test"}, tmp_path)
    assert options == {"root": str(tmp_path), "download": True, "split": "test"}
