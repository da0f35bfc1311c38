"""Every number that one image becomes in a network, operation by operation, whatever Python code called them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from hubel.errors import UsageError
from hubel.geometry.maxplus import CUTS
from hubel.geometry.rows import IMAGE, ForwardError, Trace
from hubel.geometry.trace import follow_image
from hubel.nn import ops
from hubel.nn.ops import Call


@dataclass(frozen=True)
class Made:
    """Among the arguments of an operation: what a step made."""

    step: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """A tensor that an operation gave out, as the first or a later one; its row in the trace, where it has one."""

    name: str
    function: Any
    call: Call  # tensors that the image made are replaced by `Made`
    value: Tensor
    output: int = 0
    row: int | None = None


@dataclass(frozen=True, eq=False)
class Numbers:
    """Every number that an image (1, C, H, W) became in a network. Made by `numbers_of`."""

    image: Tensor
    trace: Trace
    steps: list[Step]

    def value(self, step: int) -> Tensor:
        """What a step gave out; for `IMAGE` the image."""
        return self.image if step == IMAGE else self.steps[step].value

    def find(self, layer: int | str) -> int:
        """The step that gave out what a layer did; of a name that stands for several, the last.

        Args:
            layer: a row of the trace, or the name of a module or operation.

        Raises:
            UsageError: there is none.
        """
        every = enumerate(self.steps)
        found = [index for index, step in every if layer in (step.row, step.name) and not step.output]
        if not found:
            raise UsageError(f"the image went through no layer {layer!r}: one is {self.steps[-1].name!r}.")
        return found[-1]


def numbers_of(model: nn.Module, image: Tensor, *, temperature: float | None = None) -> Numbers:
    """Keep every number that an image (1, C, H, W) becomes, in eval mode on the processor; the model stays as it is.

    Args:
        temperature: where given, the logits are divided by it and their softmax is taken, as two steps more.

    Raises:
        UsageError: the model can't take the image.
    """
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    image = image.detach().to("cpu", next(floating, torch.float32))
    recorder = _Recorder(image)
    try:
        trace, answer = follow_image(model, image, recorder.seen)
    except ForwardError as error:
        raise UsageError(f"the model can't take an image of {'×'.join(map(str, image.shape[1:]))}: {error}") from error
    for index, step in enumerate(recorder.steps):
        if step.row is not None and step.row < len(trace.rows):
            recorder.steps[index] = replace(step, name=trace.rows[step.row].name)
    if temperature is not None:
        logits = next(value for value in tree_leaves(answer) if isinstance(value, Tensor))
        scaled = recorder.run(
            "temperature", torch.ops.aten.div.Tensor, logits, torch.tensor(temperature, dtype=logits.dtype)
        )
        recorder.run("softmax", torch.ops.aten._softmax.default, scaled, 1, False)
    return Numbers(recorder.image, trace, recorder.steps)


class _Recorder:
    """Makes steps of operations."""

    def __init__(self, image: Tensor) -> None:
        self.image, self.steps = image.clone(), list[Step]()
        self.made: dict[int, tuple[Tensor, Made]] = {id(image): (image, Made(IMAGE))}  # held: an id stays its own
        self.sharing: dict[int, dict[int, Tensor]] = defaultdict(dict)  # storage → the tensors in it

    def run(self, name: str, function: Any, *args: Any) -> Tensor:
        """Do one operation more."""
        with torch.no_grad():
            output: Tensor = function(*args)
        self.seen(function, ops.make_call(function, ops.named(function, args, {}), output), None, "")
        self.steps[-1] = replace(self.steps[-1], name=name)
        return output

    def seen(self, function: Any, call: Call, row: int | None, place: str) -> None:
        known = replace(call, arguments=tree_map_only(Tensor, self._source, call.arguments))
        if call.raw.startswith(("empty", "new_empty")):  # until it is written, chance stands there
            for tensor in call.outputs:
                tensor.zero_()
        for tensor in (*call.outputs, *call.written):
            self.sharing[tensor.untyped_storage()._cdata][id(tensor)] = tensor
        if not call.raw.startswith("new_") and any(isinstance(v, Made) for v in tree_leaves(known.arguments)):
            name = f"{place}.{call.name}".lstrip(".")
            step = Step(name=name, function=function, call=known, value=self.image, row=row)
            for number, out in enumerate(call.outputs if call.raw in CUTS else call.outputs[:1]):
                self._keep(replace(step, output=number), out)
            for out in call.written:
                self._spread(step, out)

    def _source(self, tensor: Tensor) -> Tensor | Made:
        return self.made[id(tensor)][1] if id(tensor) in self.made else tensor

    def _keep(self, step: Step, out: Tensor) -> None:
        self.made[id(out)] = (out, Made(len(self.steps)))
        self.steps.append(replace(step, value=out.detach().clone()))

    def _spread(self, step: Step, written: Tensor) -> None:
        """What was written is seen through all views of the same memory."""
        for other in list(self.sharing[written.untyped_storage()._cdata].values()):
            if other is not written:
                layouts = [(t.shape, t.stride(), t.storage_offset()) for t in (other, written)]
                arguments = {"before": self._source(other), "written": self._source(written), "layouts": layouts}
                call = replace(step.call, name="written", raw="written", arguments=arguments)
                self._keep(replace(step, call=call), other)
