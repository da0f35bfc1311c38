"""X4: Grad-CAM with hooks, written out, and equal to hubel's own.

python examples/x4_gradcam.py photos/ --output runs/x4
"""

# %% What is asked for
import torch
import torch.nn.functional as F
from exercise import answers, asked, overlay, sheet, tile, trained, write
from torch import Tensor, nn

import hubel

args = asked(__doc__, data="imagenette")

# %% A network to look into: on photos, from the weights that came with the installation
how = {"model": "simple-cnn-gap", "epochs": 2, "weights": "none"} if args.short else {"minutes": 1}
run = trained(args.output / "run", args.data, **how)
classifier = hubel.load(run.path)


# %% Selvaraju et al. 2017: weigh each map of a layer by how much the class gains with it, and add them up
def grad_cam(model: nn.Module, images: Tensor, layer: str) -> Tensor:
    """Signed maps (N, h, w) of the predicted classes, for images (N, C, H, W)."""
    kept: dict[str, Tensor] = {}

    def look(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept["maps"] = output.detach()
        output.register_hook(lambda gradient: kept.update(gradient=gradient))  # called on the way back

    handle = model.get_submodule(layer).register_forward_hook(look)
    logits = model.eval()(images)
    handle.remove()  # or else each later call would look again
    logits.amax(1).sum().backward()  # images don't meet in eval mode, so the sum's gradient is each image's own
    weights = kept["gradient"].mean((2, 3), keepdim=True)  # (N, K, 1, 1)
    return (weights * kept["maps"]).sum(1)


# %% The surest right answer of each class, six of them; hubel's own map of each says the layer, and is the reference
right = sorted((a for a in answers(run) if a["label"] == a["prediction"]), key=lambda a: float(a["confidence"]))
files = list({answer["label"]: answer["file_name"] for answer in right}.values())[:6]
found = hubel.explain(run.path, files)
maps = grad_cam(classifier.model, classifier.images(files), found[0].layer)
reference = torch.stack([torch.from_numpy(one.map) for one in found])
apart = float((maps - reference).abs().max() / reference.abs().max())
assert apart < 1e-4, f"the two differ by {apart:.1e} of the largest value"

# %% What speaks for the class, enlarged and laid over the photos
heat = F.interpolate(maps.relu()[:, None], (224, 224), mode="bilinear")[:, 0]
heat = (255 * heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)).byte().numpy()
rows = [{"what": f"layer {found[0].layer}", "largest difference from hubel's": apart, "n": len(files)}]
write(rows, args.output / "results")
overlays = [overlay(file, one) for file, one in zip(files, heat, strict=True)]
sheet([[tile(file) for file in files], overlays], args.output / "gradcam.png")
