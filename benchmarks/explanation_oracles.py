"""Explanations against pytorch-grad-cam and Captum, with the same random weights and images.

    python -m venv ORACLES && ORACLES/bin/pip install . grad-cam captum
    ORACLES/bin/python benchmarks/explanation_oracles.py --output benchmarks/results/explanation-oracles.json

An environment of its own, since both bring what hubel does without (OpenCV, matplotlib). Raw maps are compared: before
a ReLU at the end, before enlarging and before scaling. Exit code 1 where a number is off by more than 1e-5 of the
largest one of its maps.

--tiny prints the numbers of a small network that tests/explanation/test_oracles.py keeps.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import captum.attr
import numpy as np
import pytorch_grad_cam
import torch
import torchvision
from measuring import machine, versions, write
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from hubel.explanation.attribution import Attribution
from hubel.explanation.cam import choose_layer
from hubel.explanation.methods import METHODS
from hubel.explanation.pixels import occlusion

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from explanation.tiny import few, tiny

NETWORKS = ("resnet18", "vgg16", "mobilenet_v2", "efficientnet_b0")
CAMS = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
    "layercam": pytorch_grad_cam.LayerCAM,
    "eigencam": pytorch_grad_cam.EigenCAM,
    "scorecam": pytorch_grad_cam.ScoreCAM,
}
PIXELS = ("saliency", "integrated-gradients", "occlusion", "guided-backprop")
MOST = 1e-5
WINDOW = (16, 16)
Maps = np.ndarray[Any, np.dtype[np.float32]]


def cam_of_oracle(name: str, model: nn.Module, layer: str, images: Tensor, targets: Tensor) -> Maps:
    """What pytorch-grad-cam makes of a layer before it cuts, enlarges and scales: (N, h, w)."""
    kept: list[Maps] = []
    with CAMS[name](model=model, target_layers=[model.get_submodule(layer)]) as cam:
        whole = cam.get_cam_image

        def keep(*args: Any, **kwargs: Any) -> Maps:
            kept.append(whole(*args, **kwargs))
            return kept[-1]

        cam.get_cam_image = keep
        cam(input_tensor=images, targets=[ClassifierOutputTarget(t) for t in targets.tolist()])
    return kept[0]


def pixels_of_oracle(name: str, model: nn.Module, images: Tensor, targets: Tensor, window: tuple[int, int]) -> Maps:
    """What Captum makes of the pixels, (N, H, W), with hubel's way to make one map of the channels."""
    if name == "saliency":
        found = captum.attr.Saliency(model).attribute(images, target=targets).amax(1)
    elif name == "integrated-gradients":
        method = captum.attr.IntegratedGradients(model)
        found = method.attribute(images, target=targets, n_steps=50, internal_batch_size=len(images)).sum(1)
    elif name == "guided-backprop":
        found = captum.attr.GuidedBackprop(model).attribute(images, target=targets).sum(1)
    else:
        channels, stride = images.shape[1], (window[0] // 2, window[1] // 2)
        found = captum.attr.Occlusion(model).attribute(
            images, (channels, *window), strides=(channels, *stride), target=targets, perturbations_per_eval=8
        )[:, 0]
    return found.detach().numpy()


def compared(ours: Attribution, theirs: Maps, *, up_to_sign: bool = False) -> dict[str, float]:
    """The largest difference of any number, the largest number, and how many images have the same sign."""
    mine, other = ours.maps.numpy().astype(np.float64), theirs.astype(np.float64)
    signs = np.sign((mine * other).sum((1, 2), keepdims=True)) if up_to_sign else np.ones((len(mine), 1, 1))
    off, largest = float(np.abs(mine - signs * other).max()), float(np.abs(other).max())
    return {
        "off": off,
        "largest": largest,
        "relative": off / largest,
        "same_sign": int((signs > 0).sum()),
        "n": len(mine),
    }


def separate_relus(model: nn.Module) -> nn.Module:
    """A copy with ReLUs out of place, which Captum's hooks need, and without ReLU6, which Captum leaves as it is."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, (nn.ReLU, nn.ReLU6)):
            model.set_submodule(name, nn.ReLU())
    return model


def rows(networks: list[str], count: int, side: int) -> Iterator[dict[str, Any]]:
    """Every network and method; Score-CAM and the methods of pixels on fewer and smaller images: they take long."""
    for network in networks:
        torch.manual_seed(0)
        model = torchvision.models.get_model(network, weights=None).eval()
        images, targets = torch.randn(count, 3, side, side), torch.randint(1000, (count,))
        layer, _ = choose_layer(model, images[:1])
        for name in CAMS:
            some, classes = (images, targets) if name != "scorecam" else (images[:1, :, :96, :96], targets[:1])
            ours = METHODS[name](model, some, classes, layer=layer)
            theirs = cam_of_oracle(name, model, layer, some, classes)
            yield {"network": network, "method": name, "layer": layer, "side": some.shape[-1]} | compared(
                ours, theirs, up_to_sign=name == "eigencam"
            )
        some, classes = images[:4, :, :64, :64], targets[:4]
        for name in PIXELS:
            if name == "guided-backprop" and network == "efficientnet_b0":
                continue  # of SiLUs, for which it isn't defined
            asked = separate_relus(model) if name == "guided-backprop" else model
            settings = {"window": WINDOW} if name == "occlusion" else {}
            ours = METHODS[name](asked, some, classes, **settings)
            theirs = pixels_of_oracle(name, asked, some, classes, WINDOW)
            yield {"network": network, "method": name, "layer": "", "side": 64} | compared(ours, theirs)


def show_tiny() -> None:
    """Print what the oracles make of `tiny`, in float32 at its last ReLU, for the targets 0, 1 and 2."""
    model, images, targets = tiny(torch.float32), few(torch.float32), torch.tensor([0, 1, 2])
    made: dict[str, Callable[[], Maps]] = {
        name: (lambda n=name: cam_of_oracle(n, model, "3", images, targets)) for name in CAMS
    }
    made |= {name: (lambda n=name: pixels_of_oracle(n, model, images, targets, (2, 2))) for name in PIXELS}
    for name, make in made.items():
        maps = make()
        maps = maps * (np.sign(maps[:, :1, :1]) if name == "eigencam" else 1)
        print(f'    "{name}": {json.dumps([[round(float(x), 5) for x in one.flatten()[:6]] for one in maps])},')
    assert occlusion(model, images, targets, window=(2, 2)).maps.shape == (3, 6, 5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    if arguments.tiny:
        show_tiny()
        return 0
    found = []
    for row in rows(arguments.networks, arguments.images, arguments.side):
        found.append(row)
        print(
            "{network:16} {method:21} {layer:12} off {off:.1e} of {largest:.3g}, {same_sign} of {n} signs".format(**row)
        )
    oracles = {name: importlib.metadata.version(name) for name in ("grad-cam", "captum")}
    if arguments.output:
        write(arguments.output, {"machine": machine(), "versions": versions() | oracles, "rows": found})
    return int(any(row["relative"] > MOST for row in found))


if __name__ == "__main__":
    sys.exit(main())
