"""How each tensor operation passes on what is seen of the image.

Operations are looked up by aten's names; elementwise ones need no rule, and one that is not known gives ``mixed``.
"""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from hubel.geometry import reach
from hubel.geometry.reach import Reach
from hubel.geometry.rearranging import (
    VIEWS,
    Rule,
    See,
    cat,
    copy,
    each,
    same,
    shuffle,
    source,
    stack,
    turn,
    unfold,
    without,
)
from hubel.geometry.sight import MIXED, POOLED, Dim, Sight, merged, positions, resolved
from hubel.nn.meta import POINTWISE
from hubel.nn.ops import CONVOLUTIONS, TRANSPOSED, Call, Window, factors, window

STAGE = 3  # a pooling window that covers the whole map is global if it is larger; up to this it is a stage's


def sights_after(call: Call, see: See) -> list[Sight | None]:
    """Return what each output of a call sees; None where the image doesn't matter to it."""
    seen = [sight for tensor in call.tensors if (sight := see(tensor)) is not None]
    if not seen or call.raw.startswith("new_") or call.raw.endswith("_like"):
        return [None] * len(call.outputs)
    if any(sight.kind == "mixed" for sight in seen):
        return [MIXED] * len(call.outputs)
    if all(sight.kind == "pooled" for sight in seen):
        return [POOLED] * len(call.outputs)
    return [_checked(_after(call, see, index), output) for index, output in enumerate(call.outputs)]


def _after(call: Call, see: See, index: int) -> Sight:
    rule = RULES.get(call.raw) or (_pointwise if call.pointwise else None)
    if call.name in CONVOLUTIONS + TRANSPOSED:
        rule = _convolution
    elif call.name == "batch_norm":
        rule = _batch_norm
    return MIXED if rule is None else rule(call, see, index)


def _checked(sight: Sight, output: Tensor) -> Sight:
    """A local sight has to fit the tensor; where it doesn't, a rule was too simple, and nothing is claimed."""
    sizes = tuple(math.prod(len(a) if isinstance(a, Reach) else a for a in dim) for dim in sight.dims)
    if sight.kind != "local":
        return sight
    return sight if sizes == tuple(output.shape) else MIXED


# ---- elementwise ------------------------------------------------------------------------------------------------


def _pointwise(call: Call, see: See, index: int) -> Sight:
    out = call.outputs[index]
    return merged([(tensor, sight) for tensor in call.tensors if (sight := see(tensor)) is not None], out.shape)


# ---- sums over axes: reductions, dense layers, products -----------------------------------------------------------


def _reduction(call: Call, see: See, index: int) -> Sight:
    if "other" in call.arguments:  # the larger of two tensors
        return _pointwise(call, see, index)
    sight = source(call, see)
    over = call.arguments.get("dim")
    n = len(sight.dims)
    over = range(n) if over is None or over == [] else [over] if isinstance(over, int) else over
    gone = {d % n for d in over}
    keep = bool(call.arguments.get("keepdim"))
    kept: list[Dim] = [(1,) if d in gone else dim for d, dim in enumerate(sight.dims) if keep or d not in gone]
    return without(sight, positions([sight.dims[d] for d in gone]), tuple(kept))


def _product(call: Call, see: See, index: int) -> Sight:
    left, right = factors(call)
    a, b = see(left), see(right)
    columns: Dim = (call.outputs[index].shape[-1],)
    rows: Dim = (call.outputs[index].shape[-2],) if call.outputs[index].ndim > 1 else (1,)
    if a is not None and b is None and a.kind == "local":
        return without(a, positions(a.dims[-1:]), (*a.dims[:-1], columns))
    if b is not None and a is None and b.kind == "local" and call.raw != "linear":
        return without(b, positions(b.dims[-2:-1]), (*b.dims[:-2], rows, b.dims[-1]))
    return MIXED


def _along(call: Call, see: See, index: int) -> Sight:
    """Softmax, sorting and sums that run along one axis: over channels they change nothing, over positions all."""
    sight = source(call, see)
    along = call.arguments["dim"] % len(sight.dims)
    if positions(sight.dims[along : along + 1]):
        return MIXED
    dims = list(sight.dims)
    dims[along] = (call.outputs[index].shape[along],)
    return replace(sight, dims=tuple(dims))


# ---- norms ----------------------------------------------------------------------------------------------------------


def _batch_norm(call: Call, see: See, index: int) -> Sight:
    sight = source(call, see)
    own = bool(call.arguments.get("training", "no_training" not in call.raw))
    return MIXED if index else replace(sight, sees_all=sight.sees_all or own)


def _layer_norm(call: Call, see: See, index: int) -> Sight:
    sight = source(call, see)
    over = sight.dims[-len(call.arguments["normalized_shape"]) :]
    return MIXED if index else replace(sight, sees_all=sight.sees_all or bool(positions(over)))


def _group_norm(call: Call, see: See, index: int) -> Sight:
    return MIXED if index else replace(source(call, see), sees_all=True)


# ---- windows --------------------------------------------------------------------------------------------------------


def _convolution(call: Call, see: See, index: int) -> Sight:
    sight, found = source(call, see), window(call)
    assert found is not None
    if call.arguments["weight"] is not None and see(call.arguments["weight"]) is not None:
        sight = replace(sight, sees_all=True)
    axes = len(found.kernel)
    spatial = _slid(sight, found, call.outputs[index], transposed=call.name in TRANSPOSED)
    if spatial is None or len(sight.dims) <= axes:
        return MIXED
    channels: Dim = (call.outputs[index].shape[-axes - 1],)
    dims = (*sight.dims[: -axes - 1], channels, *spatial)
    return without(sight, positions([sight.dims[-axes - 1]]), dims)


def _pooling(call: Call, see: See, index: int) -> Sight:
    sight, found = source(call, see), window(call)
    assert found is not None
    axes, out = len(found.kernel), call.outputs[index]
    before = call.arguments["self"].shape[-axes:]
    if set(out.shape[-axes:]) == {1} and all(k >= n and k > STAGE for k, n in zip(found.kernel, before, strict=True)):
        return POOLED
    spatial = _slid(sight, found, out, transposed=False)
    return MIXED if spatial is None else replace(sight, dims=(*sight.dims[:-axes], *spatial))


def _slid(sight: Sight, found: Window, out: Tensor, *, transposed: bool) -> tuple[Dim, ...] | None:
    """The spatial axes after a window slid over them; None where two of them had become one."""
    axes = len(found.kernel)
    dims: list[Dim] = []
    for d in range(axes):
        whole, outputs = resolved(sight.dims[d - axes]), out.shape[d - axes]
        if whole is None:
            return None
        if isinstance(whole, int):
            dims.append((outputs,))
            continue
        slide = reach.transposed if transposed else reach.sliding
        settings = {"kernel": found.kernel[d], "stride": found.stride[d], "padding": found.padding[d]}
        dims.append((slide(whole, outputs, dilation=found.dilation[d], **settings),))
    return tuple(dims)


def _adaptive(call: Call, see: See, index: int) -> Sight:
    axes = int(call.raw[call.raw.index("pool") + 4])
    if set(call.outputs[index].shape[-axes:]) == {1}:
        return POOLED
    return each(call, see, index, axes, lambda r, n, _: reach.adaptive(r, n))


def _upsampling(call: Call, see: See, index: int) -> Sight:
    how = next(how for how in ("nearest", "linear", "cubic") if how in call.raw)
    corners = bool(call.arguments.get("align_corners"))
    return each(
        call, see, index, int(call.raw[-2]), lambda r, n, _: reach.resized(r, n, how=how, align_corners=corners)
    )


def _padding(call: Call, see: See, index: int) -> Sight:
    """Added borders see what would lie there if the map went on; negative ones crop."""
    amounts = call.arguments.get("pad") or call.arguments["padding"]
    before = {-axis - 1: amounts[2 * axis] for axis in range(len(amounts) // 2)}
    return each(call, see, index, len(before), lambda r, n, d: reach.sliding(r, n, kernel=1, padding=before[d]))


RULES: dict[str, Rule] = {
    **VIEWS,
    **dict.fromkeys(("mean", "sum", "amax", "amin", "max", "min", "std", "var", "logsumexp", "norm"), _reduction),
    **dict.fromkeys(("linalg_vector_norm", "var_mean", "argmax", "prod", "aminmax"), _reduction),
    **dict.fromkeys(("addmm", "mm", "bmm", "baddbmm", "linear", "mkldnn_linear"), _product),
    **dict.fromkeys(("softmax", "log_softmax", "safe_softmax", "cumsum", "topk", "sort", "glu"), _along),
    **dict.fromkeys((f"max_pool{n}d{tail}" for n in (1, 2, 3) for tail in ("", "_with_indices")), _pooling),
    **dict.fromkeys((f"avg_pool{n}d" for n in (1, 2, 3)), _pooling),
    **dict.fromkeys((f"adaptive_{kind}_pool{n}d" for kind in ("avg", "max") for n in (1, 2, 3)), _adaptive),
    **dict.fromkeys((f"upsample_{how}{n}d" for how, n in (("nearest", 1), ("nearest", 2), ("linear", 1))), _upsampling),
    **dict.fromkeys(("upsample_bilinear2d", "upsample_bicubic2d"), _upsampling),
    **dict.fromkeys((f"{how}_pad{n}d" for how in ("reflection", "replication") for n in (1, 2, 3)), _padding),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), shuffle),
    **dict.fromkeys(("im2col", "unfold"), unfold),
    **dict.fromkeys(("roll", "flip"), turn),
    **dict.fromkeys((*POINTWISE, "prelu", "prelu_kernel", "masked_fill", "where"), _pointwise),
    "constant_pad_nd": _padding,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "cat": cat,
    "stack": stack,
    "copy": copy,
    "fill": same,
    "zero": same,
}
