"""Published weights: where they come from, and what images they expect."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hubel.errors import ModelError, UsageError
from hubel.nn import foreign
from hubel.nn.dry_run import answer
from hubel.nn.saved import read_card
from hubel.nn.stages import find_stages
from hubel.nn.tensor_file import read_tensors
from hubel.nn.zoo import Builder, native, outline
from hubel.records import Preprocess

IMAGENET = "imagenet"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_CROP = 224 / 256
WRAPPERS = re.compile(r"^(module|model|_orig_mod|net|backbone)\.")  # what other trainers put before every key
UNPACKED = ("state_dict", "model_state_dict", "model", "net", "ema")  # under which checkpoints keep their tensors


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Tensors that were trained elsewhere, and what is known about them.

    Attributes:
        name: as it was asked for. architecture, arguments: of the network they belong to.
        preprocess: how its images were prepared. assumed: whether that is only ImageNet's usual way, because nothing
            was said.
        classes: names of the logits where they are known. count: of the logits.
    """

    name: str
    state: dict[str, Tensor]
    architecture: str
    arguments: dict[str, Any]
    preprocess: Preprocess
    assumed: bool
    classes: tuple[str, ...] | None
    count: int

    @property
    def numbers(self) -> str:
        """Mean, standard deviation and size in words."""
        said = self.preprocess
        mean, std = (" ".join(f"{v:g}" for v in values) for values in (said.mean, said.std))
        return f"mean {mean}, std {std}, {said.size[0]}×{said.size[1]} pixels"


def read_weights(
    source: str, network: str, *, arguments: dict[str, Any] | None = None, code: Builder | None = None
) -> Weights:
    """Read weights for a network.

    Args:
        source: ``imagenet`` (torchvision's or timm's published ones, downloaded once), a file (.safetensors, or .pth
            with tensors only), a model folder, or a run folder.
        network: a name as `build` takes it; ``auto`` takes the one that a folder was made with.

    Raises:
        ModelError: nothing is there, it can't be downloaded or read, or it belongs to another network.
        UsageError: ``imagenet`` for a network that has no published weights.
    """
    given = arguments or {}
    if Path(source).is_dir():
        return _from_folder(source, network)
    if network == "auto":
        raise UsageError(f"--weights {source} needs to know whose they are: add --model, such as --model resnet18.")
    if source == IMAGENET:
        if network.startswith(foreign.TIMM):
            return _from_timm(network, given)
        return _from_torchvision(network, given)
    state = _read_file(Path(source))
    count = _count(network, state, given, code)
    size = native(network)[1:]
    crop = IMAGENET_CROP if size[0] > 64 else 1.0
    first = next((value for value in state.values() if value.ndim == 4), None)
    grey = first is not None and first.shape[1] == 1
    preprocess = _imagenet(size, crop)
    if grey:
        preprocess = replace(preprocess, channels=1, mean=(0.5,), std=(0.5,))
    return Weights(
        name=source,
        state=state,
        architecture=network,
        arguments=given,
        preprocess=preprocess,
        assumed=True,
        classes=imagenet_classes() if count == 1000 else None,
        count=count,
    )


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of ImageNet's 1,000 classes, in the order of published logits."""
    import torchvision

    return tuple(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"])


def _imagenet(size: tuple[int, int], crop_pct: float) -> Preprocess:
    return Preprocess(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=crop_pct)


def _from_folder(source: str, network: str) -> Weights:
    folder = Path(source)
    folder = folder / "model" if (folder / "model").is_dir() else folder
    card = read_card(folder)
    if network not in ("auto", card.architecture):
        raise UsageError(f"{source} holds the network {card.architecture}, not {network}: leave --model out.")
    return Weights(
        name=source,
        state=read_tensors(folder / "model.safetensors")[0],
        architecture=card.architecture,
        arguments=card.arguments,
        preprocess=card.preprocess,
        assumed=False,
        classes=card.classes,
        count=len(card.classes),
    )


def _from_torchvision(network: str, arguments: dict[str, Any]) -> Weights:
    import torchvision

    bare = network.removeprefix(foreign.TORCHVISION)
    if bare not in foreign.torchvision_names():
        raise UsageError(
            f"there are no published weights of {network}: --weights imagenet goes with torchvision's and timm's "
            "networks, such as resnet18; or give a file or a folder."
        )
    chosen = torchvision.models.get_model_weights(bare).DEFAULT
    try:
        state = chosen.get_state_dict(check_hash=True, progress=True)
    except OSError as error:  # no network, a proxy's refusal, no room on the disk
        raise ModelError(_how_to_fetch(chosen.url, f"{error}")) from error
    except RuntimeError as error:  # the checksum in the file's name is wrong
        raise ModelError(_how_to_fetch(chosen.url, str(error).splitlines()[0])) from error
    said = chosen.transforms()
    side = int(said.crop_size[0])
    return Weights(
        name=f"torchvision's {chosen}",
        state=state,
        architecture=network,
        arguments=arguments,
        preprocess=Preprocess(
            size=(side, side),
            mean=tuple(said.mean),
            std=tuple(said.std),
            crop_pct=side / int(said.resize_size[0]),
            interpolation="bicubic" if "bicubic" in str(said.interpolation).lower() else "bilinear",
        ),
        assumed=False,
        classes=tuple(chosen.meta["categories"]),
        count=len(chosen.meta["categories"]),
    )


def _how_to_fetch(url: str, why: str) -> str:
    file = url.rsplit("/", 1)[-1]
    place = Path(torch.hub.get_dir()) / "checkpoints"
    return (
        f"{file} could not be downloaded ({why}): fetch {url} on a machine with a network and put it into {place}, "
        "or give the file itself, --weights FILE."
    )


def _from_timm(network: str, arguments: dict[str, Any]) -> Weights:
    timm = foreign.import_timm()
    bare = network.removeprefix(foreign.TIMM)
    try:
        model = timm.create_model(bare, pretrained=True, **arguments)
    except (OSError, RuntimeError) as error:
        what = str(error).splitlines()[0].rstrip(".")
        raise ModelError(
            f"the weights of {network} could not be downloaded ({what}): fetch model.safetensors of {bare} from the "
            "Hub on a machine with a network, and give the file itself, --weights FILE."
        ) from error
    said = timm.data.resolve_model_data_config(model)
    return Weights(
        name=f"timm's {bare}",
        state=model.state_dict(),
        architecture=network,
        arguments=arguments,
        preprocess=Preprocess(
            size=tuple(said["input_size"][1:]),
            channels=said["input_size"][0],
            mean=tuple(said["mean"]),
            std=tuple(said["std"]),
            crop_pct=said["crop_pct"],
            interpolation="bicubic" if said["interpolation"] == "bicubic" else "bilinear",
        ),
        assumed=False,
        classes=imagenet_classes() if model.num_classes == 1000 else None,
        count=int(model.num_classes),
    )


def _read_file(file: Path) -> dict[str, Tensor]:
    """Read tensors from .safetensors, or from a pickled checkpoint as far as it holds tensors only."""
    if not file.is_file():
        raise ModelError(
            f"There are no weights {file}: give imagenet, a file (.safetensors or .pth), a model folder or a run."
        )
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (OSError, SafetensorError, ValueError, json.JSONDecodeError) as error:
            raise ModelError(f"{file} can't be read ({error}): restore it from a copy.") from error
    try:
        said: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a pickle refuses with
        raise ModelError(
            f"{file} was refused: it is no checkpoint that holds tensors only ({type(error).__name__}); such a file "
            "can run code when it is opened. Convert it to safetensors where you trust it."
        ) from error
    for key in UNPACKED:
        if isinstance(said, dict) and isinstance(said.get(key), dict):
            said = said[key]
    tensors = {str(k): v for k, v in said.items() if isinstance(v, Tensor)} if isinstance(said, dict) else {}
    if not tensors:
        raise ModelError(f"{file} holds no named tensors: a state dict is expected.")
    return tensors


def _count(network: str, state: dict[str, Tensor], arguments: dict[str, Any], code: Builder | None) -> int:
    """The number of classes that the weights were trained for; 1000 where they come without a head."""
    channels, height, width = native(network)
    first = next((value for value in state.values() if value.ndim == 4), None)
    channels = int(first.shape[1]) if first is not None and first.shape[1] in (1, 3) else channels
    size = (height, width)
    if isinstance(code, nn.Module):  # it has as many classes as it was made with
        return int(answer(code, (channels, *size)).shape[1])
    model = outline(network, classes=1000, channels=channels, size=size, code=code, **arguments)
    final = find_stages(model, (channels, height, width)).final
    weight = matched(state, model.state_dict()).get(f"{final}.weight")
    return 1000 if weight is None else int(weight.shape[0])


def matched(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename keys so that they fit: without the prefixes of other trainers, or with that of the part they are of."""
    while state and all(WRAPPERS.match(key) for key in state) and not state.keys() & own.keys():
        state = {WRAPPERS.sub("", key): value for key, value in state.items()}
    if state.keys() & own.keys():
        return state
    for prefix in _prefixes(own):
        named = {f"{prefix}{key}": value for key, value in state.items()}
        if named.keys() & own.keys():
            return named
    return state


def _prefixes(own: Sequence[str] | dict[str, Tensor]) -> list[str]:
    return list(dict.fromkeys(f"{key.split('.')[0]}." for key in own))
