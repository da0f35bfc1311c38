"""Following one image through any network, operation by operation, on shapes alone.

A dispatch mode sees every tensor operation that runs, whatever Python code called it: control flow, functional calls,
in-place operations and shared modules included. Tensors are on the meta device and have no numbers, so nothing is
computed and the model itself is neither moved nor changed. Where the code looks at numbers (``if x.max() > 1``), the
network is followed once more with real ones, on the processor.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from hubel.errors import UsageError
from hubel.geometry.field import Field, of_image
from hubel.geometry.maxplus import RESHAPES, SILENT, fields_after, written_into
from hubel.geometry.rows import IMAGE, ForwardError, Row, Trace
from hubel.nn import meta, ops
from hubel.nn.dry_run import Beside, blank, called_with, copies, needs_numbers, undisturbed
from hubel.nn.ops import Call

# Called after each operation with aten's function, its call, the index of its row if it has one, and the module's name.
Seen = Callable[[Any, Call, int | None, str], None]
# Although some have modules inside.
ONE_ROW = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.MultiheadAttention)


def follow(model: nn.Module, size: tuple[int, int, int]) -> Trace:
    """Follow one image of `size` (channels, height, width) through the model, in eval mode.

    Raises:
        ForwardError: the model can't take it.
        UsageError: a lazy layer has no shape yet, or the answer holds no tensor.
    """
    try:
        return _follow(model, size, "meta")
    except ForwardError as error:
        if isinstance(error.__cause__, Exception) and needs_numbers(error.__cause__):
            return _follow(model, size, "cpu")
        raise


def follow_image(model: nn.Module, image: Tensor, seen: Seen) -> tuple[Trace, Any]:
    """Follow an image (1, C, H, W) with its numbers, on the processor; returns the model's answer, too.

    Args:
        seen: is called while the numbers are there; those of a tensor that is later written in place are gone then.

    Raises:
        ForwardError: the model can't take it.
    """
    return _traced(model, image, copies(model, "cpu"), seen)


def _follow(model: nn.Module, size: tuple[int, int, int], device: str) -> Trace:
    return _traced(model, blank(model, size, device), copies(model, device))[0]


def _traced(model: nn.Module, image: Tensor, tensors: dict[str, Tensor], seen: Seen | None = None) -> tuple[Trace, Any]:
    recorder = _Recorder(model, image, tensors, seen)
    with undisturbed(model), recorder.watching(), recorder:
        try:
            answer = called_with(model, tensors, image)
        except Exception as error:
            raise recorder.failure(error) from error
    return recorder.finished(answer), answer


def leaves(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that have one row a call, by name: those without modules inside, and some of torch's own."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{leaf}.") for leaf in found)
        whole = isinstance(module, ONE_ROW) or not any(True for _ in module.children())
        if name and whole and not inside and not isinstance(module, nn.Identity):
            found[name] = module
    return found


@dataclass(frozen=True)
class _Mark:
    """Where a tensor came from: rows, what it sees, and the parameters in it that no row has used."""

    sources: tuple[int, ...] = ()
    field: Field | None = None
    learned: tuple[str, ...] = ()


class _Recorder(TorchDispatchMode):
    """Sees every operation, and keeps for each tensor where it came from."""

    def __init__(self, model: nn.Module, image: Tensor, tensors: dict[str, Tensor], seen: Seen | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.leaves, self.seen = model, leaves(model), seen
        self.rows: list[Row] = []
        self.modules: dict[str, Field] = {}
        self.marks: dict[int, tuple[Tensor, _Mark]] = {}  # the tensor is held so that its id stays its own
        self.sharing: dict[int, list[Tensor]] = {}  # storage → the tensors in it
        self.stack: list[tuple[str, nn.Module, tuple[int, ...]]] = []
        self.open: Row | None = None  # of the leaf module that runs
        self.attempt: tuple[int, ...] = ()
        self.places: Counter[str] = Counter()
        self.used: set[str] = set()
        self.beside = Beside(image.device)
        names = {id(parameter): name for name, parameter in model.named_parameters()}  # the first of a shared one
        self.own = {name: tuple(names[id(p)] for p in leaf.parameters()) for name, leaf in self.leaves.items()}
        for name in names.values():
            self._keep(tensors[name], _Mark(learned=(name,)))
        self._keep(image, _Mark((IMAGE,), of_image(image)))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler, which takes seconds, to keep it from compiling this class."""
        return False

    # ---- modules

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Know which module runs, while the block does."""
        handles = []
        try:
            for name, module in self.model.named_modules():
                enter, leave = functools.partial(self._enter, name), functools.partial(self._leave, name)
                handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                handles.append(module.register_forward_hook(leave, prepend=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        given = _first((args, kwargs))
        shape = () if given is None else tuple(given.shape)
        self.stack.append((name, module, shape))
        if name in self.leaves and self.open is None:
            detail = _module_detail(module)
            self.open = Row(name=name, kind=type(module).__name__, module=True, detail=detail, input_shape=shape)

    def _leave(self, name: str, _module: nn.Module, _args: Any, output: Any) -> Any:
        self.stack.pop()
        first = _first(output)
        if self.open is not None and self.open.name == name:
            if first is not None and self._mark(first).sources != (len(self.rows),):
                output = tree_map_only(Tensor, lambda t: t.view_as(t), output)  # a row even if it did nothing
                first = _first(output)
            self._close(self.open, first)
        field = None if first is None else self._mark(first).field
        if field is not None:
            self.modules[name] = field
        return output

    def _close(self, row: Row, output: Tensor | None) -> None:
        """Finish the row of a leaf module, if it is about the image."""
        self.open = None
        if output is None or (self._mark(output).field is None and not row.macs):
            return
        row.shape, row.field = tuple(output.shape), self._mark(output).field
        row.learned += self._first_use(self.own[row.name])
        self.rows.append(row)

    # ---- operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = self.beside(args, kwargs or {})
        seen = (value for value in tree_leaves(args) if isinstance(value, Tensor) and self._mark(value).field)
        self.attempt = next((tuple(value.shape) for value in seen), ())
        arguments = ops.named(func, args, kwargs)
        output = meta.output_of(func, arguments)
        if output is None:
            output = func(*args, **kwargs)
        self.attempt = ()
        call = ops.make_call(func, arguments, output)
        if call.outputs:
            self._record(func, call)
        return output

    def _record(self, function: Any, call: Call) -> None:
        marks = [self._mark(tensor) for tensor in call.tensors]
        fields = fields_after(function, call, lambda tensor: self._mark(tensor).field)
        sources = _once(s for mark in marks for s in mark.sources) if any(fields) else ()
        learned = _once(name for mark in marks for name in mark.learned)
        row, index = self._row(call, fields), len(self.rows)
        if row is not None:
            row.inputs = _once((*row.inputs, *(s for s in sources if s != index)))
            row.learned += self._first_use(learned)
            sources, learned = (index,), ()
            if row is not self.open:
                row.field = fields[0]
                self.rows.append(row)
        for output, field in zip(call.outputs, fields, strict=True):
            self._keep(output, _Mark(sources if field is not None or row is not None else (), field, learned))
        for tensor in call.written:
            self._spread(tensor)
        if self.seen is not None:
            self.seen(function, call, None if row is None else index, self.stack[-1][0] if self.stack else "")

    def _row(self, call: Call, fields: Sequence[Field | None]) -> Row | None:
        """The row that an operation belongs to, with its figures added; None where it doesn't show."""
        macs, silent = ops.macs(call), call.raw in SILENT
        if self.open is None:
            if not macs and (fields[0] is None or (silent and not _flattens(call) and not self._shortens(call))):
                return None
        elif not macs and not any(fields):  # a constant of the layer's own
            return None
        row = self.open or self._new_row(call)
        if not silent or row is not self.open:
            left = self._mark(ops.factors(call)[0]).field if call.name == "linear" else None
            row.add(call, macs, 1 if left is None else left.flattened)
        return row

    def _shortens(self, call: Call) -> bool:
        """Whether a slice takes positions away."""
        given = call.tensors[0]
        field = self._mark(given).field
        if call.raw != "slice" or field is None:
            return False
        dim = call.arguments["dim"] % given.ndim - given.ndim
        return dim in set.union(*field.places) and call.outputs[0].shape != given.shape

    def _new_row(self, call: Call) -> Row:
        kind = "flatten" if _flattens(call) else call.name
        place = f"{self.stack[-1][0]}.{kind}".lstrip(".") if self.stack else kind
        self.places[place] += 1
        name = place if self.places[place] == 1 else f"{place}_{self.places[place]}"
        given = next((t for t in call.tensors if self._mark(t).field is not None), call.tensors[0])
        shape = tuple(call.outputs[0].shape)
        return Row(name=name, kind=kind, module=False, input_shape=tuple(given.shape), shape=shape)

    def _first_use(self, learned: Iterable[str]) -> tuple[str, ...]:
        new = tuple(name for name in learned if name not in self.used)
        self.used.update(new)
        return new

    # ---- tensors

    def _keep(self, tensor: Tensor, mark: _Mark) -> None:
        if id(tensor) not in self.marks:
            self.sharing.setdefault(tensor.untyped_storage()._cdata, []).append(tensor)
        self.marks[id(tensor)] = (tensor, mark)

    def _mark(self, tensor: Tensor) -> _Mark:
        return self.marks[id(tensor)][1] if id(tensor) in self.marks else _Mark()

    def _spread(self, written: Tensor) -> None:
        """What was written into a tensor is seen through all views of the same memory."""
        mark = self._mark(written)
        for tensor in self.sharing.get(written.untyped_storage()._cdata, ()):
            old = self._mark(tensor)
            if tensor is not written and mark is not old:
                sources = mark.sources if tensor.numel() == written.numel() else (*old.sources, *mark.sources)
                field = written_into(tensor, old.field, written, mark.field)
                self._keep(tensor, _Mark(_once(sources), field, old.learned))

    # ---- the end

    def failure(self, error: Exception) -> ForwardError:
        """Say where the network was when it raised."""
        place, module, shape = self.stack[-1] if self.stack else ("", self.model, ())
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        given = shape if place in self.leaves else self.attempt or shape
        return ForwardError(place, type(module).__name__, given, why)

    def finished(self, answer: Any) -> Trace:
        """Return what was seen."""
        first = _first(answer)
        if first is None:
            raise UsageError(
                f"the network answers with {type(answer).__name__} that holds no tensor: "
                "its forward has to return logits."
            )
        return Trace(rows=tuple(self.rows), output=self._mark(first).sources, modules=self.modules)


def _first(values: Any) -> Tensor | None:
    return next((value for value in tree_leaves(values) if isinstance(value, Tensor)), None)


def _once(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _flattens(call: Call) -> bool:
    """Whether a view makes one list of numbers out of a map."""
    given, out = call.tensors[0], call.outputs[0]
    return call.raw in RESHAPES and out.ndim == 2 < given.ndim and out.shape[0] == 1


def _module_detail(module: nn.Module) -> str:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return f"p {module.p:g}"
    if isinstance(module, nn.MultiheadAttention):
        return f"{module.num_heads} heads"
    if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        height, width = nn.modules.utils._pair(module.output_size)
        return f"to {height}×{width}"
    return ""
