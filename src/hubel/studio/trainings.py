"""Trainings that the studio started: `hubel train` in processes of their own, which outlive it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any

from fastapi import APIRouter, Body, Request

from hubel.errors import UsageError
from hubel.studio.guard import Places

router = APIRouter(prefix="/api")


@dataclass(frozen=True)
class Training:
    """One process, and what it printed to its standard error."""

    process: subprocess.Popen[bytes]
    said: IO[bytes]

    def row(self, name: str) -> dict[str, Any]:
        """How it is, for the page; of one that failed, its last sentence."""
        code = self.process.poll()
        self.said.seek(0)
        last = (self.said.read().decode("utf-8", "replace").strip().splitlines() or [""])[-1]
        said = f"{name} has ended." if code == 0 else f"{name} has ended early: {last or f'exit code {code}'}"
        return {"name": name, "running": code is None, "said": said}


@dataclass
class Trainings:
    """Those of one studio, by the names of their runs."""

    begun: dict[str, Training] = field(default_factory=dict)

    def start(self, folder: Path, source: str, minutes: float, name: str) -> None:
        """Start one in ``folder/name``.

        Raises:
            UsageError: a name that is no folder's, data that would be a flag, minutes that are not above zero.
        """
        if not re.fullmatch(r"\w[\w.-]{0,99}", name):
            raise UsageError(f"{name!r} can't name a run: use letters, digits, dots, - and _.")
        if not source or source.startswith("-") or not 0 < minutes < 1e5:
            raise UsageError("Say which images (a folder, a CSV, or a set's name), and for how many minutes.")
        if name in self.begun and self.begun[name].process.poll() is None:
            raise UsageError(f"{name} is being trained: stop it first, or give another name.")
        if (folder / "plan.json").exists():
            raise UsageError(f"{folder} is a run itself: start hubel studio on a folder of runs to add some.")
        command = [sys.executable, "-P", "-m", "hubel", "train", source]
        command += ["--minutes", f"{minutes:g}", "--output", str(folder / name)]
        said = tempfile.TemporaryFile()  # noqa: SIM115 (read until the studio ends)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
        self.begun[name] = Training(process, said)

    def stop(self, name: str) -> None:
        """Ask one to end; it keeps its best weights.

        Raises:
            UsageError: this studio has started none of that name.
        """
        if name not in self.begun:
            raise UsageError(f"{name} was not started here: stop it where it runs, with Ctrl-C.")
        self.begun[name].process.terminate()

    def rows(self) -> list[dict[str, Any]]:
        """All of them, for the page."""
        return [training.row(name) for name, training in self.begun.items()]


@router.post("/train")
def train(
    request: Request, source: Annotated[str, Body()], minutes: Annotated[float, Body()], name: Annotated[str, Body()]
) -> dict[str, Any]:
    """Start a training in the first of the given folders."""
    places: Places = request.app.state.places
    trainings: Trainings = request.app.state.trainings
    trainings.start(places.folders[0], source.strip(), minutes, name.strip())
    return {"trainings": trainings.rows()}


@router.post("/stop")
def stop(request: Request, name: Annotated[str, Body(embed=True)]) -> dict[str, Any]:
    """Ask a training that was started here to end."""
    trainings: Trainings = request.app.state.trainings
    trainings.stop(name)
    return {"trainings": trainings.rows()}
