"""Whole programs as people write them, each with one mistake: does `hubel doctor` name it first?

    python benchmarks/programs.py DATA/fashion-mnist DATA/cifar10 [--only NAME ...] [--output FILE]

One network, one loop and one loader, in plain PyTorch; a program is that with a line or two exchanged. They were used
while the rules were written, so that they measure nothing new: they say what must stay so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import machine, versions, write

PROGRAM = """
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

torch.manual_seed(0)
grey = [transforms.Grayscale()] if {channels} == 1 else []
sized = [*grey, transforms.Resize((28, 28))]
full = datasets.ImageFolder("{root}/train", transforms.Compose([*sized, {prepare}]))
test = datasets.ImageFolder("{root}/test", transforms.Compose([*sized, {prepare_test}]))
chosen = torch.randperm(len(full))[:{images}].tolist()
trainset = Subset(full, chosen if {shuffle} else sorted(chosen))
testset = Subset(test, torch.randperm(len(test))[:600].tolist())
trainloader = DataLoader(trainset, batch_size={batch}, shuffle={shuffle})
testloader = DataLoader(testset, batch_size=64)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d({channels}, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.norm = nn.BatchNorm2d(16) if {norm} else nn.Identity()
        self.drop = nn.Dropout({dropout})
        self.fc1 = nn.Linear(32 * 7 * 7, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.norm(self.conv1(x))))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(x.size(0), -1)
        x = self.drop(F.relu(self.fc1(x)))
        return self.fc2(x)


model = Net()
criterion = {criterion}
optimizer = {optimizer}
{before}
for epoch in range({epochs}):
    model.train()
    for inputs, labels in trainloader:
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = criterion(outputs, labels)
        loss.backward()
        optimizer.step()
    model.eval()
    correct = 0
    with torch.no_grad():
        for inputs, labels in testloader:
            correct += (model(inputs).argmax(1) == labels).sum().item()
    print(epoch, correct / len(testset))
"""
USUAL = {
    "channels": 1,
    "prepare": "transforms.ToTensor()",
    "images": 3000,
    "shuffle": True,
    "batch": 64,
    "norm": False,
    "dropout": 0.0,
    "criterion": "nn.CrossEntropyLoss()",
    "optimizer": "optim.Adam(model.parameters(), lr=1e-3)",
    "before": "",
    "epochs": 2,
}
SGD = "optim.SGD(model.parameters(), lr=0.01, momentum=0.9)"
LAST, LOSS = "return self.fc2(x)", "loss = criterion(outputs, labels)"
Change = tuple[dict[str, Any], tuple[tuple[str, str], ...]]
PROGRAMS: dict[str, tuple[str, Change]] = {  # what has to come first; settings and lines that are exchanged
    "healthy": ("", ({}, ())),
    "healthy, three channels": ("", ({"channels": 3, "optimizer": SGD, "epochs": 3}, ())),
    "sigmoid at the end": ("head-and-loss", ({}, ((LAST, "return torch.sigmoid(self.fc2(x))"),))),
    "relu at the end": ("head-and-loss", ({}, ((LAST, "return F.relu(self.fc2(x))"),))),
    "softmax at the end": ("softmax-twice", ({}, ((LAST, "return F.softmax(self.fc2(x), dim=1)"),))),
    "softmax and nll": (
        "head-and-loss",
        ({"criterion": "nn.NLLLoss()"}, ((LAST, "return F.softmax(self.fc2(x), dim=1)"),)),
    ),
    "squared error": (
        "head-and-loss",
        (
            {"criterion": "nn.MSELoss()", "optimizer": "optim.SGD(model.parameters(), lr=0.01)"},
            (
                (LAST, "return F.softmax(self.fc2(x), dim=1)"),
                (LOSS, "loss = criterion(outputs, F.one_hot(labels, 10).float())"),
            ),
        ),
    ),
    "raw images": (
        "raw-inputs",
        ({"prepare": "transforms.PILToTensor(), transforms.Lambda(lambda x: x.float())", "optimizer": SGD}, ()),
    ),
    "rate too high": ("rate-too-high", ({"optimizer": "optim.Adam(model.parameters(), lr=0.1)"}, ())),
    "rate too low": ("rate-too-low", ({"optimizer": "optim.SGD(model.parameters(), lr=1e-6)"}, ())),
    "losses added up": (
        "rate-too-high",
        (
            {
                "criterion": 'nn.CrossEntropyLoss(reduction="sum")',
                "optimizer": "optim.SGD(model.parameters(), lr=0.1, momentum=0.9)",
            },
            (),
        ),
    ),
    "no zero_grad": ("not-cleared", ({"optimizer": SGD}, (("        optimizer.zero_grad()\n", ""),))),
    "no step": ("no-step", ({}, (("        optimizer.step()\n", ""),))),
    "cleared before the step": (
        "no-step",
        (
            {},
            (
                ("        optimizer.zero_grad()\n", ""),
                ("        optimizer.step()\n", "        optimizer.zero_grad()\n        optimizer.step()\n"),
            ),
        ),
    ),
    "no train()": ("eval-while-training", ({"norm": True, "epochs": 3}, (("    model.train()\n", ""),))),
    "no eval()": ("train-while-evaluating", ({"norm": True, "dropout": 0.5}, (("    model.eval()\n", ""),))),
    "optimizer of another network": ("not-in-optimizer", ({"before": "model = Net()"}, ())),
    "not shuffled": ("unshuffled", ({"shuffle": False}, ())),
    "zeros to start with": (
        "constant-start",
        ({"before": "for p in model.parameters():\n    nn.init.constant_(p, 0.0)"}, ()),
    ),
    "item() in the loss": (
        "detached",
        ({}, ((LOSS, "loss = torch.tensor(criterion(outputs, labels).item(), requires_grad=True)"),)),
    ),
    "detach() in the network": (
        "detached",
        ({}, (("x = x.view(x.size(0), -1)", "x = x.view(x.size(0), -1).detach()"),)),
    ),
    "labels exchanged": (
        "labels-unpaired",
        ({}, ((LOSS, "loss = criterion(outputs, labels[torch.randperm(len(labels))])"),)),
    ),
    "few images": (
        "overfitting",
        ({"images": 150, "epochs": 40, "batch": 16, "optimizer": "optim.Adam(model.parameters(), lr=2e-3)"}, ()),
    ),
    "other normalisation for the test": (
        "other-validation",
        (
            {
                "prepare": "transforms.ToTensor(), transforms.Normalize((0.28,), (0.35,))",
                "prepare_test": "transforms.ToTensor()",
                "epochs": 3,
            },
            (),
        ),
    ),
    "view in place of permute": (
        "axes",
        (
            {"channels": 3},
            (("outputs = model(inputs)", "outputs = model(inputs.permute(0, 2, 3, 1).reshape(-1, 3, 28, 28))"),),
        ),
    ),
    "no activation": (
        "no-activation",
        (
            {},
            (
                ("self.pool(F.relu(self.norm(self.conv1(x))))", "F.avg_pool2d(self.norm(self.conv1(x)), 2)"),
                ("self.pool(F.relu(self.conv2(x)))", "F.avg_pool2d(self.conv2(x), 2)"),
                ("F.relu(self.fc1(x))", "self.fc1(x)"),
            ),
        ),
    ),
    "frozen": ("frozen", ({"before": "for p in model.conv1.parameters():\n    p.requires_grad = False"}, ())),
    "the wrong shape": ("shapes", ({}, (("32 * 7 * 7", "32 * 5 * 5"),))),
    "schedule a batch": (
        "schedule",
        (
            {"before": "scheduler = optim.lr_scheduler.StepLR(optimizer, 5, 0.1)"},
            (("        optimizer.step()\n", "        optimizer.step()\n        scheduler.step()\n"),),
        ),
    ),
    "tested on what is trained on": (
        "leak",
        ({"epochs": 3}, (("testset = Subset(test,", "testset = Subset(full, chosen[:600])\nunused = (test,"),)),
    ),
    "too much dropout": ("over-regularised", ({"dropout": 0.95}, ())),
}


def text_of(name: str, grey: str, coloured: str) -> str:
    """The program."""
    settings, lines = PROGRAMS[name][1]
    given = {**USUAL, **settings}
    given.setdefault("prepare_test", given["prepare"])
    text = PROGRAM.format(root=grey if given["channels"] == 1 else coloured, **given)
    for old, new in lines:
        assert old in text, (name, old)
        text = text.replace(old, new)
    return text


def first_code(program: Path) -> tuple[str, str]:
    """The code of what `hubel doctor` puts first, or "", and its sentence."""
    asked = "import json, sys, hubel; found = hubel.examine(sys.argv[1], show_as='none'); "
    asked += "found = [f for f in found if f.severity != 'note']; "
    asked += "print('FOUND' + json.dumps([found[0].code, found[0].message] if found else ['', '']))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", asked, str(program)], capture_output=True, text=True, env=environment, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    code, message = json.loads(lines[-1][5:]) if lines else ("failed", done.stderr[-300:])
    return str(code), str(message)


def main() -> None:
    """Run them, and say where another finding came first."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("grey", help="folder with train/ and test/ of grey images, ten classes")
    flags.add_argument("coloured", help="the same of images in color")
    flags.add_argument("--only", nargs="*", default=list(PROGRAMS))
    flags.add_argument("--output", type=Path)
    asked = flags.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.only:
            program = Path(folder) / "train.py"
            program.write_text(text_of(name, asked.grey, asked.coloured))
            code, message = first_code(program)
            rows.append({"program": name, "expected": PROGRAMS[name][0], "first": code, "words": message})
            print(f"{'ok ' if code == PROGRAMS[name][0] else 'NOT'} {name:34} {code:24} {message[:110]}", flush=True)
    right = sum(row["first"] == row["expected"] for row in rows)
    write(asked.output, {"machine": machine(), "versions": versions(), "right": right, "n": len(rows), "rows": rows})


if __name__ == "__main__":
    main()
