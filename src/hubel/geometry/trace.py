"""Following one image through any network, operation by operation, on shapes alone.

A dispatch mode sees every tensor operation that runs, whatever Python code called it: control flow, functional calls,
in-place operations and shared modules included. Tensors are on the meta device and have no numbers, so nothing is
computed and the model itself is neither moved nor changed. Where the code looks at numbers (``if x.max() > 1``), the
network is followed once more with real ones, on the processor.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from hubel.errors import UsageError
from hubel.geometry import rearranging, rules
from hubel.geometry.rows import IMAGE, ForwardError, Row, Trace
from hubel.geometry.sight import Sight, of_image, positions
from hubel.nn import meta, ops
from hubel.nn.dry_run import Beside, blank, copies, needs_numbers, undisturbed
from hubel.nn.ops import Call

# One row each, although some have modules inside.
WHOLE = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.MultiheadAttention)
SILENT = {*rearranging.VIEWS, "copy", "fill", "zero"}  # operations without a row: the same numbers, elsewhere


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


def _follow(model: nn.Module, size: tuple[int, int, int], device: str) -> Trace:
    image = blank(model, size, device)
    recorder = _Recorder(model, image)
    tensors = copies(model, device)
    recorder.learn(tensors)
    with undisturbed(model), recorder.watching(), recorder:
        try:
            answer = functional_call(model, tensors, (image,))
        except Exception as error:
            raise recorder.failure(error) from error
    return recorder.finished(answer)


def leaves(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that have one row a call, by name: those without modules inside, and some of torch's own."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{leaf}.") for leaf in _parents(name) if leaf in found)
        whole = isinstance(module, WHOLE) or not any(True for _ in module.children())
        if name and whole and not inside and not isinstance(module, nn.Identity):
            found[name] = module
    return found


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:n]) for n in range(1, len(parts)))


@dataclass(frozen=True)
class _Mark:
    """Where a tensor came from: rows, what it sees, and the parameters in it that no row has used."""

    sources: tuple[int, ...] = ()
    sight: Sight | None = None
    learned: tuple[str, ...] = ()


@dataclass
class _Open:
    """A leaf module that is running: what its row will say."""

    row: Row
    module: nn.Module
    calls: int = 0
    seen: dict[int, None] = field(default_factory=dict)  # row indices, in order


class _Recorder(TorchDispatchMode):
    """Sees every operation, and keeps for each tensor where it came from."""

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.leaves = leaves(model)
        self.own = _own_parameters(model)
        self.rows: list[Row] = []
        self.modules: dict[str, Sight] = {}
        self.kept: dict[int, tuple[Tensor, _Mark]] = {}  # the tensor is held so that its id stays its own
        self.sharing: dict[int, list[int]] = {}  # storage → ids of the tensors in it
        self.stack: list[tuple[str, nn.Module, tuple[int, ...]]] = []
        self.open: _Open | None = None
        self.last: Call | None = None
        self.attempt: tuple[int, ...] = ()
        self.places: Counter[str] = Counter()
        self.used: set[str] = set()
        self.beside = Beside(image.device)
        self._keep(image, _Mark(sources=(IMAGE,), sight=of_image(image)))

    def learn(self, tensors: dict[str, Tensor]) -> None:
        """Remember which of the tensors are parameters."""
        names = {name for name, _ in self.model.named_parameters()}
        for name, tensor in tensors.items():
            self._keep(tensor, _Mark(learned=(name,) if name in names else ()))

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
                handles.append(module.register_forward_pre_hook(self._enter(name), with_kwargs=True))
                handles.append(module.register_forward_hook(self._leave(name), prepend=True))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = next((t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)), None)
            shape = () if given is None else tuple(given.shape)
            self.stack.append((name, module, shape))
            if name in self.leaves and self.open is None:
                self.open = _Open(
                    row=Row(name=name, kind=type(module).__name__, module=True, input_shape=shape), module=module
                )

        return enter

    def _leave(self, name: str) -> Any:
        def leave(module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG001
            self.stack.pop()
            if self.open is not None and self.open.row.name == name and self.open.module is module:
                output = self._close(output)
            first = next((t for t in tree_leaves(output) if isinstance(t, Tensor)), None)
            sight = None if first is None else self._mark(first).sight
            if sight is not None:
                self.modules[name] = sight
            return output

        return leave

    def _close(self, output: Any) -> Any:
        """Finish the row of a leaf module. One that did nothing (dropout) still gets a row, and its own output."""
        assert self.open is not None
        if not self.open.calls:
            output = tree_map_only(Tensor, lambda t: t.view_as(t), output)
        done, self.open = self.open, None
        first = next((t for t in tree_leaves(output) if isinstance(t, Tensor)), None)
        if first is None or (self._mark(first).sight is None and not done.row.macs):
            return output
        learned = [name for name in self.own.get(done.row.name, ()) if name not in self.used]
        self.used.update(learned)
        self.rows.append(
            replace(
                done.row,
                detail=_module_detail(done.module) or done.row.detail,
                inputs=tuple(done.seen),
                shape=tuple(first.shape),
                learned=(*done.row.learned, *learned),
                sight=self._mark(first).sight,
            )
        )
        return output

    # ---- operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = self.beside(args, kwargs or {})
        self.attempt = next((tuple(a.shape) for a in tree_leaves(args) if self._is_seen(a)), ())
        arguments = ops.named(func, args, kwargs)
        output = meta.output_of(func, arguments)
        if output is None:
            output = func(*args, **kwargs)
        self.attempt = ()
        call = ops.make_call(func, arguments, output)
        if call.outputs:
            self._record(call)
        return output

    def _is_seen(self, value: object) -> bool:
        return isinstance(value, Tensor) and self._mark(value).sight is not None

    def _record(self, call: Call) -> None:
        marks = [self._mark(tensor) for tensor in call.tensors]
        sights = rules.sights_after(call, lambda tensor: self._mark(tensor).sight)
        sources = tuple(dict.fromkeys(s for mark in marks for s in mark.sources)) if any(sights) else ()
        learned = tuple(dict.fromkeys(name for mark in marks for name in mark.learned))
        index = len(self.rows)
        inside = self.open is not None
        if inside and (any(sights) or ops.macs(call)):  # else it is a constant of the layer's own
            self._add(call, sources, learned, index)
            sources = (index,)
        elif not inside and self._has_row(call, sights):
            self._new_row(call, sources, learned, sights[0])
            sources, learned = (index,), ()
        for output, sight in zip(call.outputs, sights, strict=True):
            self._keep(output, _Mark(sources if sight is not None or sources == (index,) else (), sight, learned))
        for tensor in call.written:
            self._spread(tensor)

    def _has_row(self, call: Call, sights: Sequence[Sight | None]) -> bool:
        if ops.macs(call):
            return True
        if sights[0] is None:
            return False
        return call.raw not in SILENT or _flattens(call) or _shortens(call, self._mark(call.tensors[0]).sight)

    def _new_row(self, call: Call, sources: tuple[int, ...], learned: tuple[str, ...], sight: Sight | None) -> None:
        kind = "flatten" if _flattens(call) else call.name
        place = f"{self.stack[-1][0]}.{kind}".lstrip(".") if self.stack else kind
        self.places[place] += 1
        number = self.places[place]
        given = next((t for t in call.tensors if self._mark(t).sight is not None), call.tensors[0])
        row = Row(
            name=place if number == 1 else f"{place}_{number}",
            kind=kind,
            module=False,
            inputs=sources,
            input_shape=tuple(given.shape),
            shape=tuple(call.outputs[0].shape),
            learned=self._first_use(learned),
            sight=sight,
        )
        self.rows.append(self._with(row, call))

    def _add(self, call: Call, sources: tuple[int, ...], learned: tuple[str, ...], index: int) -> None:
        """Add an operation to the row of the leaf module that runs."""
        assert self.open is not None
        self.open.calls += 1
        self.open.seen |= dict.fromkeys(s for s in sources if s != index)
        row = replace(self.open.row, learned=(*self.open.row.learned, *self._first_use(learned)))
        self.open.row = row if call.raw in SILENT else self._with(row, call)

    def _with(self, row: Row, call: Call) -> Row:
        """Add a call's figures to a row."""
        return replace(
            row,
            detail=row.detail or ops.detail(call),
            operations=(*row.operations, call.name),
            macs=row.macs + ops.macs(call),
            window=row.window or ops.window(call),
            positions=max(row.positions, self._read(call)),
        )

    def _read(self, call: Call) -> int:
        """How many positions a dense layer reads at once."""
        sight = self._mark(ops.factors(call)[0]).sight if call.name == "linear" else None
        return math.prod(len(r) for r in positions(sight.dims[-1:])) if sight is not None and sight.dims else 1

    def _first_use(self, learned: Sequence[str]) -> tuple[str, ...]:
        new = tuple(name for name in learned if name not in self.used)
        self.used.update(new)
        return new

    # ---- tensors

    def _keep(self, tensor: Tensor, mark: _Mark) -> None:
        if id(tensor) not in self.kept:
            self.sharing.setdefault(tensor.untyped_storage()._cdata, []).append(id(tensor))
        self.kept[id(tensor)] = (tensor, mark)

    def _mark(self, tensor: Tensor) -> _Mark:
        return self.kept[id(tensor)][1] if id(tensor) in self.kept else _Mark()

    def _spread(self, written: Tensor) -> None:
        """What was written into a tensor is seen through all views of the same memory."""
        mark = self._mark(written)
        for other in self.sharing.get(written.untyped_storage()._cdata, ()):
            tensor, old = self.kept[other]
            if tensor is written or mark is old:
                continue
            sources = mark.sources if tensor.numel() == written.numel() else (*old.sources, *mark.sources)
            sight = rearranging.written_into(tensor, old.sight, written, mark.sight)
            self.kept[other] = (tensor, _Mark(tuple(dict.fromkeys(sources)), sight, old.learned))

    # ---- the end

    def failure(self, error: Exception) -> ForwardError:
        """Say where the network was when it raised."""
        place, module, shape = self.stack[-1] if self.stack else ("", self.model, ())
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        given = shape if place in self.leaves else self.attempt or shape
        return ForwardError(place, type(module).__name__, given, why)

    def finished(self, answer: Any) -> Trace:
        """Return what was seen."""
        first = next((t for t in tree_leaves(answer) if isinstance(t, Tensor)), None)
        if first is None:
            raise UsageError(
                f"the network answers with {type(answer).__name__} that holds no tensor: "
                "its forward has to return logits."
            )
        return Trace(rows=tuple(self.rows), output=self._mark(first).sources, modules=self.modules)


def _own_parameters(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Names of the parameters in each module, where a shared one has the same name everywhere."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        name: tuple(names[id(parameter)] for parameter in module.parameters()) for name, module in model.named_modules()
    }


def _flattens(call: Call) -> bool:
    """Whether a view makes one list of numbers out of a map."""
    views = ("view", "unsafe_view", "reshape", "flatten")
    return call.raw in views and call.outputs[0].ndim == 2 < call.tensors[0].ndim and call.outputs[0].shape[0] == 1


def _shortens(call: Call, before: Sight | None) -> bool:
    """Whether a slice takes positions away."""
    if call.raw != "slice" or before is None or before.kind != "local":
        return False
    dim = call.arguments["dim"]
    return bool(positions(before.dims[dim : dim + 1])) and call.outputs[0].shape != call.tensors[0].shape


def _module_detail(module: nn.Module) -> str:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return f"p {module.p:g}"
    if isinstance(module, nn.MultiheadAttention):
        return f"{module.num_heads} heads"
    if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        height, width = nn.modules.utils._pair(module.output_size)
        return f"to {height}×{width}"
    return ""
