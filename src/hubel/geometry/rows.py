"""What was seen of a network: a row for each leaf module's call and for each operation outside of them."""

from __future__ import annotations

from dataclasses import dataclass

from hubel.geometry.sight import Sight
from hubel.nn.ops import Window

IMAGE = -1  # among the inputs of a row


@dataclass(frozen=True, kw_only=True)
class Row:
    """One leaf module's call, or one operation outside of them.

    Attributes:
        name, kind, detail, inputs, macs: as in `hubel.records.Layer`. input_shape, shape: with the batch axis.
        module: whether a module of that name did it.
        operations: names of what it computed (``conv2d``, ``batch_norm``), views left out.
        learned: names of the parameters that are used here first.
        window: of a convolution or pooling. positions: how many of the map's a dense layer reads at once; 1 elsewhere.
        sight: what its output sees of the image; None where the image doesn't matter.
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
    sight: Sight | None = None


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
    modules: dict[str, Sight]

    def last_map(self) -> tuple[int | None, int | None]:
        """Return the rows that made the last map before positions are pooled away, and that pooled them.

        None for a map that doesn't exist, as behind attention.
        """
        seen: set[int] = set()
        front: list[tuple[int, int | None]] = [(index, None) for index in self.output]
        found: list[tuple[int, int | None]] = []
        while front:
            index, reader = front.pop()
            if index in seen or index == IMAGE:
                continue
            seen.add(index)
            row = self.rows[index]
            if row.sight is not None and row.sight.kind == "mixed":
                return None, None
            if row.sight is not None and row.sight.is_map and not _resizes(row):
                found.append((index, reader))
            else:
                front += [(before, index) for before in row.inputs]
        return max(found, key=lambda pair: pair[0], default=(None, None))

    def last_map_module(self) -> str | None:
        """Return the name of the last module that gives out the last map, or one that it is made from."""
        names = {id(sight): name for name, sight in self.modules.items()}
        index, _ = self.last_map()
        while index is not None and index != IMAGE:
            row = self.rows[index]
            if id(row.sight) in names or row.module:
                return names.get(id(row.sight), row.name)
            index = row.inputs[0] if row.inputs else None
        return None


def _resizes(row: Row) -> bool:
    return any(name.startswith("adaptive") for name in row.operations)


class ForwardError(Exception):
    """The network raised on its input.

    Args:
        place: name of the module that ran, empty for the network itself; shape: of the tensor it was given.
    """

    def __init__(self, place: str, kind: str, shape: tuple[int, ...], why: str) -> None:
        super().__init__(f"{place or 'the network itself'} ({kind}): {why}")
        self.place, self.kind, self.shape, self.why = place, kind, shape, why
