"""Tensors on disk with a checksum over every byte: safetensors, whose metadata hold the SHA-256 of the file itself.

The digest is that of the file with 64 zeros in the digest's place, so that no bit is outside of it: not the names and
shapes in the header, not even its padding. Nothing is used before it fits. Any safetensors reader can open such a file.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from hubel.as_json import from_json
from hubel.errors import ModelError
from hubel.runs import write_bytes

ZEROS = b"0" * 64
SEAL = re.compile(rb'"sha256": "([0-9a-f]{64})"')  # the header begins with it
TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}  # as safetensors calls them


def tensor_writer(
    file: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str] | None = None
) -> Callable[[], None]:
    """Return what writes tensors as they are now, and texts, as one file, whole or not at all.

    Args:
        tensors: any device and strides; they are stored contiguous. They may change before the function is called.

    Raises:
        ModelError: a tensor's type is none of `TYPES`. RunError, by what is returned: the file can't be written.
    """
    content = _content(tensors, {"sha256": ZEROS.decode(), "format": "pt", **(texts or {})})

    def write() -> None:
        everything = content.numpy().data
        seal = SEAL.search(everything)
        assert seal is not None
        place = slice(*seal.span(1))
        everything[place] = ZEROS
        everything[place] = hashlib.sha256(everything).hexdigest().encode()
        write_bytes(file, everything)

    return write


@torch.no_grad()
def _content(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Tensor:
    """The whole file, (bytes,) uint8, its digest still zeros: the only copy that is made."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, value in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):  # all are aligned
        if value.dtype not in TYPES:
            raise ModelError(f"{name} can't be stored: it is {value.dtype}. Use one of {', '.join(map(str, TYPES))}.")
        begin, end = end, end + value.numel() * value.element_size()
        header[name] = {"dtype": TYPES[value.dtype], "shape": list(value.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    content = torch.empty(start + end, dtype=torch.uint8)
    content.numpy().data[:start] = len(text).to_bytes(8, "little") + text
    for name, value in tensors.items():
        begin, end = header[name]["data_offsets"]
        content[start + begin : start + end].view(value.dtype).view(value.shape).copy_(value)
    return content


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `tensor_writer` wrote: the tensors, on the CPU, and the texts.

    Raises:
        ModelError: the file is missing, no such file, or not one byte as it was written.
    """
    try:
        content = bytearray(file.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"{file} does not exist: the folder is incomplete.") from error
    except OSError as error:
        raise _unreadable(file, f"can't be read ({error})") from error
    seal = SEAL.search(content)
    if seal is None:
        raise _unreadable(file, "can't be read (its header is damaged, or it is no safetensors file)")
    digest = seal[1].decode()
    content[seal.start(1) : seal.end(1)] = ZEROS
    if hashlib.sha256(content).hexdigest() != digest:
        raise _unreadable(file, "was cut off, changed or damaged (its checksum is wrong)")
    try:
        said = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        texts = from_json(dict[str, str], said)
        return load(bytes(content)), {name: text for name, text in texts.items() if name not in ("sha256", "format")}
    except (SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise _unreadable(file, f"can't be read ({error})") from error


def check_tensors(found: Mapping[str, Tensor], own: Mapping[str, Tensor], *, whole: bool = True) -> None:
    """Look that tensors are those of a network, or some of them: names, shapes, floating or not; and finite.

    Raises:
        ModelError: names the first that differs.
    """
    for name in sorted(own.keys() ^ found.keys()) if whole else ():
        raise ModelError(f"{name} is {'missing' if name in own else 'no part of it'}.")
    for name in own.keys() & found.keys():
        value, shape = found[name], tuple(own[name].shape)
        if tuple(value.shape) != shape:
            raise ModelError(f"{name} is {tuple(value.shape)} and not {shape}.")
        if value.is_floating_point() != own[name].is_floating_point():
            raise ModelError(f"{name} holds numbers of the type {str(value.dtype).removeprefix('torch.')}.")
        if value.is_meta or value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ModelError(f"{name} holds less numbers than its shape says.")
        if not value.isfinite().all():
            raise ModelError(f"{name} holds numbers that are not finite.")


def _unreadable(file: Path, why: str) -> ModelError:
    return ModelError(f"{file} {why}: restore it from a copy.")
