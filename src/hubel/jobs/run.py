"""What a run left on disk, for whoever looks at it later."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hubel.records import Baselines, Finding, Scores
from hubel.report.terminal import baseline_words, headline
from hubel.runs import read_record, verify

if TYPE_CHECKING:
    from hubel.jobs.answer import Classifier


@dataclass(frozen=True)
class Run:
    """A run folder, read from disk.

    Example:
        ``Run(Path("runs/flowers")).scores.accuracy``
    """

    path: Path

    @property
    def scores(self) -> Scores:
        """How good the model is on the reported part."""
        return read_record(self.path / "scores.json", Scores, "scores")

    @property
    def baselines(self) -> Baselines:
        """What stands beside it."""
        return read_record(self.path / "scores.json", Baselines, "baselines")

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the audit found."""
        return read_record(self.path / "findings.json", tuple[Finding, ...])

    @property
    def report(self) -> Path:
        """The report's path."""
        return self.path / "report.html"

    def load(self) -> Classifier:
        """Load the trained model."""
        from hubel.jobs.answer import Classifier, load

        classifier = load(self.path)
        assert isinstance(classifier, Classifier)
        return classifier

    def verify(self) -> None:
        """Compare every file with the run's manifest; raises RunError for the first that differs."""
        verify(self.path)

    def _repr_html_(self) -> str:
        """Show the run in a notebook: accuracy, baselines, the curves, and where the report is."""
        part = read_record(self.path / "scores.json", str, "part")
        curves = self.path / "pictures" / "curves.png"
        picture = ""
        if curves.exists():
            import base64

            picture = f'<img width="720" src="data:image/png;base64,{base64.b64encode(curves.read_bytes()).decode()}">'
        said = f"<b>{html.escape(headline(self.scores, part))}</b><br>{html.escape(baseline_words(self.baselines))}"
        return f"<div>{said}<br>{picture}<br>report: <code>{html.escape(str(self.report))}</code></div>"
