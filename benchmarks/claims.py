"""The claims of the textbooks as a table, and how often a variant differs from itself by the same rule.

hubel lab run degradation --data cifar10 --output runs/claims/degradation      # and so on, a folder each
python benchmarks/claims.py table runs/claims --output benchmarks/results/claims.json
python benchmarks/claims.py null fashion-mnist --output benchmarks/results/null.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from measuring import machine, versions, write

from hubel import lab
from hubel.as_json import to_json
from hubel.evaluation.contrast import Compared, effect
from hubel.evidence import RunRecord
from hubel.lab.claims import CLAIMS
from hubel.report.lab import difference_text, value_text
from hubel.runs import read_record

TRIALS, SEEDS = 20, 3


def table(folder: Path, output: Path) -> None:
    """Print a line for each claim that was run, and write all figures."""
    rows = json.loads(output.read_text())["claims"] if output.exists() else {}  # those that were run elsewhere stay
    for name in CLAIMS:
        file = folder / name / "results.json"
        if not file.exists():
            continue
        found = read_record(file, Compared)
        measure = found.question.measure
        values = "; ".join(f"{row.variant} {value_text(row.value, measure)}" for row in found.rows)
        said = "; ".join(
            f"{each.words}: {each.verdict}, {difference_text(each, measure)}" for each in found.differences
        )
        print(f"| {name} | {found.verdict} | {said} | {values} |")
        kept = {
            "rows": [{**to_json(row), "error": row.error[:23]} for row in found.rows],
            "differences": to_json(found.differences),
            "hardware": found.hardware,
            "machine": machine(),
        }
        rows[name] = {"verdict": found.verdict, "images": found.question.images, **kept}
    known = {name: rows[name] for name in CLAIMS if name in rows}
    write(output, {"versions": versions(), "claims": known})


def null(data: str, output: Path, folder: Path) -> None:
    """Train one variant with 2 x 20 x 3 seeds, and compare it with itself 20 times, no training used twice."""
    how = {"model": "simple-cnn", "widths": [16, 32], "epochs": 2, "batch_size": 64, "augment": "none"}
    found = lab.compare(data, {"one": how}, seeds=2 * TRIALS * SEEDS, images=2_000, output=folder)
    records = [RunRecord(folder / trial.run) for trial in found.trials]
    right = np.array([record.predictions == record.labels for record in records], dtype=float)
    pairs = right.reshape(TRIALS, 2, SEEDS, -1)
    effects = [effect((a - b).mean(1), (a - b).mean(0)) for a, b in pairs]
    verdicts = [each.verdict for each in effects]
    low, high = right.mean(1).min(), right.mean(1).max()
    print(f"undecided in {verdicts.count('undecided')} of {TRIALS}; accuracies {low:.3f} to {high:.3f}")
    said = {"undecided": verdicts.count("undecided"), "trials": TRIALS, "effects": to_json(effects)}
    write(output, {"machine": machine(), "versions": versions(), **said})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("table", "null"))
    parser.add_argument("where", help="folder of claims, or images")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("runs/null"), help="of the trainings of null")
    args = parser.parse_args()
    if args.what == "table":
        table(Path(args.where), args.output)
    else:
        null(args.where, args.output, args.folder)
