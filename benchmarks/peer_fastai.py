"""fastai as a peer: its quick start within a number of minutes, and bfloat16 on a processor, which it lacks."""

# mypy: disable-error-code="misc"
from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pandas
import torch
from fastai.callback.core import CancelFitException
from fastai.vision import all as vision
from measuring import computes_bfloat16
from peer_task import NATIVE, Pace, Task


class Bfloat16(vision.Callback):
    """Autocast on a processor, and images in channels-last order; fastai's own to_bf16 is for GPUs alone."""

    order = 10

    def before_batch(self) -> None:
        self.autocast = torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16())
        self.autocast.__enter__()
        self.learn.xb = tuple(x.contiguous(memory_format=torch.channels_last) for x in self.learn.xb)

    def after_pred(self) -> None:
        self.autocast.__exit__(None, None, None)
        self.learn.pred = self.pred.float()


def fastai(
    job: Task,
    make: Callable[[Any], Any] | None = None,
    side: int = 0,
    normal: Any = None,
    *,
    fine_tune: bool = False,
) -> dict[str, Any]:
    """fastai's quick start from scratch: vision_learner with ResNet-18, aug_transforms, fit_one_cycle; and bfloat16.

    Args:
        make: from loaders to another learner. side: of its images; normal: mean and deviation of them.
        fine_tune: first the head for an epoch, then all, as fine_tune does by default.
    """
    pace, side = Pace(job.minutes), side or job.side

    class Best(vision.Callback):  # as SaveModelCallback(monitor="accuracy"), which says every step
        order = 70
        top, done, weights = -1.0, 0, None

        def after_epoch(self) -> None:
            self.done += 1
            if (reached := float(self.recorder.values[-1][-1])) > self.top:
                self.top, self.weights = reached, copy.deepcopy(self.model.state_dict())

        def after_batch(self) -> None:
            if self.training and job.left < job.reserve:
                raise CancelFitException

    class Timed(vision.Callback):
        def after_batch(self) -> None:
            if self.training and pace.took(first=self.iter == 0):
                raise CancelFitException

    def learner() -> Any:
        table = [
            (path, job.classes[label], part == "val") for part in ("train", "val") for path, label in job.parts[part]
        ]
        frame = pandas.DataFrame(table, columns=["name", "label", "valid"])
        item = None if side <= NATIVE else vision.RandomResizedCrop(side, min_scale=0.35)
        changes = vision.aug_transforms()
        loaders = vision.ImageDataLoaders.from_df(
            frame,
            job.root,
            fn_col="name",
            label_col="label",
            valid_col="valid",
            item_tfms=item,
            batch_tfms=changes if normal is None else [*changes, vision.Normalize.from_stats(*normal)],
            bs=min(64, len(job.parts["train"])),
            num_workers=2,
        )
        make_it = make or (
            lambda dls: vision.vision_learner(dls, vision.resnet18, pretrained=False, metrics=vision.accuracy)
        )
        made = make_it(loaders)
        made = made.to_channelslast(use_amp=False)
        made.add_cb(Bfloat16())
        return made

    trial = learner()
    if fine_tune:
        trial.unfreeze()
    with trial.no_bar(), trial.no_logging():
        trial.fit_one_cycle(1000, cbs=[Timed()])
    between = len(job.parts["val"]) / 64 / 3
    epochs, best = job.plan(pace.epoch(len(trial.dls.train), between)), Best()
    learn = learner()
    with learn.no_bar(), learn.no_logging():
        if fine_tune:
            learn.fine_tune(max(1, epochs - 1), cbs=[best])
        else:
            learn.fit_one_cycle(epochs, cbs=[best])
        if best.weights is not None:
            learn.model.load_state_dict(best.weights)
        test = learn.dls.test_dl([job.root / path for path, _ in job.parts["test"]])
        answers = learn.get_preds(dl=test)[0].argmax(1)
    truth = torch.tensor([list(learn.dls.vocab).index(job.classes[label]) for _, label in job.parts["test"]])
    right = int((answers == truth).sum())
    return {"accuracy": right / len(truth), "val_accuracy": best.top, "epochs": best.done}
