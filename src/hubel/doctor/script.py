"""Watching somebody's own training script, which needs no change and knows of nothing."""

from __future__ import annotations

import gc
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from hubel.doctor.doctor import Doctor
from hubel.doctor.watch import is_images, watch
from hubel.errors import UsageError
from hubel.records import Finding

# Where in a script each fault stands: at the backward pass, the step, the call in training or in evaluation
AT = {
    "not-cleared": "backward",
    "no-step": "backward",
    "growing-memory": "evaluation",
    "train-while-evaluating": "evaluation",
    "evaluation-with-gradients": "evaluation",
    "other-validation": "evaluation",
    "rate-too-low": "step",
    "rate-too-high": "step",
    "oscillation": "step",
    "schedule": "step",
    "not-in-optimizer": "step",
}


def watch_script(script: Path, arguments: Sequence[str], tell: Callable[[Finding], None]) -> Doctor | None:
    """Run a script as Python would, and watch the first network that it trains on images.

    Args:
        tell: called with each finding when it is found; its message ends with file and line.

    Returns:
        What is known in the end, however the script ended; None where it trained no network on images.

    Raises:
        UsageError: there is no such script.
    """
    if not script.is_file():
        raise UsageError(f"{script} does not exist: give the path of a Python script.")
    eyes = Search(tell, script.resolve())
    before = sys.argv[:], sys.path[:]
    sys.argv, sys.path = [str(script), *arguments], [str(script.resolve().parent), *sys.path]
    try:
        with eyes.searching():
            runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv, sys.path = before
        if eyes.doctor is not None:
            eyes.doctor.findings = [eyes.placed(finding) for finding in eyes.doctor.findings]
    return eyes.doctor


class Search:
    """Finds the network when it is first called with images and gradients."""

    def __init__(self, tell: Callable[[Finding], None], script: Path | None = None) -> None:
        self.script, self.tell = script, tell
        self.doctor: Doctor | None = None
        self.stack = ExitStack()

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Look for it while the block runs, and watch it from then on."""
        self.handle = register_module_forward_pre_hook(self.called)
        with self.stack:
            try:
                yield
            finally:
                self.handle.remove()

    def called(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Take the outermost module that is trained on images."""
        images = [value for value in inputs if is_images(value)]
        own = {id(p) for p in module.parameters() if p.requires_grad}
        if not images or not own or not torch.is_grad_enabled() or isinstance(module, nn.modules.loss._Loss):
            return
        self.handle.remove()
        every = [found for found in gc.get_objects() if issubclass(type(found), torch.optim.Optimizer)]
        every = [one for one in every if "_optimizer" not in vars(one)]  # wrappers, such as Lightning's
        sharing = [one for one in every if own & {id(p) for group in one.param_groups for p in group["params"]}]
        watching = watch(module, *(sharing or every), tell=self.told, script=self.script)
        self.doctor = self.stack.enter_context(watching)

    def told(self, finding: Finding) -> None:
        """Pass a finding on, with its place."""
        self.tell(self.placed(finding))

    def placed(self, finding: Finding) -> Finding:
        """Say where in the script the fault stands, or where the network is called that has it."""
        lines = self.doctor.lines if self.doctor else {}
        where = lines.get(AT.get(finding.code, "forward")) or lines.get("forward")
        if not where or where in finding.message:
            return finding
        return replace(finding, message=f"{finding.message} ({where})", evidence={**finding.evidence, "line": where})
