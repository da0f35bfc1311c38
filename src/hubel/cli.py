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
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from hubel import __version__
from hubel.errors import HubelError, Terminated, UsageError

STARTED = time.monotonic()  # as near to the start of the process as an import gets
INTERRUPTED = 130

EXAMPLES = """\
examples:
  hubel demo                                  the whole road on handwritten digits, in under a minute
  hubel data photos/                          audit a folder of images, change nothing
  hubel train photos/ --minutes 10            a classifier with a report, in runs/photos
  hubel train photos/ --model resnet18 --epochs 30 --lr 0.05
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
        given = vars(parser().parse_args(arguments))
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


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    top = argparse.ArgumentParser(
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
    _add_run_flags(demo)
    data = command("data", _data, "audit a folder of images: what is broken, doubled, leaking or too small")
    data.add_argument("source", metavar="DATA", help="folder, CSV, or a set's name such as cifar10")
    data.add_argument("--output", metavar="FILE", help="write the findings as JSON, for train --exclude")
    _add_json(data)
    _add_settings(data, sections={"data"})
    train = command("train", _train, "train a classifier and write its report")
    train.add_argument("source", metavar="DATA", help="folder, CSV, or a set's name such as cifar10")
    _add_run_flags(train)
    evaluate = command("evaluate", _evaluate, "measure a trained model on other images")
    evaluate.add_argument("run", metavar="RUN", help="run folder or model folder")
    evaluate.add_argument("source", metavar="DATA", help="folder, CSV, or a set's name")
    evaluate.add_argument("--output", metavar="FILE", help="write the scores as JSON")
    evaluate.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps")
    _add_json(evaluate)
    predict = command("predict", _predict, "name what is in images, with confidences")
    predict.add_argument("run", metavar="RUN", help="run folder or model folder")
    predict.add_argument("images", metavar="IMAGE|FOLDER", nargs="+", help="image files and folders of images")
    predict.add_argument("--output", metavar="FILE", help="write the answers as CSV")
    predict.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps")
    _add_json(predict)
    cache = command("cache", _cache, "where decoded images are kept and how big they are")
    cache.add_argument("--clear", action="store_true", help="delete them all; they are made again when needed")
    _add_json(cache)
    return top


def _add_json(to: argparse.ArgumentParser) -> None:
    to.add_argument("--json", action="store_true", help="print one JSON object per event, for machines")


def _add_run_flags(to: argparse.ArgumentParser) -> None:
    to.add_argument("--output", metavar="RUN", help="the run folder; runs/<name>[-N] by default")
    to.add_argument("--overwrite", action="store_true", help="replace an earlier run in that folder")
    to.add_argument("-c", "--recipe", metavar="FILE", help="recipe.yaml of settings, or an earlier run's folder")
    _add_json(to)
    _add_settings(to, sections={"", "data", "model", "train"})


def _add_settings(to: argparse.ArgumentParser, sections: set[str]) -> None:
    """One flag per setting, grouped as in the recipe."""
    from hubel.jobs.recipe import settings

    titles = {"": "the dial", "data": "data", "model": "network", "train": "training"}
    groups = {section: to.add_argument_group(title) for section, title in titles.items() if section in sections}
    for setting in settings():
        if setting.section in groups:
            default = "" if setting.default is None else f" (default {_word(setting.default)})"
            flag, options = f"--{setting.name.replace('_', '-')}", _options(setting.kind)
            groups[setting.section].add_argument(flag, help=(setting.help + default).replace("%", "%%"), **options)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _options(kind: Any) -> dict[str, Any]:
    """Turn a type into argparse's options."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _options(next(k for k in inner if k is not type(None)))
    if origin is typing.Literal:
        return {"choices": inner, "type": type(inner[0])}
    if origin is tuple:
        return {"nargs": len(inner), "type": inner[0], "metavar": "N"}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    return {"type": kind, "metavar": {int: "N", float: "X"}.get(kind, "NAME")}


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


def _data(given: dict[str, Any]) -> int:
    from hubel.jobs import verbs

    verbs.data(given.pop("source"), **_take(given))
    return 0


def _evaluate(given: dict[str, Any]) -> int:
    from hubel.jobs import verbs

    verbs.evaluate(given.pop("run"), given.pop("source"), **_take(given))
    return 0


def _predict(given: dict[str, Any]) -> int:
    from hubel.jobs import verbs
    from hubel.records import to_json

    as_json, output = given.pop("json", False), given.pop("output", None)
    if output is not None and not Path(output).absolute().parent.is_dir():
        raise UsageError(f"The folder of {output} does not exist: create it first.")
    answers = []
    for answer in verbs.predicting(given.pop("run"), given.pop("images"), **given):
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
