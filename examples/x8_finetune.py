"""X8: a pretrained ResNet: frozen under a new head (Adam at 1e-3), then its last stage and the head at 1e-5.

python examples/x8_finetune.py photos/ --model resnet18 --weights imagenet --output runs/x8
"""

# %% What is asked for
from exercise import asked, history, keep, row, trained, write

args = asked(__doc__, data="imagenette", model="resnet18", weights="imagenet")
network = {"model": args.model, "weights": args.weights}

# %% As courses teach it: the head alone, then the last stage with it. Frozen batch norms keep their statistics
epochs = 2 if args.short else 20  # half of them for each phase
run = trained(args.output / "run", args.data, stages="course", epochs=epochs, **network)

# %% Beside it the same network in hubel's own phases, and what hubel does where nothing is said
dial = {"epochs": 1, "report": False} if args.short else {"minutes": 1}
phases = trained(args.output / "phases", args.data, **network, **dial)
default = trained(args.output / "default", args.data, **dial, **({"weights": "none"} if args.short else {}))

# %% What came out, and what the second phase added to the first
val = [float(epoch["val_accuracy"]) for epoch in history(run)]
gains = {"val after the head": max(val[: epochs // 2]), "val in the end": max(val)}
said = {"val after the head": "", "val in the end": ""}
rows = [{**row(f"{args.model}: head, then last stage", run), **gains}]
rows += [{**row(f"{args.model}: hubel's phases", phases), **said}, {**row("hubel without a flag", default), **said}]
write(rows, args.output / "results")
keep(run, args.output, "curves", "gradcam")
