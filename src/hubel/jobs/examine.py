"""`hubel doctor`: a finished run, a folder of images, or somebody's own training script."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from hubel.doctor.diagnosis import diagnose
from hubel.doctor.rules import RULES
from hubel.doctor.script import watch_script
from hubel.doctor.signs import Case, Checkup, Taken
from hubel.errors import UsageError
from hubel.events import Event, Note
from hubel.records import Finding, by_kind
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
        yield Note(text=f"The report names {others} more findings, in the images and in the answers.")


def examining_script(script: Path, arguments: Sequence[str]) -> Iterator[Event]:
    """Run a script under the watch; findings are told when it has ended, the likeliest cause first."""
    found: list[Finding] = []
    doctor, ended = None, ""
    try:
        doctor = watch_script(script, arguments, found.append)
    except UsageError:
        raise
    except SystemExit as end:
        ended = f" It ended with exit code {end.code}." if end.code else ""
    except Exception as error:  # the script's own: it is said, with what was found until then
        ended = f" It ended with {type(error).__name__}: {error}"
    order = [finding.code for finding in doctor.findings] if doctor else []
    yield from sorted(found, key=lambda each: order.index(each.code) if each.code in order else len(order))
    if doctor is None and not found:
        yield Note(text=f"{script.name} trained no network on images (N, C, H, W).{ended}")
    elif not found:
        yield Note(text=f"Nothing is wrong with the training in {script.name}, by {len(RULES)} rules.{ended}")
    elif ended:
        yield Note(text=ended.strip())


def case_of(run: Path) -> Case:
    """What a run's log tells: some of its steps, and every epoch; no look inside."""
    steps: list[Taken] = []
    checkups: list[Checkup] = []
    n = 0
    for line in (run / "log.jsonl").read_text("utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "data_seen":
            counts = event["counts"].get("val") or next(iter(event["counts"].values()))
            n = sum(counts)
        elif event["event"] == "step":
            steps.append(
                Taken(
                    loss=_number(event["loss"]),
                    accuracy=0.0,
                    lr=event["lr"],
                    images=event["images"],
                    norm=_number(event["grad_norm"]),
                    seconds=event["seconds"],
                    waited=event["waited"],
                )
            )
        elif event["event"] == "epoch_row":
            checkups.append(
                Checkup(
                    step=event["step"],
                    loss=_number(event["val_loss"]),
                    accuracy=event["val_accuracy"],
                    n=n,
                    train_loss=_number(event["train_loss"]),
                    train_accuracy=event["train_accuracy"],
                    recalls=tuple(event["recalls"]),
                )
            )
    return Case(steps=steps, checkups=checkups)


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


def _number(value: float | None) -> float:
    return math.nan if value is None else value
