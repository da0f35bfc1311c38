"""Tensors on disk with a checksum over every byte: safetensors, whose metadata hold the SHA-256 of the file itself.

The digest is that of the file with 64 zeros in the digest's place, so that no bit is outside of it: not the names and
shapes in the header, not even its padding. Nothing is used before it fits. Any safetensors reader can open such a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hubel.errors import ModelError
from hubel.runs import write_bytes

ZEROS = b"0" * 64


def write_tensors(file: Path, tensors: Mapping[str, Tensor], said: Mapping[str, str] | None = None) -> None:
    """Write tensors and texts as one file, whole or not at all.

    Args:
        tensors: any device, dtype and strides; they are stored contiguous.
        said: texts that are stored with them.
    """
    metadata = {"format": "pt", **(said or {}), "sha256": ZEROS.decode()}
    content = bytearray(save(_apart(tensors), metadata=metadata))
    place = content.index(ZEROS, 8)
    content[place : place + 64] = hashlib.sha256(content).hexdigest().encode()
    write_bytes(file, content)


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write_tensors` wrote: the tensors, on the CPU, and the texts.

    Raises:
        ModelError: the file is missing, no such file, or not one byte as it was written.
    """
    try:
        content = bytearray(file.read_bytes())
        begin = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:begin])
        said: dict[str, str] = header.get("__metadata__", {})
        whole = begin + max(
            (value["data_offsets"][1] for name, value in header.items() if value is not said), default=0
        )
        digest = said.get("sha256", "")
        place = content.index(digest.encode(), 8) if len(digest) == 64 else -1
    except FileNotFoundError as error:
        raise ModelError(f"{file} does not exist: the folder is incomplete.") from error
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        raise ModelError(f"{file} can't be read ({error}): restore it from a copy.") from error
    if len(content) < whole:
        raise ModelError(f"{file} is cut off ({len(content):,} of {whole:,} bytes): restore it from a copy.")
    if place >= 0:
        content[place : place + 64] = ZEROS
    if place < 0 or hashlib.sha256(content).hexdigest() != digest:
        raise ModelError(f"{file} was changed or damaged (its checksum is wrong): restore it from a copy.")
    try:
        tensors = load(bytes(content))
    except SafetensorError as error:
        raise ModelError(f"{file} can't be read ({error}): restore it from a copy.") from error
    return tensors, {name: text for name, text in said.items() if name not in ("format", "sha256")}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors to the CPU, contiguous; safetensors refuses two that share memory (tied weights), so copy those."""
    apart: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in tensors.items():
        stored = value.detach().cpu().contiguous()
        address = stored.untyped_storage().data_ptr()
        if address in seen or stored.untyped_storage().nbytes() != stored.numel() * stored.element_size():
            stored = stored.clone()
        seen.add(address)
        apart[name] = stored
    return apart


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names: equal where weights are."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
