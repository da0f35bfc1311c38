"""What one process does for all that torchrun started: decoding, planning, making the run folder.

With a single process each of these is what it is for that one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

from hubel.as_json import from_json, to_json
from hubel.events import Event
from hubel.jobs.plan import Plan, StoredPlan
from hubel.jobs.recipe import Recipe
from hubel.learning.distributed import alone, from_first, rank, wait_for_all, world_size
from hubel.runs import Elsewhere, RunFolder

T = TypeVar("T")


def shared(work: Generator[Event, None, T]) -> Generator[Event, None, T]:
    """Let the first process decode into the cache, and then the others find it there."""
    if rank() > 0:
        wait_for_all()
    result = yield from work
    if rank() == 0:
        wait_for_all()
    return result


def shared_folder(make: Callable[[], RunFolder]) -> RunFolder:
    """Let the first process make the run folder, and tell the others where it is."""
    run = make() if rank() == 0 else None
    path = from_first(None if run is None else str(run.path))
    return Elsewhere(Path(path)) if run is None else run


def planned(
    make: Callable[[int], Generator[Event, None, Plan]], again: Callable[[StoredPlan, Recipe], Plan]
) -> Generator[Event, None, Plan]:
    """Let the first process plan from what it measures, and all of them follow that plan.

    Args:
        make: from the number of processes to the plan. again: makes it again from what `Plan.stored` returned.
    """
    plan = None
    if rank() == 0:
        count = world_size()
        with alone():
            plan = yield from make(count)
        if count == 1:
            return plan
    text = None if plan is None else json.dumps({"recipe": to_json(plan.recipe), "plan": to_json(plan.stored())})
    everything = json.loads(from_first(text))
    return again(from_json(StoredPlan, everything["plan"]), from_json(Recipe, everything["recipe"]))
