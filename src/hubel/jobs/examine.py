"""`hubel doctor`: a finished run, a folder of images, or somebody's own training script."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hubel.doctor.diagnosis import diagnose
from hubel.doctor.rules import RULES
from hubel.doctor.script import watch_script
from hubel.doctor.signs import Case, Checkup, Taken
from hubel.errors import HubelError, RunError, UsageError
from hubel.events import EpochRow, Event, Note
from hubel.evidence import RunRecord
from hubel.records import Finding, by_kind
from hubel.report.wording import counted
from hubel.runs import check_own, read_record

RATES = Path(__file__).parents[1] / "doctor" / "rates.json"


def examining_run(run: Path) -> Iterator[Event]:
    """What was found while a run was trained, and what its curves show."""
    check_own(run)
    kept = read_record(run / "findings.json", tuple[Finding, ...])
    told = [finding for finding in kept if finding.code in RULES]
    known = {finding.code for finding in told}
    told += [finding for finding in diagnose(case_of(run)) if finding.code not in known]
    yield from told
    others = sum(len(group) for group in by_kind(kept)) - len([f for f in kept if f.code in RULES])
    if not told:
        yield Note(text=f"Nothing is wrong with the training of {run}, by {len(RULES)} rules.")
    if others:
        yield Note(text=f"The report names {counted(others, 'more finding')}, in the images and in the answers.")


def examining_script(script: Path, arguments: Sequence[str]) -> Iterator[Event]:
    """Run a script under the watch; findings are told when it has ended, the likeliest cause first."""
    found: list[Finding] = []
    doctor, ended = None, ""
    try:
        doctor = watch_script(script, arguments, found.append)
    except UsageError:
        raise
    except SystemExit as end:
        ended = f" It ended with exit code {end.code}" if end.code else ""
    except Exception as error:  # the script's own: it is said, with what was found until then
        ended = f" It ended with {type(error).__name__}: {error}"
    last = doctor.said() if doctor else []
    still = {finding.code for finding in last}
    found = last + [each for each in found if each.code not in still and each.known == "measured"]
    yield from found
    if doctor is None and not found:
        none = f"{script.name} trained no network on images (N, C, H, W).{ended}"
        if ended:
            raise HubelError(f"{none}: mend that first.")
        yield Note(text=none)
    elif not found:
        yield Note(text=f"Nothing is wrong with the training in {script.name}, by {len(RULES)} rules.{ended}")
    elif ended:
        yield Note(text=ended.strip())


def case_of(run: Path) -> Case:
    """What a run's log tells: some of its steps, and every epoch; no look inside.

    Raises:
        RunError: the log is missing or damaged.
    """
    log = run / "log.jsonl"
    if not log.exists():
        raise RunError(f"{log} is missing, which the steps are in: restore it from a copy.")
    try:
        events = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        told = [_taken(event) for event in events if event["event"] == "step"]
        counts: dict[str, Any] = next(
            (event["counts"] for event in reversed(events) if event["event"] == "data_seen"), {}
        )
        n = sum(counts.get("val", ()))
        return Case(steps=told, checkups=[_checkup(row, n) for row in RunRecord(run).history])
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{log} can't be used ({error}): restore it from a copy.") from error


def _taken(event: Mapping[str, Any]) -> Taken:
    loss, norm = (math.nan if event[name] is None else float(event[name]) for name in ("loss", "grad_norm"))
    seconds, waited = float(event["seconds"]), float(event["waited"])
    return Taken(
        loss=loss,
        accuracy=0.0,
        lr=float(event["lr"]),
        images=int(event["images"]),
        norm=norm,
        seconds=seconds,
        waited=waited,
    )


def _checkup(row: EpochRow, n: int) -> Checkup:
    return Checkup(
        step=row.step,
        loss=row.val_loss,
        accuracy=row.val_accuracy,
        n=n,
        train_loss=row.train_loss,
        train_accuracy=row.train_accuracy,
        recalls=row.recalls,
    )


def rules() -> list[dict[str, object]]:
    """Every rule: what it recognises, what helps, and how often it was right and wrong when that was measured."""
    rates = json.loads(RATES.read_text("utf-8")) if RATES.exists() else {}
    return [
        {"code": rule.code, "cause": rule.cause, "remedy": rule.remedy, **rates.get(rule.code, {})}
        for rule in sorted(RULES.values(), key=lambda rule: (rule.depth, rule.number))
    ]


def rule_lines() -> list[str]:
    """The same as a table for the terminal."""
    lines = [f"{'rule':<28} {'found':>12} {'false alarms':>14}  cause"]
    for row in rules():
        lines.append(
            f"{row['code']:<28} {row.get('found', '-'):>12} {row.get('false_alarms', '-'):>14}  {row['cause']}"
        )
    return lines
