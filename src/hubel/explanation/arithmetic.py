"""What made one number inside a network: its terms, where each came from, and their total.

One image is followed operation by operation, as `geometry.trace` does, and every number is kept. Whatever Python code
called an operation, each of its numbers can then be worked out again, in float64, from those of the steps before it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from hubel.errors import UsageError
from hubel.geometry.convolution import explain_pixel
from hubel.geometry.maxplus import COPIES, CUTS, RESHAPES, RESIZES, VIEWS
from hubel.geometry.rows import IMAGE, ForwardError, Trace
from hubel.geometry.trace import follow_image
from hubel.nn import ops
from hubel.nn.ops import CONVOLUTIONS, TRANSPOSED, Call

MOST = 12  # terms of a long sum, and channels of a convolution, that are shown; of the others only their sum
WINDOW = 64  # terms of a window that is shown whole
FIRST = 2.0**40  # index of the first number, so that no constant is taken for an index
Place = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class Part:
    """Terms that belong together and their sum, or only that. columns: of terms that are a window; 0: they are none."""

    label: str
    total: float
    terms: tuple[Term, ...] = ()
    columns: int = 0


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True)
class Made:
    """Among the arguments of an operation: what a step made."""

    step: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """A tensor that an operation gave out, as the first or a later one; its row in the trace, where it has one."""

    name: str
    function: Any
    call: Call  # tensors that the image made are replaced by `Made`
    value: Tensor
    output: int = 0
    row: int | None = None


@dataclass(eq=False)
class Numbers:
    """Every number that an image (1, C, H, W) became in a network. Made by `numbers_of`."""

    image: Tensor
    trace: Trace = field(default_factory=lambda: Trace(rows=(), output=(), modules={}))
    steps: list[Step] = field(default_factory=list)

    def value(self, step: int) -> Tensor:
        """What a step gave out; for `IMAGE` the image."""
        return self.image if step == IMAGE else self.steps[step].value

    def of_row(self, row: int) -> int:
        """The step that gave out what a row of the trace did.

        Raises:
            UsageError: there is no such row.
        """
        return self._last((step.row == row and not step.output for step in self.steps), f"layer number {row}")

    def named(self, name: str) -> int:
        """The step that gave out what the module or operation of that name did; of several, the last.

        Raises:
            UsageError: nothing of that name ran.
        """
        return self._last((step.name == name and not step.output for step in self.steps), f"layer {name!r}")

    def explain(self, step: int, place: Sequence[int]) -> Arithmetic:
        """Work out one number again.

        Args:
            place: in the step's output; the batch axis may be left out.

        Raises:
            UsageError: there is no such step or place.
        """
        if not 0 <= step < len(self.steps):
            raise UsageError(f"there is no step {step}: there are {len(self.steps)}, counted from 0.")
        asked, shape = self.steps[step], tuple(self.steps[step].value.shape)
        at = (0,) * (len(shape) - len(place)) + tuple(place)
        if len(at) != len(shape) or not all(0 <= index < n for index, n in zip(at, shape, strict=True)):
            raise UsageError(
                f"{asked.name} gives out {'×'.join(map(str, shape))} numbers, of which none is at {place}."
            )
        call = asked.call
        rule = RULES.get(call.name) or RULES.get(call.raw) or (_pointwise if call.pointwise else _unknown)
        formula, parts, total = rule(_Look(self, asked, at))
        return Arithmetic(
            step=step,
            name=asked.name,
            kind=call.name,
            place=at,
            shape=shape,
            formula=formula,
            parts=tuple(parts),
            total=total,
            value=float(asked.value[at]),
        )

    def _last(self, matches: Any, what: str) -> int:
        found = [index for index, fits in enumerate(matches) if fits]
        if not found:
            raise UsageError(f"the image went through no {what}: there is, for one, {self.steps[-1].name!r}.")
        return found[-1]


def numbers_of(model: nn.Module, image: Tensor, *, temperature: float | None = None) -> Numbers:
    """Keep every number that an image (1, C, H, W) becomes, in eval mode on the processor; the model stays as it is.

    Args:
        temperature: where given, the logits are divided by it and their softmax is taken, as two steps more.

    Raises:
        UsageError: the model can't take the image.
    """
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    image = image.detach().to("cpu", next(floating, torch.float32))
    recorder = _Recorder(image)
    try:
        trace, answer = follow_image(model, image, recorder.seen)
    except ForwardError as error:
        raise UsageError(f"the model can't take an image of {'×'.join(map(str, image.shape[1:]))}: {error}.") from error
    rows = dict(enumerate(trace.rows))
    steps = [replace(s, name=rows[s.row].name) if s.row in rows else s for s in recorder.steps]
    recorder.steps[:] = steps
    if temperature is not None:
        logits = next(value for value in tree_leaves(answer) if isinstance(value, Tensor))
        scaled = recorder.run(torch.ops.aten.div.Tensor, logits, torch.tensor(temperature, dtype=logits.dtype))
        recorder.run(torch.ops.aten._softmax.default, scaled, 1, False)
    return Numbers(recorder.image, trace, recorder.steps)


class _Recorder:
    """Makes steps of operations."""

    def __init__(self, image: Tensor) -> None:
        self.image, self.steps = image.clone(), list[Step]()
        self.made: dict[int, tuple[Tensor, Made]] = {id(image): (image, Made(IMAGE))}  # held: an id stays its own
        self.sharing: dict[int, dict[int, Tensor]] = defaultdict(dict)  # storage → the tensors in it

    def run(self, function: Any, *args: Any) -> Tensor:
        """Do one operation more."""
        with torch.no_grad():
            output: Tensor = function(*args)
        self.seen(function, ops.make_call(function, ops.named(function, args, {}), output), None, "")
        return output

    def seen(self, function: Any, call: Call, row: int | None, place: str) -> None:
        known = replace(call, arguments=tree_map_only(Tensor, self._source, call.arguments))
        for tensor in (*call.outputs, *call.written):
            self.sharing[tensor.untyped_storage()._cdata][id(tensor)] = tensor
        if not call.raw.startswith("new_") and any(isinstance(v, Made) for v in tree_leaves(known.arguments)):
            name = f"{place}.{call.name}".lstrip(".")
            step = Step(name=name, function=function, call=known, value=self.image, row=row)
            for number, out in enumerate(call.outputs):
                self._keep(replace(step, output=number), out)
            for out in call.written:
                self._spread(step, out)

    def _source(self, tensor: Tensor) -> Tensor | Made:
        return self.made[id(tensor)][1] if id(tensor) in self.made else tensor

    def _keep(self, step: Step, out: Tensor) -> None:
        self.made[id(out)] = (out, Made(len(self.steps)))
        self.steps.append(replace(step, value=out.detach().clone()))

    def _spread(self, step: Step, written: Tensor) -> None:
        """What was written is seen through all views of the same memory."""
        for other in list(self.sharing[written.untyped_storage()._cdata].values()):
            if other is not written:
                layouts = [(t.shape, t.stride(), t.storage_offset()) for t in (other, written)]
                arguments = {"before": self._source(other), "written": self._source(written), "layouts": layouts}
                call = replace(step.call, name="written", raw="written", arguments=arguments)
                self._keep(replace(step, call=call), other)


# ---- the rules: how an operation makes a number ---------------------------------------------------------------------

Worked = tuple[str, list[Part], float | None]  # formula, parts, total


@dataclass(frozen=True)
class _Look:
    """The number that is asked about, and what its operation was given."""

    numbers: Numbers
    step: Step
    place: Place

    @property
    def main(self) -> str:
        """Name of the argument that is worked on."""
        return "input" if "input" in self.step.call.arguments else "self"

    def __getitem__(self, name: str) -> Any:
        return self.known(self.step.call.arguments.get(name))

    def known(self, value: Any) -> Any:
        return self.numbers.value(value.step) if isinstance(value, Made) else value

    def constant(self, name: str, place: Any, default: float) -> float:
        return default if self[name] is None else float(self[name][place])

    def term(self, source: Any, place: Sequence[int], weight: float | None = None) -> Term:
        """A number of an argument, or one beside the map, which is padding."""
        values, place = self.known(source), tuple(place)
        if not all(0 <= index < n for index, n in zip(place, values.shape, strict=True)):
            return Term(number=0.0, value=0.0, weight=weight, label="padding")
        number, step = float(values[place]), source.step if isinstance(source, Made) else None
        value = number if weight is None else number * weight
        return Term(number=number, value=value, weight=weight, step=step, place=place)

    def again(self, arguments: dict[str, Any]) -> Tensor:
        """Do the operation once more, in float64, with some arguments replaced."""
        every = {**self.step.call.arguments, **arguments}
        output = self.step.function(**tree_map_only(Made, self.known, tree_map_only(Tensor, _double, every)))
        found: Tensor = output[self.step.output] if isinstance(output, (list, tuple)) else output
        return found


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _sum(terms: Sequence[Term], label: str = "", columns: int = 0) -> list[Part]:
    """All terms of a short sum or a window; of a long one the greatest, and the sum of the others."""
    if len(terms) <= (WINDOW if columns else MOST):
        return [Part(label=label, total=math.fsum(t.value for t in terms), terms=tuple(terms), columns=columns)]
    order = sorted(terms, key=lambda term: -abs(term.value))
    rest = math.fsum(term.value for term in order[MOST:])
    label = f"{label} the {MOST} largest of {len(terms):,}".strip()
    return [*_sum(order[:MOST], label), Part(label=f"the other {len(terms) - MOST:,}", total=rest)]


def _added(formula: str, parts: list[Part]) -> Worked:
    return formula, parts, math.fsum(part.total for part in parts)


def _biased(look: _Look, name: str, formula: str, parts: list[Part]) -> Worked:
    """A sum, and the bias of its channel, which is the number's last place in a dense layer, else its second."""
    bias = look[name]
    if bias is None:
        return _added(formula, parts)
    at = look.place[1 if look.step.call.name in CONVOLUTIONS + TRANSPOSED else -1]
    number = float(bias[at] if bias.ndim == 1 else bias.expand(look.step.value.shape)[look.place])
    return _added(f"{formula} + bias", [*parts, Part(label="bias", total=number)])


def _convolution(look: _Look) -> Worked:
    image, channel, row, column = look.place
    pixel = explain_pixel(
        look["input"],
        look["weight"],
        image=image,
        filter=channel,
        row=row,
        column=column,
        groups=look["groups"],
        **{name: tuple(look[name]) for name in ("stride", "padding", "dilation")},  # type: ignore[arg-type]
    )
    order = sorted(range(len(pixel.sums)), key=lambda index: -abs(pixel.sums[index]))
    parts, source = [], look.step.call.arguments["input"]
    for index in sorted(order[:MOST]):
        places = [(image, pixel.channels[index], y, x) for y in pixel.rows for x in pixel.columns]
        weights = [weight for row_ in pixel.weights[index] for weight in row_]
        terms = [look.term(source, at, weight) for at, weight in zip(places, weights, strict=True)]
        parts += _sum(terms, f"channel {pixel.channels[index]}", len(pixel.columns))
    if rest := order[MOST:]:
        parts.append(Part(label=f"the other {len(rest):,} channels", total=math.fsum(pixel.sums[i] for i in rest)))
    count = len(pixel.sums) * len(pixel.rows) * len(pixel.columns)
    return _biased(look, "bias", f"sum of {count:,} products", parts)


def _product(look: _Look) -> Worked:
    """A dense layer, or a product of matrices: a row of the left one and a column of the right one."""
    left, right = ops.factors(look.step.call)
    matrix = look.known(right).mT if look.step.call.raw == "linear" else look.known(right)
    weights = matrix[(*look.place[:-2][: matrix.ndim - 2], slice(None), look.place[-1])].tolist()
    terms = [look.term(left, (*look.place[:-1], index), weight) for index, weight in enumerate(weights)]
    bias = "self" if look.step.call.raw in ("addmm", "baddbmm") else "bias"
    return _biased(look, bias, f"sum of {len(terms):,} products", _sum(terms))


def _linear(look: _Look) -> Worked:
    """Whatever adds up numbers with weights: the operation's own gradient says which."""
    source = look.step.call.arguments[look.main]
    given = look.known(source).double().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(look.again({look.main: given})[look.place], given)
    terms = [look.term(source, at, float(slope[tuple(at)])) for at in slope.nonzero().tolist()]
    columns = len({term.place[-1] for term in terms}) if slope.ndim > 3 else 0
    means = "mean" if "avg" in look.step.call.name or look.step.call.name == "mean" else "weighted sum"
    return _biased(look, "bias", f"{means} of {len(terms):,} numbers", _sum(terms, columns=columns))


def _largest(look: _Look) -> Worked:
    """Max pooling: the whole window, where its size is said."""
    found, source = ops.window(look.step.call), look.step.call.arguments["self"]
    if found is None or len(found.kernel) != 2:
        _, parts, total = _linear(look)
        return "the largest of all that it looks at", parts, total
    rows, columns = (
        [index * s - p + d * k for k in range(kernel)]
        for index, kernel, s, p, d in zip(
            look.place[-2:], found.kernel, found.stride, found.padding, found.dilation, strict=True
        )
    )
    terms = [look.term(source, (*look.place[:-2], y, x)) for y in rows for x in columns]
    inside = [term for term in terms if not term.label]
    winner = max(term.number for term in inside)
    part = Part(label="the window", total=winner, terms=tuple(terms), columns=len(columns))
    return f"the largest of {len(inside)} numbers", [part], winner


def _pointwise(look: _Look) -> Worked:
    """Each number is made of those at its own place; one that stands for a whole axis counts everywhere on it."""
    terms, scalars = [], {}
    for name, value in look.step.call.arguments.items():
        values = look.known(value)
        if isinstance(values, Tensor):
            own = look.place[len(look.place) - values.ndim :]
            at = tuple(0 if n == 1 else index for index, n in zip(own, values.shape, strict=True))
            term, scalars[name] = look.term(value, at), values[at].clone()
            terms.append(term if term.step is not None else replace(term, label="constant"))
        elif name == "other":
            terms.append(Term(number=float(values), value=float(values), label="constant"))
    total = float(look.again(scalars))
    signs = {"add": "+", "sub": "−", "mul": "×", "div": "÷"}
    sign = signs.get(look.step.call.name) if len(terms) == 2 else None
    if look["alpha"] not in (None, 1):
        terms[1] = replace(terms[1], weight=float(look["alpha"]), value=terms[1].number * look["alpha"])
    formula = f"a {sign} b" if sign else f"{look.step.call.name}({', '.join('xyz'[: len(terms)])})"
    names = ["a", "b"] if sign else list("xyz")
    return formula, [Part(label=names[i], total=t.value, terms=(t,)) for i, t in enumerate(terms)], total


def _normalised(look: _Look) -> Worked:
    values, place, call = look[look.main].double(), look.place, look.step.call
    own: Place = place[1:2]
    if call.name == "batch_norm" and look["running_mean"] is not None and not call.arguments.get("training"):
        mean, variance = float(look["running_mean"][own]), float(look["running_var"][own])
    else:
        if call.name == "batch_norm":
            over = values.movedim(1, 0)[place[1]]
        elif call.name == "group_norm":
            over = values[place[0]].reshape(look["group"], -1)[place[1] * look["group"] // values.shape[1]]
        else:
            own = place[-len(look["normalized_shape"]) :]
            over = values[place[: -len(own)]]
        mean, variance = float(over.mean()), float(over.var(unbiased=False))
    gain, shift, eps = look.constant("weight", own, 1.0), look.constant("bias", own, 0.0), float(look["eps"])
    term = look.term(call.arguments[look.main], place)
    total = (term.number - mean) / math.sqrt(variance + eps) * gain + shift
    named = {"mean": mean, "var": variance, "eps": eps, "γ": gain, "β": shift}
    parts = [Part(label="x", total=term.value, terms=(term,))]
    return (
        "(x − mean) / √(var + eps) · γ + β",
        parts + [Part(label=name, total=number) for name, number in named.items()],
        total,
    )


def _softmax(look: _Look) -> Worked:
    source, dim = look.step.call.arguments["self"], look["dim"] % len(look.place)
    every = range(look["self"].shape[dim])
    terms = [look.term(source, (*look.place[:dim], index, *look.place[dim + 1 :])) for index in every]
    top = max(term.number for term in terms)
    powers = [replace(term, value=math.exp(term.number - top)) for term in terms]
    own, whole = powers[look.place[dim]], math.fsum(term.value for term in powers)
    parts = [Part(label=f"e^(x − {top:.4g})", total=own.value, terms=(own,)), *_sum(powers, "of all,")]
    if look.step.call.name == "log_softmax":
        return "log of e^x ÷ the sum of all", parts, math.log(own.value / whole)
    return "e^x ÷ the sum of all", parts, own.value / whole


def _moved(look: _Look) -> Worked:
    """The same number, elsewhere: the operation itself says from where, given indices in the place of numbers."""
    arguments, first = look.step.call.arguments, FIRST
    indices = dict[Made, Tensor]()
    for source in dict.fromkeys(value for value in tree_leaves(arguments) if isinstance(value, Made)):
        shape = look.known(source).shape
        indices[source] = torch.arange(first, first + shape.numel(), dtype=torch.float64).view(shape)
        first += shape.numel()
    index = float(look.again(tree_map_only(Made, indices.__getitem__, arguments))[look.place])
    for source, values in indices.items():
        if values.numel() and values.flatten()[0] <= index <= values.flatten()[-1]:
            at = torch.unravel_index(torch.tensor(int(index - float(values.flatten()[0]))), values.shape)
            return _same(look.term(source, [int(each) for each in at]))
    return _same(Term(number=index, value=index, label="constant"))


def _written(look: _Look) -> Worked:
    """In memory that was written through another view lies what is there in that view, or what was there before."""
    before, written, layouts = (look.step.call.arguments[name] for name in ("before", "written", "layouts"))
    (_, steps, start), (shape, strides, offset) = layouts
    spot = start + sum(index * step for index, step in zip(look.place, steps, strict=True))
    reach = 1 + offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    inside = (torch.arange(reach).as_strided(shape, strides, offset) == spot).nonzero().tolist()
    source, place = (written, inside[0]) if inside else (before, look.place)
    if not isinstance(source, Made):
        number = float(look.step.value[look.place])
        return _same(Term(number=number, value=number, label="constant"))
    return _same(look.term(source, place))


def _same(term: Term) -> Worked:
    return "the same number", [Part(label="x", total=term.value, terms=(term,))], term.value


def _unknown(look: _Look) -> Worked:
    sources = dict.fromkeys(v.step for v in tree_leaves(look.step.call.arguments) if isinstance(v, Made))
    names = ["the image" if step == IMAGE else look.numbers.steps[step].name for step in sources]
    return f"{look.step.call.name}: no arithmetic is shown; its inputs are {' and '.join(names)}.", [], None


POOLS = [f"{kind}_pool{n}d" for kind in ("avg", "adaptive_avg") for n in (1, 2, 3)]
LARGEST = ["amax", *(f"{kind}_pool{n}d" for kind in ("max", "adaptive_max") for n in (1, 2, 3))]
PADS = [f"{how}_pad{n}d" for how in ("reflection", "replication") for n in (1, 2, 3)]
MOVES = (*COPIES, *CUTS, *VIEWS, *RESHAPES, *PADS, "pad", "cat", "stack", "copy", "roll", "flip", "pixel_shuffle")
RULES: dict[str, Callable[[_Look], Worked]] = {
    "conv2d": _convolution,
    **dict.fromkeys(("linear", "matmul", "mkldnn_linear"), _product),
    **dict.fromkeys((*POOLS, *RESIZES, *TRANSPOSED, "conv1d", "conv3d", "mean", "sum"), _linear),
    **dict.fromkeys(LARGEST, _largest),
    **dict.fromkeys(("batch_norm", "group_norm", "layer_norm"), _normalised),
    **dict.fromkeys(("softmax", "log_softmax"), _softmax),
    **dict.fromkeys(MOVES, _moved),
    "written": _written,
}
