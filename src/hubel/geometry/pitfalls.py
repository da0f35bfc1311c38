"""What a designer should know about a network, judged from its trace: each with what, why and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from hubel.geometry.rows import IMAGE, Row, Trace
from hubel.nn.ops import CONVOLUTIONS, TRANSPOSED
from hubel.records import Finding, Severity, Summary

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


def _finding(code: str, severity: Severity, message: str, **evidence: Any) -> Finding:
    return Finding(code=code, severity=severity, message=message, evidence=evidence)


def _shrunk(trace: Trace) -> Iterator[Finding]:
    """A window of several taps reads a map of one position: all other taps see padding."""
    for row in trace.rows:
        small = next((i for i in row.inputs if i != IMAGE and _side(trace.rows[i]) < SMALLEST_MAP), None)
        enlarges = any(name.startswith("adaptive") for name in row.operations) and _side(row) >= SMALLEST_MAP
        if small is None or not (enlarges or (row.window is not None and max(row.window.kernel) > 1)):
            continue
        maker = trace.rows[small]  # go back to the layer that made it small
        while maker.inputs and maker.inputs[0] != IMAGE and _side(trace.rows[maker.inputs[0]]) < SMALLEST_MAP:
            maker = trace.rows[maker.inputs[0]]
        height, width = maker.shape[-2:]
        message = (
            f"the map is down to {height}×{width} from {maker.name} on, but {row.name} still looks for neighbours in "
            "it: most of its weights see only padding or copies. Use larger images, or halve the map less often."
        )
        yield _finding("tiny-map", "warning", message, layer=maker.name, map=[height, width], reader=row.name)
        return


def _side(row: Row) -> int:
    """Shorter side of a map; large for what is no map."""
    return min(row.shape[-2:]) if row.is_map and len(row.shape) == 4 else SMALLEST_MAP


def _short_sighted(trace: Trace, summary: Summary, object_size: int | None) -> Iterator[Finding]:
    last = trace.last_map()
    needed = object_size or min(summary.input[1:])
    if last is None or summary.field is None or min(summary.field) >= needed:
        return
    (height, width), layer = summary.field, trace.rows[last].name
    dense = object_size is None and any(row.positions > 1 for row in trace.rows[last:])
    rest = "No feature sees the whole of it: add layers, stride or dilation early on, or use smaller images."
    if dense:
        rest = "The dense layers behind it see all positions together, but no single feature sees so much."
    message = (
        f"a position of the last map ({layer}) sees {height}×{width} pixels, less than "
        f"{'the object' if object_size else 'the image'} ({needed}). {rest}"
    )
    severity: Severity = "note" if dense else "warning"
    yield _finding("short-sighted", severity, message, field=[height, width], needed=needed, layer=layer)


def _checkerboard(trace: Trace) -> Iterator[Finding]:
    for row in trace.rows:
        found = row.window
        if found is None or not set(row.operations) & set(TRANSPOSED):
            continue
        if all(k % s == 0 for k, s in zip(found.kernel, found.stride, strict=True)):
            continue
        kernel, stride = max(found.kernel), max(found.stride)
        message = (
            f"{row.name} is a transposed convolution whose kernel ({kernel}) is no multiple of its stride ({stride}), "
            "so neighbouring outputs get different numbers of inputs, which shows as a checkerboard. "
            f"Use a kernel of {2 * stride}, or upsampling and a convolution."
        )
        both = {"kernel": list(found.kernel), "stride": list(found.stride)}
        yield _finding("checkerboard", "warning", message, layer=row.name, **both)


def _wasted_bias(trace: Trace, summary: Summary) -> Iterator[Finding]:
    """Batch norm subtracts the mean, and with it whatever constant the layer before added."""
    readers = Counter(index for row in trace.rows for index in row.inputs)
    wasted: dict[str, int] = {}
    for row in trace.rows:
        if row.operations[:1] != ("batch_norm",) or len(row.inputs) != 1 or row.inputs[0] == IMAGE:
            continue
        before = trace.rows[row.inputs[0]]
        convolves = before.operations in {(name,) for name in CONVOLUTIONS + TRANSPOSED}
        if convolves and before.window is not None and before.window.bias and readers[row.inputs[0]] == 1:
            wasted[before.name] = summary.layers[row.inputs[0]].shape[0]
    if wasted:
        names, total = list(wasted), sum(wasted.values())
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        message = (
            f"{names[0]}{more} have a bias that the batch norm behind takes away again: {total:,} parameters "
            "learn nothing. Build these convolutions with bias=False."
        )
        yield _finding("wasted-bias", "note", message, layers=names, parameters=total)


def _softmax(trace: Trace) -> Iterator[Finding]:
    for row in (trace.rows[index] for index in trace.output if index != IMAGE):
        if row.operations[-1:] == ("softmax",):
            message = (
                f"the network ends with a softmax ({row.name}), and cross-entropy applies it once more: gradients "
                "become small and training slow. Return the logits, and apply softmax for reading only."
            )
            yield _finding("softmax-at-end", "warning", message, layer=row.name)


def _heavy(trace: Trace, summary: Summary) -> Iterator[Finding]:
    dense = [pair for pair in zip(summary.layers, trace.rows, strict=True) if pair[1].positions > 1]
    if not dense:
        return
    layer, row = max(dense, key=lambda pair: pair[0].parameters)
    if layer.parameters <= DENSE_SHARE * summary.parameters:
        return
    weights = layer.input_shape[-1] * layer.shape[-1]
    instead = weights // row.positions + layer.parameters - weights
    message = (
        f"the dense layer {layer.name} holds {layer.parameters:,} of the {summary.parameters:,} parameters "
        f"({layer.parameters / summary.parameters:.0%}), because it has weights for each of {row.positions} positions. "
        f"Behind global average pooling it would need {instead:,}."
    )
    evidence = {"parameters": layer.parameters, "positions": row.positions, "instead": instead}
    yield _finding("heavy-head", "note", message, layer=layer.name, **evidence)
