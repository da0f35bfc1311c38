"""The command line: parse, call the verb, print. Flags come from the settings' dataclasses; torch is never needed here.

argparse rather than a larger library: absent flags stay absent (``SUPPRESS``), which is all that the precedence
flag > file > default takes, and ``--help`` starts in a tenth of a second.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hubel import __version__
from hubel.errors import HubelError, Terminated, UsageError
from hubel.flags import add_conv_flags, add_json, add_run_flags, add_settings, add_weights

STARTED = time.monotonic()  # as near to the start of the process as an import gets
INTERRUPTED = 130
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
    signal.signal(signal.SIGTERM, _terminated)
    try:
        given = _parsed(arguments)
        if "verb" not in given:
            parser().print_help()
            return 0
        code: int = given.pop("verb")(given)
        sys.stdout.flush()
        return code
    except HubelError as error:
        return _failed(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _failed("Stopped by Ctrl-C.", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away, `hubel … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return _failed("The memory is full: lower --batch-size or --size, or close other programs.", 1)
    except Exception as error:
        if os.environ.get("HUBEL_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return _failed(f"This is a mistake in hubel ({what}): set HUBEL_DEBUG=1 for the details to report it with.", 1)


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
    commands = top.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, verb: Callable[[dict[str, Any]], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", argument_default=argparse.SUPPRESS
        )
        made.set_defaults(verb=verb)
        return made

    demo = command("demo", _demo, "the whole road on 1,797 handwritten digits, without a download")
    add_run_flags(demo)
    data = command("data", _data, "audit a folder of images: what is broken, doubled, leaking or too small")
    data.add_argument("source", metavar="DATA", help="folder, CSV, or a set's name such as cifar10")
    data.add_argument("--output", metavar="FILE", help="write the findings as JSON, for train --exclude")
    add_json(data)
    add_settings(data, sections={"data"})
    train = command("train", _train, "train a classifier and write its report")
    train.add_argument("source", metavar="DATA", help="folder, CSV, or a set's name such as cifar10")
    add_run_flags(train)
    resume = command("resume", _resume, "go on with an interrupted run, to the weights it would have ended with")
    resume.add_argument("run", metavar="RUN", help="run folder")
    resume.add_argument("source", metavar="DATA", nargs="?", help="where the images are now, if they were moved")
    resume.add_argument("--extend", type=int, metavar="N", help="train a finished run on for N epochs")
    resume.add_argument("--lr", type=float, metavar="X", help="peak rate of --extend (default: the last one)")
    resume.add_argument("--inexact", action="store_true", help="go on although versions, threads or hardware changed")
    resume.add_argument("--model", metavar="FILE.py:CLASS", help="the code that the run was trained with")
    add_json(resume)
    evaluate = command("evaluate", _evaluate, "measure a trained model on other images")
    evaluate.add_argument("places", metavar="RUN DATA", nargs="*", help="run or model folder; folder, CSV or set")
    add_weights(evaluate)
    evaluate.add_argument("--output", metavar="FILE", help="write the scores as JSON")
    evaluate.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps")
    add_json(evaluate)
    predict = command("predict", _predict, "name what is in images, with confidences")
    predict.add_argument(
        "places",
        metavar="RUN IMAGE|FOLDER",
        nargs="*",
        help="run folder, model folder or model.onnx; then image files and folders of images",
    )
    add_weights(predict)
    predict.add_argument("--output", metavar="FILE", help="write the answers as CSV")
    predict.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps")
    add_json(predict)
    _add_network_commands(command)
    report = command("report", _report, "draw a run's report again, from the files in its folder alone")
    report.add_argument("run", metavar="RUN", help="folder of a finished run, or a copy of one")
    add_json(report)
    cache = command("cache", _cache, "where decoded images are kept and how big they are")
    cache.add_argument("--clear", action="store_true", help="delete them all; they are made again when needed")
    add_json(cache)
    return top


Command = Callable[[str, Callable[[dict[str, Any]], int], str], argparse.ArgumentParser]


def _add_network_commands(command: Command) -> None:
    """What is about networks rather than about images: inspect, conv, export."""
    inspect = command("inspect", _inspect, "a network layer by layer: shapes, parameters, operations, receptive field")
    inspect.add_argument("network", metavar="NETWORK|RUN", help="a network's name, FILE.py:CLASS, or a trained model")
    inspect.add_argument("--input", metavar="C,H,W", help="the image, such as 3,224,224 (default: as published)")
    inspect.add_argument("--classes", type=int, metavar="N", help="of a network by name (default: as published)")
    inspect.add_argument("--time", action="store_true", help="measure milliseconds, too")
    inspect.add_argument("--object-size", type=int, metavar="N", help="pixels a side of what has to be recognised")
    inspect.add_argument("--model", metavar="FILE.py:CLASS", help="the code that a run was trained with")
    inspect.add_argument("--output", metavar="FILE", help="write the picture (.svg), a page (.html) or .json")
    add_json(inspect)
    conv = command("conv", _conv, "the arithmetic of one convolution or pooling layer, with the steps written out")
    add_conv_flags(conv)
    add_json(conv)
    export = command("export", _export, "write a trained model as one file that runs without hubel")
    export.add_argument("run", metavar="RUN", help="run folder or model folder")
    export.add_argument("--to", choices=("onnx",), help="the format (default onnx)")
    export.add_argument("--output", metavar="FILE", help="the file; beside the run folder by default")
    export.add_argument("--images", nargs="+", metavar="IMAGE|FOLDER", help="compare the answers on these")
    export.add_argument("--model", metavar="FILE.py:CLASS", help="the code that the run was trained with")
    add_json(export)


def _take(given: dict[str, Any]) -> dict[str, Any]:
    """Turn --json into how the verb shows its events."""
    if given.pop("json", False):
        given["show_as"] = "json"
    return given


def _demo(given: dict[str, Any]) -> int:
    from hubel.jobs import verbs

    verbs.demo(started=STARTED, **_take(given))
    return 0


def _train(given: dict[str, Any]) -> int:
    from hubel.jobs import verbs

    verbs.train(given.pop("source"), started=STARTED, **_take(given))
    return 0


def _resume(given: dict[str, Any]) -> int:
    from hubel.jobs import verbs

    verbs.resume(given.pop("run"), given.pop("source", None), **_take(given))
    return 0


def _data(given: dict[str, Any]) -> int:
    from hubel.jobs import verbs

    verbs.data(given.pop("source"), **_take(given))
    return 0


def _evaluate(given: dict[str, Any]) -> int:
    from hubel.jobs import verbs

    run, (source, *more) = _run_and_rest(given, "DATA")
    if more:
        raise UsageError(f"One set of images at a time: {more[0]} is one too many.")
    verbs.evaluate(run, source, **_take(given))
    return 0


def _predict(given: dict[str, Any]) -> int:
    from hubel.as_json import to_json
    from hubel.jobs import verbs

    as_json, output = given.pop("json", False), given.pop("output", None)
    if output is not None and not Path(output).absolute().parent.is_dir():
        raise UsageError(f"The folder of {output} does not exist: create it first.")
    answers = []
    run, images = _run_and_rest(given, "IMAGE")
    for answer in verbs.predicting(run, images, **given):
        answers.append(answer)
        if as_json:
            print(json.dumps({"event": "answer", **to_json(answer)}, ensure_ascii=False))
        elif output is None:
            print(_answer_line(answer))
    if output is not None:
        verbs.write_answers(answers, output)
        if not as_json:
            print(f"{len(answers):,} answers in {output}")
    for answer in answers if output is not None or as_json else ():
        if answer.error is not None:
            print(f"{answer.path} was left out: {answer.error}", file=sys.stderr)
    return 1 if all(answer.error is not None for answer in answers) else 0


def _run_and_rest(given: dict[str, Any], what: str) -> tuple[str | None, list[str]]:
    """Divide the places into the run, which --weights stand for if they are given, and the rest."""
    places = given.pop("places")
    with_run = "weights" not in given
    if len(places) < 1 + with_run:
        raise UsageError(
            f"expected {'RUN ' if with_run else ''}{what}, got {' '.join(places) or 'nothing'}: see --help."
        )
    return (places[0] if with_run else None), places[with_run:]


def _inspect(given: dict[str, Any]) -> int:
    from hubel.as_json import to_json
    from hubel.jobs import verbs
    from hubel.report.layers import summary_lines

    as_json = given.pop("json", False)
    if "input" in given:
        given["input"] = _whole_numbers("--input", given["input"])
    summary = verbs.inspect(given.pop("network"), **given)
    if as_json:
        print(json.dumps({"event": "summary", **to_json(summary)}, ensure_ascii=False))
        return 0
    print("\n".join(summary_lines(summary)))
    if "output" in given:
        print(f"\nwritten: {given['output']}")
    return 0


def _whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError as error:
        raise UsageError(f"{flag} {text}: expected whole numbers such as 3,224,224.") from error


def _conv(given: dict[str, Any]) -> int:
    from hubel.as_json import to_json
    from hubel.geometry.arithmetic import conv, conv_text

    as_json = given.pop("json", False)
    if "padding" in given:
        given["padding"] = _padding(given["padding"])
    result = conv(given.pop("input"), **given)
    print(json.dumps(to_json(result), ensure_ascii=False) if as_json else conv_text(result))
    return 0


def _padding(words: list[str]) -> str | list[int]:
    if words in (["same"], ["valid"]):
        return words[0]
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise UsageError(f"--padding {' '.join(words)}: expected whole numbers, same or valid.") from error


def _export(given: dict[str, Any]) -> int:
    from hubel.jobs import verbs

    verbs.export(given.pop("run"), **_take(given))
    return 0


def _report(given: dict[str, Any]) -> int:
    from hubel.jobs import verbs

    page = verbs.report(given["run"])
    print(json.dumps({"event": "report", "report": str(page)}) if given.get("json") else f"report   {page}")
    return 0


def _answer_line(answer: Any) -> str:
    if answer.error is not None:
        return f"{answer.path}: left out, {answer.error}"
    others = ", ".join(f"{name} {p:.1%}" for name, p in list(answer.probabilities.items())[1:3])
    return f"{answer.path}: {answer.label} {answer.confidence:.1%}" + (f"   (then {others})" if others else "")


def _cache(given: dict[str, Any]) -> int:
    from hubel.dataset.pack import cache_home
    from hubel.jobs import verbs

    before = sum(verbs.cache().values()) if given.get("clear") else 0
    held = verbs.cache(clear=given.get("clear", False))
    if given.get("json"):
        print(json.dumps({"event": "cache", "home": str(cache_home()), "entries": held, "freed": before}))
        return 0
    for name, size in held.items():
        print(f"{size / 2**20:>10,.1f} MiB  {name}")
    print(
        f"{sum(held.values()) / 2**20:>10,.1f} MiB  in {cache_home()}"
        + (f", {before / 2**20:,.1f} MiB freed" if before else "")
    )
    return 0


def _failed(message: str, code: int) -> int:
    print(f"hubel: {message}", file=sys.stderr)
    return code


def _terminated(*_: object) -> NoReturn:
    raise Terminated("Stopped by SIGTERM.")


if __name__ == "__main__":
    sys.exit(main())
