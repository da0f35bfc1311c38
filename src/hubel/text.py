"""Text that strangers wrote, such as file and class names, made safe to show and to put into a spreadsheet."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
SURROGATE = re.compile("[\ud800-\udfff]")
FORMULA = tuple("=+-@＝＋－＠")  # a spreadsheet takes cells that begin so for formulas


def plain(text: str) -> str:
    """The text with an escape such as ``\\x1b`` for each control, surrogate or direction character.

    Bytes of a file name that are no UTF-8 are surrogates in Python. Escaping for HTML or SVG happens later.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    hidden = unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or character in DIRECTIONS
    return repr(character)[1:-1] if hidden or character in "\ufffe\uffff" else character


def is_utf8(name: str) -> bool:
    """Whether a file's name is text: Python gives bytes that are no UTF-8 as surrogates."""
    return name.isascii() or SURROGATE.search(name) is None


def csv_text(rows: Sequence[Sequence[Any]], *, spreadsheet: bool = False) -> str:
    """Write rows as CSV that reads back as it was.

    Args:
        spreadsheet: put a quote before text that a spreadsheet would take for a formula.
    """
    lines = []
    for row in rows:
        line = io.StringIO()
        csv.writer(line).writerow([_disarmed(value) if spreadsheet else value for value in row])
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")  # with its own end, it quotes either one inside
    return "".join(lines)


def _disarmed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return f"'{value}" if value.startswith(("\t", "\r")) or value.lstrip().startswith(FORMULA) else value
