"""The course: the pages of docs/course, and the checks of their answers, which run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from hubel.errors import UsageError

router = APIRouter(prefix="/api/course")
LONGEST = 600  # seconds that a check may take
PACKAGED = Path(str(files("hubel.studio").joinpath("course")))
PAGES = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[3] / "docs" / "course"


@router.get("")
def pages() -> dict[str, str]:
    """Name → Markdown, in order."""
    return {file.stem: file.read_text("utf-8") for file in sorted(PAGES.glob("*.md"))}


@router.post("/check/{page}")
def check(page: str) -> dict[str, Any]:
    """Run the check of a page in a process of its own; `right` is whether the answer holds."""
    text = pages().get(page)
    if text is None:
        raise UsageError(f"The course has no page {page!r}: choose one of the list.")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    command = [sys.executable, "-W", "ignore", "-c", code]
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LONGEST, check=False)
        except subprocess.TimeoutExpired as error:
            raise UsageError(f"The check took longer than {LONGEST} seconds and was ended.") from error
    said = done.stdout + (done.stderr.strip().splitlines() or [""])[-1] * (done.returncode != 0)
    return {"said": said.strip(), "right": done.returncode == 0}
