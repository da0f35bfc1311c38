"""What many tests need: a cache of their own, small folders of real digits, and where shared data may lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hubel.dataset.find import scan


def pytest_configure() -> None:
    """One thread for each process: the workers of pytest and what they start would wait for each other's cores."""
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["HUBEL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def digits() -> Path:
    """The folder of the embedded digits: 1,797 real images in ten classes."""
    return scan("digits").root


@pytest.fixture(scope="session")
def few_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of forty digits each, as a folder of their own."""
    folder = tmp_path_factory.mktemp("few") / "digits"
    for name in ("0", "1", "7"):
        (folder / name).mkdir(parents=True)
        for file in sorted((digits / name).iterdir())[:40]:
            (folder / name / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of larger data and weights, which are no part of the project; the test is skipped without them."""
    folder = Path(os.environ.get("HUBEL_SHARED") or Path(__file__).parents[2] / "shared")
    if not (folder / "weights").is_dir():
        pytest.skip("no shared data: set HUBEL_SHARED")
    return folder
