"""X2: what strided convolutions, other kernels and squeeze-and-excitation change: a table of parameters and accuracy.

python examples/x2_variants.py cifar10 --output runs/x2
"""

# %% What is asked for
from statistics import mean, stdev

from exercise import asked, row, trained, write

import hubel

args = asked(__doc__, data="cifar10")
VARIANTS = {
    "max pooling, 3x3": {},
    "strided convolution": {"down": "stride"},
    "kernel 1x1": {"kernel": 1},
    "kernel 5x5": {"kernel": 5},
    "squeeze-and-excitation": {"se": True},
}

# %% The images are decoded and audited once, and all trainings share them
data = hubel.prepare(args.data)
seeds = range(1 if args.short else 3)
how = {"model": "simple-cnn", "epochs": 1 if args.short else 5, "augment": "crop=4,flip", "split_seed": 0}

# %% Each variant of the three blocks 32-64-128 is trained alike; one training alone would not tell a difference of 1 %
runs = {}
for name, arguments in VARIANTS.items():
    for seed in seeds:
        folder = args.output / f"{name.replace(' ', '-')}-{seed}"
        quiet = {"report": False, "show_as": "none"}
        runs[name, seed] = trained(folder, data, arguments=arguments, seed=seed, **how, **quiet)
        print(f"{name}, seed {seed}: {runs[name, seed].scores.accuracy:.2%}", flush=True)

# %% The table: the mean over the seeds, and how far they lie apart
rows = []
for name in VARIANTS:
    found = [row(name, runs[name, seed]) for seed in seeds]
    macs = hubel.inspect(runs[name, 0].path).macs
    accuracy = [each["accuracy"] for each in found]
    rows.append(
        {
            "what": name,
            "parameters": found[0]["parameters"],
            "million multiply-adds": round(macs / 1e6, 1),
            "accuracy": mean(accuracy),
            "sd": stdev(accuracy) if len(seeds) > 1 else float("nan"),
            "seeds": len(seeds),
            "n": found[0]["n"],
            "seconds": mean(each["seconds"] for each in found),
        }
    )
write(rows, args.output / "results")
