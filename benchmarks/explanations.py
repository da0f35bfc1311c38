"""H3: whether Grad-CAM points at what matters, on photos with ImageNet weights, against maps that know nothing.

    python benchmarks/explanations.py DATA/imagenette-2000 --squeezenet FILE \\
        --output benchmarks/results/explanations.json

Each photo's map is measured by deletion and insertion (log-odds and probability) and by ROAD, beside random maps of the
same smoothness and a blob in the centre; the differences are paired, their 95 % intervals are bootstrapped over photos.
Three maps that know nothing of the photo are put to the same test: the map shuffled on its own grid, the map of
another photo, and the negative. Then methods are put to the randomisation test. How many shares, which empty image,
which random maps and the limit of the randomisation test were chosen on photos of `train` and on digits; the photos
that are reported, of `val`, played no part in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measuring import computes_bfloat16, machine, versions, write
from torch import Tensor, nn

from hubel.as_json import to_json
from hubel.dataset.find import scan
from hubel.dataset.pack import pack
from hubel.dataset.tensors import normalise, to_tensor
from hubel.events import outcome
from hubel.explanation.methods import attribute
from hubel.explanation.randomisation import randomisation
from hubel.explanation.removal import road
from hubel.explanation.trust import ROAD_RANDOM, Trust, centre_blob, interval, random_maps, trust
from hubel.nn.loading import load_into
from hubel.nn.weights import IMAGENET, read_weights
from hubel.nn.zoo import build

SHARES = (0.1, 0.3, 0.5)  # of the pixels that ROAD imputes
METHODS = ("gradcam", "saliency", "integrated-gradients", "guided-backprop")
AT_ONCE = 24  # photos of the randomisation test


def loaded(given: argparse.Namespace, name: str, source: str) -> tuple[nn.Module, Tensor]:
    """A network with its ImageNet weights, and the photos as it wants them: as many of each class."""
    weights, catalog = read_weights(source, name), scan(given.folder)
    parts = np.array(catalog.parts)
    rows = [np.flatnonzero((parts == given.part) & (catalog.labels == k)) for k in range(len(catalog.classes))]
    chosen = np.concatenate([some[: given.each] for some in rows])
    packed = outcome(pack(catalog.root, [catalog.paths[i] for i in chosen], weights.preprocess))
    model = build(name, classes=weights.count, size=weights.preprocess.size).eval()
    load_into(model, weights, shape=(3, *weights.preprocess.size))
    return model, normalise(to_tensor(packed.images[np.flatnonzero(packed.usable)]), weights.preprocess).contiguous()


def enlarged(maps: Tensor, images: Tensor) -> Tensor:
    """(N, h, w) → (N, H, W), as heatmaps are."""
    return F.interpolate(maps[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def faithful(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """Grad-CAM and maps that know nothing, put to the test on each photo."""
    found = [attribute(model, image[None]) for image in images]
    raw, targets = torch.cat([one.maps for one in found]), torch.cat([one.targets for one in found])
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(raw[0].numel(), generator=generator) for _ in raw])
    maps = {
        "Grad-CAM": raw,
        "shuffled": raw.flatten(1).gather(1, orders).view_as(raw),
        "another photo's": raw.roll(len(raw) // 2, dims=0),
        "negative": -raw,
    }
    tested = {name: trust(model, images, enlarged(some, images), targets) for name, some in maps.items()}
    imputed = []
    for image, one, target in zip(images, enlarged(raw, images), targets.tolist(), strict=True):
        candidates = torch.cat([one[None], centre_blob(one)[None], random_maps(one, ROAD_RANDOM, generator)])
        imputed.append(road(model, image, candidates, int(target), shares=SHARES))
    removed = torch.stack(imputed)  # (N, 2 + random, shares)
    own = tested["Grad-CAM"]
    measures = {name: columns(own, name) for name in ("score", "deletion", "insertion", "without")}
    for number, share in enumerate(SHARES):
        values = removed[:, :, number]
        measures[f"road {share:.0%}"] = torch.stack([values[:, 0], values[:, 2:].mean(dim=1), values[:, 1]]).numpy()
    return {
        "photos": len(images),
        "layer": found[0].layer,
        "map": list(raw.shape[1:]),
        "empty": int(sum(int(one.empty.sum()) for one in found)),
        "probability": round(float(np.mean([one.probability for one in own])), 3),
        "measures": {name: compared(values) for name, values in measures.items()},
        "flagged": {name: rounded(share_of([one.red_flag for one in some])) for name, some in tested.items()},
        "above random maps": {name: round(float(np.mean([t.above for t in some])), 3) for name, some in tested.items()},
    }


def columns(found: Sequence[Trust], name: str) -> np.ndarray[Any, Any]:
    """(3, N): a measure of the map, of random maps on average, and of the centre blob."""
    each = [getattr(one, name) for one in found]
    return np.array([(one.of_map, np.mean(one.of_random), one.of_centre) for one in each]).T


def compared(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Means, and what the map has more than the two others on the same photos, with intervals."""
    of_map, of_random, of_centre = values
    return {
        "map": round(float(of_map.mean()), 4),
        "random": round(float(of_random.mean()), 4),
        "centre": round(float(of_centre.mean()), 4),
        "map less random": rounded(mean_of(of_map - of_random)),
        "map less centre": rounded(mean_of(of_map - of_centre)),
    }


def mean_of(values: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """A mean and its interval."""
    return (float(values.mean()), *interval(values.tolist()))


def share_of(values: Sequence[bool]) -> tuple[float, float, float]:
    """A share and its interval."""
    return mean_of(np.array(values, dtype=float))


def rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def dependent(model: nn.Module, images: Tensor) -> dict[str, Any]:
    """The randomisation test of some methods."""
    targets = torch.cat([model(image[None]).argmax(dim=1) for image in images])

    def explained(method: str) -> Any:
        return lambda twin, some, classes: enlarged(attribute(twin, some, classes, method=method).maps, some)

    return {method: to_json(randomisation(model, images, targets, explained(method))) for method in METHODS}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("folder")
    ask.add_argument("--squeezenet", required=True, help="file with the weights of torchvision's squeezenet1_0")
    ask.add_argument("--part", default="val")
    ask.add_argument("--each", type=int, default=12, help="photos of each class")
    ask.add_argument("--output", type=Path)
    given = ask.parse_args()
    result: dict[str, Any] = {"machine": machine(), "versions": versions(), "part": given.part, "networks": {}}
    result["precision"] = "bfloat16" if computes_bfloat16() else "float32"
    for name, source in (("torchvision/squeezenet1_0", given.squeezenet), ("efficientnet_lite0", IMAGENET)):
        model, images = loaded(given, name, source)
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16()):
            found = faithful(model, images)
        some = images[torch.linspace(0, len(images) - 1, AT_ONCE).long()]
        result["networks"][name] = {**found, "randomisation": dependent(model, some)}
        write(given.output, result)


if __name__ == "__main__":
    main()
