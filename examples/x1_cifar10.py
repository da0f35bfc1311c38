"""X1: CIFAR-10 from scratch above 85 %: three convolution blocks, batch norm, dropout, 30 epochs.

python examples/x1_cifar10.py cifar10 --output runs/x1
"""

# %% What is asked for
from exercise import asked, keep, row, trained, write
from torch import nn

args = asked(__doc__, data="cifar10")


# %% The network: each block halves the map, so that the next one sees twice as far, and doubles the channels. The first
# one, whose maps are the largest and cost the most, has a single convolution
def block(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
    """3x3 convolutions, each with batch norm, then pooling and dropout."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)  # batch norm would subtract a bias again
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Dropout(0.1))


class Net(nn.Sequential):
    """(N, channels, 32, 32) → logits (N, classes); the softmax is in the loss."""

    def __init__(self, classes: int, channels: int) -> None:
        blocks = block(channels, 32, 1), block(32, 64, 2), block(64, 128, 2)
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(128, classes)
        super().__init__(*blocks, *head)


# %% Train: images are moved by up to four pixels and mirrored; a tenth of train chooses the epoch, test is read once
epochs = 1 if args.short else 30
run = trained(args.output / "run", args.data, model=Net, epochs=epochs, augment="crop=4,flip", batch_size=128)

# %% hubel's own, faster run beside it: its network, its rates, five minutes in all
dial = {"epochs": 1, "width": 16, "report": False} if args.short else {"minutes": 5}
default = trained(args.output / "default", args.data, weights="none", **dial)

# %% What came out
write([row("three blocks", run), row("hubel's own", default)], args.output / "results")
keep(run, args.output, "curves", "confusion", "gradcam")
