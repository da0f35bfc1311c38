"""A loop of one's own: watch the gradients, try another rate from step 20 on for ten steps, and go on as if nothing was."""

import dataclasses
import sys

import hubel

data = hubel.prepare("digits", show_as="none")
config = hubel.TrainConfig(epochs=2, lr=0.02, optimizer="sgd", precision="float32")
loader = data.loader(batch_size=64)
model = hubel.build("resnet20", classes=10, channels=1, size=data.size)
state = hubel.TrainState(model=model, optimizers=hubel.optimizers(model, config))
for event in hubel.fit(state, loader, config, size=data.size[0]):
    if not isinstance(event, hubel.Step):
        continue
    print(f"step {event.step}: gradient norm {float(event.grad_norm):.3f}")
    if event.step == 20 and "--straight" not in sys.argv:
        kept = hubel.snapshot(state)
        slower = dataclasses.replace(config, lr=config.lr / 10)
        with hubel.forked(state, kept) as branch:
            for tried in hubel.fit(branch, loader, slower, size=data.size[0]):
                if isinstance(tried, hubel.Step) and tried.step == 30:
                    print(f"ten slower steps: loss {float(tried.loss):.3f}")
                    break
