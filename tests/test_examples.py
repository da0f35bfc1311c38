"""The examples run as they stand, and show what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str) -> list[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_fork_leaves_the_training_as_it_was() -> None:
    forked, straight = run("fork.py"), run("fork.py", "--straight")
    assert [line for line in forked if not line.startswith("ten slower")] == straight
    assert len(straight) == 43
    assert straight[-1].startswith("weights ")
