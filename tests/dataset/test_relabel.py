"""Labels that were corrected: what is taken from the file, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hubel.dataset.find import scan
from hubel.dataset.relabel import labels_csv, read_labels, relabelled
from hubel.errors import DataError


def test_only_the_named_images_change(few_digits: Path, tmp_path: Path) -> None:
    catalog, file = scan(few_digits), tmp_path / "labels.csv"
    given = {catalog.paths[0]: "7", catalog.paths[50]: "0"}
    file.write_text(labels_csv(given) + f"{catalog.paths[50]},1\n")
    assert read_labels(file) == {catalog.paths[0]: "7", catalog.paths[50]: "1"}, "the last row of a path counts"
    found = relabelled(catalog, file)
    changed = {path: found.classes[label] for path, label in zip(found.paths, found.labels, strict=True)}
    expected = {path: catalog.classes[label] for path, label in zip(catalog.paths, catalog.labels, strict=True)}
    assert changed == {**expected, catalog.paths[0]: "7"}
    assert found.findings[-1].code == "relabelled"


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("file,label\n0/a.png,1\n", "its first line is not path,label"),
        ("", "no CSV of path,label"),
        ("path,label\n0/a.png,1,2\n", "no CSV of path,label"),
        ("path,label\nno-such.png,1\n", "doesn't hold, no-such.png"),
        ("path,label\n0/0000.png,unicorn\n", "unicorn"),
    ],
)
def test_a_wrong_file_is_told_in_a_sentence(few_digits: Path, tmp_path: Path, text: str, because: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=because):
        relabelled(scan(few_digits), tmp_path / "labels.csv")
