"""What the documents say still runs: commands parse, Python blocks compile and run, files they name exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import tarfile
from pathlib import Path

import pytest
import torch

import hubel
from hubel.cli import parser
from hubel.nn.zoo import NETWORKS
from hubel.verbs import VERBS

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
COMMAND = re.compile(
    rf"(?:^|&& |`)(?:\.venv/bin/)?(hubel (?:{'|'.join(VERBS)})\b[^#`\n|]*)",
    re.MULTILINE,
)
LINK = re.compile(r"\]\((?!http)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text("utf-8")) if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_parse(page: Path) -> None:
    for command in COMMAND.findall(page.read_text("utf-8")):
        bare = len(command.split()) == 2 and command.split()[1] not in ("demo", "cache")
        if bare or "…" in command or "--help" in command:
            continue
        given = parser().parse_args(shlex.split(command)[1:])
        assert given.verb in VERBS


def test_the_readmes_python_runs(few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    os.symlink(few_digits, tmp_path / "photos")
    image = next((few_digits / "0").iterdir())
    (tmp_path / "image.jpg").write_bytes(image.read_bytes())
    spoken: list[str] = []
    first = blocks[0].replace("minutes=10", "epochs=2, width=16")
    exec(compile(first, "README.md", "exec"), {"hubel": hubel, "print": lambda *a: spoken.append(str(a))})
    assert len(spoken) == 2
    compile(blocks[1], "README.md", "exec")


def test_the_python_about_networks_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "networks.md").read_text("utf-8"), re.DOTALL)
    exec(compile(block, "networks.md", "exec"), {})
    support, variance = capsys.readouterr().out.strip().splitlines()
    assert len(eval(support)) == 2
    assert variance


def test_the_python_about_streaming_runs(
    few_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "streaming.md").read_text("utf-8"), re.DOTALL)
    files = sorted(few_digits.rglob("*.png"), key=lambda file: file.name)
    (tmp_path / "shards").mkdir()
    for number, name in enumerate(("train-000", "train-001", "train-002", "train-003", "val-000")):
        with tarfile.open(tmp_path / "shards" / f"{name}.tar", "w") as tar:
            for file in files[number::5]:
                tar.add(file, file.relative_to(few_digits).as_posix())
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(block, "streaming.md", "exec"), {})
    said = re.findall(r"^epoch (\d): loss ([\d.]+), \d+ of (\d+) held", capsys.readouterr().out, re.MULTILINE)
    assert [(epoch, held_out) for epoch, _, held_out in said] == [("1", "24"), ("2", "24"), ("3", "24")]
    assert float(said[-1][1]) < float(said[0][1])


def test_the_exercises_figures_are_those_of_the_full_runs() -> None:
    lines = (ROOT / "docs" / "exercises.md").read_text("utf-8").splitlines()
    for exercise in json.loads((ROOT / "benchmarks" / "results" / "exercises.json").read_text("utf-8")):
        for row in exercise["results"]:
            if "accuracy" in row:
                figures = (f"{100 * row['accuracy']:.1f} %", f"{row['n']:,}", f"{row['parameters']:,}")
                name = exercise["exercise"][:2].upper()
                assert any(f"| {name} |" in line and all(figure in line for figure in figures) for line in lines), row


def test_every_network_is_in_the_docs() -> None:
    page = (ROOT / "docs" / "networks.md").read_text("utf-8")
    families = {re.sub(r"_?[bv]?\d+(_bn)?$", "", name.split("_v3")[0]) for name in NETWORKS}
    assert not [family for family in families if family not in page]


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "<!-- test -->\n```sh\nscripts/test\n```" in readme
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_the_changelog_knows_this_version() -> None:
    assert f"## {hubel.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
