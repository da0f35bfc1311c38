"""A network of the user's own code in the studio: its numbers, runs that were trained with it, and what is refused."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import hubel
from hubel.cli import main

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from hubel.jobs.inspect import untrained
from hubel.studio.server import app

FILE = Path(__file__).with_name("own_networks.py")
TOKEN = {"X-Hubel-Token": "t"}


def studio(folder: Path, code: str) -> TestClient:
    return TestClient(app(folder, token="t", code=code), base_url="http://127.0.0.1", headers=TOKEN)


def asked(client: TestClient, path: str, **given: Any) -> Any:
    answer = client.get(f"/api/network{path}", params=given)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize(("name", "size", "classes"), [("Shortcut", 32, 10), ("Separable", 224, 5)])
def test_shown_numbers_are_the_tensors(name: str, size: int, classes: int, tmp_path: Path) -> None:
    code = f"{FILE}:{name}"
    client, chance = studio(tmp_path, code), random.Random(0)
    assert asked(client, "/runs") == [code]
    overview = asked(client, "", run=code)
    assert (overview["input"], len(overview["classes"])) == ([3, size, size], classes)
    image = next(iter(overview["images"]))
    steps, kinds = asked(client, "/pass", run=code, image=image)["steps"], set[str]()
    for step, (layer, kind, _, shape) in enumerate(steps):
        kinds.add(kind)
        about = asked(client, "/layer", run=code, image=image, step=step)
        most = max(abs(about["minimum"]), abs(about["maximum"]))
        for _ in range(6):
            place = ",".join(str(chance.randrange(n)) for n in shape)
            found = asked(client, "/number", run=code, image=image, step=step, place=place)
            assert found["total"] is not None, layer
            assert abs(found["total"] - found["value"]) <= 1e-5 * most, (layer, place)
    assert {"conv2d", "relu", "linear", "softmax"} <= kinds
    assert ("add" in kinds) == (name == "Shortcut")


def test_a_run_of_ones_own_code_is_opened_with_it(few_digits: Path, tmp_path: Path) -> None:
    file = shutil.copy(FILE, tmp_path / "net.py")
    code = f"{file}:Separable"
    (tmp_path / "net.py").write_text(FILE.read_text("utf-8").replace("nn.Linear(32, 5)", "nn.Linear(32, 3)"), "utf-8")
    hubel.train(
        few_digits, output=tmp_path / "runs/own", model=code, channels=3, epochs=1, weights="none", show_as="none"
    )
    client = studio(tmp_path / "runs", code)
    assert asked(client, "/runs") == [code, "runs/own"]
    assert asked(client, "", run="runs/own")["classes"] == ["0", "1", "7"]
    assert client.get("/api/layers", params={"run": "runs/own"}).status_code == 200
    blind = TestClient(app(tmp_path / "runs", token="t"), base_url="http://127.0.0.1")
    refused = blind.get("/api/network", params={"run": "runs/own"})
    assert refused.status_code == 400
    assert f"where you trust that code, name it, --model {code}" in refused.json()["error"]


@pytest.mark.parametrize(
    ("model", "because"),
    [
        ("resnet18", "is named as FILE.py:CLASS"),
        ("nowhere.py:Net", "There is no file nowhere.py"),
        (f"{FILE}:Nothing", "its networks are Shortcut, Separable"),
    ],
)
def test_what_is_no_network_is_said(model: str, because: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["studio", "--model", model, "--no-browser"]) == 2
    said = capsys.readouterr().err
    assert because in said
    assert len(said.splitlines()) == 1


def test_new_weights_are_always_the_same() -> None:
    first, second = (untrained(f"{FILE}:Separable").model.state_dict() for _ in range(2))
    assert all(bool((first[name] == second[name]).all()) for name in first)
