"""No serious fault that axe-core finds: HUBEL_AXE is where its axe.min.js lies, which is no part of the project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

VIEWS = {  # and what is there once it is drawn
    "filters?colour=rgb&preset=Gabor&kernel=5": ".total",
    "filters?operation=max&kernel=2&stride=2&padding=0": ".winner",
    "runs": ".all-runs tbody",
    "runs?run=runs/digits": ".matrix",
}


@pytest.mark.skipif("HUBEL_AXE" not in os.environ, reason="no axe-core: set HUBEL_AXE")
@pytest.mark.parametrize("view", VIEWS)
def test_no_serious_fault(page: Any, view: str) -> None:
    page.goto(f"{page.url.split('#')[0]}#/{view}")
    page.locator(VIEWS[view]).first.wait_for()
    if "run=" in view:
        page.locator(".matrix button").first.click()
        page.locator(".opened .cards li").first.wait_for()
    page.evaluate(Path(os.environ["HUBEL_AXE"]).read_text("utf-8"))
    found = page.evaluate("axe.run()")
    assert len(found["passes"]) > 20
    serious = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    assert [(each["id"], each["nodes"][0]["html"]) for each in serious] == []
