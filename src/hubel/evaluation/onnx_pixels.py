"""The decoder's last steps as an ONNX graph: from upright RGB pixels of any size to the network's own, bit for bit.

Pillow resizes in whole numbers, so the graph can give exactly the same. Each pixel of the result is a sum over pixels
of the source under a filter (a triangle, or a cubic) that is as wide as the step from one result to the next, or as one
pixel of the source where that is wider. Its weights are worked out in double from the picture's height and width, made
to sum to one over the pixels that exist, and rounded to 22 bits. The picture is resized first across, then down, and
rounded to 8 bits each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hubel.dataset.decode import RADIUS
from hubel.evaluation.onnx_graph import Graph, Value, join, needed
from hubel.records import Preprocess

BITS = 22  # of a weight, as in Pillow: 8 more of the pixel and 2 for overshoot fill 32
BLOCK = 32  # pixels of the result that are made at a time
LUMA = (19595, 38470, 7471)  # of red, green and blue in Pillow's grey, in 1/65536 (ITU-R BT.601)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What becomes of one axis: the source from `start` to `end`, in pixels, is brought to `size` pixels.

    Attributes:
        length: of the source, double. start, end: double. size: double.
    """

    length: Value
    start: Value
    end: Value
    size: Value


def preprocessing(pixels: Value, preprocess: Preprocess) -> Value:
    """Add what `decode` does after the picture is upright: (N, H, W, 3) uint8 → (N, C, height, width) uint8."""
    graph = pixels.graph
    height, width = (pixels.sizes(axis, axis + 1).take(0).to("float64") for axis in (1, 2))
    down, across = _cuts(height, width, preprocess)
    pixels, down = _needed_rows(pixels, down, RADIUS[preprocess.interpolation])
    columns = _turned(pixels, 2)  # (W, 3, N, H)
    rows = _turned(_resized(columns, across, preprocess.interpolation), 3)  # (H, width, 3, N)
    channels = _turned(_resized(rows, down, preprocess.interpolation), 2)  # (3, N, height, width)
    if preprocess.fit == "pad":
        channels = _placed(channels, preprocess)
    if preprocess.channels == 1:
        channels = _grey(channels)
    return graph.op("Transpose", channels, perm=(1, 0, 2, 3))


def _turned(pixels: Value, axis: int) -> Value:
    """Bring the last axes, from `axis` on, before the others: one transposition of a matrix, which is fast."""
    graph = pixels.graph
    shape = join([pixels.sizes(axis), pixels.sizes(0, axis)])
    flat = graph.op("Reshape", pixels, join([_product(pixels.sizes(0, axis)), graph.constant([-1], "int64")]))
    return graph.op("Reshape", graph.op("Transpose", flat, perm=(1, 0)), shape)


def _product(sizes: Value) -> Value:
    return sizes.graph.op("ReduceProd", sizes, keepdims=1)


# Where the picture is cut


def _cuts(height: Value, width: Value, preprocess: Preprocess) -> tuple[Cut, Cut]:
    """Say what becomes of the rows and of the columns; the same arithmetic as in `hubel.dataset.decode`."""
    graph = height.graph
    rows, columns = (graph.constant(side, "float64") for side in preprocess.size)
    if preprocess.fit == "crop":
        share = preprocess.crop_pct
        return (
            _middle(height, (width * rows / columns).at_most(height) * share, rows),
            _middle(width, (height * columns / rows).at_most(width) * share, columns),
        )
    if preprocess.fit == "pad":
        scale = (columns / width).at_most(rows / height)
        rows, columns = (
            graph.op("Round", side * scale).at_least(1).at_most(whole)  # halves to even, as Python rounds
            for side, whole in ((height, rows), (width, columns))
        )
    zero = graph.constant(0, "float64")
    return (
        Cut(length=height, start=zero, end=height, size=rows),
        Cut(length=width, start=zero, end=width, size=columns),
    )


def _middle(length: Value, share: Value, size: Value) -> Cut:
    start = (length - share) / 2
    return Cut(length=length, start=start, end=start + share, size=size)


def _needed_rows(pixels: Value, cut: Cut, radius: float) -> tuple[Value, Cut]:
    """Leave out the rows above and below that nothing will be made of."""
    margin = ((cut.end - cut.start) / cut.size).at_least(1) * radius
    above = (cut.start - margin).floor().at_least(0)
    below = pixels.graph.op("Ceil", cut.end + margin).at_most(cut.length)
    rows = _part(pixels, above, below, pixels.graph, axis=1)
    return rows, Cut(length=below - above, start=cut.start - above, end=cut.end - above, size=cut.size)


# Resizing


def _resized(pixels: Value, cut: Cut, interpolation: str) -> Value:
    """Resize the first axis of (L, …) uint8, `BLOCK` pixels of the result at a time: they need few of the source.

    The sums are of whole multiples of 1/2²² and stay below 2⁹, so doubles hold them exactly, in any order.
    """
    graph, body = pixels.graph, pixels.graph.inner()
    start, end = cut.start.to("float32"), cut.end.to("float32")  # Pillow keeps the box in single precision
    scale = (end - start).to("float64") / cut.size
    stretch = scale.at_least(1)
    support = stretch * RADIUS[interpolation]
    blocks = graph.op("Ceil", cut.size / BLOCK)
    place = _counted(blocks).spread(1) * BLOCK + _counted(graph.constant(BLOCK, "float64"))  # (blocks, BLOCK)
    centre = (place.at_most(cut.size - 1) + 0.5) * scale + start.to("float64")
    source = graph.op("Reshape", pixels, graph.constant([0, -1], "int64"))

    middle = body.new("float64")  # (BLOCK,) of `centre`
    first = (middle.take(0) - support + 0.5).floor().at_least(0)
    last = (middle.take(BLOCK - 1) + support + 0.5).floor().at_most(cut.length)
    weights = _weights(middle, first, last, stretch, interpolation)
    mixed = body.op("MatMul", weights, _part(source, first, last, body).to("float64")) + 0.5
    result = body.op("Clip", mixed, body.constant(0, "float64"), body.constant(255, "float64")).to("uint8")

    resized = graph.op("Scan", centre, gives="uint8", body=_loop(body, middle, result), num_scan_inputs=1)
    resized = graph.op("Reshape", resized, join([graph.constant([-1], "int64"), pixels.sizes(1)]))
    return _part(resized, graph.constant(0, "float64"), cut.size, graph)


def _weights(centre: Value, first: Value, last: Value, stretch: Value, interpolation: str) -> Value:
    """How much each pixel of the source, from `first` to before `last`, counts for each centre: (BLOCK, K) double."""
    graph = centre.graph
    one = graph.constant(1, "float64")
    position = graph.op("Range", first, last, one)
    distance = graph.op("Abs", (position - centre.spread(1) + 0.5) * (one / stretch))
    weight = FILTERS[interpolation](distance)
    total = graph.op("CumSum", weight, graph.constant(1, "int64")).take(-1, axis=1)  # adds in Pillow's order
    share = weight / total.spread(1) * float(1 << BITS)
    whole = (share + graph.op("Sign", share) * 0.5).to("int32")  # halves away from zero
    return whole.to("float64") / float(1 << BITS)


def _part(pixels: Value, first: Value, last: Value, graph: Graph, axis: int = 0) -> Value:
    """Slice one axis, from `first` to before `last`."""
    ends = [end.to("int64").spread(0) for end in (first, last)]
    return graph.op("Slice", pixels, *ends, graph.constant([axis], "int64"))


def _loop(body: Graph, given: Value, result: Value) -> Any:
    """Close the body of a loop that maps one tensor to another."""
    helper = needed("onnx").helper
    described = [
        helper.make_tensor_value_info(v.name, helper.np_dtype_to_tensor_dtype(np.dtype(v.dtype)), None)
        for v in (given, result)
    ]
    return helper.make_graph(body.nodes, "block", described[:1], described[1:])


def _counted(size: Value) -> Value:
    """0, 1, … below `size`."""
    zero, one = (size.graph.constant(n, "float64") for n in (0, 1))
    return size.graph.op("Range", zero, size, one)


def _triangle(distance: Value) -> Value:
    return (distance * -1 + 1).at_least(0)


def _cubic(x: Value) -> Value:
    """Keys' cubic with a = -1/2 (1981)."""
    graph = x.graph
    near = (x * 1.5 - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return graph.op("Where", x < 1, near, graph.op("Where", x < 2, far, 0.0))


FILTERS = {"bilinear": _triangle, "bicubic": _cubic}


# After the resizing


def _placed(small: Value, preprocess: Preprocess) -> Value:
    """Put (3, N, h, w) into the middle of a canvas of the background's colour."""
    graph, inside, picture = small.graph, [], small
    for axis, side in ((2, preprocess.size[0]), (3, preprocess.size[1])):
        length = small.sizes(axis, axis + 1)
        place = graph.constant(range(side), "int64") - (length * -1 + side) / 2
        inside.append(graph.op("And", place > -1, place < length))
        picture = picture.take(place.at_least(0).at_most(length - 1), axis)
    shown = graph.op("And", inside[0].spread(1), inside[1])
    colour = graph.constant(np.reshape(preprocess.background, (3, 1, 1, 1)), "uint8")
    return graph.op("Where", shown, picture, colour, gives="uint8")


def _grey(picture: Value) -> Value:
    """(3, N, H, W) → (1, N, H, W), as Pillow does it."""
    graph = picture.graph
    light = picture.to("int32") * graph.constant(np.reshape(LUMA, (3, 1, 1, 1)), "int32")
    total = graph.op("ReduceSum", light, graph.constant([0], "int64"), keepdims=1) + 32768
    return (total / 65536).to("uint8")
