"""`rename`: other names for the classes of a run, whose images stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hubel.as_json import to_json
from hubel.errors import UsageError
from hubel.evidence import RunRecord
from hubel.jobs.measure import predictions_csv
from hubel.jobs.plan import StoredPlan
from hubel.nn.saved import describe_model, read_card
from hubel.report.page import write_report
from hubel.runs import Division, RunFolder, read_record, verify


def renamed(folder: Path, names: Mapping[str, str]) -> tuple[str, ...]:
    """Rename classes in a run's plan, model, scores, predictions and report; returns the new names in their order.

    What was written while it was trained (curves, log, findings) keeps the names of then. plan.json remembers them, so
    that the run goes on with the same folders, and they are evaluated under the new names.

    Raises:
        RunError: there is no such run, it was damaged, or another process writes to it.
        UsageError: no such class, or two classes would get one name.
    """
    RunFolder.check_begun(folder)
    verify(folder)
    plan, _ = read_record(folder / "plan.json", StoredPlan), read_record(folder / "split.json", Division)
    before, trained = plan.card.classes, {now: then for then, now in plan.renamed.items()}
    after = tuple(names.get(name, name) for name in before)
    if unknown := [name for name in names if name not in before]:
        raise UsageError(f"{folder} has no class {unknown[0]!r}; its classes are {', '.join(before[:10])}.")
    if twice := [name for name in after if after.count(name) > 1 or not name.strip()]:
        raise UsageError(
            f"{twice[0]!r} would be the name of two classes, or of none: a network's answers can't be merged "
            f"afterwards. Put the images into one folder and train again, with --weights {folder}."
        )
    sealed, run = (folder / "manifest.json").exists(), RunFolder.open(folder)
    try:
        if (run.model / "config.json").exists():
            describe_model(run.model, replace(read_card(run.model), classes=after))
        if (folder / "scores.json").exists():
            kept = RunRecord.open(folder)
            per_class = [replace(one, name=name) for one, name in zip(kept.scores.per_class, after, strict=True)]
            scores = replace(kept.scores, per_class=tuple(per_class))
            run.write("scores.json", {"part": kept.reported, "scores": scores, "baselines": kept.baselines})
            run.write("predictions.csv", predictions_csv(kept.paths, kept.labels, kept.probabilities, after))
        new = {trained.get(old, old): name for old, name in zip(before, after, strict=True)}
        card = replace(plan.card, classes=after)
        run.write("plan.json", to_json(replace(plan, card=card, renamed=new)))
        if (folder / "report.html").exists():
            write_report(folder)
        if sealed:
            run.seal()
    finally:
        run.release()
    return after
