"""Imports point one way only, and what must start fast or run in a decode worker loads no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "hubel"
ROWS = (
    ("errors", "as_json", "text"),
    ("records",),
    ("runs",),
    ("evidence",),
    ("nn", "dataset"),
    ("geometry", "evaluation", "report"),
    ("learning", "explanation"),
    ("jobs",),
    ("flags",),
    ("verbs",),
    ("cli",),
    ("__main__",),
)
ROW = {unit: number for number, row in enumerate(ROWS) for unit in row}
FORBIDDEN = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
FILES = sorted(SOURCE.rglob("*.py"))


def unit_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_units(file: Path) -> set[str]:
    """Every hubel unit that a file imports, inside functions and for type checking too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("hubel.")}
    return found & ROW.keys()


def test_every_unit_has_a_row() -> None:
    units = {unit_of(file) for file in FILES} - {"__init__"}
    assert units == ROW.keys()


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(SOURCE).as_posix())
def test_imports_go_down_only(file: Path) -> None:
    own = unit_of(file)
    if own == "__init__":
        return
    upward = {unit for unit in imported_units(file) - {own} if ROW[unit] >= ROW[own]}
    assert not upward, f"{own} must not import {upward}"


def test_names_say_what_is_inside() -> None:
    assert not [file for file in FILES if file.stem in FORBIDDEN]


LIGHT = [
    "hubel",
    "hubel.cli",
    "hubel.records",
    "hubel.runs",
    "hubel.flags",
    "hubel.verbs",
    "hubel.jobs.api",
    "hubel.jobs.run",
    "hubel.jobs.train",
    "hubel.dataset.decode",
    "hubel.dataset.pack",
    "hubel.dataset.find",
    "hubel.dataset.tar",
    "hubel.dataset.copies",
    "hubel.dataset.audit",
    "hubel.dataset.config",
    "hubel.nn.config",
    "hubel.learning.config",
    "hubel.evidence",
    "hubel.report.page",
    "hubel.report.terminal",
    "hubel.report.layers",
    "hubel.report.network",
    "hubel.geometry.layer",
]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_no_torch(module: str) -> None:
    loaded = modules_after(f"import {module}")
    assert not loaded & {"torch", "torchvision", "sklearn", "altair"}


def test_help_loads_no_torch() -> None:
    code = "import contextlib, io\nfrom hubel.cli import parser\nparser().format_help()"
    assert not modules_after(code) & {"torch", "torchvision", "sklearn", "altair", "PIL"}


def test_training_does_not_load_torchvision() -> None:
    loaded = modules_after("import hubel.jobs.training, hubel.jobs.measure, hubel.jobs.answer")
    assert "torch" in loaded
    assert "torchvision" not in loaded, "it would add seconds to every command"


def test_a_decode_worker_loads_numpy_and_pillow_only() -> None:
    loaded = modules_after("import hubel.dataset.pack")
    allowed = sys.stdlib_module_names | {"hubel", "numpy", "PIL", "defusedxml", "pillow_heif"}
    assert {name for name in loaded if not name.startswith("_")} <= allowed


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after running some code, less what it starts with."""
    report = "\nimport sys\nprint(' '.join(m for m in sys.modules if m not in before and '.' not in m))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\nbefore = set(sys.modules)\n{code}{report}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())
