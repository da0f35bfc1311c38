"""A loop of one's own: print the gradients, try a tenth of the rate for ten steps, and go on as if nothing had been."""

import dataclasses
import sys

import torch

import hubel

torch.manual_seed(0)
data = hubel.prepare("digits", show_as="none")
config = hubel.TrainConfig(epochs=2, lr=0.02, optimizer="sgd", precision="float32")
slower = dataclasses.replace(config, lr=0.002)
loader = data.loader(batch_size=64)
model = hubel.build("two-block", classes=10, channels=1, size=data.size)
state = hubel.TrainState(model=model, optimizers=hubel.optimizers(model, config))
for event in hubel.fit(state, loader, config, size=24):
    if isinstance(event, hubel.Step):
        print(f"step {event.step}: gradient norm {float(event.grad_norm):.3f}")
        if event.step == 20 and "--straight" not in sys.argv:
            with hubel.forked(state, hubel.snapshot(state)) as branch:
                for tried in hubel.fit(branch, loader, slower, size=24):
                    if isinstance(tried, hubel.Step) and tried.step == 30:
                        print(f"ten slower steps end at loss {float(tried.loss):.3f}")
                        break
print(f"weights {hubel.digest(model)}")
