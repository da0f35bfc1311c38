"""Which networks a test leaves out where it would only repeat itself: further sizes of a family that it has tried.

With the environment variable HUBEL_ALL_TESTS=1 nothing is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from hubel.nn.zoo import NETWORKS

# Of ours, one for each kind of blocks and rule of scaling; of torchvision's, the small ones.
OURS = [
    "quick",
    "speed",
    "simple-cnn",
    "simple-cnn-gap",
    "two-block",
    "lenet5",
    "vgg11",
    "vgg13_bn",
    "resnet18",
    "resnet50",
    "resnet20",
    "plain20",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_b2",
    "efficientnet_lite0",
    "convnext_tiny",
]
FURTHER = re.compile(
    r"torchvision/(convnext_(base|large|small)|densenet1(61|69)|efficientnet_(b[1-6]|v2_[lm])|mnasnet0_75|mnasnet1_[03]"
    r"|regnet_[xy]_([1-9]_.*|8gf|16gf|32gf|128gf|800mf)|resnet(34|101|152)|resnext101_.*|shufflenet_v2_x(1|2).*"
    r"|swin_(v2_)?[bs]|vgg(13|16|19)(_bn)?|vit_[hl]_.*|wide_resnet101_2)"
)


def without_repetitions(names: Sequence[str]) -> list[str]:
    """Names of networks of ours, and of torchvision's behind a ``torchvision/``, in their order."""
    if os.environ.get("HUBEL_ALL_TESTS"):
        return list(names)
    ours = [name for name in names if name in OURS or name not in NETWORKS]
    return [name for name in ours if not FURTHER.fullmatch(name)]
