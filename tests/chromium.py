"""Debian's Chromium, or the one that CHROMIUM names, driven by Playwright; tests are skipped without either."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")


def started() -> Iterator[Any]:
    """A browser, until the generator is resumed."""
    if not CHROMIUM:
        pytest.skip("no chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        shown = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield shown
        shown.close()
