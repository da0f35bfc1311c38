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


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Write rows as CSV that is safe to open in a spreadsheet: text that would be a formula gets a quote in front."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def unguarded(cell: str) -> str:
    """Take the quote away again that `csv_text` puts before text that would be a formula."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and _is_formula(value) else value


def _is_formula(cell: str) -> bool:
    return cell.startswith(("\t", "\r")) or cell.lstrip().startswith(FORMULA)
