"""X4: Grad-CAM with hooks, written out, and equal to hubel's own.

python examples/x4_gradcam.py photos/ --output runs/x4
"""

# %% What is asked for
import torch
import torch.nn.functional as F
from exercise import answers, asked, explained, overlay, sheet, tile, trained, write
from torch import Tensor, nn

import hubel

args = asked(__doc__, data="imagenette")

# %% A network to look into: on photos, from the weights that came with the installation
how = {"model": "simple-cnn-gap", "epochs": 2, "weights": "none"} if args.short else {"minutes": 1}
run = trained(args.output / "run", args.data, **how)
classifier = hubel.load(run.path)


# %% Selvaraju et al. 2017: weigh each map of a layer by how much the class gains with it, and keep what speaks for it
def grad_cam(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    """Heat maps (N, H, W) in [0, 1] of the predicted classes, for images (N, C, H, W)."""
    kept: dict[str, Tensor] = {}

    def look(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept["maps"] = output.detach()
        output.register_hook(lambda gradient: kept.update(gradient=gradient))  # called on the way back

    handle = model.get_submodule(layer).register_forward_hook(look)
    logits = model.eval()(images)
    handle.remove()  # or else each later call would look again
    logits.amax(1).sum().backward()  # images don't meet in eval mode, so the sum's gradient is each image's own
    weights = kept["gradient"].mean((2, 3), keepdim=True)  # (N, K, 1, 1)
    heat = (weights * kept["maps"]).sum(1, keepdim=True).relu()  # (N, 1, h, w)
    heat = F.interpolate(heat, images.shape[2:], mode="bilinear")[:, 0]
    return heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)


# %% The surest right answer of each class, six of them
right = sorted((a for a in answers(run) if a["label"] == a["prediction"]), key=lambda a: -float(a["confidence"]))
files = list({answer["label"]: answer["file_name"] for answer in reversed(right)}.values())[:6]
images = classifier.images(files)
reference, layer = explained(classifier.model, images)
heat = grad_cam(classifier.model, images, layer)
apart = float((heat - reference).abs().max())
assert torch.allclose(heat, reference, atol=1e-4), f"the two differ by {apart}"

# %% The photos, and where the network looked
write([{"what": f"layer {layer}", "largest difference from hubel's": apart, "n": len(files)}], args.output / "results")
overlays = [overlay(file, one) for file, one in zip(files, heat, strict=True)]
sheet([[tile(file) for file in files], overlays], args.output / "gradcam.png")
