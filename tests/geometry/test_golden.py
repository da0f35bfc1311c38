"""The figures of every network of ours and of torchvision, held to those that were stored before a rewrite.

`python tests/geometry/test_golden.py` writes the file anew; do so only where a change of the numbers is meant. It was
once: in seven networks of window attention (Swin, MaxViT) the rows between the cutting into windows and the attention
had the field of their whole window, and have now that of one position.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from hubel.geometry.summary import summarise
from hubel.nn.foreign import torchvision_names
from hubel.nn.zoo import NETWORKS, native, outline
from repetitions import without_repetitions

STORED = Path(__file__).with_name("golden.json")
NAMES = (*NETWORKS, *(f"torchvision/{name}" for name in torchvision_names()))


def figures(name: str) -> dict[str, Any]:
    """Totals of a network at its native size, and a digest of every layer's figures."""
    channels, height, width = native(name)
    model = outline(name, classes=1000 if height > 64 else 10, channels=channels, size=(height, width))
    found = summarise(model, (channels, height, width))
    layers = [
        (
            *(layer.name, layer.kind, layer.shape, layer.macs, layer.parameters),
            *(layer.field, _rounded(layer.stride), _rounded(layer.padding), layer.sees_all),
        )
        for layer in found.layers
    ]
    return {
        "layers": len(layers),
        "parameters": found.parameters,
        "macs": found.macs,
        "field": found.field and list(found.field),
        "stride": _rounded(found.stride),
        "padding": _rounded(found.padding),
        "sees_all": sum(layer.sees_all for layer in found.layers),
        "digest": hashlib.sha256(json.dumps(layers).encode()).hexdigest()[:16],
    }


def _rounded(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else [round(number, 6) for number in pair]


def test_all_networks_are_stored() -> None:
    assert json.loads(STORED.read_text("utf-8")).keys() == set(NAMES), "a new network: write the file anew"


@pytest.mark.parametrize("name", without_repetitions(NAMES))
def test_the_figures_are_those_that_were_stored(name: str) -> None:
    assert figures(name) == json.loads(STORED.read_text("utf-8"))[name]


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lines = [f"{json.dumps(name)}: {json.dumps(figures(name))}" for name in NAMES]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")
