"""How numbers and foreign text are written in the report, in sensible digits and without traps."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping

NBSP = "\u00a0"
_BIDI_CONTROLS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def plain(text: str) -> str:
    """Foreign text that is safe to show and to encode: control, surrogate and direction characters become U+FFFD.

    Escaping for HTML, SVG or CSV is the writer's business and happens later.
    """
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    hidden = unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or character in _BIDI_CONTROLS
    return "\ufffd" if hidden or character in "\ufffe\uffff" else character


def apart(text: str) -> str:
    """Text ready to stand in a left-to-right sentence: `plain`, and isolated if it is written right to left."""
    shown = plain(text)
    turned = any(unicodedata.bidirectional(character) in {"R", "AL"} for character in shown)
    return f"\u2068{shown}\u2069" if turned else shown


def named(text: str) -> str:
    """A class name in quotation marks, shortened, as it stands in a sentence."""
    return f"“{apart(shortened(plain(text), 48))}”"


def shortened(text: str, limit: int) -> str:
    """Cut the middle out of a text that is longer than `limit` characters; its end, where file names differ, stays."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 3
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def percent(share: float, n: int = 1000) -> str:
    """A share of `n` things in percent, with as many digits as `n` supports: ``91.5 %``."""
    return f"{bare_percent(share, n)}{NBSP}%" if math.isfinite(share) else "not known"


def certainty(confidence: float) -> str:
    """A confidence in percent that says 100 % only for a full one: ``97.3 %``, ``> 99.9 %``."""
    return f">{NBSP}99.9{NBSP}%" if 0.9995 <= confidence < 1 else percent(confidence)


def bare_percent(share: float, n: int = 1000) -> str:
    """Like `percent`, without the sign."""
    digits = 0 if n < 100 else 1 if n < 100_000 else 2
    return f"{100 * share:.{digits}f}" if math.isfinite(share) else "not known"


def points(difference: float) -> str:
    """The size of a difference between two shares: ``7.9 percentage points``."""
    return f"{100 * abs(difference):.1f} percentage points"


def whole(count: int) -> str:
    """A count with thousands separated: ``10,000``."""
    return f"{count:,}"


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """A count with its noun: ``1 image``, ``10,000 images``."""
    return f"{whole(count)}{NBSP}{singular if count == 1 else plural or singular + 's'}"


def compact(count: int) -> str:
    """A large count in three digits: ``1.23 million``."""
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g}{NBSP}{word}"
    return whole(count)


def duration(seconds: float) -> str:
    """A time in the two units that matter: ``3 min 12 s``."""
    if not math.isfinite(seconds):
        return "not known"
    if seconds < 10:
        return f"{seconds:.1f}{NBSP}s"
    total = round(seconds)
    if total < 60:
        return f"{total}{NBSP}s"
    if total < 3600:
        return f"{total // 60}{NBSP}min {total % 60}{NBSP}s"
    return f"{total // 3600}{NBSP}h {total % 3600 // 60}{NBSP}min"


def amount(count: int) -> str:
    """A count in three digits: ``4.09 G``, ``118 M``, ``27``."""
    return _scaled(count, 1000, ("", "k", "M", "G", "T", "P"))


def memory(count: int) -> str:
    """Bytes in three digits, in powers of 1024: ``3.06 MB``."""
    return _scaled(count, 1024, ("B", "KB", "MB", "GB", "TB", "PB"))


def _scaled(count: int, base: int, units: tuple[str, ...]) -> str:
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(units) - 1:
        value, unit = value / base, unit + 1
    digits = f"{value:.3g}" if unit else f"{count}"
    return f"{digits} {units[unit]}".strip()


def sides(values: tuple[float, ...], between: str = " × ") -> str:
    """Height and width as one number where they are equal: ``7``, ``7 × 9``."""
    numbers = [f"{value:.10g}" for value in values]
    return numbers[0] if len(set(numbers)) == 1 else between.join(numbers)


def times(shape: Iterable[int]) -> str:
    """A shape: ``64 × 56 × 56``."""
    return " × ".join(map(str, shape))


def loss(value: float) -> str:
    """A loss with the digits that matter."""
    return (f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}") if math.isfinite(value) else "not a number"


def flat(value: object) -> str:
    """Values within values in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {flat(inner)}" for key, inner in value.items())
    return ", ".join(map(flat, value)) if isinstance(value, (list, tuple)) else str(value)
