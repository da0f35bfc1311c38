"""What is seen of the image after numbers were cut out, joined, turned, or put into another shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from hubel.geometry import reach
from hubel.geometry.reach import Reach
from hubel.geometry.sight import (
    MIXED,
    POOLED,
    Atom,
    Dim,
    Sight,
    aligned,
    length,
    merged,
    positions,
    regrouped,
    resolved,
)
from hubel.nn.ops import Call

See = Callable[[Tensor], Sight | None]
Rule = Callable[[Call, See, int], Sight]  # the index says which output is asked for


def source(call: Call, see: See) -> Sight:
    """The sight of the tensor that an operation with one input works on."""
    for name in ("self", "input"):
        if isinstance(call.arguments.get(name), Tensor):
            return see(call.arguments[name]) or MIXED
    return MIXED


def without(sight: Sight, gone: Sequence[Reach], dims: tuple[Dim, ...]) -> Sight:
    """Return the sight after a contraction over some positions."""
    if not gone:
        return replace(sight, dims=dims)
    return replace(sight, dims=dims) if positions(dims) else POOLED


def each(call: Call, see: See, index: int, axes: int, change: Callable[[Reach, int, int], Reach]) -> Sight:
    """Change the positions of the last axes one by one; `change` gets them, the new number and the axis."""
    sight, out = source(call, see), call.outputs[index]
    dims = list(sight.dims)
    for d in range(-axes, 0):
        whole = resolved(dims[d])
        if whole is None:
            return MIXED
        dims[d] = (change(whole, out.shape[d], d),) if isinstance(whole, Reach) else (out.shape[d],)
    return replace(sight, dims=tuple(dims))


# ---- cutting, joining and turning -----------------------------------------------------------------------------------


def _slice(call: Call, see: See, index: int) -> Sight:
    a, out = call.arguments, call.outputs[index]
    n = a["self"].shape[a["dim"]]
    start = min(max(a["start"] + n if (a["start"] or 0) < 0 else a["start"] or 0, 0), n)
    return _cut(source(call, see), a["dim"], start, out.shape[a["dim"]], a["step"] or 1)


def _split(call: Call, see: See, index: int) -> Sight:
    dim = call.arguments["dim"]
    start = sum(out.shape[dim] for out in call.outputs[:index])
    return _cut(source(call, see), dim, start, call.outputs[index].shape[dim], 1)


def _cut(sight: Sight, dim: int, start: int, outputs: int, step: int) -> Sight:
    dims = list(sight.dims)
    whole = resolved(dims[dim])
    if whole is None:
        return sight if start == 0 and step == 1 else MIXED
    cut = isinstance(whole, Reach)
    dims[dim] = (
        reach.sliding(whole, outputs, kernel=1, stride=step, padding=-start) if cut else outputs,  # type: ignore[arg-type]
    )
    return replace(sight, dims=tuple(dims))


def _select(call: Call, see: See, index: int) -> Sight:  # noqa: ARG001
    sight = source(call, see)
    dim = (call.arguments.get("dim") or 0) % len(sight.dims)
    return without(sight, positions(sight.dims[dim : dim + 1]), sight.dims[:dim] + sight.dims[dim + 1 :])


def cat(call: Call, see: See, index: int) -> Sight:
    tensors = [t for t in call.arguments["tensors"] if t.numel()]
    out, dim = call.outputs[index], call.arguments["dim"] % call.outputs[index].ndim
    seen = [(t, s) for t in tensors if (s := see(t)) is not None]
    local = [s for _, s in seen if s.kind == "local"]
    if not any(positions(s.dims[dim : dim + 1]) for s in local):
        return merged([(t, _sized(s, dim, out.shape[dim])) for t, s in seen], out.shape)
    parts = [resolved(s.dims[dim]) for s in local]
    if len(parts) < len(tensors) or not all(isinstance(part, Reach) for part in parts):
        return MIXED
    whole = reach.joined([part for part in parts if isinstance(part, Reach)])
    blank = [(t, replace(s, dims=(*s.dims[:dim], (1,), *s.dims[dim + 1 :]))) for t, s in seen]
    sight = merged(blank, out.shape)
    dims = (*sight.dims[:dim], (whole,), *sight.dims[dim + 1 :])
    return sight if sight.kind != "local" else replace(sight, dims=dims, sees_all=any(s.sees_all for s in local))


def _sized(sight: Sight, dim: int, size: int) -> Sight:
    if sight.kind != "local":
        return sight
    return replace(sight, dims=(*sight.dims[:dim], (size,), *sight.dims[dim + 1 :]))


def stack(call: Call, see: See, index: int) -> Sight:
    tensors, out = call.arguments["tensors"], call.outputs[index]
    dim = call.arguments["dim"] % out.ndim
    shape = (*out.shape[:dim], *out.shape[dim + 1 :])
    sight = merged([(t, s) for t in tensors if (s := see(t)) is not None], shape)
    dims = (*sight.dims[:dim], (len(tensors),), *sight.dims[dim:])
    return sight if sight.kind != "local" else replace(sight, dims=dims)


def turn(call: Call, see: See, index: int) -> Sight:  # noqa: ARG001
    """Roll and flip: the same positions in another order, the pixels on the other side included."""
    sight = source(call, see)
    a, dims = call.arguments, list(sight.dims)
    if not a["dims"]:
        return MIXED
    for number, dim in enumerate(a["dims"]):
        whole = resolved(dims[dim])
        if whole is None:
            return MIXED
        if isinstance(whole, Reach):
            order = np.arange(len(whole))
            order = order[::-1].copy() if call.raw == "flip" else np.roll(order, a["shifts"][number])
            dims[dim] = (reach.picked(whole, order),)
    return replace(sight, dims=tuple(dims))


# ---- the same numbers in another shape ------------------------------------------------------------------------------


def same(call: Call, see: See, index: int) -> Sight:  # noqa: ARG001
    return source(call, see)


def copy(call: Call, see: See, index: int) -> Sight:
    given, out = call.arguments["src"], call.outputs[index]
    sight = see(given)
    return source(call, see) if sight is None else merged([(given, sight)], out.shape)


def _permute(call: Call, see: See, index: int) -> Sight:  # noqa: ARG001
    sight, n = source(call, see), len(source(call, see).dims)
    order = list(range(n))
    if call.raw == "permute":
        order = [d % n for d in call.arguments["dims"]]
    elif n > 1:
        a, b = (0, 1) if call.raw == "t" else (call.arguments["dim0"], call.arguments["dim1"])
        order[a], order[b] = order[b], order[a]
    return replace(sight, dims=tuple(sight.dims[d] for d in order))


def _unsqueeze(call: Call, see: See, index: int) -> Sight:
    sight = source(call, see)
    dim = call.arguments["dim"] % call.outputs[index].ndim
    return replace(sight, dims=(*sight.dims[:dim], (1,), *sight.dims[dim:]))


def _expand(call: Call, see: See, index: int) -> Sight:
    sight, out = source(call, see), call.outputs[index]
    if call.raw == "repeat" and call.arguments["repeats"][-len(sight.dims) :].count(1) < len(sight.dims):
        return MIXED
    dims = aligned(sight.dims, out.ndim)
    return replace(
        sight, dims=tuple((size,) if dim == (1,) else dim for dim, size in zip(dims, out.shape, strict=True))
    )


def _view(call: Call, see: See, index: int) -> Sight:
    sight = source(call, see)
    dims = regrouped([atom for dim in sight.dims for atom in dim], call.outputs[index].shape)
    return MIXED if dims is None else replace(sight, dims=dims)


def shuffle(call: Call, see: See, index: int) -> Sight:
    """Pixel shuffle moves channels into positions, its inverse positions into channels."""
    sight, out = source(call, see), call.outputs[index]
    factor = call.arguments.get("upscale_factor") or call.arguments["downscale_factor"]

    def change(r: Reach, outputs: int, dim: int) -> Reach:  # noqa: ARG001
        up = call.raw == "pixel_shuffle"
        return reach.repeated(r, factor) if up else reach.sliding(r, outputs, kernel=factor, stride=factor)

    changed = each(call, see, index, 2, change)
    return changed if changed.kind != "local" else _sized(changed, len(sight.dims) - 3, out.shape[-3])


def unfold(call: Call, see: See, index: int) -> Sight:
    sight, out, a = source(call, see), call.outputs[index], call.arguments
    if call.raw == "unfold":
        dim = a["dimension"] % len(sight.dims)
        whole, dims = resolved(sight.dims[dim]), list(sight.dims)
        if whole is None:
            return MIXED
        slid = isinstance(whole, Reach)
        outputs = out.shape[dim]
        dims[dim] = (
            reach.sliding(whole, outputs, kernel=a["size"], stride=a["step"]) if slid else outputs,  # type: ignore[arg-type]
        )
        return replace(sight, dims=(*dims, (a["size"],)))
    spatial: list[Atom] = []
    for d in range(2):
        whole = resolved(sight.dims[d - 2])
        if not isinstance(whole, Reach):
            return MIXED
        k, s, p, e = (a[name][d] for name in ("kernel_size", "stride", "padding", "dilation"))
        outputs = (len(whole) + 2 * p - e * (k - 1) - 1) // s + 1
        spatial.append(reach.sliding(whole, outputs, kernel=k, stride=s, padding=p, dilation=e))
    return replace(sight, dims=(*sight.dims[:-3], (out.shape[-2],), tuple(spatial)))


def _squeeze(call: Call, see: See, index: int) -> Sight:  # noqa: ARG001
    sight, over = source(call, see), call.arguments.get("dim")
    n = len(sight.dims)
    over = range(n) if over is None else [over] if isinstance(over, int) else over
    gone = {d % n for d in over if math.prod(map(length, sight.dims[d % n])) == 1}
    lost = positions([sight.dims[d] for d in gone])
    return without(sight, lost, tuple(dim for d, dim in enumerate(sight.dims) if d not in gone))


SAME = ("alias", "as_strided", "clone", "contiguous", "detach", "dropout", "lift_fresh", "native_channel_shuffle")
VIEWS: dict[str, Rule] = {
    **dict.fromkeys((*SAME, "to_copy", "native_dropout", "channel_shuffle"), same),
    **dict.fromkeys(("view", "unsafe_view", "reshape", "reshape_alias", "flatten", "unflatten"), _view),
    **dict.fromkeys(("permute", "transpose", "t"), _permute),
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "chunk"), _split),
    **dict.fromkeys(("select", "unbind"), _select),
    **dict.fromkeys(("expand", "repeat"), _expand),
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "slice": _slice,
}


def written_into(tensor: Tensor, old: Sight | None, written: Tensor, new: Sight | None) -> Sight | None:
    """Return what a tensor sees after another view of its memory was written."""
    if old is None and new is None:
        return None
    if tensor.shape == written.shape and tensor.stride() == written.stride():
        return new
    if new is None or new.kind != "local":
        return new if old is None or old.kind == "pooled" else MIXED
    if tensor.ndim != written.ndim:
        return MIXED
    fits = all(tensor.shape[d] == written.shape[d] for d, dim in enumerate(new.dims) if positions((dim,)))
    if not fits:
        return MIXED
    dims = tuple(dim if positions((dim,)) else (tensor.shape[d],) for d, dim in enumerate(new.dims))
    seen = [(tensor, replace(new, dims=dims))] + ([] if old is None else [(tensor, old)])
    return merged(seen, tensor.shape)
