"""The examples run as they stand, and show what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPT = """
import runpy, sys
for sys.argv[1:] in ([], ["--straight"]):
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_fork_leaves_the_training_as_it_was() -> None:
    """Both ways in one interpreter, whose start takes longer than they do."""
    command = [sys.executable, "-c", f"import sys\nsys.argv[0] = {str(EXAMPLES / 'fork.py')!r}\n{SCRIPT}"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    forked, straight = lines[:-43], lines[-43:]
    assert [line for line in forked if not line.startswith("ten slower")] == straight
    assert len(forked) == 44
    assert straight[-1].startswith("weights ")
