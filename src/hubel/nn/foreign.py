"""Networks that are not ours: torchvision's, timm's, and the user's own class from a file.

Each is built for any number of classes and input channels, and an impossible image size is refused with the smallest
one that works. Nothing here runs unless its name was asked for.
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.nn.dry_run import answer, smallest_square, takes
from hubel.nn.layers import he_init

TORCHVISION, TIMM, CODE = "torchvision/", "timm/", ".py:"
IMAGENET = (3, 224, 224)
USUAL = 10  # classes of a network whose constructor must be told and nobody says how many
Size = tuple[int, int]
Arguments = dict[str, Any]
# Auxiliary outputs are for a loss that hubel doesn't compute; the initialisation is stated because torchvision warns.
TORCHVISION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
UNTRUSTED = (
    "asks for the code {name}, and none is run because a file says so: where you trust it, name it, --model {name}."
)
LOADERS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "weights")
# What constructors call the things that hubel knows.
CLASSES = ("classes", "num_classes", "n_classes", "nb_classes", "num_labels", "out_features")
CHANNELS = ("channels", "in_channels", "in_chans", "input_channels", "num_channels")
SIZES = ("size", "image_size", "img_size", "input_size")


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classifiers."""
    import torchvision  # slow to import, and our own networks don't need it

    return cast(list[str], torchvision.models.list_models(module=torchvision.models))


def build_torchvision(name: str, classes: int, channels: int, size: Size, arguments: Arguments) -> nn.Module:
    """Build one of torchvision's classifiers with new weights; its first convolution is replaced for other channels.

    Raises:
        UsageError: it refuses an argument, or doesn't take images of that size.
    """
    import torchvision

    told = _size_arguments(name, size) if not set(SIZES) & set(arguments) else {}
    merged = {**TORCHVISION_ARGUMENTS.get(name, {}), **told, **arguments}
    try:
        model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **merged)
    except (TypeError, ValueError, AssertionError) as error:
        raise _cant_build(f"torchvision's {name}", size, merged, error) from error
    check_size(model, name, size)
    if channels != 3:
        adapt_channels(model, channels)
    return model


def build_timm(name: str, classes: int, channels: int, size: Size, arguments: Arguments) -> nn.Module:
    """Build one of timm's classifiers with new weights.

    Raises:
        UsageError: timm is not installed, has no such network, or refuses an argument.
    """
    timm = import_timm()
    if loads := [key for key in arguments if key in LOADERS]:
        raise UsageError(f"{TIMM}{name} is built with new weights: {loads[0]} is no argument; --weights says others.")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(TIMM + n for n in near)}?" if near else "see timm.list_models()."
        raise UsageError(f"timm has no network called {name!r}: {hint}")
    try:
        model: nn.Module = timm.create_model(name, num_classes=classes, in_chans=channels, **arguments)
        if not takes(model, (channels, *size)):  # networks with position embeddings have to be told
            model = timm.create_model(name, num_classes=classes, in_chans=channels, img_size=size, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise _cant_build(f"timm's {name}", size, arguments, error) from error
    check_size(model, TIMM + name, size, channels)
    return model


def _cant_build(what: str, size: Size, arguments: Arguments, error: Exception) -> UsageError:
    why = str(error).splitlines()[0].rstrip(".:")
    return UsageError(f"{what} can't be built for {size[0]}x{size[1]} with {arguments}: {why}.")


def is_code(name: str) -> bool:
    """Whether a network's name is ``FILE.py:CLASS``, the user's own code."""
    return CODE in name


def code_name(maker: Callable[..., nn.Module] | nn.Module) -> str:
    """Say as ``FILE.py:CLASS`` where a class, a function or a module's class was written."""
    kind = type(maker) if isinstance(maker, nn.Module) else maker
    try:
        file = Path(inspect.getsourcefile(kind) or "").name
    except (TypeError, OSError):
        file = ""
    return f"{file if file.endswith('.py') else 'notebook.py'}:{getattr(kind, '__name__', type(kind).__name__)}"


def load_code(name: str) -> Callable[..., nn.Module]:
    """Run the file of ``FILE.py:CLASS`` and return the class (or function) in it.

    Raises:
        UsageError: no such file, it doesn't run, or has nothing of that name.
    """
    path, _, wanted = name.rpartition(":")
    file = Path(path)
    if not os.path.isfile(file):
        raise UsageError(f"There is no file {path}: --model FILE.py:CLASS takes a network from your own code.")
    identity = f"hubel_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(identity, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[identity] = module  # dataclasses and pickles of the file look themselves up there
    sys.path.insert(0, str(file.resolve().parent))  # what lies beside it can be imported, as if it were run
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{path} could not be run ({_kind(error)}): try it with `python {path}`.") from error
    finally:
        sys.path.pop(0)
    found = getattr(module, wanted, None)
    if not callable(found):
        own = [n for n, v in vars(module).items() if inspect.isclass(v) and issubclass(v, nn.Module)]
        hint = f"its networks are {', '.join(own)}" if own else "it defines no nn.Module"
        raise UsageError(f"{path} has no class or function {wanted!r}: {hint}.")
    return cast(Callable[..., nn.Module], found)


def build_own(
    maker: Callable[..., nn.Module] | nn.Module,
    name: str,
    classes: int | None,
    channels: int,
    size: Size,
    arguments: Arguments,
) -> nn.Module:
    """Build the user's network; its constructor is told classes, channels and size if it takes arguments so called.

    A module that exists already is copied, weights included.

    Raises:
        UsageError: it can't be made, can't take the images, or doesn't return logits (N, classes).
    """
    if isinstance(maker, nn.Module):
        if arguments:
            raise UsageError(f"{name} exists already, so it can't be given {', '.join(arguments)}: give its class.")
        model = copy.deepcopy(maker)
    else:
        known = {CHANNELS: channels, SIZES: size, CLASSES: classes}
        given = _constructor_arguments(maker, name, known, arguments)
        try:
            model = maker(**given)
        except Exception as error:
            raise UsageError(f"{name} could not be built with {given or 'no arguments'} ({_kind(error)}).") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} made a {type(model).__name__}: expected an nn.Module.")
    _check_answer(model, name, classes, channels, size)
    return model


def native(name: str) -> tuple[int, int, int]:
    """Return (channels, height, width) of the images a foreign network was published with; 3, 224, 224 if unknown."""
    if name.startswith(TIMM):
        timm, bare = import_timm(), name.removeprefix(TIMM)
        known = timm.get_pretrained_cfg(bare) if timm.is_model(bare) else None
        return cast(tuple[int, int, int], tuple(known.input_size)) if known is not None else IMAGENET
    bare = name.removeprefix(TORCHVISION)
    if is_code(name) or bare not in torchvision_names():
        return IMAGENET
    import torchvision

    side = int(torchvision.models.get_model_weights(bare).DEFAULT.transforms().crop_size[0])
    return 3, side, side


def adapt_channels(model: nn.Module, channels: int) -> None:
    """Replace the model's first convolution, in place, by one with new weights for that many input channels."""
    name, old = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    new = copy.deepcopy(old)
    new.in_channels = channels
    new.weight = nn.Parameter(old.weight.new_empty(old.out_channels, channels, *old.kernel_size))
    new.reset_parameters()
    model.set_submodule(name, he_init(new))


def check_size(model: nn.Module, name: str, size: Size, channels: int = 3) -> None:
    """Refuse a size that the network can't take, and look for the smallest that it can."""
    if takes(model, (channels, *size)):
        return
    smallest = smallest_square(model, channels)
    if smallest is None:
        raise UsageError(f"{name} can't take images of {size[0]}x{size[1]}: it needs other sizes, such as 224x224.")
    what = "are too small for" if smallest > min(size) else "don't fit"
    raise UsageError(f"images of {size[0]}x{size[1]} {what} {name}: the smallest size is {smallest}x{smallest}.")


def _size_arguments(name: str, size: Size) -> Arguments:
    """The few networks that are made for one size have to be told it."""
    if name.startswith("maxvit"):
        return {"input_size": tuple(size)}
    if not name.startswith("vit"):
        return {}
    patch = int(name.rpartition("_")[2])
    if size[0] != size[1] or size[0] % patch:
        near = max(1, round(max(size) / patch)) * patch
        raise UsageError(
            f"images of {size[0]}x{size[1]} don't fit {name}: its patches need squares whose side is a multiple of "
            f"{patch}, such as {near}x{near}."
        )
    return {"image_size": size[0]}


def import_timm() -> Any:
    """Import timm, or say how to install it."""
    try:
        import timm
    except ImportError as error:
        raise UsageError("Networks of timm need the package timm: pip install 'hubel[timm]'.") from error
    return timm


def _constructor_arguments(
    maker: Callable[..., nn.Module], name: str, known: dict[tuple[str, ...], Any], arguments: Arguments
) -> Arguments:
    """What hubel knows, as far as the constructor has arguments called so, and what else was asked for."""
    taken = inspect.signature(maker).parameters
    unknown = [key for key in arguments if key not in taken]
    if unknown and all(parameter.kind is not parameter.VAR_KEYWORD for parameter in taken.values()):
        raise UsageError(f"{name} has no argument {unknown[0]!r}: it takes {', '.join(taken) or 'none'}.")
    called = {next((word for word in words if word in taken), ""): value for words, value in known.items()}
    told = {
        word: USUAL if value is None else value
        for word, value in called.items()
        if word and (value is not None or taken[word].default is inspect.Parameter.empty)
    }
    return {**told, **arguments}


def _check_answer(model: nn.Module, name: str, classes: int | None, channels: int, size: Size) -> None:
    try:
        logits = answer(model, (channels, *size))
    except Exception as error:
        raise UsageError(
            f"{name} can't take images of {channels}x{size[0]}x{size[1]} ({_kind(error)}): give another --size, or let "
            f"its constructor take {CHANNELS[0]} and {SIZES[0]}."
        ) from error
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (1, classes) and not (classes is None and len(shape) == 2):
        raise UsageError(
            f"{name} must return logits (N, {classes or 'K'}), one a class, but for one image it returned {shape}: "
            f"let its constructor take the argument {CLASSES[0]}."
        )


def _kind(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
