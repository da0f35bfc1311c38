"""Every explanation method by its name."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.explanation.attribution import Attribution, Layer, Targets
from hubel.explanation.cam import eigen_cam, grad_cam, grad_cam_plus_plus, layer_cam, score_cam
from hubel.explanation.gradients import guided_backprop, integrated_gradients, saliency, smooth_grad
from hubel.explanation.occlusion import occlusion

Method = Callable[..., Attribution]  # arguments and errors are those of `grad_cam`; some have settings of their own
METHODS: dict[str, Method] = {
    "gradcam": grad_cam,
    "gradcam++": grad_cam_plus_plus,
    "layercam": layer_cam,
    "scorecam": score_cam,
    "eigencam": eigen_cam,
    "occlusion": occlusion,
    "saliency": saliency,
    "smoothgrad": smooth_grad,
    "integrated-gradients": integrated_gradients,
    "guided-backprop": guided_backprop,
}


def attribute(
    model: nn.Module, images: Tensor, targets: Targets = None, *, method: str = "gradcam", layer: Layer = None
) -> Attribution:
    """Explain by the method of that name what speaks for `targets`, or else for the predicted classes.

    Raises:
        UsageError: an unknown name, and as in `grad_cam`.

    >>> import torch
    >>> from hubel.nn.zoo import build
    >>> found = attribute(build("resnet20", classes=3), torch.randn(2, 3, 32, 32), method="layercam")
    >>> found.layer, found.maps.shape, found.heatmaps.shape
    ('layer3', torch.Size([2, 8, 8]), torch.Size([2, 32, 32]))
    """
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(METHODS)}."
        raise UsageError(f"there is no explanation method called {method!r}: {hint}")
    return METHODS[method](model, images, targets, layer=layer)
