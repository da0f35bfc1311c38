"""How many outputs a convolution or a pooling has along one axis, with every step written out; no torch.

Source of the formulas: Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning", with dilation
and ceil mode as PyTorch has them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from hubel.errors import UsageError

Operation = Literal["conv", "maxpool", "avgpool", "transposed"]
AxisPadding = int | Sequence[int] | str  # before and after; or one of the words same and valid
LARGEST = 10**9


@dataclass(frozen=True, kw_only=True)
class AxisSize:
    """A layer's settings along one axis, how many outputs there are, and why.

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
    padding: tuple[int, int] = (0, 0)
    dilation: int
    output_padding: int
    formula: str = ""
    steps: tuple[str, ...] = ()
    result: int = 0
    remark: str = ""
    unseen: int = 0

    @property
    def span(self) -> int:
        """Positions from the first to the last that a window touches."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def padded(self) -> int:
        return self.n + sum(self.padding)

    def letters(self) -> dict[str, int]:
        """Return what the letters of the formula stand for."""
        before, after = self.padding
        sides = {"p": before} if before == after else {"p0": before, "p1": after}
        given = {"n": self.n, "k": self.kernel, "s": self.stride, "d": self.dilation, "o": self.output_padding} | sides
        return {letter: given[letter] for letter in given if re.search(rf"\b{letter}\b", self.formula)}

    def solved(self, formula: str, steps: Sequence[str], **answer: Any) -> AxisSize:
        """Return the record with its formula, the numbers put in, the steps after that, and the answer."""
        asked = replace(self, formula=formula)
        filled = re.sub(r"\b(p0|p1|[nksdop])\b", lambda letter: str(asked.letters()[letter[0]]), formula)
        return replace(asked, steps=(filled, *steps), **answer)


def axis_size(axis: AxisSize, padding: AxisPadding, *, ceil: bool, unit: str) -> AxisSize:
    """Return the record of the settings with padding, formula, steps and result.

    Args:
        padding: a number for both sides, (before, after), ``valid`` (none) or ``same`` (ceil(n / stride) outputs;
            transposed: n * stride).
        ceil: pooling only: round up, but let no window start in the padding after the input.
        unit: what one position is called in messages (``row``).

    Raises:
        UsageError: there would be no output, or the numbers exclude each other; it says what to change, and to what.
    """
    transposed, known = axis.operation == "transposed", get_args(Operation)
    if axis.operation not in known:
        raise UsageError(f"unknown operation {axis.operation!r}: choose one of {', '.join(known)}.")
    for name in ("kernel", "stride", "dilation"):
        check_whole(name, getattr(axis, name))
    check_whole("input", axis.n)
    check_whole("output padding", axis.output_padding, at_least=0)
    if ceil and (transposed or axis.operation == "conv"):
        raise UsageError("only pooling has a ceil mode: leave it out, or add padding.")
    if axis.output_padding and not transposed:
        raise UsageError("only a transposed convolution has an output padding: leave it out.")
    if axis.dilation != 1 and axis.operation == "avgpool":
        raise UsageError("PyTorch's average pooling has no dilation: use a dilation of 1, or max pooling.")
    return _transposed(axis, padding, unit) if transposed else _windows(axis, padding, ceil, unit)


def check_whole(name: str, value: Any, *, at_least: int = 1) -> int:
    """Return the number if it is a whole one, and from `at_least` to a billion.

    Raises:
        UsageError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= LARGEST:
        shown = "a larger one" if isinstance(value, int) and value > LARGEST else repr(value)
        raise UsageError(f"{name} must be a whole number from {at_least} to a billion, got {shown}.")
    return value


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 row``, ``2 rows``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def _sides(padding: AxisPadding, same: int = 0) -> tuple[int, int]:
    """Padding before and after; `same` is the total that the word stands for, of which the odd one goes after."""
    if padding in ("same", "valid"):
        total = same * (padding == "same")
        return total // 2, total - total // 2
    if isinstance(padding, str):
        raise UsageError(f"unknown padding {padding!r}: give a number, 'same' or 'valid'.")
    both = tuple(padding) if isinstance(padding, Sequence) else (padding, padding)
    if len(both) != 2:
        raise UsageError(f"the padding of one axis is one number, or two for before and after, got {len(both)}.")
    return check_whole("padding", both[0], at_least=0), check_whole("padding", both[1], at_least=0)


def _side_remark(before: int, after: int) -> str:
    return "" if before == after else f"p0 = {before} is the padding before, p1 = {after} the padding after."


def _windows(axis: AxisSize, padding: AxisPadding, ceil: bool, unit: str) -> AxisSize:
    """A window slides over the padded input: convolution and pooling."""
    n, s, word = axis.n, axis.stride, "ceil" if ceil else "floor"
    before, after = _sides(padding, max((-(-n // s) - 1) * s + axis.span - n, 0))
    axis = replace(axis, padding=(before, after))
    if axis.operation != "conv":
        _check_pool_padding(axis)
    room = axis.padded - axis.span
    rounded = -(-room // s) if ceil else room // s
    outside = ceil and rounded >= 1 and rounded * s >= n + before
    result = rounded + 1 - outside
    if result < 1:
        raise UsageError(_too_small(axis, ceil, unit))
    unseen = max(0, n + before - (result - 1) * s - axis.span)
    if padding == "same":
        remark = f"That takes a padding of {before} before and {after} after."
        return axis.solved("ceil(n / s)", (), result=result, unseen=unseen, remark=remark)
    steps = (f"{word}({room} / {s}) + 1", f"{rounded} + 1", *(f"{rounded} + 1 - 1" for _ in range(outside)))
    left_out = "The last window would start in the padding after the input, so it is left out."
    remark = left_out if outside else _side_remark(before, after)
    formula = f"{word}((n + {'2*p' if before == after else 'p0 + p1'} - d*(k - 1) - 1) / s) + 1"
    return axis.solved(formula, steps, result=result, unseen=unseen, remark=remark)


def _transposed(axis: AxisSize, padding: AxisPadding, unit: str) -> AxisSize:
    """Each input spreads over a window of the output: the sizes of a convolution run backwards."""
    axis = _transposed_same(axis, unit) if padding == "same" else replace(axis, padding=_sides(padding))
    (before, after), extra, cut = axis.padding, axis.output_padding, sum(axis.padding)
    most = max(axis.stride, axis.dilation) - 1
    if extra > most:
        raise UsageError(
            f"an output padding of {extra} must be smaller than the stride ({axis.stride}) or the dilation "
            f"({axis.dilation}): use an output padding of at most {most}, or a stride of at least {extra + 1}."
        )
    whole = (axis.n - 1) * axis.stride + axis.span + extra
    if whole <= cut:
        missing = cut + 1 - whole
        raise UsageError(
            f"padding cuts off {cut} of the {counted(whole, unit)} that there would be: use a padding of at most "
            f"{(whole - 1) // 2}, a kernel of at least {axis.kernel - (-missing // axis.dilation)} or an input of at "
            f"least {axis.n - (-missing // axis.stride)}."
        )
    numbers = f"PyTorch wants same as numbers: padding {before} with output padding {extra}."
    return axis.solved(
        f"(n - 1)*s - {'2*p' if before == after else 'p0 - p1'} + d*(k - 1) + o + 1",
        (f"{(axis.n - 1) * axis.stride} - {cut} + {axis.span - 1} + {extra} + 1",),
        result=whole - cut,
        remark=numbers if padding == "same" else _side_remark(before, after),
    )


def _transposed_same(axis: AxisSize, unit: str) -> AxisSize:
    """The padding and the output padding that leave n * s outputs."""
    if axis.output_padding:
        raise UsageError("padding 'same' settles the output padding too: leave it out, or give both as numbers.")
    cut = axis.span - axis.stride
    half = max(-(-cut // 2), 0)
    if axis.stride == axis.dilation == 1 and cut % 2:
        raise UsageError(
            f"a kernel of {axis.kernel} at stride 1 leaves an odd number of {unit}s to cut off, and PyTorch cuts as "
            f"many before as after: use a kernel of {axis.kernel + 1}, or give the padding as a number."
        )
    return replace(axis, padding=(half, half), output_padding=2 * half - cut)


def _check_pool_padding(axis: AxisSize) -> None:
    most, got = axis.kernel // 2, max(axis.padding)
    if got > most:
        raise UsageError(
            f"pooling pads by at most half its kernel, so that no window sees padding alone: with a kernel of "
            f"{axis.kernel} use a padding of at most {most} and not {got}, or a kernel of at least {2 * got}."
        )


def _too_small(axis: AxisSize, ceil: bool, unit: str) -> str:
    """The window doesn't fit: what could be changed, and to what, so that one output is left."""
    missing = axis.span - axis.padded - (axis.stride - 1 if ceil else 0)
    kernel, padding = (axis.padded - 1) // axis.dilation + 1, -(-(sum(axis.padding) + missing) // 2)
    pooled, ways = axis.operation != "conv", []
    if not pooled or max(axis.padding) <= kernel // 2:
        ways.append(f"a kernel of at most {kernel}")
    if axis.dilation > 1 and axis.padded >= axis.kernel:
        ways.append(f"a dilation of at most {(axis.padded - 1) // (axis.kernel - 1)}")
    if not pooled or padding <= axis.kernel // 2:
        ways.append(f"a padding of at least {padding}")
    ways.append(f"an input of at least {axis.n + missing}")
    choice = " or ".join(filter(None, (", ".join(ways[:-1]), ways[-1])))
    spans = f" with dilation {axis.dilation} spans {axis.span} and" if axis.dilation > 1 else ""
    extra = f" and {sum(axis.padding)} of padding" if axis.padded > axis.n else ""
    return f"a kernel of {axis.kernel}{spans} does not fit into {counted(axis.n, unit)}{extra}: use {choice}."
