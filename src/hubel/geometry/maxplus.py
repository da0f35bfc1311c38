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
    """One call of aten's `function`: its main input, what that sees, one output, and a way to ask for other fields."""

    function: Any
    call: Call
    given: Tensor
    field: Field
    index: int
    out: Tensor
    see: See


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
    fields = [rule(step(index=index, out=out)) for index, out in enumerate(call.outputs)]
    return [field if field.fits(out) else WHOLE for field, out in zip(fields, call.outputs, strict=True)]


# ---- elementwise ------------------------------------------------------------------------------------------------


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


def _cat(step: Step) -> Field:
    tensors, ndim = [tensor for tensor in step.call.arguments["tensors"] if tensor.numel()], step.out.ndim
    dim, whole = step.call.arguments["dim"] % ndim - ndim, joined(tensors, ndim, step.see)
    local = [field for tensor in tensors if (field := step.see(tensor)) is not None and field.kind == "local"]
    if not any(dim in along for field in local for along in field.places):
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
    if left is not None and right is None:
        return POOLED if left.flattened else left.summed(-1)
    return right.summed(-2) if right is not None and left is None and step.call.raw != "linear" else WHOLE


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
    return torch.arange(outputs)[:, None] * stride - padding + torch.arange(kernel) * dilation, stride


def _transposed(outputs: int, kernel: int, stride: int, padding: int, dilation: int) -> Taps:
    """Output o sees the inputs i for which o = i·stride - padding + k·dilation has a k."""
    ahead = torch.arange(outputs)[:, None] + padding - torch.arange(kernel) * dilation
    return (ahead // stride).masked_fill(ahead % stride != 0, NOTHING), 1 / stride


def _windows(step: Step) -> Field:
    """Convolution and pooling."""
    found, field, taps = window(step.call), step.field, _transposed if step.call.name in TRANSPOSED else _window
    assert found is not None
    axes = len(found.kernel)
    before, after = step.given.shape[-axes:], step.out.shape[-axes:]
    if "weight" in step.call.arguments:
        field = field.summed(-axes - 1)
        field = replace(field, sees_all=field.sees_all or step.see(step.call.arguments["weight"]) is not None)
    elif set(after) == {1} and all(k >= n and k > STAGE for k, n in zip(found.kernel, before, strict=True)):
        return POOLED
    settings = zip(after, found.kernel, found.stride, found.padding, found.dilation, strict=True)
    return field.gathered(step.given, {d - axes: taps(*each) for d, each in enumerate(settings)})


def _resized(step: Step) -> Field:
    """Adaptive pooling and upsampling: the operation itself says which positions matter, shown one at a time."""
    a, axes = step.call.arguments, step.given.ndim - 2
    if "adaptive" in step.call.raw and set(step.out.shape[-axes:]) == {1}:
        return POOLED
    taps = {}
    for d in range(-axes, 0):
        n, outputs = step.given.shape[d], step.out.shape[d]
        shape, size = ([count if e == d else 1 for e in range(-axes, 0)] for count in (n, outputs))
        shown = step.function(**(a | {"self": torch.eye(n).double().view(n, 1, *shape), "output_size": size}))
        matters = (shown[0] if isinstance(shown, tuple) else shown).view(n, outputs).T != 0
        taps[d] = torch.where(matters, torch.arange(n), NOTHING), n / outputs
    return step.field.gathered(step.given, taps)


def _padded(step: Step) -> Field:
    """Added borders see what would lie there if the map went on; negative ones crop."""
    amounts = step.call.arguments.get("pad") or step.call.arguments["padding"]
    before = {-axis - 1: amounts[2 * axis] for axis in range(len(amounts) // 2)}
    return step.field.gathered(step.given, {d: _window(step.out.shape[d], 1, 1, n) for d, n in before.items()})


def _unfolded(step: Step) -> Field:
    """Patches of a map become columns of a matrix, which may reach over the map's edge."""
    names, taps = ("kernel_size", "stride", "padding", "dilation"), {}
    for d in (-2, -1):
        k, s, p, e = (step.call.arguments[name][d] for name in names)
        taps[d] = _window((step.given.shape[d] + 2 * p - e * (k - 1) - 1) // s + 1, k, s, p, e)
    field = step.field.summed(-3).gathered(step.given, taps)
    rows, columns = (len(index) for index, _ in taps.values())
    four = (compact(bound.expand(*bound.shape[:-2], rows, columns).flatten(-2)) for bound in field.bounds)
    return replace(field, bounds=tuple(four))


RESHAPES = ("view", "unsafe_view", "reshape", "reshape_alias", "flatten", "unflatten")
SAME = ("alias", "as_strided", "clone", "contiguous", "detach", "dropout", "lift_fresh", "native_channel_shuffle")
COPIES = (*SAME, "to_copy", "native_dropout", "channel_shuffle", "fill", "zero")
CUTS = ("split", "split_with_sizes", "unsafe_split", "chunk", "select", "unbind", "slice")
VIEWS = (*CUTS, "permute", "transpose", "t", "expand", "repeat", "unsqueeze", "squeeze")
SILENT = {*RESHAPES, *COPIES, *VIEWS, "copy"}  # the same numbers, elsewhere
REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp", "norm", "linalg_vector_norm")
RESIZES = ("upsample_nearest1d", "upsample_nearest2d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d")
EACH = (1, 2, 3)  # numbers of spatial axes
RULES: dict[str, Callable[[Step], Field]] = {
    **dict.fromkeys((*POINTWISE, "prelu", "prelu_kernel", "masked_fill", "where", "copy"), _pointwise),
    **dict.fromkeys(COPIES, lambda step: step.field),
    **dict.fromkeys((*VIEWS, "roll", "flip", "unfold", "pixel_shuffle", "pixel_unshuffle"), _moved),
    **dict.fromkeys(RESHAPES, _reshaped),
    **dict.fromkeys((*REDUCTIONS, "var_mean", "argmax", "prod", "aminmax"), _reduction),
    **dict.fromkeys(("addmm", "mm", "bmm", "baddbmm", "linear", "mkldnn_linear"), _product),
    **dict.fromkeys(("softmax", "log_softmax", "safe_softmax", "cumsum", "topk", "sort", "glu"), _along),
    **dict.fromkeys(("batch_norm", "native_layer_norm", "native_group_norm"), _norm),
    **dict.fromkeys(
        (*CONVOLUTIONS, *TRANSPOSED, *(f"{kind}_pool{n}d" for kind in ("avg", "max") for n in EACH)), _windows
    ),
    **dict.fromkeys((*RESIZES, *(f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in EACH)), _resized),
    **dict.fromkeys((f"{how}_pad{n}d" for how in ("reflection", "replication") for n in EACH), _padded),
    "constant_pad_nd": _padded,
    "im2col": _unfolded,
    "cat": _cat,
    "stack": _stack,
}
