"""Sets that are known by name: each becomes an ordinary folder of image files in the cache, once.

After that the road is the same as for anybody's own folder.
"""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from hubel.dataset.cache import made_whole
from hubel.errors import DataError, UsageError

SMALL = 128 * 128  # images of up to so many pixels are stored as PNG, larger ones as JPEG


class KnownSet(NamedTuple):
    """Where a set comes from.

    Attributes:
        dataset: class in `torchvision.datasets`; empty for scikit-learn's digits.
        parts: folder name → keyword arguments that select this part; the folder ``""`` for sets without parts.
    """

    dataset: str
    parts: Mapping[str, Mapping[str, Any]]


_FLAG: Mapping[str, Mapping[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_SPLIT: Mapping[str, Mapping[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE: Mapping[str, Mapping[str, Any]] = {**_SPLIT, "val": {"split": "val"}}
_WHOLE: Mapping[str, Mapping[str, Any]] = {"": {}}

SETS: dict[str, KnownSet] = {
    "digits": KnownSet("", _WHOLE),
    "mnist": KnownSet("MNIST", _FLAG),
    "fashion-mnist": KnownSet("FashionMNIST", _FLAG),
    "kmnist": KnownSet("KMNIST", _FLAG),
    "usps": KnownSet("USPS", _FLAG),
    "emnist": KnownSet("EMNIST", {name: {"split": "balanced", **choice} for name, choice in _FLAG.items()}),
    "cifar10": KnownSet("CIFAR10", _FLAG),
    "cifar100": KnownSet("CIFAR100", _FLAG),
    "svhn": KnownSet("SVHN", _SPLIT),
    "stl10": KnownSet("STL10", _SPLIT),
    "gtsrb": KnownSet("GTSRB", _SPLIT),
    "eurosat": KnownSet("EuroSAT", _WHOLE),
    "flowers102": KnownSet("Flowers102", _THREE),
    "food101": KnownSet("Food101", _SPLIT),
    "oxford-pets": KnownSet("OxfordIIITPet", {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "dtd": KnownSet("DTD", _THREE),
    "country211": KnownSet("Country211", {**_SPLIT, "val": {"split": "valid"}}),
    "aircraft": KnownSet("FGVCAircraft", _THREE),
    "imagenette": KnownSet("Imagenette", {name: {"split": name, "size": "160px"} for name in ("train", "val")}),
    "caltech101": KnownSet("Caltech101", _WHOLE),
    "sun397": KnownSet("SUN397", _WHOLE),
}
Opener = Callable[[KnownSet, Mapping[str, Any], Path], Any]


def lookup(name: str) -> str | None:
    """The set's name as `SETS` spells it; case, hyphens and underscores don't matter."""
    plain = {re.sub("[^a-z0-9]", "", known): known for known in SETS}
    return plain.get(re.sub("[-_ ]", "", name.lower()))


def similar(name: str) -> list[str]:
    """Names of sets that are spelt nearly like this."""
    return difflib.get_close_matches(name.lower().replace("_", "-"), SETS, n=3, cutoff=0.7)


def open_torchvision(known: KnownSet, choice: Mapping[str, Any], folder: Path) -> Any:
    """One part of a torchvision set as a sequence of (image, label); downloaded into `folder` if it isn't there."""
    from torchvision import datasets

    return getattr(datasets, known.dataset)(root=str(folder), download=True, **choice)


def materialise(name: str, home: Path, opener: Opener = open_torchvision) -> Path:
    """Write a set as ``home/sets/name/[part/]class/number.png`` (or .jpg), unless it is there already.

    Args:
        opener: opens one part as a sequence of (PIL image, label).

    Raises:
        UsageError: no set has this name.
        DataError: it can't be downloaded, or the cache folder can't be written.
    """
    if name not in SETS:
        raise UsageError(f"There is no set {name!r}; known sets are {', '.join(SETS)}.")
    target, download = home / "sets" / name, home / "sets" / f"{name}.download"
    if not target.is_dir():
        with made_whole(target, f"The set {name!r}") as made:
            for part, choice in SETS[name].parts.items():
                if name == "digits":
                    _write_digits(made)
                else:
                    _write_part(_downloaded(name, choice, download, opener), made / part)
        shutil.rmtree(download, ignore_errors=True)
    return target


def _write_digits(folder: Path) -> None:
    """scikit-learn's 1,797 handwritten digits, 8x8, whose values 0..16 become 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for name in digits.target_names:
        (folder / str(name)).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
        Image.fromarray(image).save(folder / str(label) / f"{number:04d}.png")


def _downloaded(name: str, choice: Mapping[str, Any], download: Path, opener: Opener) -> Any:
    try:
        download.mkdir(parents=True, exist_ok=True)
        return opener(SETS[name], choice, download)
    except Exception as error:  # torchvision raises nearly anything when a download fails
        said = str(error).strip().splitlines()[0][:150] if str(error).strip() else type(error).__name__
        raise DataError(
            f"The set {name!r} can't be downloaded ({said}): without a network, fetch it elsewhere with "
            f"torchvision.datasets.{SETS[name].dataset}(root, download=True) and copy that root's content to "
            f"{download}, or give a folder of images."
        ) from error


def _write_part(dataset: Any, folder: Path) -> None:
    names = _class_names(dataset)
    for number in range(len(dataset)):
        image, label = dataset[number]
        place = folder / (names[int(label)] if names else str(int(label)))
        place.mkdir(parents=True, exist_ok=True)
        if image.width * image.height <= SMALL:
            image.save(place / f"{number:06d}.png")
        else:
            image.convert("RGB").save(place / f"{number:06d}.jpg", quality=95, subsampling=0)


def _class_names(dataset: Any) -> list[str]:
    """Names that can be folders; empty when the set has only numbers."""
    given = getattr(dataset, "classes", None) or getattr(dataset, "categories", None) or []
    names = [str(name[0] if isinstance(name, tuple) else name) for name in given]
    if names and all(re.fullmatch(r"[0-9]+ - [a-z]+", name) for name in names):
        names = [name.partition(" ")[0] for name in names]  # "3 - three"
    return [name.replace("/", "-").replace("\\", "-").strip(". ") for name in names]
