"""A few words to write an ONNX graph with: tensors that can be added and multiplied. Needs the extra ``export``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hubel.errors import ModelError

Number: TypeAlias = "Value | float"


def needed(package: str) -> Any:
    """Import a package that only exported models need.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(
            f"Exported models need the package {package}, which is not installed: pip install 'hubel[export]'."
        ) from error


@dataclass(frozen=True)
class Graph:
    """Nodes in the order in which they run; the names of their results are made up.

    Attributes:
        nodes: of type ``onnx.NodeProto``.
        numbers: what the names are numbered by; the body of a loop shares it with the graph around it.
    """

    nodes: list[Any] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    def op(self, kind: str, *inputs: Number, gives: str = "", **attributes: Any) -> Value:
        """Add an operator of ONNX; plain numbers become constants of the same type as the tensors beside them.

        Args:
            gives: type of the result, where it is another one.
        """
        tensors = [v.dtype for v in inputs if isinstance(v, Value)]
        dtype = next((t for t in tensors if t != "bool"), "bool")
        names = [(v if isinstance(v, Value) else self.constant(v, dtype)).name for v in inputs]
        result = self.new(gives or dtype)
        self.nodes.append(needed("onnx").helper.make_node(kind, names, [result.name], **attributes))
        return result

    def constant(self, value: npt.ArrayLike, dtype: str) -> Value:
        """Add an array of numbers."""
        onnx, result = needed("onnx"), self.new(dtype)
        tensor = onnx.numpy_helper.from_array(np.asarray(value, dtype=dtype))
        self.nodes.append(onnx.helper.make_node("Constant", [], [result.name], value=tensor))
        return result

    def new(self, dtype: str) -> Value:
        """Name a tensor that no node makes yet."""
        return Value(self, f"pixels.{next(self.numbers)}", dtype)

    def inner(self) -> Graph:
        """Begin the body of a loop; it may read the tensors of this graph."""
        return Graph(numbers=self.numbers)


@dataclass(frozen=True)
class Value:
    """A tensor; arithmetic with it adds nodes to its graph.

    Attributes:
        dtype: numpy's name of its type.
    """

    graph: Graph
    name: str
    dtype: str

    def __add__(self, other: Number) -> Value:
        return self.graph.op("Add", self, other)

    def __sub__(self, other: Number) -> Value:
        return self.graph.op("Sub", self, other)

    def __mul__(self, other: Number) -> Value:
        return self if other == 1 else self.graph.op("Mul", self, other)

    def __truediv__(self, other: Number) -> Value:
        return self.graph.op("Div", self, other)

    def __lt__(self, other: Number) -> Value:
        return self.graph.op("Less", self, other, gives="bool")

    def __gt__(self, other: Number) -> Value:
        return self.graph.op("Greater", self, other, gives="bool")

    def at_least(self, other: Number) -> Value:
        """Raise what is less than `other`."""
        return self.graph.op("Max", self, other)

    def at_most(self, other: Number) -> Value:
        """Lower what is more than `other`."""
        return self.graph.op("Min", self, other)

    def floor(self) -> Value:
        """Round down."""
        return self.graph.op("Floor", self)

    def to(self, dtype: str) -> Value:
        """Convert; fractions are cut off."""
        kind = needed("onnx").helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.graph.op("Cast", self, gives=dtype, to=kind)

    def take(self, index: Value | int, axis: int = 0) -> Value:
        """Pick along an axis; one number takes that axis away."""
        where = index if isinstance(index, Value) else self.graph.constant(index, "int64")
        return self.graph.op("Gather", self, where, axis=axis)

    def spread(self, *axes: int) -> Value:
        """Insert axes of length 1."""
        return self.graph.op("Unsqueeze", self, self.graph.constant(axes, "int64"))

    def sizes(self, start: int = 0, end: int | None = None) -> Value:
        """Lengths of the axes from `start` to before `end`: one axis of int64."""
        until = {} if end is None else {"end": end}
        return self.graph.op("Shape", self, gives="int64", start=start, **until)


def join(values: Sequence[Value]) -> Value:
    """Put one-dimensional tensors in a row."""
    return values[0].graph.op("Concat", *values, axis=0)
