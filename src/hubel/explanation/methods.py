"""Every explanation method by its name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.explanation.attribution import Attribution, Layer, Targets
from hubel.explanation.cam import eigen_cam, grad_cam, grad_cam_plus_plus, layer_cam, score_cam
from hubel.explanation.pixels import guided_backprop, integrated_gradients, occlusion, saliency, smooth_grad

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
    """
    if method not in METHODS:
        raise UsageError(f"there is no explanation method called {method!r}: choose of {', '.join(METHODS)}.")
    return METHODS[method](model, images, targets, layer=layer)
