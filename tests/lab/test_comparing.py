"""`lab compare` and `lab run`: variants of a recipe over seeds, in processes that may die."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from hubel import lab
from hubel.cli import main
from hubel.errors import RunError, UsageError
from hubel.evaluation.contrast import Compared
from hubel.lab.networks import dense
from hubel.lab.variants import parsed
from hubel.runs import read_record

QUIET: dict[str, Any] = {"show_as": "none", "images": 200, "epochs": 2, "batch_size": 32}


class Own(nn.Module):
    """A user's network, which may stop at a batch."""

    def __init__(self, classes: int, channels: int, width: int = 8, stop: str = "", marker: str = "") -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4))
        self.head = nn.Linear(16 * width, classes)
        self.stop, self.marker, self.batches = stop, marker, 0

    def forward(self, x: Tensor) -> Tensor:
        self.batches += self.training
        if self.batches == 12 and self.stop == "raise":
            raise RuntimeError("no twelfth batch")
        if self.batches == 12 and self.stop == "die" and not Path(self.marker).exists():
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        y: Tensor = self.head(self.body(x).flatten(1))
        return y * float("nan") if self.stop == "nan" and self.training else y


def own_code(folder: Path) -> str:
    """The class above as a file of the user's."""
    lines = Path(__file__).read_text("utf-8").split("\n\n\n")
    imports = "import os, signal\nfrom pathlib import Path\nfrom torch import Tensor, nn\n\n\n"
    (folder / "own.py").write_text(imports + next(part for part in lines if part.startswith("class Own")), "utf-8")
    return f"{folder / 'own.py'}:Own"


def table(found: Compared) -> list[tuple[Any, ...]]:
    return [(row.variant, row.value and row.value.value, row.parameters, row.macs) for row in found.rows]


def test_settings_and_arguments_are_varied_and_what_is_done_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["lab", "compare", "digits", "--model", "simple-cnn", "--arg", "widths=[4, 8]", "--images", "200"]
    asked += ["--vary", "down=max,stride", "--seeds", "2", "--epochs", "1", "--output", str(tmp_path / "a")]
    assert main([*asked, "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "stride is better than max: undecided, " in said or "stride is better than max: refuted, " in said
    found = read_record(tmp_path / "a" / "results.json", Compared)
    assert [row.variant for row in found.rows] == ["max", "stride"]
    assert found.rows[0].macs > found.rows[1].macs > 0
    assert found.rows[0].value is not None
    assert found.rows[0].value.images == 1_597
    assert (tmp_path / "a" / "report.html").read_text("utf-8").count("<svg") == 2
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "a" / "trials").rglob("*")}
    assert main([*asked, "--workers", "1", "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["rows"][0]["value"] == {"value": found.rows[0].value.value, **again["rows"][0]["value"]}
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "a" / "trials").rglob("*")} == before
    assert main([*asked, "--lr", "0.01"]) == 1
    assert "holds another comparison" in capsys.readouterr().err


def test_a_users_own_module_in_processes_gives_the_same_table_as_in_one(tmp_path: Path) -> None:
    variants = {f"width {n}": {"model": own_code(tmp_path), "width": n} for n in (4, 8)}
    one, two = (lab.compare("digits", variants, seeds=2, workers=n, output=tmp_path / str(n), **QUIET) for n in (1, 2))
    assert table(one) == table(two)
    assert len({row.parameters for row in two.rows}) == 2


def test_a_failing_variant_is_reported_and_loses_no_other(tmp_path: Path) -> None:
    code = own_code(tmp_path)
    variants = {"sound": {"model": code}, "broken": {"model": code, "stop": "raise"}, "wrong": {"model": "resnet19"}}
    variants["lost"] = {"model": code, "stop": "nan"}
    found = lab.compare("digits", variants, seeds=1, workers=1, output=tmp_path / "lab", **QUIET)
    sound, broken, wrong, lost = found.rows
    assert sound.value is not None
    assert "no twelfth batch" in broken.error
    assert "there is no network called 'resnet19'" in wrong.error
    assert "The training was lost" in lost.error
    assert "failed" in (tmp_path / "lab" / "report.html").read_text("utf-8")
    with pytest.raises(RunError, match=r"No training came to an end: there is no network called 'resnet19'"):
        lab.compare("digits", {"wrong": {"model": "resnet19"}}, output=tmp_path / "none", workers=1, **QUIET)


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    code, marker = own_code(tmp_path), str(tmp_path / "marker")
    sick = {"a": {"model": code}, "b": {"model": code, "stop": "die", "marker": marker}}
    sound = {"a": {"model": code}, "b": {"model": code, "stop": "", "marker": marker}}
    killed = lab.compare("digits", sick, seeds=1, workers=2, output=tmp_path / "killed", **QUIET)
    assert Path(marker).exists()
    assert table(killed) == table(lab.compare("digits", sound, seeds=1, workers=1, output=tmp_path / "sound", **QUIET))


def test_ray_gives_the_same_table(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    variants, marker = {"a": {"model": own_code(tmp_path)}}, str(tmp_path / "marker")
    variants["b"] = {**variants["a"], "stop": "die", "marker": marker}
    found = lab.compare("digits", variants, seeds=1, workers=2, on="ray", output=tmp_path / "ray", **QUIET)
    assert Path(marker).exists()
    assert table(found) == table(lab.compare("digits", variants, seeds=1, workers=1, output=tmp_path / "here", **QUIET))


def test_an_address_without_a_cluster_is_refused_at_once(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    for address in ("127.0.0.1:1", "nowhere", "ray://127.0.0.1:99999"):
        with pytest.raises(UsageError, match="no Ray cluster answers there"):
            lab.compare("digits", {"a": {}}, on=address, output=tmp_path / "lab", **QUIET)


def test_what_is_compared_is_read_from_the_command_line() -> None:
    assert parsed(["augment=none;crop=4,flip"], []) == {
        "none": {"augment": "none"},
        "crop=4,flip": {"augment": "crop=4,flip"},
    }
    assert next(iter(parsed(["kernel=1,3", "se=true,false"], []))) == "kernel=1, se=True"
    assert parsed([], ["down=stride", "kernel=5 se=true"])["kernel=5 se=true"] == {"kernel": 5, "se": True}
    assert list(parsed([], ["down=stride"])) == ["as it is", "down=stride"]
    for wrong in (([], []), (["a=1,2"], ["b=1"]), (["model"], [])):
        with pytest.raises(UsageError):
            parsed(*wrong)


def test_claims_are_listed_and_one_is_tried(
    few_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lab", "list", "--json"]) == 0
    claims = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"degradation", "batch-norm", "transfer"} <= {each["claim"] for each in claims}
    assert all(each["seeds"] >= 3 and each["minutes"] <= 30 for each in claims)
    assert main(["lab", "run", "first-gradient", "--short", "--output", str(tmp_path / "g")]) == 0
    said = capsys.readouterr().out
    assert "plain, with batch norm: 20 layers have more gradient than 56: refuted, " in said
    page = (tmp_path / "g" / "report.html").read_text("utf-8")
    assert "It would be refuted if" in page
    assert (
        main(
            ["lab", "run", "first-gradient", "--data", str(few_digits), "--seeds", "1", "--output", str(tmp_path / "o")]
        )
        == 0
    )
    assert (
        main(["lab", "run", "first-gradient", "--data", "digits", "--images", "0", "--output", str(tmp_path / "z")])
        == 2
    )
    capsys.readouterr()
    assert main(["lab", "run", "magic"]) == 2
    assert "There is no claim 'magic': known are degradation" in capsys.readouterr().err


def test_the_fully_connected_network_has_as_many_weights_as_asked() -> None:
    for weights in (20_000, 290_000):
        made = sum(p.numel() for p in dense(classes=10, channels=3, size=(32, 32), parameters=weights).parameters())
        assert made == pytest.approx(weights, rel=0.16)


def test_the_ten_lines_of_the_documents_run(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "lab.md").read_text("utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(block.replace("seeds=3, epochs=5", "seeds=2, epochs=1, images=200"), "utf-8")
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] in ("undecided", "supported", "refuted")
    assert (tmp_path / "runs" / "lab-digits" / "report.html").exists()
