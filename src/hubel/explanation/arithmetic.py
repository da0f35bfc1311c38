"""What made one number inside a network: its terms, where each came from, and their total.

Each number of each step of `explanation.numbers` is worked out again, in float64, from those of the steps before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from hubel.errors import UsageError
from hubel.explanation.numbers import Made, Numbers, Step
from hubel.geometry.convolution import explain_pixel
from hubel.geometry.maxplus import COPIES, CUTS, RESHAPES, RESIZES, VIEWS
from hubel.geometry.rows import IMAGE
from hubel.nn import ops
from hubel.nn.meta import POINTWISE
from hubel.nn.ops import CONVOLUTIONS, TRANSPOSED

MOST = 12  # terms of a long sum that are shown; of the others only their sum
CHANNELS = 6  # of a convolution, likewise
WINDOW = 64  # terms of a window that is shown whole
FIRST = 2.0**40  # index of the first number, so that no constant is taken for an index
Place = tuple[int, ...]


@dataclass(frozen=True)
class Term:
    """One number that went in.

    Attributes:
        value: what it gives: times its weight, where it has one. label: what a constant is called.
        step, place: which number it is of which step, `IMAGE` for the image; None for one that the image didn't make.
    """

    number: float
    value: float
    weight: float | None = None
    label: str = ""
    step: int | None = None
    place: Place = ()


@dataclass(frozen=True)
class Part:
    """Terms that belong together and their sum, or only that. columns: of terms that are a window; 0: they are none."""

    label: str
    total: float
    terms: tuple[Term, ...] = ()
    columns: int = 0


@dataclass(frozen=True)
class Arithmetic:
    """How one number came about.

    Attributes:
        step: index of the step that made it. name: its layer, or its place in the network. kind: what it computes.
        place: of the number in the step's output, of that shape, with the batch axis.
        formula: how it is worked out; or a sentence that says why it isn't.
        parts, total: what it is made of, in float64; no total where the operation has no arithmetic here.
        value: the number in the network's own tensor.
    """

    step: int
    name: str
    kind: str
    place: Place
    shape: tuple[int, ...]
    formula: str
    parts: tuple[Part, ...]
    total: float | None
    value: float


def explain(numbers: Numbers, step: int, place: Sequence[int]) -> Arithmetic:
    """Work out again one number of a step's output.

    Args:
        place: in the step's output; the batch axis may be left out.

    Raises:
        UsageError: there is no such step or place.
    """
    if not 0 <= step < len(numbers.steps):
        raise UsageError(f"there is no step {step}: there are {len(numbers.steps)}, counted from 0.")
    asked, shape = numbers.steps[step], tuple(numbers.steps[step].value.shape)
    at = (0,) * (len(shape) - len(place)) + tuple(place)
    if len(at) != len(shape) or not all(0 <= index < n for index, n in zip(at, shape, strict=True)):
        raise UsageError(f"{asked.name} gives out {'×'.join(map(str, shape))} numbers, of which none is at {place}.")
    call = asked.call
    rule = RULES.get(call.name) or RULES.get(call.raw) or (_pointwise if call.pointwise else _unknown)
    formula, parts, total = rule(_Look(numbers, asked, at))
    value = float(asked.value[at])
    return Arithmetic(step, asked.name, call.name, at, shape, formula, tuple(parts), total, value)


# ---- the rules: how an operation makes a number ---------------------------------------------------------------------

Worked = tuple[str, list[Part], float | None]  # formula, parts, total


@dataclass(frozen=True)
class _Look:
    """The number that is asked about, and what its operation was given."""

    numbers: Numbers
    step: Step
    place: Place

    @property
    def main(self) -> Any:
        """The argument that is worked on."""
        arguments = self.step.call.arguments
        return arguments.get("input", arguments.get("self"))

    def __getitem__(self, name: str) -> Any:
        return self.known(self.step.call.arguments.get(name))

    def known(self, value: Any) -> Any:
        return self.numbers.value(value.step) if isinstance(value, Made) else value

    def constant(self, name: str, place: Any, default: float) -> float:
        return default if self[name] is None else float(self[name][place])

    def terms(self, source: Any, places: Any, weights: Tensor | None = None) -> list[Term]:
        """Numbers (N,) of an argument at places (N, axes), times weights (N,); beside the map they are padding."""
        values, places = self.known(source), torch.as_tensor(places)
        inside = ((places >= 0) & (places < torch.tensor(values.shape))).all(1)
        numbers = torch.zeros(len(places), dtype=torch.float64)
        numbers[inside] = values[tuple(places[inside].T)].double()
        products = numbers if weights is None else numbers * weights.double()
        factors = [None] * len(places) if weights is None else weights.tolist()
        step = source.step if isinstance(source, Made) else None
        columns = (numbers.tolist(), products.tolist(), factors, places.tolist(), inside.tolist())
        return [
            Term(n, product, weight, "", step, tuple(at)) if known else Term(0.0, 0.0, weight, "padding")
            for n, product, weight, at, known in zip(*columns, strict=True)
        ]

    def again(self, arguments: dict[str, Any]) -> Tensor:
        """Do the operation once more, in float64, with some arguments replaced."""
        every = tree_map_only(Made, self.known, {**self.step.call.arguments, **arguments})
        output = self.step.function(**tree_map_only(Tensor, _double, every))
        found: Tensor = output[self.step.output] if isinstance(output, (list, tuple)) else output
        return found


def _double(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64, copy=True) if tensor.is_floating_point() else tensor


def _total(parts: Sequence[Part]) -> float:
    return math.fsum(part.total for part in parts)


def _sum(
    look: _Look, source: Any, places: Any, weights: Tensor | None, label: str = "", columns: int = 0
) -> list[Part]:
    """All terms of a short sum or a window; of a long one the greatest, and the sum of the others."""
    places, most = torch.as_tensor(places), WINDOW if columns else MOST
    if len(places) <= most:
        terms = look.terms(source, places, weights)
        return [Part(label, math.fsum(term.value for term in terms), tuple(terms), columns)]
    products = look.known(source)[tuple(places.T)].double() * (1 if weights is None else weights.double())
    order = products.abs().argsort(descending=True)
    first, rest = order[:most], float(products[order[most:]].sum())
    parts = _sum(look, source, places[first], None if weights is None else weights[first], f"the {most} largest")
    return [*parts, Part(f"the other {len(order) - most:,}", rest)]


def _biased(look: _Look, name: str, formula: str, parts: list[Part]) -> Worked:
    """A sum, and the bias of its channel."""
    bias = look[name]
    if bias is None:
        return formula, parts, _total(parts)
    channel = 1 if look.step.call.name in CONVOLUTIONS + TRANSPOSED else -1
    number = bias[look.place[channel]] if bias.ndim == 1 else bias.expand(look.step.value.shape)[look.place]
    parts = [*parts, Part("bias", float(number))]
    return f"{formula} + bias", parts, _total(parts)


def _convolution(look: _Look) -> Worked:
    image, channel, row, column = look.place
    sizes: Any = {name: tuple(look[name]) for name in ("stride", "padding", "dilation")}
    sizes |= {"image": image, "filter": channel, "row": row, "column": column, "groups": look["groups"]}
    pixel = explain_pixel(look["input"], look["weight"], **sizes)
    order = sorted(range(len(pixel.sums)), key=lambda index: -abs(pixel.sums[index]))
    parts, columns = [], len(pixel.columns)
    for index in sorted(order[:CHANNELS]):
        places = [(image, pixel.channels[index], y, x) for y in pixel.rows for x in pixel.columns]
        weights = torch.tensor(pixel.weights[index]).flatten()
        parts += _sum(look, look.main, places, weights, f"channel {pixel.channels[index]}", columns)
    if rest := order[CHANNELS:]:
        parts.append(Part(f"the other {len(rest):,} channels", math.fsum(pixel.sums[index] for index in rest)))
    count = len(pixel.sums) * len(pixel.rows) * columns
    return _biased(look, "bias", f"sum of {count:,} products", parts)


def _product(look: _Look) -> Worked:
    """A dense layer, or a product of matrices: a row of the left one and a column of the right one."""
    raw, (left, right) = look.step.call.raw, ops.factors(look.step.call)
    matrix = look.known(right).mT if raw == "linear" else look.known(right)
    weights = matrix[(*look.place[:-2][: matrix.ndim - 2], slice(None), look.place[-1])]
    parts = _sum(look, left, [(*look.place[:-1], index) for index in range(len(weights))], weights)
    return _biased(look, "bias" if raw == "linear" else "self", f"sum of {len(weights):,} products", parts)


def _linear(look: _Look) -> Worked:
    """Whatever adds up numbers with weights: the operation's own gradient says which."""
    name = "input" if "input" in look.step.call.arguments else "self"
    given = look.known(look.main).double().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(look.again({name: given})[look.place], given)
    places = slope.nonzero()
    kind, columns = look.step.call.name, len(places[:, -1].unique()) if slope.ndim > 3 else 0
    how = "mean" if "avg" in kind or kind == "mean" else "the largest" if kind in LARGEST else "weighted sum"
    parts = _sum(look, look.main, places, slope[tuple(places.T)], columns=columns)
    return _biased(look, "bias", f"{how} of {len(places):,} numbers", parts)


def _max_pooling(look: _Look) -> Worked:
    found = ops.window(look.step.call)
    assert found is not None
    axes = zip(look.place[-2:], found.kernel, found.stride, found.padding, found.dilation, strict=True)
    rows, columns = ([index * s - p + d * k for k in range(kernel)] for index, kernel, s, p, d in axes)
    terms = look.terms(look.main, [(*look.place[:-2], y, x) for y in rows for x in columns])
    inside = [term.number for term in terms if term.step is not None]
    return f"the largest of {len(inside)}", [Part("", max(inside), tuple(terms), len(columns))], max(inside)


def _pointwise(look: _Look) -> Worked:
    """Each number is made of those at its own place; one that stands for a whole axis counts everywhere on it."""
    terms, scalars = dict[str, Term](), dict[str, Tensor]()
    for name, value in look.step.call.arguments.items():
        values = look.known(value)
        if isinstance(values, Tensor):
            own = look.place[len(look.place) - values.ndim :]
            at = tuple(0 if n == 1 else index for index, n in zip(own, values.shape, strict=True))
            scalars[name], (term,) = values[at], look.terms(value, [at])
            terms[name] = term if isinstance(value, Made) else replace(term, label="constant")
        elif name == "other":
            terms[name] = Term(float(values), float(values), label="constant")
    if look["alpha"] not in (None, 1):
        terms["other"] = replace(terms["other"], weight=look["alpha"], value=terms["other"].number * look["alpha"])
    kind = look.step.call.name
    sign = {"add": "+", "sub": "−", "mul": "×", "div": "÷"}.get(kind) if len(terms) == 2 else None
    letters = "ab" if sign else "xyz"[: len(terms)]
    parts = [Part(letter, term.value, (term,)) for letter, term in zip(letters, terms.values(), strict=False)]
    return f"a {sign} b" if sign else f"{kind}({', '.join(letters)})", parts, float(look.again(scalars))


def _normalised(look: _Look) -> Worked:
    kind, values, own = look.step.call.name, look.known(look.main).double(), look.place[1:2]
    if kind == "batch_norm" and look["running_mean"] is not None and not look["training"]:
        mean, variance = float(look["running_mean"][own]), float(look["running_var"][own])
    else:  # of this image
        if kind == "batch_norm":
            values = values[:, look.place[1]]
        elif kind == "group_norm":
            values = values[look.place[0]].reshape(look["group"], -1)[own[0] * look["group"] // values.shape[1]]
        else:
            own = look.place[-len(look["normalized_shape"]) :]
            values = values[look.place[: -len(own)]]
        mean, variance = float(values.mean()), float(values.var(unbiased=False))
    gain, shift, eps = look.constant("weight", own, 1.0), look.constant("bias", own, 0.0), float(look["eps"])
    (term,) = look.terms(look.main, [look.place])
    named = {"x": term.number, "mean": mean, "var": variance, "eps": eps, "γ": gain, "β": shift}
    parts = [Part(name, number, (term,) if name == "x" else ()) for name, number in named.items()]
    total = (term.number - mean) / math.sqrt(variance + eps) * gain + shift
    return "(x − mean) ÷ √(var + eps) × γ + β", parts, total


def _softmax(look: _Look) -> Worked:
    dim = look["dim"] % len(look.place)
    every = range(look.step.value.shape[dim])
    terms = look.terms(look.main, [(*look.place[:dim], index, *look.place[dim + 1 :]) for index in every])
    top = max(term.number for term in terms)
    powers = [replace(term, value=math.exp(term.number - top)) for term in terms]
    own, whole = powers[look.place[dim]], math.fsum(term.value for term in powers)
    largest = sorted(powers, key=lambda term: -term.value)[:MOST]
    parts = [Part(f"e^(x − {top:.4g})", own.value, (own,)), Part("the sum of all", whole, tuple(largest))]
    share, log = own.value / whole, look.step.call.name == "log_softmax"
    return "log of " * log + "e^x ÷ the sum of all", parts, math.log(share) if log else share


def _moved(look: _Look) -> Worked:
    """The same number, elsewhere: the operation itself says from where, given indices in the place of numbers."""
    arguments, first, starts = look.step.call.arguments, FIRST, dict[Made, float]()
    for source in (value for value in tree_leaves(arguments) if isinstance(value, Made)):
        starts[source], first = first, first + look.known(source).numel()

    def indices(source: Made) -> Tensor:
        shape = look.known(source).shape
        return starts[source] + torch.arange(shape.numel(), dtype=torch.float64).view(shape)

    index = float(look.again(tree_map_only(Made, indices, arguments))[look.place])
    for source, start in starts.items():
        shape = look.known(source).shape
        if start <= index < start + shape.numel():
            return _same(look, source, torch.stack(torch.unravel_index(torch.tensor(int(index - start)), shape)))
    return _same(look, look.step.value, torch.tensor(look.place))


def _written(look: _Look) -> Worked:
    """In memory that was written through another view lies what is there in that view, or what was there before."""
    before, written, layouts = (look.step.call.arguments[name] for name in ("before", "written", "layouts"))
    (_, steps, start), (shape, strides, offset) = layouts
    spot = start + sum(index * step for index, step in zip(look.place, steps, strict=True))
    reach = 1 + offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    inside = (torch.arange(reach).as_strided(shape, strides, offset) == spot).nonzero()
    return _same(look, written, inside[0]) if len(inside) else _same(look, before, torch.tensor(look.place))


def _same(look: _Look, source: Any, place: Tensor) -> Worked:
    terms = look.terms(source, place[None])
    return "the same number", [Part("x", terms[0].value, tuple(terms))], terms[0].value


def _unknown(look: _Look) -> Worked:
    sources = (value.step for value in tree_leaves(look.step.call.arguments) if isinstance(value, Made))
    names = dict.fromkeys("the image" if step == IMAGE else look.numbers.steps[step].name for step in sources)
    return f"{look.step.call.name}: no arithmetic is shown; its inputs are {' and '.join(names)}.", [], None


POOLS = [f"{kind}_pool{n}d" for kind in ("avg", "adaptive_avg") for n in (1, 2, 3)]
LARGEST = ["amax", "max_pool1d", "max_pool3d", *(f"adaptive_max_pool{n}d" for n in (1, 2, 3))]
PADS = [f"{how}_pad{n}d" for how in ("reflection", "replication") for n in (1, 2, 3)]
MOVES = (*COPIES, *CUTS, *VIEWS, *RESHAPES, *PADS, "pad", "cat", "stack", "copy", "roll", "flip", "pixel_shuffle")
RULES: dict[str, Callable[[_Look], Worked]] = {
    **dict.fromkeys(POINTWISE, _pointwise),
    "conv2d": _convolution,
    **dict.fromkeys(("linear", "matmul", "mkldnn_linear"), _product),
    **dict.fromkeys((*POOLS, *LARGEST, *RESIZES, *TRANSPOSED, "conv1d", "conv3d", "mean", "sum"), _linear),
    "max_pool2d": _max_pooling,
    **dict.fromkeys(("batch_norm", "group_norm", "layer_norm"), _normalised),
    **dict.fromkeys(("softmax", "log_softmax"), _softmax),
    **dict.fromkeys(MOVES, _moved),
    "written": _written,
}
