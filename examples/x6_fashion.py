"""X6: Fashion-MNIST with a network of two blocks for one channel: batch 128, Adam at 1e-3, dropout 0.3.

python examples/x6_fashion.py fashion-mnist --output runs/x6
"""

# %% What is asked for
from dataclasses import asdict

from exercise import asked, keep, row, trained, write
from torch import nn

args = asked(__doc__, data="fashion-mnist")


# %% The network: 421,706 parameters for 28x28 grey pixels, of which 401,536 are in the first dense layer
class Net(nn.Sequential):
    """(N, channels, H, W) → logits (N, classes)."""

    def __init__(self, classes: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (size[0] // 4) * (size[1] // 4), 128),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(128, classes),
        )


# %% Train as prescribed: the rate stays, nothing is augmented
rates = {"optimizer": "adam", "lr": 1e-3, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0}
plain = {"label_smoothing": 0.0, "augment": "none"}
epochs = 1 if args.short else 10
run = trained(args.output / "run", args.data, model=Net, epochs=epochs, batch_size=128, **rates, **plain)
dial = {"epochs": 1, "width": 16, "report": False} if args.short else {"minutes": 2}
default = trained(args.output / "default", args.data, weights="none", **dial)

# %% What came out: shirts are taken for T-shirts, pullovers and coats
write([row("two blocks", run), row("hubel's own", default)], args.output / "results")
write([asdict(score) for score in run.scores.per_class], args.output / "per_class")
keep(run, args.output, "confusion", "curves")
