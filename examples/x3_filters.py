"""X3: the filters of the first layer as a picture, before and after training.

python examples/x3_filters.py cifar10 --output runs/x3
"""

# %% What is asked for
import torch
from exercise import asked, sheet, write
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.utils import make_grid

import hubel

args = asked(__doc__, data="cifar10")


# %% A filter is a small picture: as many channels as the image, here 5x5 pixels of them
def pictured(filters: Tensor) -> Image.Image:
    """Draw filters (F, C, k, k) in rows of eight; middle grey is zero, and each filter has its own scale."""
    shown = 0.5 + filters / filters.abs().amax((1, 2, 3), keepdim=True) / 2
    grid = make_grid(shown[:, :3] if shown.shape[1] == 3 else shown[:, :1], padding=1, pad_value=1.0)
    pixels = Image.fromarray((255 * grid).byte().permute(1, 2, 0).numpy())
    return pixels.resize((pixels.width * 10, pixels.height * 10), Image.Resampling.NEAREST)


# %% Train in a loop of one's own; the first convolution is kept before and after
torch.manual_seed(0)
data = hubel.prepare(args.data, show_as="none")
channels, classes = data.packed.preprocess.channels, len(data.catalog.classes)
model = hubel.build("simple-cnn", classes=classes, channels=channels, size=data.size, kernel=5)
first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
before = first.weight.detach().clone()
config = hubel.TrainConfig(epochs=1 if args.short else 3, lr=2e-3, optimizer="adamw", precision="float32")
state = hubel.TrainState(model=model, optimizers=hubel.optimizers(model, config))
for event in hubel.fit(state, data.loader(batch_size=128, augment="crop=4,flip"), config, size=data.size[0]):
    if isinstance(event, hubel.EpochEnd):
        print(f"epoch {event.epoch}: loss {event.loss:.3f}, training accuracy {event.accuracy:.1%}", flush=True)
after = first.weight.detach()


# %% Before training they are noise; afterwards most of them are edges, blobs and colours: neighbouring pixels agree
def smoothness(filters: Tensor) -> float:
    """Correlation of neighbouring weights: 0 for noise, 1 where they are all alike."""
    pairs = torch.stack([filters[..., 1:].flatten(), filters[..., :-1].flatten()])
    return float(torch.corrcoef(pairs)[0, 1])


banks = {"before training": before, "after training": after}
rows = [{"what": name, "smoothness": smoothness(bank), "n": len(bank)} for name, bank in banks.items()]
write(rows, args.output / "results")
sheet([[ImageOps.expand(pictured(bank), 10, "white") for bank in banks.values()]], args.output / "filters.png")
