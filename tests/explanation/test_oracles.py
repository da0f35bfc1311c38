"""Numbers that pytorch-grad-cam 1.5.7 and Captum 0.9.0 make of `tiny` (torch 2.15, numpy 2.4, float32).

For the targets 0, 1 and 2, at the last ReLU; the first six of each map. ``benchmarks/explanation_oracles.py --tiny``
prints them again. Saliency is the largest over channels, the other methods of pixels their sum.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hubel.explanation.cam import grad_cam_plus_plus
from hubel.explanation.methods import METHODS

from .tiny import few, tiny

KEPT: dict[str, list[list[float]]] = {
    "gradcam": [
        [-0.26511, 0.0, -0.02281, -2.19461, -0.53828, -0.11097],
        [2.87939, 2.48889, 0.1825, 0.17597, 1.31498, 3.8436],
        [0.0, -0.54808, -1.16942, -0.05734, 0.0, 0.0],
    ],
    "gradcam++": [
        [0.97454, 0.0, 0.07436, 3.90035, 1.73694, 0.40793],
        [4.10606, 4.06188, 0.84357, 0.351, 1.93043, 6.14273],
        [0.0, 0.70939, 1.43846, 1.16152, 0.0, 0.0],
    ],
    "layercam": [
        [0.0, 0.0, 0.45165, 14.94544, 0.54477, 0.63331],
        [28.95809, 22.70978, 4.97873, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.86996, 0.0, 0.0, 0.0],
    ],
    "eigencam": [
        [5.49483, 5.76246, 5.41099, -10.62094, 4.75766, 5.65044],
        [12.40594, 8.25153, -7.3017, -6.31823, 1.80189, 17.36473],
        [6.75337, 3.58845, -0.96894, 5.90777, 6.75337, 6.75337],
    ],
    "scorecam": [
        [0.12002, 0.0, 0.17764, 9.22897, 0.57335, 0.05024],
        [10.46766, 10.13492, 0.00038, 0.08898, 3.58875, 15.22725],
        [0.0, 3.40819, 3.71037, 0.69522, 0.0, 0.0],
    ],
    "saliency": [
        [0.93188, 1.33326, 1.37867, 1.05011, 0.93842, 0.40991],
        [1.11789, 3.29219, 0.24532, 0.37836, 0.1997, 1.62302],
        [2.9065, 1.66668, 2.28701, 0.65008, 0.62872, 2.19103],
    ],
    "integrated-gradients": [
        [-1.00561, 0.23272, 1.41792, -0.58837, -0.76959, -1.01804],
        [3.32408, 9.6735, 0.12332, 0.32307, 0.38859, 1.69378],
        [-11.28361, 4.1928, 0.63748, -0.82509, 0.49239, 0.83666],
    ],
    "occlusion": [
        [-0.54948, 9.58258, 8.4548, -0.74452, 1.31601, 3.90619],
        [15.71776, 12.17159, 3.0855, -1.76284, -1.07128, 9.0857],
        [-1.95888, 7.90106, 15.86864, 6.61409, -0.7481, 6.58628],
    ],
    "guided-backprop": [
        [0.04924, 0.34823, 0.15965, -0.30425, -0.46003, -0.59481],
        [-1.13379, -0.36547, 0.46752, 0.81527, 0.08908, -0.48227],
        [0.0, 0.12003, -0.10141, -0.08631, 0.02827, 0.0],
    ],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "occlusion": {"window": (2, 2)},
    **{name: {"layer": "3"} for name in ("gradcam", "gradcam++", "layercam", "eigencam", "scorecam")},
}


@pytest.mark.parametrize("method", KEPT)
def test_the_numbers_of_the_common_packages(method: str) -> None:
    found = METHODS[method](
        tiny(torch.float32), few(torch.float32), torch.tensor([0, 1, 2]), **SETTINGS.get(method, {})
    ).maps.flatten(1)[:, :6]
    if method == "eigencam":  # whose sign the package leaves to the decomposition
        found = found * torch.sign(found[:, :1])
    torch.testing.assert_close(found, torch.tensor(KEPT[method]), rtol=1e-5, atol=1e-5)


def test_grad_cam_plus_plus_as_published_differs_where_gradients_are_small() -> None:
    """The package's 1e-6 in the denominator outweighs g² there; of large gradients it is nothing."""

    def maps(scale: float, epsilon: float) -> torch.Tensor:
        model = tiny(torch.float32)
        with torch.no_grad():
            model[5].weight.mul_(scale)
        return grad_cam_plus_plus(model, few(torch.float32), torch.tensor([0, 1, 2]), layer="3", epsilon=epsilon).maps

    torch.testing.assert_close(maps(1.0, 1e-6), maps(1.0, 0.0), rtol=1e-3, atol=1e-3)
    small = maps(1e-4, 0.0)
    assert float((maps(1e-4, 1e-6) - small).abs().max()) > 0.5 * float(small.abs().max())
