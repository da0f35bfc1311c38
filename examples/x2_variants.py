"""X2: what strided convolutions, other kernels and squeeze-and-excitation change: a table of parameters and accuracy.

python examples/x2_variants.py cifar10 --output runs/x2

The same as one command: hubel lab compare cifar10 --model simple-cnn --variant down=stride --variant kernel=1
--variant kernel=5 --variant se=true --epochs 5 --augment crop=4,flip
"""

# %% What is asked for
from exercise import asked, write

from hubel import lab

args = asked(__doc__, data="cifar10")
VARIANTS = {
    "max pooling, 3x3": {},
    "strided convolution": {"down": "stride"},
    "kernel 1x1": {"kernel": 1},
    "kernel 5x5": {"kernel": 5},
    "squeeze-and-excitation": {"se": True},
}

# %% Each variant of the three blocks 32-64-128 is trained alike; one training alone would not tell a difference of 1 %
seeds, epochs = (1, 1) if args.short else (3, 5)
how = {"model": "simple-cnn", "epochs": epochs, "augment": "crop=4,flip", "show_as": "none"}
found = lab.compare(args.data, VARIANTS, seeds=seeds, output=args.output / "lab", **how)

# %% The table: the mean over the seeds with its interval, which counts seeds and images
rows = [
    {
        "what": row.variant,
        "parameters": round(row.parameters),
        "million multiply-adds": round(row.macs / 1e6, 1),
        "accuracy": row.value.value,
        "low": row.value.low,
        "high": row.value.high,
        "seeds": row.trials,
        "n": row.value.images,
        "seconds": row.seconds,
    }
    for row in found.rows
]
write(rows, args.output / "results")
for each in found.differences:
    print(f"{each.words}: {each.verdict}")
