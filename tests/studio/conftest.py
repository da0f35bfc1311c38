"""A studio on a folder with one trained run, and a browser to drive it with."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import hubel
from chromium import started

TOKEN = "a-token-of-tests"


@dataclass(frozen=True)
class Studio:
    """Where it answers, and the folder of runs that it shows."""

    port: int
    folder: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="package")
def studio(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    uvicorn = pytest.importorskip("uvicorn")
    from hubel.studio.serve import listening
    from hubel.studio.server import app

    folder = tmp_path_factory.mktemp("studio") / "runs"
    hubel.train(few_digits, output=folder / "digits", epochs=2, weights="none", seed=0, show_as="none")
    with listening(0) as listener:
        made = app(folder, token=TOKEN)
        config = uvicorn.Config(made, log_level="error", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield Studio(listener.getsockname()[1], folder)
        server.should_exit = True
        thread.join()
        for training in made.state.trainings.begun.values():
            training.said.close()


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    yield from started()


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light")], ids=["desktop", "dark", "phone"])
def page(request: pytest.FixtureRequest, browser: Any, studio: Studio) -> Iterator[Any]:
    """A tab that must not complain, ask anyone else, or be wider than the screen."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, complaints, asked = context.new_page(), list[str](), list[str]()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
    page.on("request", lambda sent: asked.append(sent.url))
    page.goto(f"{studio.address}/?token={TOKEN}")
    page.locator("h1").wait_for()
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert complaints == []
    assert [url for url in asked if not url.startswith((studio.address, "data:", "blob:"))] == []
    context.close()
