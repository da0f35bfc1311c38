"""Frozen dataclasses as plain JSON values, and back; whatever is unknown, missing or of another kind is refused.

What comes back may be a stranger's: numbers are finite and of ordinary size, texts can be written to a file, nothing
is nested deeply, and a record's own ``__post_init__`` says which values are possible.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import reprlib
import types
import typing
from typing import Annotated, Any, Literal, TypeVar

T = TypeVar("T")
SURROGATE = re.compile("[\ud800-\udfff]")  # half of a pair, which no file can hold as text
SPARSE = {"sparse": True}  # metadata of a field that holds a square matrix of mostly zeros
MAY_BE_NAN = "NaN where it is not known"  # in the Annotated of a float
DEEPEST = 20  # lists and objects in each other, where any JSON may stand


def to_json(record: Any) -> Any:
    """Turn a record, or a container of records, into plain JSON values."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        named = ((f, getattr(record, f.name)) for f in dataclasses.fields(record))
        return {f.name: _sparse(value) if f.metadata == SPARSE else to_json(value) for f, value in named}
    if isinstance(record, dict):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, (list, tuple)):
        return [to_json(value) for value in record]
    return record.item() if hasattr(record, "item") else record  # one number in an array or a tensor


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Write a record, or plain values, as JSON that every reader takes: what is not finite becomes null."""
    plain = to_json(value)
    try:
        return json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(plain), indent=indent, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(kind: type[T], value: Any) -> T:
    """Build a record of the given kind from what `to_json` made; unknown keys are an error.

    Raises:
        ValueError: a key is unknown or missing, or a value has the wrong shape.
    """
    return typing.cast(T, _read(kind, value, kind.__name__))


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        return math.nan if missing and MAY_BE_NAN in arguments else _read(arguments[0], value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _read_record(hint, value, where)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _read(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where}: expected a list, got {reprlib.repr(value)}")
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(inner) != len(value):
            raise ValueError(f"{where}: expected {len(inner)} values, got {len(value)}")
        return tuple(_read(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(inner, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected an object, got {reprlib.repr(value)}")
        return {_read(arguments[0], k, where): _read(arguments[1], v, f"{where}.{k:.40}") for k, v in value.items()}
    if origin is Literal and value not in arguments:
        raise ValueError(f"{where}: expected one of {', '.join(map(str, arguments))}, got {reprlib.repr(value)}")
    return _read_plain(hint, value, where)


def _read_plain(hint: Any, value: Any, where: str) -> Any:
    """Read a number, a text, or where the hint is Any whatever JSON holds."""
    kind = hint if hint in (int, float, str, bool) else type(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{where}: expected {kind.__name__}, got {reprlib.repr(value)}")
    if (kind is int and abs(value) >= 2**63) or (hint is float and not math.isfinite(value)):
        raise ValueError(f"{where}: expected a finite number of ordinary size, got {reprlib.repr(value)}")
    if kind is str and SURROGATE.search(value):
        raise ValueError(f"{where}: {reprlib.repr(value)} is no text that can be written")
    if isinstance(value, (list, tuple, dict)) and _depth(value) > DEEPEST:
        raise ValueError(f"{where}: more than {DEEPEST} lists or objects stand in each other")
    return value


def _depth(value: Any, above: int = 0) -> int:
    if above > DEEPEST or not isinstance(value, (list, tuple, dict)):
        return above
    return max(
        (_depth(v, above + 1) for v in (value.values() if isinstance(value, dict) else value)), default=above + 1
    )


def _read_record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object, got {reprlib.repr(value)}")
    hints = typing.get_type_hints(kind, include_extras=True)
    unknown = sorted(map(str, set(value) - set(hints)))
    if unknown:
        raise ValueError(f"{where}: unknown key {reprlib.repr(unknown[0])}; known are {', '.join(hints)}")
    missing = [
        f.name
        for f in dataclasses.fields(kind)
        if f.name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where}: the key {missing[0]!r} is missing")
    sparse = {f.name for f in dataclasses.fields(kind) if f.metadata == SPARSE}
    value = {name: _dense(v) if name in sparse else v for name, v in value.items()}
    return kind(**{name: _read(hints[name], v, f"{where}.{name}") for name, v in value.items()})


def _sparse(rows: Any) -> list[dict[str, int]]:
    """Each row of a matrix as an object: column → number."""
    return [{str(column): number for column, number in enumerate(row) if number} for row in rows]


def _dense(rows: Any) -> Any:
    """The rows again; whatever isn't made by `_sparse` stays as it is."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return rows
    columns = [str(column) for column in range(len(rows))]
    return [[row.get(column, 0) for column in columns] for row in rows]
