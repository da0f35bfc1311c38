"""Text of strangers is safe to show, and no spreadsheet takes it for a formula."""

from __future__ import annotations

import csv
import io
import os

import pytest

from hubel.text import csv_text, is_utf8, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a cat", "a cat"),
        ("猫 ñ 👩‍🚀", "猫 ñ 👩‍🚀"),
        ("\x1b[31mred\n", "\\x1b[31mred\\n"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("a\u2028b\0", "a\\u2028b\\x00"),
    ],
)
def test_what_is_no_text_becomes_an_escape(text: str, shown: str) -> None:
    assert plain(text) == shown
    assert plain(text).encode()


def test_names_that_are_no_text() -> None:
    assert is_utf8("caf\u00e9")
    assert not is_utf8(os.fsdecode(b"caf\xe9"))


NAMES = ["=cmd", "-1", "+1", "@x", "  =cmd", "\t=cmd", "＝cmd", "'-1", "\rx", "two\nlines", 'a "b", c']


def test_csv_reads_back_as_it_was() -> None:
    [row] = csv.reader(io.StringIO(csv_text([[*NAMES, -1.5]]), newline=""))
    assert row == [*NAMES, "-1.5"]


def test_formulas_are_disarmed_for_a_spreadsheet() -> None:
    [row] = csv.reader(io.StringIO(csv_text([[*NAMES[:7], "plain", -1.5]], spreadsheet=True), newline=""))
    assert row == [*(f"'{cell}" for cell in NAMES[:7]), "plain", "-1.5"]
    assert csv_text([["\rx"]], spreadsheet=True).startswith("\"'")
