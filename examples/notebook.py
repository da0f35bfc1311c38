"""Make a notebook of an exercise: python examples/notebook.py examples/x1_cifar10.py [NOTEBOOK.ipynb] [ARGUMENT...].

Each ``# %%`` begins a cell, and its line becomes a heading. The arguments, as the script takes them, stand in the first
cell, where they can be changed.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any


def notebook(script: Path, arguments: list[str]) -> dict[str, Any]:
    """Return a notebook (nbformat 4.5) of a script with ``# %%`` cells."""
    about, *cells = re.split(r"^# %% ?", script.read_text("utf-8"), flags=re.MULTILINE)
    title = ast.get_docstring(ast.parse(about)) or script.stem
    given = (
        f"import sys\n\nsys.path.insert(0, {str(script.resolve().parent)!r})\nsys.argv = {[script.name, *arguments]}"
    )
    made = [("markdown", f"# {title.splitlines()[0]}"), ("code", f"{given}\n__doc__ = {title.splitlines()[0]!r}")]
    for cell in cells:
        comment = re.match(r"(.*\n(?:# .*\n)*)", cell)
        assert comment is not None
        made.append(("markdown", "## " + re.sub(r"\n# ", " ", comment[0]).strip()))
        made.append(("code", cell[comment.end() :].strip()))
    return {"cells": [_cell(number, *one) for number, one in enumerate(made)], **FORMAT}


FORMAT = {"metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}


def _cell(number: int, kind: str, text: str) -> dict[str, Any]:
    cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


if __name__ == "__main__":
    script, *rest = sys.argv[1:]
    target = Path(rest.pop(0)) if rest and rest[0].endswith(".ipynb") else Path(script).with_suffix(".ipynb")
    target.write_text(json.dumps(notebook(Path(script), rest), indent=1), "utf-8")
    print(target)
