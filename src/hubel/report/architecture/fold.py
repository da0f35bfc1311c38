"""What repeats in a network, so that a picture shows it once: "×35"."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hubel.report.architecture.blocks import Block
from hubel.report.architecture.parts import Part

LONGEST_PERIOD, MANY = 12, 3


@dataclass(frozen=True, kw_only=True)
class Run:
    """Parts that come one after the other, and how many times all of them do."""

    parts: tuple[Part, ...]
    times: int = 1


def folded(whole: Sequence[Part], *, loosely: bool) -> list[Run]:
    """Find parts, or sequences of them, that repeat.

    Args:
        loosely: whether blocks count as equal that differ only in the number of channels they read.
    """
    inner = [_folded_inside(part) for part in whole]
    signs = [_sign(part, loosely) for part in inner]
    runs: list[Run] = []
    at = 0
    while at < len(inner):
        period, times = _repeat(signs, at)
        runs.append(Run(parts=tuple(inner[at : at + period]), times=times))
        at += period * times
    return runs


def _repeat(signs: Sequence[Hashable], at: int) -> tuple[int, int]:
    """The period and the number of repeats from here that cover most; the shorter period where they cover as much."""
    best = (1, 1)
    for period in range(1, min(LONGEST_PERIOD, (len(signs) - at) // 2) + 1):
        first, times = signs[at : at + period], 1
        while signs[at + period * times : at + period * (times + 1)] == first:
            times += 1
        if times > 1 and period * times > best[0] * best[1]:
            best = (period, times)
    return best


def _sign(part: Part, loosely: bool) -> Hashable:
    def plain(block: Block) -> Block:
        return replace(block, title="", macs=0, inputs=0 if loosely else block.inputs)

    skips = tuple(replace(skip, blocks=tuple(map(plain, skip.blocks))) for skip in part.skips)
    cells = tuple(replace(cell, block=plain(cell.block)) for cell in part.cells)
    shape = part.shape if part.cells or not loosely else (0, None)
    return replace(part, shape=shape, blocks=tuple(map(plain, part.blocks)), skips=skips, cells=cells)


def _folded_inside(part: Part) -> Part:
    """Fold what repeats between the joins of one part, as in a dense block, whose layers read ever more channels."""
    ends = sorted({0, len(part.blocks), *(skip.end for skip in part.skips)})
    chunks = list(pairwise(ends))
    signs = [
        tuple(replace(block, title="", inputs=0, macs=0) for block in part.blocks[first:last]) for first, last in chunks
    ]
    blocks: list[Block] = []
    spans: list[tuple[int, int, int]] = []
    place: dict[int, int] = {0: 0}
    at = 0
    while at < len(chunks):
        times = 1
        while at + times < len(chunks) and signs[at + times] == signs[at]:
            times += 1
        times = times if times >= MANY else 1
        first, (start, end) = len(blocks), chunks[at]
        blocks += part.blocks[start:end]
        if times > 1:
            spans.append((first, end - start, times))
        place |= {chunks[at + n][1]: len(blocks) for n in range(times)}
        at += times
    if not spans:
        return part
    skips = {(place.get(s.start, -1), place[s.end], s.join): s for s in reversed(part.skips)}
    kept = (replace(s, start=a, end=b) for (a, b, _), s in skips.items() if 0 <= a < b)
    return replace(part, blocks=tuple(blocks), spans=tuple(spans), skips=tuple(sorted(kept, key=lambda s: s.start)))
