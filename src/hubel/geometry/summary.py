"""Every number about every layer of any network, for one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from hubel.errors import UsageError
from hubel.geometry import timing
from hubel.geometry.pitfalls import pitfalls
from hubel.geometry.rows import ForwardError, Row, Trace
from hubel.geometry.trace import follow
from hubel.nn.dry_run import LARGEST, bare, smallest_square
from hubel.nn.ops import CONVOLUTIONS
from hubel.records import Layer, Summary

BYTES = 4  # of a float32


def summarise(
    model: nn.Module,
    input: tuple[int, int, int],
    *,
    name: str | None = None,
    measure: bool = False,
    object_size: int | None = None,
) -> Summary:
    """Follow one image through a network and state every number about every layer.

    The model may be on any device, in any mode; it is neither moved nor changed, and no random number is drawn.

    Args:
        input: channels, height and width of the image.
        name: of the network; its class by default.
        measure: also take milliseconds, on the processor.
        object_size: pixels a side of what has to be recognised, for the warnings.

    Raises:
        UsageError: the network can't take such an image (says where it failed and the smallest size that works), or
            its answer holds no tensor, or it is TorchScript.

    >>> summarise(nn.Conv2d(3, 16, 3), (3, 8, 8)).parameters
    448
    """
    if len(input) != 3 or min(input) < 1:
        raise UsageError(f"input is (channels, height, width), each at least 1, got {input!r}.")
    model = bare(model)
    name = name or type(model).__name__
    try:
        trace = follow(model, input)
    except ForwardError as error:
        raise UsageError(_refusal(model, input, name, error)) from error
    return summary_of(trace, model, input, name=name, measure=measure, object_size=object_size)


def summary_of(
    trace: Trace,
    model: nn.Module,
    input: tuple[int, int, int],
    *,
    name: str,
    measure: bool = False,
    object_size: int | None = None,
) -> Summary:
    """State what a trace of the model says; arguments as in `summarise`."""
    milliseconds, calls = timing.measure(model, input) if measure else (None, {})
    clocks, sizes = {leaf: iter(times) for leaf, times in calls.items()}, dict(model.named_parameters())
    layers = tuple(
        _layer(
            row,
            parameters=sum(sizes[parameter].numel() for parameter in row.learned),
            milliseconds=next(clocks.get(row.name if row.module else "", iter(())), None),
        )
        for row in trace.rows
    )
    last = trace.last_map()
    seen = Layer(name="", kind="") if last is None else layers[last]
    summary = Summary(
        network=name,
        input=input,
        layers=layers,
        parameters=sum(parameter.numel() for parameter in sizes.values()),
        trainable=sum(parameter.numel() for parameter in sizes.values() if parameter.requires_grad),
        buffers=sum(buffer.numel() for buffer in model.buffers()),
        macs=sum(layer.macs for layer in layers),
        activation_bytes=sum(layer.activation_bytes for layer in layers),
        field=seen.field,
        stride=seen.stride,
        padding=seen.padding,
        milliseconds=milliseconds,
        warnings=(),
    )
    return replace(summary, warnings=pitfalls(trace, summary, object_size))


def _layer(row: Row, *, parameters: int, milliseconds: float | None) -> Layer:
    field = row.field if row.field is not None and row.field.is_patch else None
    before, after = _single(row.input_shape), _single(row.shape)
    return Layer(
        name=row.name,
        kind=row.kind,
        detail=row.detail,
        inputs=row.inputs,
        input_shape=before,
        shape=after,
        parameters=parameters,
        macs=row.macs,
        activation_bytes=BYTES * math.prod(after),
        dense_weights=math.prod(before) * math.prod(after) if {*row.operations[:1]} & {*CONVOLUTIONS} else 0,
        field=None if field is None else field.size,
        stride=None if field is None else (abs(field.steps[0]), abs(field.steps[1])),
        padding=None if field is None else field.padding,
        sees_all=field is not None and field.sees_all,
        milliseconds=milliseconds,
    )


def _single(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without its batch axis; one into which the batch was folded stays whole."""
    return tuple(shape[1:]) if shape and shape[0] == 1 else tuple(shape)


def _refusal(model: nn.Module, size: tuple[int, int, int], name: str, error: ForwardError) -> str:
    channels, height, width = size
    place = f"its layer {error.place} ({error.kind})" if error.place else f"its own forward ({error.kind})"
    got = f", given a tensor of {_times(_single(error.shape))}," if error.shape else ""
    said = f"{name} can't take an image of {_times(size)}: {place}{got} failed: {error.why.rstrip('.:')}."
    works = smallest_square(model, channels)
    if works is None:
        return f"{said} No square size up to {LARGEST} worked either: check the number of channels ({channels})."
    if works > min(height, width):
        return f"{said} The smallest square size that works is {works}×{works}."
    return f"{said} A size that works is {works}×{works}."


def _times(values: Sequence[int]) -> str:
    return "×".join(map(str, values))
