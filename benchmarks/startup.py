"""P7: seconds until `hubel --help` has ended, and until `hubel train` prints its first line.

    python benchmarks/startup.py DATA/cifar10 --output benchmarks/results/startup.json

Each is started --repeats times after one that doesn't count, which caches the bytecode (PYTHONDONTWRITEBYTECODE is
taken out of the environment). A training is ended as soon as its first line is there. Goals: 0.3 s and 2 s, which the
exit code says.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import environment, machine, summary, versions, write

HELP, LINE = 0.3, 2.0  # goals in seconds


def help_seconds() -> float:
    """Seconds from start to exit of `hubel --help`."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "hubel", "--help"], env=environment(), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def line_seconds(folder: str) -> tuple[float, str]:
    """Seconds until `hubel train FOLDER` says something, and what."""
    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "hubel", "train", folder, "--minutes", "1", "--output", str(Path(home) / "run")],
            env=environment(HUBEL_CACHE=str(Path(home) / "cache")),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.strip()), "")
        taken = time.perf_counter() - began
        process.kill()
        process.communicate()
        return taken, line.strip().replace(folder, Path(folder).name)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("folder", help="images to train on")
    ask.add_argument("--repeats", type=int, default=7)
    ask.add_argument("--output", type=Path)
    given = ask.parse_args()
    help_seconds()
    helps = [help_seconds() for _ in range(given.repeats)]
    line_seconds(given.folder)
    lines = [line_seconds(given.folder) for _ in range(given.repeats)]
    result = {
        "machine": machine(),
        "versions": versions(),
        "hubel --help, seconds": summary(helps),
        "first line of hubel train, seconds": summary([seconds for seconds, _ in lines]),
        "that line": lines[-1][1],
        "data": Path(given.folder).name,
    }
    write(given.output, result)
    raise SystemExit(summary(helps)["median"] > HELP or summary([seconds for seconds, _ in lines])["median"] > LINE)


if __name__ == "__main__":
    main()
