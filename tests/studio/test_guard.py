"""What the studio refuses, and how it says so."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubel.cli import main
from hubel.studio.guard import LARGEST
from studio.conftest import TOKEN, Studio

OWN = {"X-Hubel-Token": TOKEN}
EXPLAIN = "/api/explain?run=runs/digits"


def asked(
    studio: Studio, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, JSON and headers of an answer; the path is sent as it stands."""
    connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=60)
    connection.request(method, path, body, headers or {}, encode_chunked=isinstance(body, Iterator))
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    said = json.loads(content) if answer.headers.get_content_type() == "application/json" else {}
    return answer.status, said, {name.lower(): value for name, value in answer.getheaders()}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "because"),
    [
        ("GET", "/api/runs", {"Host": "evil.example"}, 403, "127.0.0.1 only"),
        ("GET", "/", {"Host": "evil.example:80"}, 403, "127.0.0.1 only"),
        ("GET", "/api/runs", {"Origin": "http://evil.example"}, 403, "Another site"),
        ("POST", EXPLAIN, {**OWN, "Origin": "http://evil.example"}, 403, "Another site"),
        ("POST", EXPLAIN, {**OWN, "Origin": "http://127.0.0.1:1"}, 403, "Another site"),
        ("POST", EXPLAIN, {**OWN, "Origin": "null"}, 403, "Another site"),
        ("POST", EXPLAIN, {}, 403, "no token"),
        ("POST", "/api/train", {"X-Hubel-Token": "guessed"}, 403, "no token"),
        ("POST", EXPLAIN, OWN, 400, "can't be explained"),
        ("GET", "/api/run?run=../digits", {}, 400, "no run"),
        ("GET", "/api/report?run=/etc", {}, 400, "no run"),
        ("GET", "/api/image?run=runs/digits&index=first", {}, 400, "does not ask so"),
        ("GET", "/api/image?run=runs/digits&index=-1", {}, 400, "no picture"),
        ("GET", "/api/samples/..%2f..%2fsecret.png", {}, 404, ""),
        ("GET", "/static/../guard.py", {}, 404, ""),
        ("GET", "/static/..%2fguard.py", {}, 404, ""),
        ("GET", "/static//etc/passwd", {}, 404, ""),
    ],
)
def test_refusals(studio: Studio, method: str, path: str, headers: dict[str, str], status: int, because: str) -> None:
    found, said, _ = asked(studio, method, path, b"no image" if method == "POST" else None, headers)
    assert found == status
    assert because in said.get("error", "")


def test_uploads_are_capped_before_they_are_read(studio: Studio) -> None:
    headers = {**OWN, "Content-Length": str(100 * 2**20)}
    found, said, _ = asked(studio, "POST", EXPLAIN, b"", headers)
    assert (found, "larger than" in said["error"]) == (413, True)
    pieces = iter([b"x" * 2**20] * (LARGEST // 2**20 + 1))  # without saying how much will come
    found, said, _ = asked(studio, "POST", EXPLAIN, pieces, {**OWN, "Transfer-Encoding": "chunked"})
    assert (found, "larger than" in said["error"]) == (413, True)


def test_every_answer_forbids_what_comes_from_elsewhere(studio: Studio) -> None:
    for path in ("/", "/static/studio.js", "/api/runs", "/nothing", "/report.css"):
        _, _, headers = asked(studio, "GET", path)
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["cross-origin-resource-policy"] == "same-origin"
    _, _, headers = asked(studio, "GET", "/api/report?run=runs/digits")
    assert headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")


def test_links_out_of_the_folder_lead_nowhere(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").touch()
    (studio.folder / "elsewhere").symlink_to(tmp_path)
    names = [run["name"] for run in asked(studio, "GET", "/api/runs")[1]["runs"]]
    (studio.folder / "elsewhere").unlink()
    assert names == ["runs/digits"]


def test_the_command_line_says_what_is_wrong(capsys: pytest.CaptureFixture[str], studio: Studio) -> None:
    assert main(["studio", str(studio.folder), "--port", str(studio.port), "--no-browser"]) == 2
    assert "can't be used (Address already in use)" in capsys.readouterr().err
    assert main(["studio", "no-such-folder", "--no-browser"]) == 2
    assert "is not a folder" in capsys.readouterr().err
