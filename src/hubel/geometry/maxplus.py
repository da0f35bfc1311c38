"""How each tensor operation passes on what is seen of the image: sums and products become maxima.

A convolution becomes a maximum under the same window; views, slices and concatenations are torch's own, on each of the
four bounds of a field. An operation that is not known sees the whole image: nothing is guessed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hubel.geometry.field import NOTHING, POOLED, WHOLE, Field, Taps, compact
from hubel.nn.meta import POINTWISE
from hubel.nn.ops import CONVOLUTIONS, TRANSPOSED, Call, factors, window

STAGE = 3  # a pooling window that covers the whole map is global if it is larger; up to this it is a stage's
See = Callable[[Tensor], Field | None]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call of aten's `function`, for one of its outputs: what its main input sees, and a way to ask for others."""

    function: Any
    call: Call
    given: Tensor
    field: Field
    index: int
    see: See

    @property
    def out(self) -> Tensor:
        return self.call.outputs[self.index]


def fields_after(function: Any, call: Call, see: See) -> list[Field | None]:
    """Return what each output of a call sees; None where the image doesn't matter to it."""
    seen = [field for tensor in call.tensors if (field := see(tensor)) is not None]
    if not seen or call.raw.startswith("new_") or call.raw.endswith("_like"):
        return [None] * len(call.outputs)
    if any(field.kind == "whole" for field in seen):
        return [WHOLE] * len(call.outputs)
    if all(field.kind == "pooled" for field in seen):
        return [POOLED] * len(call.outputs)
    main = (call.arguments.get(name) for name in ("self", "input"))
    given = next((tensor for tensor in main if isinstance(tensor, Tensor)), call.tensors[0])
    step = functools.partial(Step, function=function, call=call, given=given, field=see(given) or WHOLE, see=see)
    rule = RULES.get(call.name) or RULES.get(call.raw) or (_pointwise if call.pointwise else lambda _: WHOLE)
    return [_checked(rule(step(index=index)), output) for index, output in enumerate(call.outputs)]


def _checked(field: Field, output: Tensor) -> Field:
    """A local field has to fit its tensor; where it doesn't, a rule was too simple, and nothing is claimed."""
    shapes = [tuple(bound.shape) for bound in field.bounds]
    fits = all(len(shape) == output.ndim and {*map(_fits, shape, output.shape)} <= {True} for shape in shapes)
    return field if fits else WHOLE


def _fits(kept: int, size: int) -> bool:
    return kept in (1, size)


# ---- elementwise ------------------------------------------------------------------------------------------------


def _same(step: Step) -> Field:
    return step.field


def _pointwise(step: Step) -> Field:
    return joined(step.call.tensors, step.out.ndim, step.see)


def joined(tensors: Iterable[Tensor], ndim: int, see: See) -> Field:
    """Return what the elementwise combination of tensors sees, of which one at least is local."""
    seen = [(tensor, field) for tensor in tensors if (field := see(tensor)) is not None]
    local = [field for _, field in seen if field.kind == "local"]
    four = zip(*([bound[(None,) * (ndim - bound.ndim)] for bound in field.bounds] for field in local), strict=True)
    field = Field(
        kind="local",
        bounds=tuple(functools.reduce(torch.maximum, bounds) for bounds in four),
        steps=(max(field.steps[0] for field in local), max(field.steps[1] for field in local)),
        sees_all=any(field.sees_all or field.kind == "pooled" for _, field in seen),
        flattened=max(field.flattened for field in local),
    )
    pooled = [tensor for tensor, field in seen if field.kind == "pooled"]
    return field if all(_even(tensor, d) for tensor in pooled for d in set.union(*field.places)) else WHOLE


def _even(tensor: Tensor, dim: int) -> bool:
    """Whether a tensor has the same numbers all along that axis, counted from the end."""
    return -dim > tensor.ndim or tensor.shape[dim] == 1 or tensor.stride(dim) == 0


# ---- the same numbers elsewhere -----------------------------------------------------------------------------------


def _moved(step: Step) -> Field:
    """Torch's own operation on each of the four."""
    a, shape = step.call.arguments, step.given.shape
    name = next(name for name, value in a.items() if value is step.given)
    moved = [step.function(**(a | {name: bound.expand(shape)})) for bound in step.field.bounds]
    four = [compact(each[step.index] if isinstance(each, (list, tuple)) else each) for each in moved]
    if step.out.ndim < step.given.ndim:
        return _flattened(step).with_bounds(four)
    field = replace(step.field, bounds=tuple(four))
    return replace(field, steps=(field.shown_step(0), field.shown_step(1)))


def _reshaped(step: Step) -> Field:
    four = (compact(bound.expand(step.given.shape).reshape(step.out.shape)) for bound in step.field.bounds)
    return replace(_flattened(step), bounds=tuple(four))


def _flattened(step: Step) -> Field:
    """The field, with the number of its positions where they are put into a flat list."""
    given, out = step.given, step.out
    if not out.ndim == 2 < given.ndim or out.shape[-1] == given.shape[-1]:
        return step.field
    places = [along or ({axis - 2} if given.ndim > 3 else set()) for axis, along in enumerate(step.field.places)]
    return replace(step.field, flattened=math.prod(given.shape[d] for d in set.union(*places)))


def _copy(step: Step) -> Field:
    source = step.call.arguments["src"]
    return step.field if step.see(source) is None else joined([source], step.out.ndim, step.see)


def _cat(step: Step) -> Field:
    tensors, ndim = [tensor for tensor in step.call.arguments["tensors"] if tensor.numel()], step.out.ndim
    dim, whole = step.call.arguments["dim"] % ndim - ndim, joined(tensors, ndim, step.see)
    local = [field for tensor in tensors if (field := step.see(tensor)) is not None and field.kind == "local"]
    if whole.kind != "local" or not any(dim in along for field in local for along in field.places):
        return whole
    if len(local) < len(tensors):
        return WHOLE
    parts = ([bound.expand(t.shape) for bound in field.bounds] for t, field in zip(tensors, local, strict=True))
    four = tuple(compact(torch.cat(bounds, dim)) for bounds in zip(*parts, strict=True))
    return replace(whole, bounds=four, steps=local[0].steps)


def _stack(step: Step) -> Field:
    field, dim = joined(step.call.arguments["tensors"], step.out.ndim - 1, step.see), step.call.arguments["dim"]
    return replace(field, bounds=tuple(bound.unsqueeze(dim % step.out.ndim) for bound in field.bounds))


def written_into(tensor: Tensor, old: Field | None, written: Tensor, new: Field | None) -> Field | None:
    """Return what a tensor sees after another view of its memory was written."""
    if (old is None and new is None) or (tensor.shape == written.shape and tensor.stride() == written.stride()):
        return new
    if new is None or new.kind != "local":
        return new if old is None or old.kind == "pooled" else WHOLE
    if tensor.ndim != written.ndim or any(tensor.shape[d] != written.shape[d] for d in set.union(*new.places)):
        return WHOLE
    return joined([written, tensor], tensor.ndim, lambda view: new if view is written else old)


# ---- sums over axes: reductions, dense layers, norms ----------------------------------------------------------------


def _reduction(step: Step) -> Field:
    if "other" in step.call.arguments:  # the larger of two tensors
        return _pointwise(step)
    over, keep = step.call.arguments.get("dim"), bool(step.call.arguments.get("keepdim"))
    over = [over] if isinstance(over, int) else list(over or range(step.given.ndim))
    if len(over) > 1 and not set.union(*step.field.places):  # a map of one position
        return POOLED
    return step.field.with_bounds(bound.amax(over, keep) for bound in step.field.bounds)


def _product(step: Step) -> Field:
    left, right = (step.see(factor) for factor in factors(step.call))
    if left is not None and right is None and left.kind == "local":
        return POOLED if left.flattened else left.summed(-1)
    transposed = right is not None and left is None and right.kind == "local" and step.call.raw != "linear"
    return right.summed(-2) if right is not None and transposed else WHOLE


def _along(step: Step) -> Field:
    """Softmax, sorting and sums that run along one axis: over channels they change nothing, over positions all."""
    dim = step.call.arguments["dim"] % step.given.ndim - step.given.ndim
    return WHOLE if dim in set.union(*step.field.places) else step.field


def _norm(step: Step) -> Field:
    """Batch norm in training, group norm, and layer norm over positions look at the whole map."""
    a, places = step.call.arguments, set.union(*step.field.places)
    own = step.call.name != "batch_norm" or bool(a.get("training", "no_training" not in step.call.raw))
    own = any(-d <= len(a["normalized_shape"]) for d in places) if "normalized_shape" in a else own
    return WHOLE if step.index else replace(step.field, sees_all=step.field.sees_all or own)


# ---- windows --------------------------------------------------------------------------------------------------------


def _window(outputs: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> Taps:
    return _column(outputs) * stride - padding + torch.arange(kernel) * dilation, stride


def _transposed(outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> Taps:
    """Output o sees the inputs i for which o = i·stride - padding + k·dilation has a k."""
    ahead = _column(outputs) + padding - torch.arange(kernel) * dilation
    return (ahead // stride).masked_fill(ahead % stride != 0, NOTHING), 1 / stride


def _column(outputs: int) -> Tensor:
    return torch.arange(outputs)[:, None]


def _windows(step: Step) -> Field:
    """Convolution and pooling."""
    found, field, given = window(step.call), step.field, step.given
    assert found is not None
    axes = len(found.kernel)
    if "weight" in step.call.arguments:
        field = field.summed(-axes - 1)
        field = replace(field, sees_all=field.sees_all or step.see(step.call.arguments["weight"]) is not None)
    elif set(step.out.shape[-axes:]) == {1} and all(map(_covers, found.kernel, given.shape[-axes:])):
        return POOLED
    taps = _transposed if step.call.name in TRANSPOSED else _window
    settings = zip(step.out.shape[-axes:], found.kernel, found.stride, found.padding, found.dilation, strict=True)
    return _gathered(field, given, {d - axes: taps(*each) for d, each in enumerate(settings)})


def _covers(kernel: int, size: int) -> bool:
    return kernel >= size and kernel > STAGE


def _gathered(field: Field, given: Tensor, taps: dict[int, Taps]) -> Field:
    return field.gathered(given.shape, taps) if field.kind == "local" else field


def _adaptive(step: Step) -> Field:
    """Output o sees the inputs from floor(o·n/outputs) to before ceil((o+1)·n/outputs)."""
    axes, taps = int(step.call.raw[step.call.raw.index("pool") + 4]), {}
    if set(step.out.shape[-axes:]) == {1}:
        return POOLED
    for d in range(-axes, 0):
        n, outputs = step.given.shape[d], step.out.shape[d]
        start, stop = _column(outputs) * n // outputs, -((_column(outputs) + 1) * -n // outputs)
        taps[d] = torch.minimum(start + torch.arange(int((stop - start).max())), stop - 1), n / outputs
    return _gathered(step.field, step.given, taps)


def _interpolated(step: Step) -> Field:
    """Linear and cubic upsampling: on a sample, its neighbours have no weight."""
    spread, taps = torch.arange(-1, 3) if "cubic" in step.call.raw else torch.arange(2), {}
    for d in range(-int(step.call.raw[-2]), 0):
        n, outputs = step.given.shape[d], step.out.shape[d]
        place = _column(outputs).double()
        corners = step.call.arguments["align_corners"]
        source = place * (n - 1) / max(outputs - 1, 1) if corners else (place + 0.5) * n / outputs - 0.5
        taps[d] = (source.floor().long() + spread * (source > source.floor())).clamp(0, n - 1), n / outputs
    return _gathered(step.field, step.given, taps)


def _padded(step: Step) -> Field:
    """Added borders see what would lie there if the map went on; negative ones crop."""
    amounts = step.call.arguments.get("pad") or step.call.arguments["padding"]
    before = {-axis - 1: amounts[2 * axis] for axis in range(len(amounts) // 2)}
    return _gathered(step.field, step.given, {d: _window(step.out.shape[d], 1, 1, n) for d, n in before.items()})


def _unfolded(step: Step) -> Field:
    """Patches of a map become columns of a matrix."""
    names, sizes, taps = ("kernel_size", "stride", "padding", "dilation"), [], {}
    for d in (-2, -1):
        k, s, p, e = (step.call.arguments[name][d] for name in names)
        sizes.append((step.given.shape[d] + 2 * p - e * (k - 1) - 1) // s + 1)
        taps[d] = _window(sizes[-1], k, s, p, e)
    field = _gathered(step.field.summed(-3), step.given, taps)
    four = (bound.expand(*bound.shape[:-2], *sizes).flatten(-2) for bound in field.bounds)
    return replace(field, bounds=tuple(compact(bound) for bound in four))


RESHAPES = ("view", "unsafe_view", "reshape", "reshape_alias", "flatten", "unflatten")
SAME = ("alias", "as_strided", "clone", "contiguous", "detach", "dropout", "lift_fresh", "native_channel_shuffle")
COPIES = (*SAME, "to_copy", "native_dropout", "channel_shuffle", "fill", "zero")
VIEWS = ("permute", "transpose", "t", "split", "split_with_sizes", "unsafe_split", "chunk", "select", "unbind")
MORE_VIEWS = ("expand", "repeat", "unsqueeze", "squeeze", "slice")
SILENT = {*RESHAPES, *COPIES, *VIEWS, *MORE_VIEWS, "copy"}  # the same numbers, elsewhere
MOVES = ("roll", "flip", "unfold", "pixel_shuffle", "pixel_unshuffle", "upsample_nearest1d", "upsample_nearest2d")
REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp", "norm", "linalg_vector_norm")
EACH = (1, 2, 3)  # numbers of spatial axes
RULES: dict[str, Callable[[Step], Field]] = {
    **dict.fromkeys((*POINTWISE, "prelu", "prelu_kernel", "masked_fill", "where"), _pointwise),
    **dict.fromkeys(COPIES, _same),
    **dict.fromkeys((*VIEWS, *MORE_VIEWS, *MOVES), _moved),
    **dict.fromkeys(RESHAPES, _reshaped),
    **dict.fromkeys((*REDUCTIONS, "var_mean", "argmax", "prod", "aminmax"), _reduction),
    **dict.fromkeys(("addmm", "mm", "bmm", "baddbmm", "linear", "mkldnn_linear"), _product),
    **dict.fromkeys(("softmax", "log_softmax", "safe_softmax", "cumsum", "topk", "sort", "glu"), _along),
    **dict.fromkeys(("batch_norm", "native_layer_norm", "native_group_norm"), _norm),
    **dict.fromkeys((*CONVOLUTIONS, *TRANSPOSED), _windows),
    **dict.fromkeys((f"{kind}_pool{n}d" for kind in ("avg", "max") for n in EACH), _windows),
    **dict.fromkeys((f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in EACH), _adaptive),
    **dict.fromkeys(("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d"), _interpolated),
    **dict.fromkeys((f"{how}_pad{n}d" for how in ("reflection", "replication") for n in EACH), _padded),
    "constant_pad_nd": _padded,
    "im2col": _unfolded,
    "copy": _copy,
    "cat": _cat,
    "stack": _stack,
}
