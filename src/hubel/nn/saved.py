"""A network on disk: model.safetensors, config.json and a model card. Loading runs no code from the folder.

config.json follows the layout that timm and the Hub read (``architecture``, ``label_names``, ``pretrained_cfg``); what
only hubel needs stands under ``hubel``. Both files carry a SHA-256 of what they say, so that a flipped bit is an error
and not another model. Each file is replaced in one step, and the parts that both must agree on never change in a run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hubel.as_json import from_json, json_text, to_json
from hubel.errors import HubelError, ModelError
from hubel.nn.foreign import is_code
from hubel.nn.tensor_file import check_tensors, read_tensors, tensor_writer
from hubel.nn.zoo import Builder, build_for
from hubel.records import ModelCard
from hubel.runs import write_json, write_text

OWN = ("arguments", "preprocess", "metrics", "temperature", "levels")  # of a card, what only hubel reads


def save_model(folder: Path, state: Mapping[str, Tensor], card: ModelCard) -> None:
    """Write a state dict and its card as a model folder; an earlier model in it is replaced file by file."""
    model_writer(folder, state, card)()


def model_writer(folder: Path, state: Mapping[str, Tensor], card: ModelCard) -> Callable[[], None]:
    """Return what does the same with the weights as they are now: they may change before it is called."""
    write_weights = tensor_writer(folder / "model.safetensors", state)

    def write() -> None:
        write_weights()
        describe_model(folder, card)

    return write


def describe_model(folder: Path, card: ModelCard) -> None:
    """Write what a model folder says beside the weights: config.json and the model card."""
    config = _config(card)
    write_json(folder / "config.json", {**config, "sha256": _digest_json(config)})
    write_text(folder / "README.md", model_card_text(card))


def load_model(
    folder: str | Path, device: torch.device | str = "cpu", *, code: Builder | None = None
) -> tuple[nn.Module, ModelCard]:
    """Build the network that a model folder describes and load its weights; it comes in eval mode.

    Args:
        code: the user's own class, function or module, for a folder whose network is none that hubel knows.

    Raises:
        ModelError: a file is missing, damaged, of another network, from a newer hubel, or the folder asks for code that
            was not given.
    """
    folder = Path(folder)
    card = read_card(folder)
    if is_code(card.architecture) and code is None:
        raise ModelError(
            f"The network in {folder} is code of its maker, {_plain(card.architecture)}, and nothing is run because a "
            f"folder says so: where you trust that code, name it, --model {card.architecture} (model=… in Python)."
        )
    if code is not None and not is_code(card.architecture):
        raise ModelError(f"The network in {folder} is hubel's own {card.architecture}: leave --model out.")
    tensors, _ = read_tensors(folder / "model.safetensors")
    try:
        described = (card.architecture, len(card.classes), card.preprocess, card.arguments, code)
        check_tensors(tensors, build_for(*described, outlined=True).state_dict())  # before memory is taken for it
        model = build_for(*described)
        model.load_state_dict(tensors)
    except (HubelError, RuntimeError, TypeError) as error:
        what = str(error).splitlines()[0].rstrip(".")
        raise ModelError(f"{folder} does not hold weights of the network {card.architecture!r} ({what}).") from error
    return model.to(memory_format=torch.channels_last).to(torch.device(device)).eval(), card


def read_card(folder: Path) -> ModelCard:
    """Read config.json of a model folder."""
    file = folder / "config.json"
    try:
        text = file.read_text("utf-8")
        config = json.loads(text)
        digest = config.pop("sha256", None)
        if digest != _digest_json(config) or text != json_text({**config, "sha256": digest}, indent=2) + "\n":
            raise ValueError("its checksum is wrong: it was changed or damaged")
        own = {key: config["hubel"][key] for key in OWN if key in config["hubel"]}  # an older card has fewer
        return from_json(ModelCard, {"architecture": config["architecture"], "classes": config["label_names"], **own})
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is no model folder: it has no config.json.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{file} can't be used ({error}): restore it from a copy.") from error


def _digest_json(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def _config(card: ModelCard) -> dict[str, Any]:
    preprocess = card.preprocess
    return {
        "architecture": card.architecture,
        "num_classes": len(card.classes),
        "label_names": list(card.classes),
        "pretrained_cfg": {
            "input_size": [preprocess.channels, *preprocess.size],
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "interpolation": preprocess.interpolation,
            "crop_pct": preprocess.crop_pct,
            "crop_mode": {"crop": "center", "pad": "border", "squash": "squash"}[preprocess.fit],
            "num_classes": len(card.classes),
        },
        "hubel": {key: to_json(getattr(card, key)) for key in OWN},
    }


def model_card_text(card: ModelCard) -> str:
    """Write the model card: what it is, what it was measured at, how to use it."""
    height, width = card.preprocess.size
    kind = "grey" if card.preprocess.channels == 1 else "RGB"
    measured = "".join(f"- {name.replace('_', ' ')}: {value:.6g}\n" for name, value in card.metrics.items())
    if any(name.startswith("chosen_by") for name in card.metrics):
        measured += "\nWhat an epoch was chosen by is flattered by the choice.\n"
    names = ", ".join(_plain(name) for name in card.classes)
    return (
        "---\nlibrary_name: hubel\npipeline_tag: image-classification\n---\n\n"
        f"# {card.architecture}, {len(card.classes)} classes\n\n"
        f"A convolutional image classifier for {height}×{width} {kind} images.\n\n"
        f"Classes: {names}\n\n## Measured\n\n{measured or '- not yet'}\n\n"
        '## Use\n\n```python\nimport hubel\n\nmodel = hubel.load(".")\nfor answer in model.predict(["photo.jpg"]):\n'
        "    print(answer.label, answer.confidence)\n```\n\n## Limits\n\n"
        "It always answers with one of its classes, also for images that show none of them. "
        "Its accuracy holds for images like those it was measured on.\n"
    )


def _plain(name: str) -> str:
    """Keep a class name from becoming Markdown or HTML."""
    return "`" + name.replace("`", "'").replace("\n", " ") + "`"
