"""Imports point one way only, what must start fast loads no torch, and the picture of the rooms shows the code."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys

import pytest

import hubel
from architecture_picture import PICTURE, ROWS, SOURCE, check_roads, drawn, imported

ROW = {unit: number for number, row in enumerate(ROWS) for unit in row}
FORBIDDEN = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
FILES = sorted(SOURCE.rglob("*.py"))


def test_every_unit_has_a_row() -> None:
    units = {file.relative_to(SOURCE).parts[0].removesuffix(".py") for file in FILES} - {"__init__"}
    assert units == ROW.keys()


@pytest.mark.parametrize("unit", ROW)
def test_imports_go_down_only(unit: str) -> None:
    upward = {other for other in imported(unit) if ROW[other] >= ROW[unit]}
    assert not upward, f"{unit} must not import {upward}"


def test_files_import_each_other_in_no_circle() -> None:
    """Type checking counts, too."""
    names = {".".join(("hubel", *f.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__") for f in FILES}
    edges: dict[str, set[str]] = {}
    for file in FILES:
        own = ".".join(("hubel", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        found = edges.setdefault(own, set())
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and own != "hubel":
                assert node.level == 0, f"{file}: imports are absolute"
                found |= {f"{node.module}.{alias.name}" for alias in node.names} & names or {str(node.module)} & names
    while leaves := [name for name, targets in edges.items() if not targets & edges.keys() - {name}]:
        for name in leaves:
            del edges[name]
    assert not edges, f"these import each other: {sorted(edges)}"


def test_the_picture_is_the_codes() -> None:
    check_roads()
    assert PICTURE.read_text("utf-8") == drawn(), "draw it anew: python tests/architecture_picture.py"


def test_public_names_are_there_for_people_and_for_type_checkers() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text("utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.col_offset]
    typed = {alias.asname: f"{node.module}" for node in imports for alias in node.names}
    assert set(hubel.__all__) == {"__version__", *typed}
    for name, home in typed.items():
        assert getattr(hubel, name) is getattr(importlib.import_module(home), name)


def test_names_say_what_is_inside() -> None:
    assert not [file for file in FILES if file.stem in FORBIDDEN]


HEAVY = {"torch", "torchvision", "sklearn", "altair"}
LIGHT = [
    "hubel",
    "hubel.cli",
    "hubel.records",
    "hubel.events",
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


def test_light_modules_load_no_torch() -> None:
    """One interpreter imports them all, in this order, and names the first that brings something heavy."""
    code = f"""
import importlib, sys
for name in {LIGHT}:
    importlib.import_module(name)
    heavy = {HEAVY} & set(sys.modules)
    assert not heavy, f"{{name}} loads {{heavy}}"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_loads_no_torch() -> None:
    code = "import contextlib, io\nfrom hubel.cli import parser\nparser().format_help()"
    assert not modules_after(code) & (HEAVY | {"PIL"})


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
