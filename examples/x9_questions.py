"""X9: the notes' own questions, each answered by a check that runs.

python examples/x9_questions.py cifar10 --output runs/x9
"""

# %% What is asked for
from functools import partial
from typing import Any

import checks
import torch
from exercise import asked, history, trained, write

import hubel

args = asked(__doc__, data="cifar10")
data = hubel.prepare(args.data, show_as="none")
torch.manual_seed(0)


# %% The notes' network of three blocks, trained on DATA without augmentation unless something else is said
def train(name: str, augment: str = "none", **arguments: Any) -> tuple[hubel.Run, float]:
    """Return the run and its last training accuracy; the same name is trained once."""
    how = {"model": "simple-cnn", "epochs": 1 if args.short else 5, "label_smoothing": 0.0}
    quiet = {"report": False, "show_as": "none"}
    run = trained(args.output / name, data, augment=augment, arguments=arguments, **how, **quiet)
    return run, float(history(run)[-1]["train_accuracy"])


some = next(data.loader(batch_size=32 if args.short else 128).epoch(0, data.size[0]))

# %% Each question, what measures the answer, and the answer
QUESTIONS = [
    ("Why does one shared kernel generalise over positions?", checks.shared_kernel),
    ("How many parameters are there when the input channels double?", checks.doubled_channels),
    ("What is the shape at stride 2?", checks.stride_two),
    ("What does bias=False save before a batch norm?", checks.without_bias),
    ("Strided convolution or pooling?", partial(checks.downsampling, train)),
    ("What does aggressive pooling cost on fine details?", checks.fine_details),
    ("Flatten or global average pooling?", partial(checks.flat_or_global, train)),
    ("Why does batch norm steady training?", partial(checks.batch_norm, (some.images, some.labels))),
    ("What says 'less augmentation', not 'more capacity'?", partial(checks.augmentation_or_capacity, train)),
]
rows = []
for question, check in QUESTIONS:
    said, holds = check()
    print(f"{question}\n  {said}", flush=True)
    rows.append({"what": question, "measured": said, "as the notes say": "yes" if holds else "NO"})
write(rows, args.output / "results")
