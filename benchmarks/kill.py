"""Kill trainings, resume them, and compare the weights with those of trainings that nobody killed.

    python benchmarks/kill.py --kills 200 --terms 100 --flips 10000 --output benchmarks/results/kill.json

Half of the kills come at a random moment, a quarter inside of a save, and a quarter hit one of two processes. A killed
training is resumed, and killed again, until it ends; then the SHA-256 over its weights, optimizer, random state and
sums must be that of the undisturbed one, and each kill on its way counts as one that was survived. A process that is
killed or stopped while another one works with it must be named by that one. SIGTERM must end a training in five
seconds with exit code 143 and without losing a step. Every flipped bit and every truncation of a state must be noticed,
and a write error at any call must leave a run that can go on. Exit code 1 if anything differs.

Each training is a child that was forked when torch had been imported: it starts in a tenth of a second, and nothing of
the one before is in its memory.
"""

from __future__ import annotations

import argparse
import datetime
import errno
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair  # noqa: F401  (what a training imports late, so that children needn't)
import sklearn.linear_model  # noqa: F401
import torch
import vl_convert  # noqa: F401

import hubel
import hubel.jobs.measure
import hubel.jobs.processes
from hubel.dataset.find import scan
from hubel.errors import HubelError
from hubel.jobs import state_file
from hubel.jobs import training as training_state
from hubel.learning import distributed
from hubel.nn import tensor_file
from hubel.nn.tensor_file import read_tensors
from hubel.runs import STATE

EACH = 60  # images of each of four digits
SMALL: dict[str, Any] = {"epochs": 4, "batch_size": 16, "seed": 5}
RECIPES: dict[str, dict[str, Any]] = {
    "quick": {**SMALL, "width": 16, "dropout": 0.2},
    "muon with an average": {**SMALL, "width": 16, "optimizer": "muon", "ema": 0.9},
    "adamw, accumulated": {**SMALL, "width": 16, "optimizer": "adamw", "accumulate": 2, "augment": "strong"},
    "speed": {**SMALL, "model": "speed", "width": 8, "optimizer": "muon", "schedule": "linear"},
    "float32, balanced": {**SMALL, "width": 16, "precision": "float32", "balance": "sampler"},
    "wide": {**SMALL, "epochs": 2, "width": 128},  # whose convolutions take tiles or strips, as the processor likes
}


def data(home: Path) -> Path:
    """Some of the embedded digits, as a folder."""
    root = scan("digits").root
    for name in "0178":
        (home / "digits" / name).mkdir(parents=True)
        for file in sorted((root / name).iterdir())[:EACH]:
            shutil.copy(file, home / "digits" / name / file.name)
    return home / "digits"


class Child:
    """A training in a process of its own (or in two), forked from here.

    Args:
        prepare: called in the child before it trains.
    """

    def __init__(
        self,
        images: Path,
        run: Path,
        recipe: dict[str, Any],
        *,
        processes: int = 1,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.began = time.monotonic()
        self.codes: dict[int, int | None] = {}
        port = _free_port()
        for number in range(processes):
            pid = os.fork()
            if pid == 0:
                _train(images, run, recipe, number, processes, port, prepare)
            self.codes[pid] = None

    def wait(self, seconds: float) -> list[int | None]:
        """Wait for the end of all processes, at most so long; exit codes are negative for signals, None for none."""
        end = time.monotonic() + seconds
        while True:
            for pid in [pid for pid, code in self.codes.items() if code is None]:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.codes[pid] = os.waitstatus_to_exitcode(status)
            if None not in self.codes.values() or time.monotonic() > end:
                return list(self.codes.values())
            time.sleep(0.005)

    def kill(self, number: int = 0, what: int = signal.SIGKILL) -> None:
        """Send a signal to one of the processes, if it is still there."""
        if list(self.codes.values())[number] is None:
            os.kill(list(self.codes)[number], what)


def _train(
    images: Path,
    run: Path,
    recipe: dict[str, Any],
    number: int,
    count: int,
    port: int,
    prepare: Callable[[], None] | None,
) -> None:
    """What a child does; it never returns."""
    code = 0
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(run.with_suffix(f".{number}.err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        if count > 1:
            os.environ |= {"RANK": str(number), "WORLD_SIZE": str(count), "LOCAL_RANK": str(number)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        torch.set_num_threads(1)
        state_file.LEAST, state_file.SHARE = 0.0, 0  # store at every step
        if prepare is not None:
            prepare()
        if (run / "plan.json").exists():
            hubel.resume(run, show_as="none")
        else:
            hubel.train(images, output=run, overwrite=run.exists(), show_as="none", **recipe)
    except HubelError as error:
        print(error, file=sys.stderr, flush=True)
        code = error.exit_code
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        code = 70
    os._exit(code)


def _impatient() -> None:
    """In a child: give up another process after 15 seconds instead of a minute."""
    distributed.PATIENCE = datetime.timedelta(seconds=15)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def digest(run: Path) -> str:
    """SHA-256 over everything that training depends on, and the model that was kept."""
    tensors = dict(read_tensors(run / STATE)[0])
    tensors |= {f"kept.{name}": value for name, value in read_tensors(run / "model" / "model.safetensors")[0].items()}
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def is_refused(file: Path) -> bool:
    """Whether a damaged file is noticed."""
    try:
        read_tensors(file)
    except HubelError:
        return True
    return False


class Bench:
    """All tests on one folder of images.

    Args:
        home: for runs that come and go.
    """

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.images = home, data(home)
        self.random = random.Random(seed)
        self.wanted: dict[tuple[str, int], tuple[str, float]] = {}
        self.failures: list[str] = []

    def reference(self, name: str, processes: int) -> tuple[str, float]:
        """Digest and seconds of a training that nobody disturbs."""
        if (name, processes) not in self.wanted:
            run = self.home / "undisturbed"
            shutil.rmtree(run, ignore_errors=True)
            child = Child(self.images, run, RECIPES[name], processes=processes)
            codes = child.wait(120)
            if any(code != 0 for code in codes):
                said = " ".join(file.read_text() for file in self.home.glob("undisturbed.*.err"))
                raise SystemExit(f"the undisturbed training {name!r} ended with {codes}: {said}")
            self.wanted[name, processes] = digest(run), time.monotonic() - child.began
        return self.wanted[name, processes]

    def kills(self, count: int, *, processes: int = 1, in_saves: bool = False) -> dict[str, Any]:
        """Kill until `count` kills were made and their trainings have ended."""
        made, same, part_files = 0, 0, 0
        while made < count:
            name = self.random.choice(list(RECIPES))
            wanted, seconds = self.reference(name, processes)
            run, chain = self.home / "killed", 0
            shutil.rmtree(run, ignore_errors=True)
            while True:
                prepare = self._die_in_a_save if in_saves and made + chain < count else None
                child = Child(self.images, run, RECIPES[name], processes=processes, prepare=prepare)
                if made + chain < count and not in_saves:
                    codes = child.wait(self.random.uniform(0.05, 0.95) * seconds)
                    if None in codes:
                        victim = self.random.choice([n for n, code in enumerate(codes) if code is None])
                        child.kill(victim)
                        if processes > 1:  # as torchrun does: ask the other one to end, and then make it
                            for what in (signal.SIGTERM, signal.SIGKILL):
                                child.kill(1 - victim, what)
                                child.wait(5)
                        child.wait(10)
                        chain += 1
                        if not (run / "manifest.json").exists():
                            continue
                        codes = [0] * processes  # killed on its way out: nothing was left to do
                else:
                    codes = child.wait(120)
                    if codes == [-signal.SIGKILL]:
                        part_files += any(run.rglob("*.part"))
                        chain += 1
                        continue
                break
            made += chain
            if any(code != 0 for code in codes):
                said = " ".join(file.read_text() for file in self.home.glob("killed.*.err"))[-500:]
                self.failures.append(f"{name}: a training that was resumed ended with {codes}: {said}")
            elif digest(run) == wanted:
                same += chain
            else:
                self.failures.append(f"{name}, {processes} processes: other weights after {chain} kills")
                shutil.copytree(run, self.home / f"other-{len(self.failures)}")
            print(f"  {made} kills, {same} survived: {name}", flush=True)
        found: dict[str, Any] = {"kills": made, "identical": same}
        if in_saves:
            found["of them with half a file left behind"] = part_files
        return found

    def losses(self, count: int) -> dict[str, Any]:
        """Kill or stop one of two processes, and let the other one say which."""
        made, named, slowest = 0, 0, 0.0
        while made < count:
            seconds = self.reference("quick", 2)[1]
            run, lost, what = self.home / f"lost-{made}", made % 2, (signal.SIGKILL, signal.SIGSTOP)[made // 2 % 2]
            child = Child(self.images, run, RECIPES["quick"], processes=2, prepare=_impatient)
            if not self._came_to(run / STATE, child, 9 * seconds):
                self.failures.append("the training that was to lose a process ended before")
                break
            child.kill(lost, what)
            sent = time.monotonic()
            while list(child.codes.values())[1 - lost] is None and time.monotonic() < sent + 60:
                child.wait(0.1)
            took, code = time.monotonic() - sent, list(child.codes.values())[1 - lost]
            said = run.with_suffix(f".{1 - lost}.err").read_text()
            for number in (0, 1):
                child.kill(number)
            child.wait(5)
            made, slowest = made + 1, max(slowest, took)
            if code == 1 and f"process {lost} died or hangs" in said:
                named += 1
            else:
                self.failures.append(f"process {lost} was lost to signal {what}: exit {code}, {said!r}")
        return {"lost": made, "named by the other one": named, "slowest, seconds": round(slowest, 1)}

    @staticmethod
    def _came_to(file: Path, child: Child, seconds: float) -> bool:
        """Wait until a training has written a file."""
        while not file.exists():
            if None not in child.wait(0.01) or time.monotonic() > child.began + seconds:
                return False
        return True

    def _die_in_a_save(self) -> None:
        """In a child: die at a random moment of one of the next saves."""
        chance, write = random.Random(os.getpid() + time.time_ns()), tensor_file.write_bytes
        left = chance.randint(0, 12)

        def dying(file: Path, content: bytes | bytearray | memoryview) -> None:
            nonlocal left
            left -= 1
            if left >= 0:
                return write(file, content)
            threading.Thread(target=lambda: (time.sleep(chance.uniform(0, 0.004)), os.kill(os.getpid(), 9))).start()
            write(file, content)
            return time.sleep(1)

        tensor_file.write_bytes = dying  # type: ignore[assignment]

    def terms(self, count: int) -> dict[str, Any]:
        """Send SIGTERM at random moments of the training."""
        shared = mmap.mmap(-1, 8)
        slowest, lost, right, made = 0.0, 0, 0, 0

        def count_steps() -> None:
            keep_pace = training_state.keep_pace

            def counting(training: Any, event: Any, **more: Any) -> bool:
                shared[:8] = struct.pack("q", training.record.steps_before + event.step)
                return keep_pace(training, event, **more)

            training_state.keep_pace = counting

        while made < count:
            name = self.random.choice(list(RECIPES))
            seconds = self.reference(name, 1)[1]
            run = self.home / "terminated"
            shutil.rmtree(run, ignore_errors=True)
            shared[:8] = struct.pack("q", 0)
            child = Child(self.images, run, RECIPES[name], prepare=count_steps)
            target = self.random.randint(1, 40)
            while (
                struct.unpack("q", shared[:8])[0] < target
                and child.wait(0.0) == [None]
                and time.monotonic() < child.began + 9 * seconds
            ):
                time.sleep(0.001)
            sent = time.monotonic()
            child.kill(what=signal.SIGTERM)
            [code] = child.wait(30)
            took = time.monotonic() - sent
            if code == 0:
                continue  # it had ended just before
            made += 1
            slowest = max(slowest, took)
            right += code == 143 and took <= 5
            values = json.loads(read_tensors(run / STATE)[1]["values"])
            kept = values["record"]["steps_before"] + values["loop"]["step"]
            lost += struct.unpack("q", shared[:8])[0] - kept
            if code != 143 or took > 5:
                self.failures.append(f"{name}: SIGTERM ended with {code} after {took:.1f} s")
        if lost:
            self.failures.append(f"{lost} steps were lost to SIGTERM")
        return {"sent": made, "exit 143 within 5 s": right, "slowest, seconds": round(slowest, 2), "steps lost": lost}

    def damage(self, flips: int) -> dict[str, Any]:
        """Flip single bits of a state and of a model, and cut them off at every length."""
        self.reference("quick", 1)
        found: dict[str, Any] = {}
        run = self.home / "whole"
        shutil.rmtree(run, ignore_errors=True)
        Child(self.images, run, {**RECIPES["quick"], "epochs": 1}).wait(120)
        for name in (STATE, "model/model.safetensors"):
            content = (run / name).read_bytes()
            damaged = self.home / "damaged.safetensors"
            noticed = 0
            for _ in range(flips // 2):
                place = self.random.randrange(len(content))
                changed = bytearray(content)
                changed[place] ^= 1 << self.random.randrange(8)
                damaged.write_bytes(changed)
                noticed += is_refused(damaged)
            damaged.write_bytes(content)
            cut = 0
            for length in reversed(range(len(content))):
                os.truncate(damaged, length)
                cut += is_refused(damaged)
            found[name] = {
                "bytes": len(content),
                "flips": flips // 2,
                "noticed": noticed,
                "truncations": len(content),
                "noticed too": cut,
            }
            if noticed < flips // 2 or cut < len(content):
                self.failures.append(
                    f"{name}: {flips // 2 - noticed} flips and {len(content) - cut} truncations passed"
                )
        return found

    def write_errors(self) -> dict[str, Any]:
        """Let each write of a training fail, one after the other."""
        name, call, good = "quick", 0, 0
        recipe = {**RECIPES[name], "epochs": 2, "batch_size": 100}
        run = self.home / "undisturbed-2"
        Child(self.images, run, recipe).wait(120)
        wanted = digest(run)
        while True:
            run = self.home / f"full-{call}"

            def fail_once(at: int = call) -> None:
                calls = iter(range(10**9))

                def failing(real: Callable[..., Any]) -> Callable[..., Any]:
                    def function(*arguments: Any, **more: Any) -> Any:
                        if next(calls) == at:
                            raise OSError(errno.ENOSPC, "No space left on device")
                        return real(*arguments, **more)

                    return function

                os.fsync, os.replace = failing(os.fsync), failing(os.replace)

            [code] = Child(self.images, run, recipe, prepare=fail_once).wait(120)
            if code == 0:
                break
            [again] = Child(self.images, run, recipe).wait(120)
            finished = "is finished" in run.with_suffix(".0.err").read_text()  # the error came with the last write
            fine = code == 1 and (again == 0 or finished) and digest(run) == wanted
            good += fine
            shutil.rmtree(run, ignore_errors=True)
            if not fine:
                self.failures.append(f"write error at call {call}: exit {code}, then {again}")
            call += 1
        return {"calls": call, "non-zero exit and a run that goes on to the same weights": good}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--kills", type=int, default=200)
    ask.add_argument("--terms", type=int, default=100)
    ask.add_argument("--flips", type=int, default=10_000)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--output", type=Path)
    given = ask.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("HUBEL_CACHE", str(Path(folder) / "cache"))
        bench, began = Bench(Path(folder), given.seed), time.monotonic()
        quarter = given.kills // 4
        tests: dict[str, Callable[[], dict[str, Any]]] = {
            "killed at random moments": lambda: bench.kills(given.kills - 2 * quarter),
            "killed inside of a save": lambda: bench.kills(quarter, in_saves=True),
            "one of two processes killed": lambda: bench.kills(quarter, processes=2),
            "one of two processes lost": lambda: bench.losses(min(8, quarter)),
            "SIGTERM": lambda: bench.terms(given.terms),
            "damaged files": lambda: bench.damage(given.flips),
            "write errors": bench.write_errors,
        }
        results: dict[str, Any] = {}
        for name, test in tests.items():
            results[name] = test()
            print(f"{name}: {json.dumps(results[name])}", flush=True)
        results["seconds"] = round(time.monotonic() - began)
        results["torch"] = torch.__version__
        for failure in bench.failures:
            print(f"DIFFERENT: {failure}", file=sys.stderr)
        if given.output:
            given.output.write_text(json.dumps(results, indent=1) + "\n")
        raise SystemExit(1 if bench.failures else 0)


if __name__ == "__main__":
    main()
