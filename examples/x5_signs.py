"""X5: sign-language digits as prescribed, with plots, a table per class and a Grad-CAM of a correct prediction.

python examples/x5_signs.py sign-digits/ --output runs/x5
"""

# %% What is asked for
from dataclasses import asdict

from exercise import answers, asked, keep, overlay, row, sheet, tile, trained, write
from torch import nn

import hubel

args = asked(__doc__, data="digits")


# %% The network: two convolution blocks, 32 and 64 filters, and the mean of each map; the softmax is in the loss
class Net(nn.Sequential):
    """(N, channels, H, W) → logits (N, classes), for any H and W."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, classes),
        )


# %% Train: pixels from 0 to 1 and no further, rotations within 15 degrees, ten epochs
pixels = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "augment": "rotate=15"}
rates = {"optimizer": "adam", "lr": 1e-3, "schedule": "constant", "warmup": 0.0, "label_smoothing": 0.0}
epochs = 2 if args.short else 10
run = trained(args.output / "run", args.data, model=Net, epochs=epochs, batch_size=32, **pixels, **rates)
dial = {"epochs": 1, "width": 16, "report": False} if args.short else {"minutes": 2}
default = trained(args.output / "default", args.data, weights="none", **dial)

# %% Accuracy and loss by epoch, precision and recall of each class
write([row("as prescribed", run), row("hubel's own", default)], args.output / "results")
write([asdict(score) for score in run.scores.per_class], args.output / "per_class")
keep(run, args.output, "curves")

# %% Where it looked: the correct prediction that it was surest of
right = [answer for answer in answers(run) if answer["label"] == answer["prediction"]]
best = max(right or answers(run), key=lambda answer: float(answer["confidence"]))["file_name"]
(found,) = hubel.explain(run.path, [best], model=Net)
print(f"{best}: {found.target}, explained at layer {found.layer}. {found.trust}")
sheet([[tile(best), overlay(best, found.heatmap)]], args.output / "gradcam.png")
