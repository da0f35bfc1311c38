"""What a designer should know about a network, judged from its trace: each with what, why and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hubel.geometry.rows import IMAGE, Row, Trace
from hubel.nn.ops import CONVOLUTIONS, TRANSPOSED
from hubel.records import Finding, Layer, Summary

SMALLEST_MAP = 2  # positions a side that a 3×3 window needs to see more than its own padding
DENSE_SHARE = 0.5  # of all parameters in one dense layer


def pitfalls(trace: Trace, summary: Summary, object_size: int | None = None) -> tuple[Finding, ...]:
    """Judge a network. object_size: pixels a side of what has to be recognised, where that is not the whole image."""
    return (
        *_shrunk(trace),
        *_short_sighted(trace, summary, object_size),
        *_checkerboard(trace),
        *_wasted_bias(trace, summary),
        *_softmax(trace),
        *_heavy(trace, summary),
    )


def _shrunk(trace: Trace) -> Iterator[Finding]:
    """A window of several taps reads a map of one position: all other taps see padding."""
    for row in trace.rows:
        small = next((i for i in row.inputs if i != IMAGE and _side(trace.rows[i]) < SMALLEST_MAP), None)
        enlarges = any(name.startswith("adaptive") for name in row.operations) and _side(row) >= SMALLEST_MAP
        if small is None or not (enlarges or (row.window is not None and max(row.window.kernel) > 1)):
            continue
        maker = _maker(trace, small)
        size = f"{maker.shape[-2]}×{maker.shape[-1]}"
        yield Finding(
            code="tiny-map",
            severity="warning",
            message=(
                f"the map is down to {size} from {maker.name} on, but {row.name} still looks for neighbours in it: "
                "most of its weights see only padding or copies. Use larger images, or halve the map less often."
            ),
            evidence={"layer": maker.name, "map": list(maker.shape[-2:]), "reader": row.name},
        )
        return


def _maker(trace: Trace, index: int) -> Row:
    """Go back from a small map to the layer that made it small."""
    row = trace.rows[index]
    while row.inputs and row.inputs[0] != IMAGE and _side(trace.rows[row.inputs[0]]) < SMALLEST_MAP:
        row = trace.rows[row.inputs[0]]
    return row


def _side(row: Row) -> int:
    """Shorter side of a map; large for what is no map."""
    return min(row.shape[-2:]) if row.is_map and len(row.shape) == 4 else SMALLEST_MAP


def _short_sighted(trace: Trace, summary: Summary, object_size: int | None) -> Iterator[Finding]:
    last = trace.last_map()
    needed = object_size or min(summary.input[1:])
    if last is None or summary.field is None or min(summary.field) >= needed:
        return
    height, width = summary.field
    dense = object_size is None and any(row.positions > 1 for row in trace.rows[last:])
    if dense:
        rest = "The dense layers behind it see all positions together, but no single feature sees so much."
    else:
        rest = "No feature sees the whole of it: add layers, stride or dilation early on, or use smaller images."
    yield Finding(
        code="short-sighted",
        severity="note" if dense else "warning",
        message=(
            f"a position of the last map ({trace.rows[last].name}) sees {height}×{width} pixels, less than "
            f"{'the object' if object_size else 'the image'} ({needed}). {rest}"
        ),
        evidence={"field": [height, width], "needed": needed, "layer": trace.rows[last].name},
    )


def _checkerboard(trace: Trace) -> Iterator[Finding]:
    for row in trace.rows:
        found = row.window
        if found is None or not set(row.operations) & set(TRANSPOSED):
            continue
        if all(k % s == 0 for k, s in zip(found.kernel, found.stride, strict=True)):
            continue
        kernel, stride = max(found.kernel), max(found.stride)
        yield Finding(
            code="checkerboard",
            severity="warning",
            message=(
                f"{row.name} is a transposed convolution whose kernel ({kernel}) is no multiple of its stride "
                f"({stride}), so neighbouring outputs get different numbers of inputs, which shows as a checkerboard. "
                f"Use a kernel of {2 * stride}, or upsampling and a convolution."
            ),
            evidence={"layer": row.name, "kernel": list(found.kernel), "stride": list(found.stride)},
        )


def _wasted_bias(trace: Trace, summary: Summary) -> Iterator[Finding]:
    """Batch norm subtracts the mean, and with it whatever constant the layer before added."""
    readers = Counter(index for row in trace.rows for index in row.inputs)
    names = []
    wasted = 0
    for row in trace.rows:
        if row.operations[:1] != ("batch_norm",) or len(row.inputs) != 1 or row.inputs[0] == IMAGE:
            continue
        before = trace.rows[row.inputs[0]]
        convolves = before.operations in {(name,) for name in CONVOLUTIONS + TRANSPOSED}
        if convolves and before.window is not None and before.window.bias and readers[row.inputs[0]] == 1:
            names.append(before.name)
            wasted += summary.layers[row.inputs[0]].shape[0]
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield Finding(
            code="wasted-bias",
            severity="note",
            message=(
                f"{names[0]}{more} have a bias that the batch norm behind takes away again: {wasted:,} parameters "
                "learn nothing. Build these convolutions with bias=False."
            ),
            evidence={"layers": names, "parameters": wasted},
        )


def _softmax(trace: Trace) -> Iterator[Finding]:
    ends = [trace.rows[index] for index in trace.output if index != IMAGE]
    for row in ends:
        if row.operations[-1:] == ("softmax",):
            yield Finding(
                code="softmax-at-end",
                severity="warning",
                message=(
                    f"the network ends with a softmax ({row.name}), and cross-entropy applies it once more: gradients "
                    "become small and training slow. Return the logits, and apply softmax for reading only."
                ),
                evidence={"layer": row.name},
            )


def _heavy(trace: Trace, summary: Summary) -> Iterator[Finding]:
    heaviest = max(
        (index for index, row in enumerate(trace.rows) if row.positions > 1),
        key=lambda index: summary.layers[index].parameters,
        default=None,
    )
    if heaviest is None:
        return
    layer, positions = summary.layers[heaviest], trace.rows[heaviest].positions
    if layer.parameters <= DENSE_SHARE * summary.parameters:
        return
    instead = pooled_cost(layer, positions)
    yield Finding(
        code="heavy-head",
        severity="note",
        message=(
            f"the dense layer {layer.name} holds {layer.parameters:,} of the {summary.parameters:,} parameters "
            f"({layer.parameters / summary.parameters:.0%}), because it has weights for each of {positions} positions. "
            f"Behind global average pooling it would need {instead:,}."
        ),
        evidence={"layer": layer.name, "parameters": layer.parameters, "positions": positions, "instead": instead},
    )


def pooled_cost(layer: Layer, positions: int) -> int:
    """Parameters of a dense layer if the map before it were averaged to one position."""
    weights = layer.input_shape[-1] * layer.shape[-1]
    return weights // positions + layer.parameters - weights
