"""Settings of the training loop. An annotation's text is the flag's help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from hubel.errors import UsageError

Optimizer = Literal["sgd", "adam", "adamw", "muon"]
Schedule = Literal["one-cycle", "cosine", "linear", "step", "constant", "sweep"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
MOST_EPOCHS = 1_000_000
Balance = Literal["none", "loss", "sampler"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a network is trained. None means: derived from the data and the measured speed, and saved with the run."""

    epochs: Annotated[int | None, "passes over the training images"] = None
    batch_size: Annotated[int | None, "images a step"] = None
    lr: Annotated[float | None, "peak learning rate"] = None
    find_lr: Annotated[bool, "let the learning-rate finder choose the rate: a short sweep before training"] = False
    optimizer: Annotated[
        Optimizer | None, "SGD with Nesterov momentum, Adam, AdamW, or Muon for filters with SGD for the rest"
    ] = None
    momentum: Annotated[float | None, "of SGD; the first beta of Adam and AdamW"] = None
    weight_decay: Annotated[float | None, "on weights of layers only, not on biases and norms"] = None
    schedule: Annotated[Schedule, "course of the learning rate"] = "one-cycle"
    warmup: Annotated[float, "share of the steps in which the rate rises"] = 0.2
    label_smoothing: Annotated[float | None, "share of the target that is spread over all classes"] = None
    clip: Annotated[float | None, "largest norm of all gradients together"] = None
    accumulate: Annotated[int, "batches whose gradients are added up for one step"] = 1
    balance: Annotated[Balance, "make up for unequal classes: weights in the loss, or drawing them equally often"] = (
        "none"
    )
    precision: Annotated[Precision, "of the forward pass; auto takes what the device multiplies fastest"] = "auto"
    channels_last: Annotated[bool, "memory layout of images and weights, faster on most hardware"] = True
    small_first: Annotated[float | None, "side of the first images as a share of the final one (progressive)"] = None
    ema: Annotated[float | None, "keep an average of the weights that decays by this a step, and judge it instead"] = (
        None
    )
    compile: Annotated[bool, "torch.compile the network: half a minute first, then faster steps on a GPU"] = False
    sync_norm: Annotated[bool, "under torchrun, batch norm statistics over all processes (GPUs only)"] = False
    stages: Annotated[
        str | None,
        "phases of fine-tuning from --weights: auto, course, head, all, or DEPTH:EPOCHS:RATE,… with the depths head, "
        "last, last2, … and all",
    ] = None
    stage_decay: Annotated[float, "in fine-tuning, the rate of a stage as a share of the next one's"] = 1.0
    heal: Annotated[bool, "apply what the doctor advises where a test on the next batches shows that it helps"] = False
    patience: Annotated[int | None, "stop after so many epochs without a better validation accuracy"] = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr", "accumulate", "clip", "patience", "small_first"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name.replace('_', '-')} {value}: expected a number above zero.")
        if (self.epochs or 0) > MOST_EPOCHS:
            raise UsageError(f"--epochs {self.epochs}: nobody could wait for that; expected at most {MOST_EPOCHS:,}.")
        for name in ("momentum", "warmup", "label_smoothing", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise UsageError(f"--{name.replace('_', '-')} {value}: expected a number from 0 to below 1.")
        if not 0 < self.stage_decay <= 1:
            raise UsageError(f"--stage-decay {self.stage_decay}: expected a share above 0, at most 1.")
        if self.weight_decay is not None and not self.weight_decay >= 0:
            raise UsageError(f"--weight-decay {self.weight_decay}: expected zero or a positive number.")
        if self.small_first is not None and self.small_first > 1:
            raise UsageError(f"--small-first {self.small_first}: expected a share, at most 1.")
