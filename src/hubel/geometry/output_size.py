"""How many outputs a convolution or a pooling has along one axis, with every step written out; no torch.

Source of the formulas: Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning", with dilation
and ceil mode as PyTorch has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from hubel.errors import UsageError

Operation = Literal["conv", "maxpool", "avgpool", "transposed"]
AxisPadding = int | Sequence[int] | str  # before and after; or one of the words same and valid
LARGEST = 10**9


@dataclass(frozen=True, kw_only=True)
class AxisSize:
    """How many outputs there are along one axis, and why.

    Attributes:
        n: inputs along the axis.
        padding: zeros added before and after the input (cut off the output instead, when transposed).
        formula: in n, k, s, d, o and p, or p0 and p1 where the two sides differ.
        steps: the formula with the numbers put in, then line by line towards the result. Formula and steps can be
            evaluated by Python with math's floor and ceil.
        remark: one sentence where there is more to say than the formula does, else empty.
        unseen: inputs at the end that no window reaches; PyTorch drops them silently.
    """

    operation: Operation
    n: int
    kernel: int
    stride: int
    padding: tuple[int, int]
    dilation: int
    output_padding: int
    formula: str
    steps: tuple[str, ...]
    result: int
    remark: str = ""
    unseen: int = 0


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What was asked for, in numbers; `unit` is what one position is called in messages."""

    n: int
    kernel: int
    stride: int
    dilation: int
    operation: Operation
    ceil: bool
    output_padding: int
    unit: str
    before: int = 0
    after: int = 0

    @property
    def span(self) -> int:
        """Positions from the first to the last that a window touches."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def padded(self) -> int:
        return self.n + self.before + self.after


def axis_size(
    n: int,
    kernel: int,
    *,
    stride: int | None = None,
    padding: AxisPadding = 0,
    dilation: int = 1,
    operation: Operation = "conv",
    ceil: bool = False,
    output_padding: int = 0,
    unit: str = "position",
) -> AxisSize:
    """Return the output size along one axis, step by step.

    Args:
        stride: None means 1, and the kernel for pooling, as in PyTorch.
        padding: a number for both sides, (before, after), ``valid`` (none) or ``same`` (ceil(n / stride) outputs;
            transposed: n * stride).
        ceil: pooling only: round up, but let no window start in the padding after the input.
        output_padding: transposed only: positions that are added at the end.
        unit: what one position is called in messages (``row``).

    Raises:
        UsageError: there would be no output, or the numbers exclude each other; it says what to change, and to what.

    >>> axis_size(224, 3, stride=2).steps
    ('floor((224 + 2*0 - 1*(3 - 1) - 1) / 2) + 1', 'floor(221 / 2) + 1', '110 + 1')
    """
    if stride is None:
        stride = kernel if operation in ("maxpool", "avgpool") else 1
    asked = _Asked(
        n=n, kernel=kernel, stride=stride, dilation=dilation, operation=operation, ceil=ceil,
        output_padding=output_padding, unit=unit,
    )  # fmt: skip
    _check(asked)
    return _transposed(asked, padding) if operation == "transposed" else _windows(asked, padding)


def check_whole(name: str, value: Any, *, at_least: int = 1) -> int:
    """Return the number if it is a whole one, and from `at_least` to a billion.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= LARGEST:
        shown = "a larger one" if isinstance(value, int) and value > LARGEST else repr(value)
        raise UsageError(f"{name} must be a whole number from {at_least} to a billion, got {shown}.")
    return value


def _check(asked: _Asked) -> None:
    if asked.operation not in get_args(Operation):
        known = ", ".join(get_args(Operation))
        raise UsageError(f"unknown operation {asked.operation!r}: choose one of {known}.")
    for name in ("kernel", "stride", "dilation"):
        check_whole(name, getattr(asked, name))
    check_whole("input", asked.n)
    check_whole("output padding", asked.output_padding, at_least=0)
    if asked.ceil and asked.operation in ("conv", "transposed"):
        raise UsageError("only pooling has a ceil mode: leave it out, or add padding.")
    if asked.output_padding and asked.operation != "transposed":
        raise UsageError("only a transposed convolution has an output padding: leave it out.")
    if asked.dilation != 1 and asked.operation == "avgpool":
        raise UsageError("PyTorch's average pooling has no dilation: use a dilation of 1, or max pooling.")


def _sides(padding: AxisPadding, same: int) -> tuple[int, int]:
    """Padding before and after; `same` is the total that the word stands for, of which the odd one goes after."""
    if padding == "same":
        return same // 2, same - same // 2
    if padding == "valid":
        return 0, 0
    if isinstance(padding, str):
        raise UsageError(f"unknown padding {padding!r}: give a number, 'same' or 'valid'.")
    both = tuple(padding) if isinstance(padding, Sequence) else (padding, padding)
    if len(both) != 2:
        raise UsageError(f"the padding of one axis is one number, or two for before and after, got {len(both)}.")
    return check_whole("padding", both[0], at_least=0), check_whole("padding", both[1], at_least=0)


def _windows(asked: _Asked, padding: AxisPadding) -> AxisSize:
    """A window slides over the padded input: convolution and pooling."""
    needed = (-(-asked.n // asked.stride) - 1) * asked.stride + asked.span
    before, after = _sides(padding, max(needed - asked.n, 0))
    asked = replace(asked, before=before, after=after)
    if asked.operation != "conv":
        _check_pool_padding(asked)
    room = asked.padded - asked.span
    rounded = -(-room // asked.stride) if asked.ceil else room // asked.stride
    outside = asked.ceil and rounded >= 1 and rounded * asked.stride >= asked.n + before
    result = rounded + 1 - outside
    if result < 1:
        raise UsageError(_too_small(asked))
    formula, steps = _window_steps(asked, room, rounded)
    remark = _side_remark(asked)
    if padding == "same":
        formula, steps = "ceil(n / s)", (f"ceil({asked.n} / {asked.stride})",)
        remark = f"That takes a padding of {before} before and {after} after."
    elif outside:
        steps = (*steps, f"{rounded} + 1 - 1")
        remark = "The last window would start in the padding after the input, so it is left out."
    unseen = max(0, asked.n + before - (result - 1) * asked.stride - asked.span)
    return _answer(asked, formula, steps, result, remark=remark, unseen=unseen)


def _window_steps(asked: _Asked, room: int, rounded: int) -> tuple[str, tuple[str, ...]]:
    word, even = "ceil" if asked.ceil else "floor", asked.before == asked.after
    sides = "2*p" if even else "p0 + p1"
    numbers = f"2*{asked.before}" if even else f"{asked.before} + {asked.after}"
    formula = f"{word}((n + {sides} - d*(k - 1) - 1) / s) + 1"
    filled = f"{word}(({asked.n} + {numbers} - {asked.dilation}*({asked.kernel} - 1) - 1) / {asked.stride}) + 1"
    return formula, (filled, f"{word}({room} / {asked.stride}) + 1", f"{rounded} + 1")


def _transposed(asked: _Asked, padding: AxisPadding) -> AxisSize:
    """Each input spreads over a window of the output: the sizes of a convolution run backwards."""
    remark = ""
    if padding == "same":
        asked = _transposed_same(asked)
        remark = f"PyTorch wants same as numbers: padding {asked.before} with output padding {asked.output_padding}."
    else:
        before, after = _sides(padding, 0)
        asked = replace(asked, before=before, after=after)
        remark = _side_remark(asked)
    _check_output_padding(asked)
    whole = (asked.n - 1) * asked.stride + asked.span + asked.output_padding
    cut = asked.before + asked.after
    if whole <= cut:
        raise UsageError(_cut_away(asked, whole))
    even = asked.before == asked.after
    sides = "2*p" if even else "p0 - p1"
    numbers = f"2*{asked.before}" if even else f"{asked.before} - {asked.after}"
    k, s, d, o = asked.kernel, asked.stride, asked.dilation, asked.output_padding
    steps = (
        f"({asked.n} - 1)*{s} - {numbers} + {d}*({k} - 1) + {o} + 1",
        f"{(asked.n - 1) * s} - {cut} + {asked.span - 1} + {o} + 1",
    )
    return _answer(asked, f"(n - 1)*s - {sides} + d*(k - 1) + o + 1", steps, whole - cut, remark=remark)


def _transposed_same(asked: _Asked) -> _Asked:
    """The padding and the output padding that leave n * s outputs."""
    if asked.output_padding:
        raise UsageError("padding 'same' settles the output padding too: leave it out, or give both as numbers.")
    cut = asked.span - asked.stride
    half = max(-(-cut // 2), 0)
    if asked.stride == asked.dilation == 1 and cut % 2:
        raise UsageError(
            f"a kernel of {asked.kernel} at stride 1 leaves an odd number of {asked.unit}s to cut off, and PyTorch "
            f"cuts as many before as after: use a kernel of {asked.kernel + 1}, or give the padding as a number."
        )
    return replace(asked, before=half, after=half, output_padding=2 * half - cut)


def _answer(
    asked: _Asked, formula: str, steps: tuple[str, ...], result: int, *, remark: str, unseen: int = 0
) -> AxisSize:
    return AxisSize(
        operation=asked.operation,
        n=asked.n,
        kernel=asked.kernel,
        stride=asked.stride,
        padding=(asked.before, asked.after),
        dilation=asked.dilation,
        output_padding=asked.output_padding,
        formula=formula,
        steps=steps,
        result=result,
        remark=remark,
        unseen=unseen,
    )


def _check_pool_padding(asked: _Asked) -> None:
    most, got = asked.kernel // 2, max(asked.before, asked.after)
    if got > most:
        raise UsageError(
            f"pooling pads by at most half its kernel, so that no window sees padding alone: with a kernel of "
            f"{asked.kernel} use a padding of at most {most} and not {got}, or a kernel of at least {2 * got}."
        )


def _check_output_padding(asked: _Asked) -> None:
    most = max(asked.stride, asked.dilation) - 1
    if asked.output_padding > most:
        raise UsageError(
            f"an output padding of {asked.output_padding} must be smaller than the stride ({asked.stride}) or the "
            f"dilation ({asked.dilation}): use an output padding of at most {most}, "
            f"or a stride of at least {asked.output_padding + 1}."
        )


def _too_small(asked: _Asked) -> str:
    """The window doesn't fit: what could be changed, and to what, so that one output is left."""
    missing = asked.span - asked.padded - (asked.stride - 1 if asked.ceil else 0)
    kernel, padding = (asked.padded - 1) // asked.dilation + 1, -(-(asked.before + asked.after + missing) // 2)
    pooled, ways = asked.operation != "conv", []
    if not pooled or max(asked.before, asked.after) <= kernel // 2:
        ways.append(f"a kernel of at most {kernel}")
    if asked.dilation > 1 and asked.padded >= asked.kernel:
        ways.append(f"a dilation of at most {(asked.padded - 1) // (asked.kernel - 1)}")
    if not pooled or padding <= asked.kernel // 2:
        ways.append(f"a padding of at least {padding}")
    ways.append(f"an input of at least {asked.n + missing}")
    choice = " or ".join(filter(None, (", ".join(ways[:-1]), ways[-1])))
    spans = f" with dilation {asked.dilation} spans {asked.span} and" if asked.dilation > 1 else ""
    extra = f" and {asked.before + asked.after} of padding" if asked.padded > asked.n else ""
    return f"a kernel of {asked.kernel}{spans} does not fit into {counted(asked.n, asked.unit)}{extra}: use {choice}."


def _cut_away(asked: _Asked, whole: int) -> str:
    missing = asked.before + asked.after + 1 - whole
    return (
        f"padding cuts off {asked.before + asked.after} of the {counted(whole, asked.unit)} that there would be: use a "
        f"padding of at most {(whole - 1) // 2}, a kernel of at least {asked.kernel - (-missing // asked.dilation)} or "
        f"an input of at least {asked.n - (-missing // asked.stride)}."
    )


def _side_remark(asked: _Asked) -> str:
    even = asked.before == asked.after
    return "" if even else f"p0 = {asked.before} is the padding before, p1 = {asked.after} the padding after."


def counted(count: int, noun: str) -> str:
    """A count with its noun: ``1 row``, ``2 rows``."""
    return f"{count} {noun}{'s' * (count != 1)}"
