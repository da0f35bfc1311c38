"""What was seen of a network: a row for each leaf module's call and for each operation outside of them."""

from __future__ import annotations

from dataclasses import dataclass

from hubel.geometry.field import Field
from hubel.nn import ops
from hubel.nn.ops import Call, Window

IMAGE = -1  # among the inputs of a row


@dataclass(kw_only=True, eq=False)
class Row:
    """One leaf module's call, or one operation outside of them.

    Attributes:
        name, kind, detail, inputs, macs: as in `hubel.records.Layer`. input_shape, shape: with the batch axis.
        module: whether a module of that name did it.
        operations: names of what it computed (``conv2d``, ``batch_norm``), views left out.
        learned: names of the parameters that are used here first.
        window: of a convolution or pooling. positions: how many of the map's a dense layer reads at once; 1 elsewhere.
        field: what its output sees of the image; None where the image doesn't matter.
    """

    name: str
    kind: str
    module: bool
    detail: str = ""
    inputs: tuple[int, ...] = ()
    input_shape: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    operations: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()
    macs: int = 0
    window: Window | None = None
    positions: int = 1
    field: Field | None = None

    def add(self, call: Call, macs: int, positions: int) -> None:
        """Add the figures of an operation."""
        self.detail = self.detail or ops.detail(call)
        self.operations += (call.name,)
        self.macs += macs
        self.window = self.window or ops.window(call)
        self.positions = max(self.positions, positions)

    @property
    def is_map(self) -> bool:
        """Whether it gives out a map of positions that see a patch each."""
        return self.field is not None and self.field.is_map


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What was seen of a network.

    Attributes:
        rows: in the order they ran.
        output: indices of the rows that made the first tensor of the answer.
        modules: what the output of each module sees, by its name; of one that ran several times, the last.
    """

    rows: tuple[Row, ...]
    output: tuple[int, ...]
    modules: dict[str, Field]

    def last_map(self) -> int | None:
        """Return the row that made the last map before positions are pooled away; None behind attention."""
        seen, found, front = {IMAGE}, [], list(self.output)
        while front:
            index = front.pop()
            if index in seen:
                continue
            seen.add(index)
            row = self.rows[index]
            if row.field is not None and row.field.kind == "whole":
                return None
            if row.is_map and not any(name.startswith("adaptive") for name in row.operations):
                found.append(index)
            else:
                front += row.inputs
        return max(found, default=None)

    def last_map_module(self) -> str | None:
        """Return the name of the outermost module that gives out the last map, or one that it is made from."""
        names = {id(field): name for name, field in self.modules.items()}  # outer modules end after inner ones
        index = self.last_map()
        while index is not None and index != IMAGE:
            row = self.rows[index]
            if row.module or id(row.field) in names:
                return names.get(id(row.field), row.name)
            index = next(iter(row.inputs), None)
        return None


class ForwardError(Exception):
    """The network raised on its input.

    Args:
        place: name of the module that ran, empty for the network itself; shape: of the tensor it was given.
    """

    def __init__(self, place: str, kind: str, shape: tuple[int, ...], why: str) -> None:
        super().__init__(f"{place or 'the network itself'} ({kind}): {why}")
        self.place, self.kind, self.shape, self.why = place, kind, shape, why
