"""Events on the terminal: a line per epoch over a progress bar, plain lines without a terminal, or JSON lines."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Generator, Iterable, Iterator
from typing import Literal, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from hubel.as_json import json_text
from hubel.events import (
    DataSeen,
    EpochRow,
    Event,
    Finished,
    Measured,
    Note,
    Planned,
    Progress,
    Sampled,
    Step,
    event_json,
)
from hubel.records import Baselines, Finding, Scores, by_kind
from hubel.report.wording import plain

T = TypeVar("T")
Show = Literal["auto", "json", "none"]
SHOWN = 3  # findings of one kind that are named on the terminal before a training; findings.json has them all
NAMED = 12  # classes
AUDITED = 50  # and in an audit alone
MARKS = {"error": "[red]✗[/]", "warning": "[yellow]![/]", "note": "[dim]·[/]"}


def show(events: Iterable[Event], how: Show = "auto") -> Iterator[Event]:
    """Pass events on, and print each of them."""
    if how == "none":
        yield from events
        return
    if how == "json":
        steps = Sampled()
        for event in events:
            for told in (
                steps.taken(event) if isinstance(event, Step) else () if isinstance(event, Progress) else (event,)
            ):
                print(json_text(event_json(told)), flush=True)
            yield event
        return
    screen = _Screen(Console(highlight=False, soft_wrap=True))
    try:
        for event in events:
            screen.print(event)
            yield event
    finally:
        screen.close()


def shown(work: Generator[Event, None, T], how: Show) -> T:
    """Run a generator of events to its end, print the events, and return its result."""
    found: list[T] = []

    def events() -> Generator[Event, None, None]:
        found.append((yield from work))

    for _ in show(events(), how):
        pass
    return found[0]


def tracked(items: Iterable[T], total: int, task: str) -> Iterator[T]:
    """Pass items on under a progress bar on standard error, where that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    with Bars(*_columns(), console=console, transient=True) as bars:
        yield from bars.track(items, total=total, description=task)


def _columns() -> tuple[ProgressColumn, ...]:
    return (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


class _Screen:
    """Lines on standard output, above one progress bar where there is a terminal or a notebook."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars: Bars | None = None
        self.task: tuple[str, TaskID] | None = None
        self.table_begun = False

    def print(self, event: Event) -> None:
        if isinstance(event, Step):
            self._bar(Progress(task=f"epoch {event.epoch} of {event.epochs}", done=event.batch, total=event.batches))
            return
        if isinstance(event, Progress):
            self._bar(event)
            return
        self.close()
        match event:
            case DataSeen():
                self._lines(data_lines(event))
            case Planned():
                self._lines(plan_lines(event))
            case EpochRow():
                if not self.table_begun:
                    self._lines(["", "[bold]" + HEADER + "[/]"])
                    self.table_begun = True
                self._lines([epoch_line(event)])
            case Measured():
                self._lines(measured_lines(event))
            case Finished():
                self._lines(finished_lines(event))
            case Finding():
                self._lines(finding_lines([event], SHOWN, ""))
            case Note():
                self._lines([escape(event.text)])

    def _lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.console.print(line)

    def _bar(self, event: Progress) -> None:
        if self.console.is_jupyter:
            share = event.done / max(event.total, 1)
            print(f"\r{event.task} {'█' * round(30 * share):<30} {share:4.0%}", end="", file=sys.stderr, flush=True)
            return
        if not self.console.is_terminal:
            return
        if self.bars is None:
            self.bars = Bars(*_columns(), console=self.console, transient=True)
            self.bars.start()
        if self.task is None or self.task[0] != event.task:
            if self.task is not None:
                self.bars.remove_task(self.task[1])
            self.task = (event.task, self.bars.add_task(escape(event.task), total=event.total))
        self.bars.update(self.task[1], completed=event.done, total=event.total)

    def close(self) -> None:
        """Take the bar away; whatever is printed next stands on clean lines."""
        if self.bars is not None:
            self.bars.stop()
        elif self.console.is_jupyter and self.task is not None:
            print("\r", end="", file=sys.stderr)
        self.bars = self.task = None


def data_lines(event: DataSeen) -> list[str]:
    """The data's verdict: counts, then what is wrong, the worst first."""
    total = f"{event.images:,} usable images, {len(event.classes)} classes"
    names = [plain(name) for name in event.classes]
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    lines = [f"[bold]{escape(event.source)}[/]: {total}: {escape(', '.join(names[:NAMED]))}{more}"]
    for part, counts in event.counts.items():
        lines.append(f"  {part:<6}{sum(counts):>8,} images, {min(counts):,} to {max(counts):,} a class")
    if not event.findings:
        return [*lines, "  nothing wrong was found"]
    if event.divided:
        return [*lines, *finding_lines(event.findings, SHOWN, "all named in the run's findings.json")]
    return [*lines, *finding_lines(event.findings, AUDITED, "--output FILE names them all")]


def finding_lines(findings: Iterable[Finding], shown: int, where: str) -> list[str]:
    """One line per finding; more than `shown` of one kind are counted."""
    lines = []
    for group in by_kind(findings):
        lines += [f"  {MARKS[f.severity]} {escape(plain(f.message))}{_left_out(f)}" for f in group[:shown]]
        if len(group) > shown:
            lines.append(f"    … and {len(group) - shown:,} more of the kind '{group[0].code}': {where}")
    return lines


def _left_out(finding: Finding) -> str:
    return " [dim](left out)[/]" if finding.left_out and finding.code != "unreadable" else ""


def plan_lines(event: Planned) -> list[str]:
    """What will be done and why, one line each."""
    lines = ["", f"[bold]Plan[/] [dim](saved in {escape(event.folder)})[/]"]
    return lines + [f"  {escape(f'{what:<13}{value}')}  [dim]{escape(why)}[/]" for what, value, why in event.rows]


HEADER = (
    f"{'epoch':>9} {'train loss':>10} {'acc':>7} {'val loss':>9} {'acc':>7}  "
    f"{'weakest class':<24} {'img/s':>7} {'left':>6}"
)


def epoch_line(row: EpochRow) -> str:
    """One epoch as a line under `HEADER`; a star marks the best so far."""
    worst = f"{plain(row.worst_class)[:17]} {row.worst_recall:.0%}"
    left = f"{int(row.seconds_left) // 60}:{int(row.seconds_left) % 60:02d}"
    return escape(
        f"{row.epoch:>5}/{row.epochs:<3} {row.train_loss:>10.3f} {row.train_accuracy:>7.1%} {row.val_loss:>9.3f} "
        f"{row.val_accuracy:>6.1%}{'*' if row.best else ' '}  {worst:<24} {row.images_per_second:>7,.0f} {left:>6}"
    )


def measured_lines(event: Measured) -> list[str]:
    """Accuracy with its interval beside the baselines, then the table of classes."""
    scores = event.scores
    lines = ["", f"[bold]{headline(scores, event.part)}[/]"]
    if event.baselines is not None:
        lines.append(f"  beside it: {baseline_words(event.baselines)}")
    top5 = "" if scores.top5 is None else f", top-5 {scores.top5:.1%}"
    lines.append(f"  balanced accuracy {scores.balanced_accuracy:.1%}{top5}, loss {scores.loss:.3f}")
    if scores.ece is not None and scores.ece_interval is not None:
        low, high = scores.ece_interval
        lines.append(
            f"  confidence and accuracy lie {scores.ece:.1%} apart (calibration error; {low:.1%} to {high:.1%})"
        )
    lines += ["", f"  {'class':<24} {'precision':>9} {'recall':>7} {'F1':>6} {'images':>7}"]
    weakest = sorted(scores.per_class, key=lambda c: c.f1)
    for c in weakest[:20]:
        name = escape(f"{plain(c.name)[:24]:<24}")
        lines.append(f"  {name} {c.precision:>9.1%} {c.recall:>7.1%} {c.f1:>6.3f} {c.support:>7,}")
    if len(weakest) > 20:
        lines.append(f"  … and {len(weakest) - 20} better ones, all in the report")
    return lines + confusion_lines(scores)


def headline(scores: Scores, part: str) -> str:
    """Say accuracy, interval, n and part in one line."""
    low, high = scores.interval
    name = {"test": "Test", "val": "Validation"}.get(part, part)
    return f"{name} accuracy {scores.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}, n = {scores.n:,})"


def baseline_words(baselines: Baselines) -> str:
    """Say the two baselines in words."""
    said = f"always the most frequent class {baselines.majority:.1%}"
    if baselines.logistic is not None:
        said += f", logistic regression on small pixels {baselines.logistic:.1%}"
    return said


def confusion_lines(scores: Scores, count: int = 3) -> list[str]:
    """The most frequent confusions, as likeliest causes of error."""
    pairs = [(n, i, j) for i, row in enumerate(scores.confusion) for j, n in enumerate(row) if i != j and n > 0]
    if not pairs:
        return []
    errors = sum(n for n, _, _ in pairs)
    names = [plain(c.name) for c in scores.per_class]
    lines = ["", f"  Most of the {errors:,} errors:"]
    for n, i, j in sorted(pairs, reverse=True)[:count]:
        lines.append(escape(f"    {names[i]} taken for {names[j]}: {n:,} ({n / errors:.0%} of the errors)"))
    return lines


def finished_lines(event: Finished) -> list[str]:
    """Where the results lie, and the exact next commands."""
    folder = shlex.quote(event.folder)
    lines = ["", f"Ended early: {escape(event.stopped)}"] if event.stopped else [""]
    lines += [f"[yellow]{escape(sentence)}[/]" for sentence in event.advice]
    lines.append(f"Done in {int(event.seconds) // 60}:{int(event.seconds) % 60:02d}.")
    if event.report:
        lines.append(f"  report   {escape(event.report)}")
    lines.append(f"  use it   hubel predict {escape(folder)} IMAGE…")
    lines.append(f"  check it hubel evaluate {escape(folder)} FOLDER")
    return lines
