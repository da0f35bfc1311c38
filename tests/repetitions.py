"""Which networks a test leaves out where it would only repeat itself: further sizes of a family that it has tried.

With the environment variable HUBEL_ALL_TESTS=1 nothing is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

FURTHER = re.compile(
    r"(torchvision/)?(convnext_(base|large|small)|densenet1(61|69)|efficientnet_(b[13-7]|lite[1-4]|v2_[lm])"
    r"|mnasnet(0_75|1_[03])|(plain|resnet)(32|34|44|56|101|110|152)|regnet_[xy]_([13]_.*|(8|16|32|128)gf|800mf)"
    r"|resnext101_.*|shufflenet_v2_x[12].*|swin_(v2_)?[bs]|vgg(13|16|19)(_bn)?|vit_[hl]_.*|wide_resnet101_2)"
)


def without_repetitions(names: Iterable[str]) -> list[str]:
    """Names of networks, of torchvision's too, less those that have only more or wider layers than another one."""
    return [name for name in names if os.environ.get("HUBEL_ALL_TESTS") or not FURTHER.fullmatch(name)]
