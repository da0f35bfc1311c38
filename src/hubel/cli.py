"""The command line: parse, call the verb, print. Flags come from the settings' dataclasses; torch is never needed here.

argparse rather than a larger library: absent flags stay absent (``SUPPRESS``), which is all that the precedence
flag > file > default takes, and ``--help`` starts in a tenth of a second.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO

from hubel import __version__
from hubel.errors import HubelError, Terminated
from hubel.verbs import VERBS

INTERRUPTED = 130
DRAWING = ("demo", "train", "resume", "report")
EXAMPLES = """\
examples:
  hubel demo                                  the whole road on handwritten digits, in under a minute
  hubel data photos/                          audit a folder of images, change nothing
  hubel train photos/ --minutes 10            a classifier with a report, in runs/photos
  hubel train photos/ --model resnet18 --epochs 30 --lr 0.05
  hubel resume runs/photos                    go on after an interruption, as if there had been none
  hubel evaluate runs/photos new-photos/
  hubel predict runs/photos image.jpg folder/ --output preds.csv
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0; 1 failure; 2 usage; 130 Ctrl-C; 143 SIGTERM."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a file name that the terminal can't show stops nothing
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _terminated)
    try:
        _make_way()
        given = _parsed(arguments)
        name = given.pop("verb", None)
        if name is None:
            parser().print_help()
            return 0
        if sys.flags.optimize > 1 and name in DRAWING and arguments is None:  # drawing needs its libraries' docstrings
            again = [sys.executable, "-P", "-m", "hubel", *sys.argv[1:]]
            os.execve(sys.executable, again, {**os.environ, "PYTHONOPTIMIZE": "1"})
        code = VERBS[name].call(name, given)
        sys.stdout.flush()
        return code
    except HubelError as error:
        return _failed(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _failed("Stopped by Ctrl-C.", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, `hubel … | head`
        _to_nowhere(sys.stdout)
        return 1
    except OSError as error:  # a name that is too long, a disk that is full, too few file descriptors
        what = "The output" if error.filename is None else f"{str(error.filename)[:80]}"
        return _failed(f"{what} can't be used ({error.strerror or error}): check the path and the disk.", 1)
    except MemoryError:
        return _failed("The memory is full: lower --batch-size or --size, or close other programs.", 1)
    except Exception as error:
        if os.environ.get("HUBEL_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return _failed(f"This is a mistake in hubel ({what}): set HUBEL_DEBUG=1 for the details to report it with.", 1)


def _make_way() -> None:
    """Where other programs keep all cores busy, let torch's threads sleep while they wait: 2.4 times faster there.

    Spinning costs nothing on an idle machine and saves a tenth; OpenMP reads the variable when torch is imported.
    """
    try:
        with open("/proc/loadavg", encoding="ascii") as file:
            running = int(file.read().split()[3].split("/")[0])  # this process is one of them
    except (OSError, ValueError, IndexError):  # not Linux
        return
    if running > (os.cpu_count() or 1):
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _parsed(arguments: Sequence[str] | None) -> dict[str, Any]:
    """Parse; places may stand before, between and after the flags."""
    top = parser()
    known, rest = top.parse_known_args(arguments)
    given = vars(known)
    if "places" in given:
        flags = [word for word in rest if word.startswith("-")]
        given["places"] += [word for word in rest if not word.startswith("-")]
        rest = flags
    if rest:
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    return given


class Parser(argparse.ArgumentParser):
    """Answers a wrong flag in one sentence, and not with a list of all the others."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and leave with 2."""
        self.exit(2, f"hubel: {message}; see {self.prog} --help.\n")


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    top = Parser(
        prog="hubel",
        description="From a folder of images to a classifier with evidence.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    top.add_argument("--version", action="version", version=f"hubel {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", dest="verb")
    for name, verb in VERBS.items():
        text = verb.text[0].upper() + verb.text[1:] + "."
        verb.flags(commands.add_parser(name, help=verb.text, description=text, argument_default=argparse.SUPPRESS))
    return top


def _failed(message: str, code: int) -> int:
    try:
        sys.stdout.flush()
    except OSError:  # a full disk: what is left in the buffer would be tried, and told, again at the end
        _to_nowhere(sys.stdout)
    print(f"hubel: {message}", file=sys.stderr)
    return code


def _to_nowhere(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _terminated(*_: object) -> NoReturn:
    raise Terminated("Stopped by SIGTERM.")


if __name__ == "__main__":
    sys.exit(main())
