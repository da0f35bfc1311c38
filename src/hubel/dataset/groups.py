"""Which images belong together, and must not be on both sides of a split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from hubel.dataset.folder import count, few, grouped
from hubel.records import PARTS, Finding

Indices = npt.NDArray[np.int64]


def components(number: int, groups: Iterable[Sequence[int]]) -> Indices:
    """(number,) consecutive ids, equal for indices that are connected through the groups."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = np.array([(group[0], other) for group in groups for other in group[1:]], np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(links)), links.T), shape=(number, number))
    ids: Indices = connected_components(graph, directed=False)[1].astype(np.int64)
    return ids


def torn_groups(paths: Sequence[str], groups: Sequence[str], parts: Sequence[str]) -> Iterator[Finding]:
    """Name, in one finding, the groups of a table that its own parts put on several sides."""
    members = grouped(range(len(paths)), groups.__getitem__)
    held = {name: {parts[i] for i in some} for name, some in members.items()}
    torn = {name: [part for part in PARTS if part in held[name]] for name in held if len(held[name]) > 1}
    if not torn:
        return
    every = tuple(paths[i] for name in torn for i in members[name])
    lower = tuple(paths[i] for name, some in torn.items() for i in members[name] if parts[i] != some[-1])
    names = few([f"{name} ({' and '.join(some)})" for name, some in torn.items()])
    message = (
        f"{count(len(torn), 'group')} of {len(members)} {'is' if len(torn) == 1 else 'are'} in several parts at once: "
        f"{names}; the score counts images as new whose group was learned: divide the table by groups, or leave its "
        "column of parts out and hubel does."
    )
    evidence = {"groups": len(torn), "of": len(members), "images": len(every)}
    yield Finding(code="group-leak", severity="warning", message=message, paths=every, exclude=lower, evidence=evidence)
