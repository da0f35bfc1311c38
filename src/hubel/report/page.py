"""The report's page: what each section shows, taken from the evidence and put into the template."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hubel.records import Finding, by_kind
from hubel.report.colour import ROLES, shades
from hubel.report.confusion import Answers, Grid
from hubel.report.evidence import Evidence, Explained
from hubel.report.pictures import augmentation, filters, overlay, picture, shrunk
from hubel.report.results import confusion, curves, epochs, per_class, shown_causes
from hubel.report.story import part_name, verdict
from hubel.report.thumbnails import measured_shot, plain_shot
from hubel.report.wording import (
    bare_percent,
    certainty,
    compact,
    counted,
    duration,
    percent,
    plain,
    shortened,
    whole,
)

MOST_PATHS = 200
MOST_EXPLAINED = 8
BIG = 192


def render(
    evidence: Evidence, said: Answers, grid: Grid, *, worst: list[int], drawn: Mapping[str, str], run: str
) -> str:
    """Fill the template.

    Args:
        evidence: what is shown. said: the network's answers. grid: the confusion matrix as shown.
        worst: indices of the worst errors.
        drawn: SVGs by name: headline, and loss, accuracy and rate if there is a history.
        run: the run folder as a reader would type it.
    """
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sections: dict[str, Any] = {
        **_head(evidence),
        "headline_chart": Markup(drawn["headline"]),
        "curves": curves(evidence, drawn),
        "epochs": epochs(evidence),
        **confusion(evidence, said, grid),
        **per_class(evidence),
        "worst": [measured_shot(evidence, said, i, side=BIG) for i in worst],
        "explained": _explained(evidence),
        "explained_by": plain(evidence.explained_by),
        **_filters(evidence),
        **_augmented(evidence),
        "findings": _findings(evidence),
        **_settings(evidence, run),
        "notes": [plain(note) for note in evidence.notes],
        "style": Markup(_style()),
        "script": Markup(script),
        "script_hash": digest,
    }
    linked = {panel["id"] for panel in sections["panels"]}
    sections["causes"] = shown_causes(evidence, said, linked)
    sections["contents"] = _contents(sections)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shortened"] = shortened
    return environment.from_string(_asset("report.html")).render(sections).lstrip()


def _asset(name: str) -> str:
    return files("hubel.report").joinpath(name).read_text(encoding="utf-8")


def _style() -> str:
    """The style sheet: roles and shades for both grounds, the chart's colours by role, then the rules."""

    def variables(column: int) -> str:
        roles = "".join(f"--{role}:{pair[column]};" for role, pair in ROLES.items())
        steps = "".join(f".s{i}{{--g:{g};--t:{t}}}" for i, (g, t) in enumerate(shades(dark=column == 1)))
        return f":root{{{roles}}}{steps}"

    charts = "".join(
        f'.chart [{kind}="{pair[0]}"]{{{kind}:var(--{role})}}'
        for role, pair in ROLES.items()
        for kind in ("fill", "stroke")
    )
    dark = f"@media screen and (prefers-color-scheme: dark){{{variables(1)}}}"
    return "\n".join((variables(0), dark, charts, _asset("report.css")))


def _contents(sections: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = [
        ("causes", "Causes of error", True),
        ("curves", "Training", bool(sections["curves"])),
        ("confusion", "Confusion matrix", True),
        ("classes", "Classes", True),
        ("worst", "Worst errors", True),
        ("gradcam", "Where it looked", bool(sections["explained"] or sections["explained_by"])),
        ("filters", "Filters", bool(sections["filters"])),
        ("augmentation", "Augmentation", bool(sections["augmented"])),
        ("findings", "Findings in the data", True),
        ("settings", "Settings", True),
        ("use", "Use the model", True),
        ("notes", "Limits", bool(sections["notes"])),
    ]
    return [(key, name) for key, name, present in names if present]


def _head(evidence: Evidence) -> dict[str, Any]:
    scores, card, part = evidence.scores, evidence.card, part_name(evidence)
    low, high = scores.interval
    interval = f"{bare_percent(low, scores.n)} to {percent(high, scores.n)}"
    images = sum(sum(counts) for counts in evidence.counts.values())
    facts = [
        ("balanced accuracy", percent(scores.balanced_accuracy, scores.n)),
        *([("among the top five", percent(scores.top5, scores.n))] if scores.top5 is not None else []),
        ("images in all", whole(images)),
        ("classes", whole(len(card.classes))),
        ("network", plain(card.architecture)),
        ("parameters", compact(evidence.parameters)),
        ("time", duration(evidence.seconds)),
    ]
    logistic = evidence.baselines.logistic
    texts = [f"network {percent(scores.accuracy, scores.n)}, interval {interval}"]
    texts += [f"logistic regression on small pixels {percent(logistic, scores.n)}"] if logistic is not None else []
    texts += [f"most frequent class {percent(evidence.baselines.majority, scores.n)}"]
    return {
        "title": plain(evidence.title),
        "source": plain(evidence.source),
        "created": plain(evidence.created).replace("T", " ")[:16],
        "part": part,
        "n": whole(scores.n),
        "accuracy": percent(scores.accuracy, scores.n),
        "interval": interval,
        "headline_text": "Accuracy: " + "; ".join(texts),
        "baseline_note": _baseline_note(evidence),
        "notices": _notices(evidence),
        "verdict": verdict(evidence),
        "facts": facts,
    }


def _baseline_note(evidence: Evidence) -> str:
    if evidence.baselines.logistic is None:
        return "Logistic regression was not fitted."
    return f"Logistic regression saw {counted(evidence.baselines.logistic_n, 'training image')} as small pixels."


def _notices(evidence: Evidence) -> list[str]:
    notices = [f"The run ended early. {plain(evidence.stopped)}"] if evidence.stopped else []
    if evidence.reported_part == "val":
        notices.append(
            "The data came without a test part, so the figures are of its val part. It was not used for choosing: "
            "the images that decided which epoch is best were split off from train."
        )
    return notices


def _explained(evidence: Evidence) -> list[tuple[str, list[dict[str, Any]]]]:
    groups = [("Wrong answers", evidence.wrong), ("Right answers", evidence.right)]
    return [(name, [_explanation(evidence, e) for e in group[:MOST_EXPLAINED]]) for name, group in groups if group]


def _explanation(evidence: Evidence, explained: Explained) -> dict[str, Any]:
    label, prediction = (plain(evidence.card.classes[i]) for i in (explained.label, explained.prediction))
    original = shrunk(picture(explained.image), BIG)
    heat = shrunk(overlay(explained.image, explained.heat), BIG)
    path = plain(explained.path)
    return {
        "original": plain_shot(original, f"{path}: label {label}, answered {prediction}"),
        "overlay": plain_shot(heat, f"Grad-CAM of {prediction} on {path}"),
        "label": "" if label == prediction else label,
        "prediction": prediction,
        "confidence": certainty(explained.confidence),
        "path": path,
        "note": plain(explained.note),
    }


def _filters(evidence: Evidence) -> dict[str, Any]:
    pair = [("Before training", evidence.filters_before), ("After training", evidence.filters_after)]
    shown = [(name, weights) for name, weights in pair if weights is not None and weights.size]
    if not shown:
        return {"filters": [], "filters_text": ""}
    count, channels, height, width = shown[-1][1].shape
    drawn = f"the first {64} of {whole(count)}" if count > 64 else f"all {whole(count)}"
    kind = {3: "in colour", 1: "in grey"}.get(channels, f"in grey, the first of their {channels} channels")
    text = (
        f"Weights of the first convolution, {height} × {width} pixels, {drawn} filters {kind}. Middle grey is zero; "
        "each filter has its own scale."
    )
    sheets = [(name, plain_shot(filters(weights), f"Filters {name.lower()}", exact=True)) for name, weights in shown]
    return {"filters": sheets, "filters_text": text}


def _augmented(evidence: Evidence) -> dict[str, Any]:
    if evidence.augmented is None or not evidence.augmented.size:
        return {"augmented": None, "augmented_by": ""}
    sheet = augmentation(evidence.augmented)
    return {
        "augmented": plain_shot(sheet, "Images and augmented versions of them"),
        "augmented_by": plain(evidence.augmented_by),
    }


def _findings(evidence: Evidence) -> list[dict[str, Any]]:
    """One entry a kind, errors first; a kind that was found often is told by its first case and a list."""
    return [_kind(group) for group in by_kind(evidence.findings)]


def _kind(group: list[Finding]) -> dict[str, Any]:
    first, several = group[0], len(group) > 1
    paths = [] if several else [plain(path) for path in first.paths[:MOST_PATHS]]
    rest = len(group) - MOST_PATHS if several else len(first.paths) - MOST_PATHS
    numbers = [f"{key.replace('_', ' ')}: {_short(value)}" for key, value in first.evidence.items()]
    files = len({path for finding in group for path in finding.paths})
    return {
        "severity": first.severity,
        "code": plain(first.code).replace("_", " ").replace("-", " "),
        "message": plain(first.message),
        "files": counted(files, "file") if files else "",
        "times": f"{whole(len(group))} times, for example:" if several else "",
        "paths": [plain(finding.message) for finding in group[:MOST_PATHS]] if several else paths,
        "rest": whole(rest) if rest > 0 else "",
        "left_out": first.left_out,
        "evidence": "" if several else plain(", ".join(numbers)),
    }


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shortened(plain(str(value)), 160)


def _settings(evidence: Evidence, run: str) -> dict[str, Any]:
    model = Path(run, "model").as_posix()
    return {
        "plan": [tuple(plain(text) for text in row) for row in evidence.plan],
        "recipe": "\n".join(plain(line) for line in evidence.recipe.splitlines()),
        "command": plain(evidence.command),
        "environment": [(plain(str(k)).replace("_", " "), _flat(v)) for k, v in evidence.environment.items()],
        "python_use": (
            f"import hubel\n\nmodel = hubel.load({json.dumps(model, ensure_ascii=False)})\n"
            'for answer in model.predict(["photo.jpg"]):\n    print(answer.label, answer.confidence)'
        ),
        "shell_use": f"hubel predict {shlex.quote(run)} photo.jpg",
    }


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(str(key))} {_flat(inner)}" for key, inner in value.items())
    return ", ".join(map(_flat, value)) if isinstance(value, (list, tuple)) else plain(str(value))
