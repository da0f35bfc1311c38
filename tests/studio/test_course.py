"""The course's pages: whole, their links lead to settings that exist, and their checks hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hubel.errors import UsageError

pytest.importorskip("fastapi")
from hubel.studio import course

STATIC = Path(course.__file__).parent / "static"
SECONDS = ("7-training",)  # those that take too long here


@pytest.mark.parametrize("name", course.pages())
def test_a_page_asks_answers_and_leads_to_the_studio(name: str) -> None:
    text = course.pages()[name]
    assert re.findall(r"^#+ .*", text, re.MULTILINE)[1:] == ["## Question", "## Answer"]
    assert len(re.findall(r"```python\n.*?assert .*?```", text, re.DOTALL)) == 1
    links = re.findall(r"\]\(#/(\w+)([^)]*)\)", text)
    assert links
    known = (STATIC / "convolve.js").read_text("utf-8") + (STATIC / "filters.js").read_text("utf-8")
    for view, query in links:
        assert (STATIC / f"{view}.js").exists()
        for setting in re.findall(r"[?&](\w+)=([^&]+)", query) if view == "filters" else ():
            assert all(word.replace("%20", " ") in known for word in setting)


@pytest.mark.parametrize("name", [name for name in course.pages() if name not in SECONDS])
def test_an_answer_holds(name: str) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", course.pages()[name], re.DOTALL)
    exec(compile(code, name, "exec"), {})


def test_a_check_runs_on_its_own() -> None:
    said = course.check("3-pooling")
    assert said == {"said": said["said"], "right": True}
    assert "after pooling by 8 they are alike: True" in said["said"]
    with pytest.raises(UsageError, match="no page"):
        course.check("../secrets")


def test_a_page_is_read_checked_and_left(page: Any) -> None:
    page.get_by_role("link", name="Course").click()
    page.get_by_role("link", name="Pooling").click()
    page.get_by_role("heading", name="Pooling").wait_for()
    page.get_by_text("Answer", exact=True).press("Enter")
    page.get_by_role("button", name="Run the check").press("Enter")
    page.get_by_text("The answer holds.").wait_for()
    assert page.locator(".course-steps .done").inner_text().startswith("Pooling")
    page.get_by_role("link", name="The receptive field →").click()
    page.get_by_role("link", name="Open a network").click()
    page.locator(".net-value output").wait_for()
