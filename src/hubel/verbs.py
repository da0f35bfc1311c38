"""The commands, a row each: parser, public names and the documents' list are made from this table.

A new command is a function in `hubel.jobs` and a row here. Nothing here imports torch; a function's module is imported
when its command is called.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubel.errors import UsageError
from hubel.flags import (
    add_code,
    add_conv_flags,
    add_device,
    add_json,
    add_lab_flags,
    add_output,
    add_places,
    add_run_flags,
    add_settings,
    add_weights,
)

STARTED = time.monotonic()  # as near to the start of the process as an import gets
Given = dict[str, Any]  # what the command line gave, by the names of the function's parameters


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One command.

    Attributes:
        text: what it does, in a few words. home: module of the function of its name, inside of `hubel`.
        flags: add its arguments to a parser; their names are those of the function's parameters.
        call: calls the function with what was given, and returns the exit code.
    """

    text: str
    home: str
    flags: Callable[[argparse.ArgumentParser], None]
    call: Callable[[str, Given], int]


def function(name: str) -> Callable[..., Any]:
    """Import and return the function of a command."""
    found: Callable[..., Any] = getattr(importlib.import_module(f"hubel.{VERBS[name].home}"), name)
    return found


def _call(name: str, given: Given) -> int:
    """Call a function that shows its events itself."""
    if given.pop("json", False):
        given["show_as"] = "json"
    function(name)(**given)
    return 0


def _call_timed(name: str, given: Given) -> int:
    """Call a function whose minutes begin with the process."""
    return _call(name, {**given, "started": STARTED})


def _say(kind: str, value: Any, *, of_record: bool = True) -> None:
    from hubel.as_json import json_text, to_json

    print(json_text({"event": kind, **(to_json(value) if of_record else value)}))


def _lab(_: str, given: Given) -> int:
    what, as_json = given.pop("what"), given.pop("json", False)
    if what == "fault":
        from hubel.lab.fault import fault, lines

        seen = fault(**given)
        if as_json:
            _say("fault", seen)
        else:
            print("\n".join(lines(seen)))
        return 0
    if what == "list":
        from hubel.lab.claims import claim_lines, claims

        for line in [] if as_json else claim_lines():
            print(line)
        for each in claims() if as_json else []:
            _say("claim", each, of_record=False)
        return 0
    from hubel.lab.claims import run
    from hubel.lab.compare import compare
    from hubel.lab.variants import parsed

    if what == "compare":
        given["variants"] = parsed(given.pop("vary", []), given.pop("variant", []))
    found = (compare if what == "compare" else run)(**given, show_as="none" if as_json else "auto")
    if as_json:
        _say("compared", found)
    return 0


def _evaluate(name: str, given: Given) -> int:
    run, (source, *more) = _run_and_rest(name, given, "DATA")
    if more:
        raise UsageError(f"One set of images at a time: {more[0]} is one too many.")
    return _call(name, {"run": run, "source": source, **given})


def _predict(name: str, given: Given) -> int:
    from hubel.jobs import api

    as_json, output = given.pop("json", False), given.pop("output", None)
    columns = {name: given.pop(name) for name in ("spreadsheet", "top", "probabilities") if name in given}
    shown = None if columns.get("probabilities") else columns.get("top", 3)
    if columns.get("top", 1) < 1:
        raise UsageError(f"--top {columns['top']}: expected a number of classes above zero.")
    if output is not None and not Path(output).absolute().parent.is_dir():
        raise UsageError(f"The folder of {output} does not exist: create it first.")
    answers = []
    run, images = _run_and_rest(name, given, "IMAGE")
    for answer in api.predicting(run, images, **given):
        answers.append(answer)
        if as_json:
            _say("answer", answer)
        elif output is None:
            print(_answer_line(answer, shown))
    if output is not None:
        api.write_answers(answers, output, **columns, unsure="unsure" in given)
        if not as_json:
            marked = f", {sum(a.unsure for a in answers):,} of them unsure" if "unsure" in given else ""
            print(f"{len(answers):,} answers in {output}{marked}")
    for answer in answers if output is not None or as_json else ():
        if answer.error is not None:
            print(f"{answer.path} was left out: {answer.error}", file=sys.stderr)
    return 1 if all(answer.error is not None for answer in answers) else 0


def _explain(_: str, given: Given) -> int:
    from hubel.jobs import api
    from hubel.jobs.explain import write_explanations

    as_json, run = given.pop("json", False), Path(given.pop("run"))
    output = given.pop("output", None) or (run / "explained" if (run / "plan.json").exists() else Path("explained"))
    found = []
    for one in api.explaining(run, given.pop("images"), **given):
        found.append(one)
        if as_json:
            _say("explanation", one.record(), of_record=False)
        else:
            print("\n".join(one.lines()))
    folder = write_explanations(found, output)
    if not as_json:
        print(f"pictures: {folder}")
    return 1 if all(one.error for one in found) else 0


def _answer_line(answer: Any, shown: int | None) -> str:
    if answer.error is not None:
        return f"{answer.path}: left out, {answer.error}"
    unsure = "unsure, perhaps " if answer.unsure else ""
    others = ", ".join(f"{name} {p:.1%}" for name, p in list(answer.probabilities.items())[1:shown])
    return f"{answer.path}: {unsure}{answer.label} {answer.confidence:.1%}" + (f"   (then {others})" if others else "")


def _run_and_rest(name: str, given: Given, what: str) -> tuple[str | None, list[str]]:
    """Divide the places into the run, which --weights stand for if they are given, and the rest."""
    places = given.pop("places", [])
    with_run = "weights" not in given
    if len(places) < 1 + with_run:
        wanted = f"RUN {what}" if with_run else what
        raise UsageError(f"expected {wanted}, got {' '.join(places) or 'nothing'}: see hubel {name} --help.")
    return (places[0] if with_run else None), places[with_run:]


def _rename(name: str, given: Given) -> int:
    places = given.get("places", [])
    run, *pairs = places or [""]
    if not pairs or not all("=" in pair[1:] for pair in pairs):
        raise UsageError(f"expected RUN OLD=NEW, got {' '.join(places) or 'nothing'}: see hubel {name} --help.")
    names: dict[str, str] = dict(pair.rsplit("=", 1) for pair in pairs)
    print(f"The classes of {run} are now {', '.join(function(name)(run, names))}.")
    return 0


def _compare(name: str, given: Given) -> int:
    from hubel.report.comparison import comparison_lines

    as_json, places = given.pop("json", False), given.pop("places", [])
    if len(places) not in (2, 3):
        raise UsageError(
            f"expected RUN RUN and perhaps DATA, got {' '.join(places) or 'nothing'}: see hubel {name} --help."
        )
    found = function(name)(*places, **given, show_as="none" if as_json else "auto")
    if as_json:
        _say("comparison", found)
    else:
        print("\n".join(comparison_lines(found)))
    return 0


def _inspect(name: str, given: Given) -> int:
    from hubel.report.layers import summary_lines

    as_json = given.pop("json", False)
    if "input" in given:
        given["input"] = _whole_numbers("--input", given["input"])
    summary = function(name)(**given)
    if as_json:
        _say("summary", summary)
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


def _conv(name: str, given: Given) -> int:
    from hubel.as_json import json_text
    from hubel.geometry.layer import conv_text

    as_json = given.pop("json", False)
    if "padding" in given:
        given["padding"] = _padding(given["padding"])
    result = function(name)(**given)
    print(json_text(result) if as_json else conv_text(result))
    return 0


def _padding(words: list[str]) -> str | list[int]:
    if words in (["same"], ["valid"]):
        return words[0]
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise UsageError(f"--padding {' '.join(words)}: expected whole numbers, same or valid.") from error


def _cache(name: str, given: Given) -> int:
    from hubel.dataset.cache import cache_home

    as_json, clear = given.pop("json", False), given.get("clear", False)
    before = sum(function(name)().values()) if clear else 0
    held: dict[str, int] = function(name)(**given)
    if as_json:
        _say("cache", {"home": str(cache_home()), "entries": held, "freed": before}, of_record=False)
        return 0
    for entry, size in held.items():
        print(f"{size / 2**20:>10,.1f} MiB  {entry}")
    freed = f", {before / 2**20:,.1f} MiB freed" if before else ""
    print(f"{sum(held.values()) / 2**20:>10,.1f} MiB  in {cache_home()}{freed}")
    return 0


def _data_flags(to: argparse.ArgumentParser) -> None:
    to.add_argument("source", metavar="DATA", help="folder, CSV, or a set's name such as cifar10")
    to.add_argument("--labels", action="store_true", help="also look for labels that are probably wrong")
    add_output(to, "FILE", "write the findings as JSON, for train --exclude")
    add_json(to)
    add_settings(to, sections={"data"})


def _train_flags(to: argparse.ArgumentParser) -> None:
    to.add_argument("source", metavar="DATA", help="folder, CSV, or a set's name such as cifar10")
    add_run_flags(to)


def _resume_flags(to: argparse.ArgumentParser) -> None:
    to.add_argument("run", metavar="RUN", help="run folder")
    to.add_argument("source", metavar="DATA", nargs="?", help="where the images are now, if they were moved")
    to.add_argument("--extend", type=int, metavar="N", help="train a finished run on for N epochs")
    to.add_argument("--lr", type=float, metavar="X", help="peak rate of --extend (default: the last one)")
    to.add_argument("--inexact", action="store_true", help="go on although versions, threads or hardware changed")
    add_code(to)
    add_json(to)


def _evaluate_flags(to: argparse.ArgumentParser) -> None:
    add_places(to, "RUN DATA", "run or model folder; folder, CSV or set")
    add_weights(to)
    add_output(to, "FILE.json|FOLDER", "write the scores; or in a folder answers, errors and a page, too")
    add_device(to)
    add_json(to)


def _predict_flags(to: argparse.ArgumentParser) -> None:
    what = "run folder, model folder or model.onnx; then image files and folders of images"
    add_places(to, "RUN IMAGE|FOLDER", what)
    add_weights(to)
    add_output(to, "FILE", "write the answers as CSV")
    to.add_argument("--unsure", type=float, metavar="SHARE", help="of errors to accept; other answers are unsure")
    to.add_argument("--top", type=int, metavar="K", help="name the K likeliest classes")
    to.add_argument("--all", action="store_true", dest="probabilities", help="give the probability of every class")
    to.add_argument("--spreadsheet", action="store_true", help="with a quote before what would be a formula")
    add_device(to)
    add_json(to)


def _explain_flags(to: argparse.ArgumentParser) -> None:
    to.add_argument("run", metavar="RUN", help="run folder or model folder")
    to.add_argument("images", metavar="IMAGE|FOLDER", nargs="+", help="image files and folders of images")
    to.add_argument("--method", metavar="NAME", help="gradcam (default), layercam, occlusion, integrated-gradients, …")
    to.add_argument(
        "--layer", metavar="NAME", help="the module whose maps are looked at (default: chosen, with its reason)"
    )
    to.add_argument("--class", dest="label", metavar="NAME", help="the class to explain (default: the likeliest)")
    add_output(to, "FOLDER", "for pictures and explanations.json (default RUN/explained)")
    add_code(to)
    add_device(to)
    add_json(to)


def _doctor_flags(to: argparse.ArgumentParser) -> None:
    add_json(to)
    to.add_argument("--rules", action="store_true", help="list what it recognises, and how often it is right and wrong")
    to.add_argument("source", metavar="RUN|FOLDER|SCRIPT.py", nargs="?", help="what is to be examined")
    to.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="of the script")


def _tune_flags(to: argparse.ArgumentParser) -> None:
    to.add_argument("source", metavar="DATA", help="folder, CSV, or a set's name such as cifar10")
    to.add_argument("-c", "--recipe", metavar="FILE", help="recipe.yaml of settings that are not searched")
    to.add_argument("--workers", type=int, metavar="N", help="processes side by side (default: as many as cores)")
    to.add_argument("--on", metavar="ray|ADDRESS", help="a Ray cluster instead: one of this machine, or an address")
    add_output(to, "FOLDER", "for study.db, recipe.yaml and the comparison (default runs/tune-NAME); a search goes on")
    to.add_argument("--overwrite", action="store_true", help="begin the search in that folder anew")
    add_json(to)
    add_settings(to, sections={"", "data", "model", "train"})


def _compare_flags(to: argparse.ArgumentParser) -> None:
    add_places(to, "RUN RUN [DATA]", "run or model folders; folder, CSV or set (default: what both runs reported on)")
    add_output(to, "FILE|FOLDER", "write the comparison as JSON")
    add_code(to)
    add_device(to)
    add_json(to)


def _inspect_flags(to: argparse.ArgumentParser) -> None:
    to.add_argument("network", metavar="NETWORK|RUN", help="a network's name, FILE.py:CLASS, or a trained model")
    to.add_argument("--input", metavar="C,H,W", help="the image, such as 3,224,224 (default: as published)")
    to.add_argument("--classes", type=int, metavar="N", help="of a network by name (default: as published)")
    to.add_argument("--time", action="store_true", help="measure milliseconds, too")
    to.add_argument("--object-size", type=int, metavar="N", help="pixels a side of what has to be recognised")
    add_code(to)
    add_output(to, "FILE", "write the picture (.svg), a page (.html) or .json")
    add_json(to)


def _conv_flags(to: argparse.ArgumentParser) -> None:
    add_conv_flags(to)
    add_json(to)


def _export_flags(to: argparse.ArgumentParser) -> None:
    to.add_argument("run", metavar="RUN", help="run folder or model folder")
    to.add_argument("--to", choices=("onnx",), help="the format (default onnx)")
    add_output(to, "FILE", "the file; beside the run folder by default")
    to.add_argument("--images", nargs="+", metavar="IMAGE|FOLDER", help="compare the answers on these")
    add_code(to)
    add_json(to)


def _rename_flags(to: argparse.ArgumentParser) -> None:
    add_places(to, "RUN OLD=NEW", "run folder; then each class that is renamed, with its new name")


def _report_flags(to: argparse.ArgumentParser) -> None:
    to.add_argument("run", metavar="RUN", help="run folder")
    add_json(to)


def _cache_flags(to: argparse.ArgumentParser) -> None:
    to.add_argument("--clear", action="store_true", help="delete them all; they are made again when needed")
    add_json(to)


def _studio_flags(to: argparse.ArgumentParser) -> None:
    to.add_argument("folder", metavar="RUN_OR_FOLDER", nargs="?", help="a run, or a folder of runs (default runs)")
    to.add_argument(
        "--model", metavar="FILE.py:CLASS", help="a network of your own, untrained, and for runs of its code"
    )
    to.add_argument("--port", type=int, metavar="N", help="on 127.0.0.1 (default 8757; 0: any that is free)")
    to.add_argument("--no-browser", dest="browser", action="store_false", help="only print the address")


def _doctor(_: str, given: Given) -> int:
    from hubel.jobs import api

    as_json = given.pop("json", False)
    if given.pop("rules", False):
        from hubel.jobs.examine import rule_lines, rules

        for line in [] if as_json else rule_lines():
            print(line)
        for row in rules() if as_json else []:
            _say("rule", row, of_record=False)
        return 0
    if "source" not in given:
        raise UsageError("hubel doctor RUN, FOLDER or SCRIPT.py: say what is to be examined; or --rules.")
    api.examine(given["source"], given.get("arguments", ()), show_as="json" if as_json else "auto")
    return 0


def _report(name: str, given: Given) -> int:
    as_json, page = given.pop("json", False), str(function(name)(**given))
    if as_json:
        _say("report", {"report": page}, of_record=False)
    else:
        print(page)
    return 0


def _row(
    text: str,
    home: str,
    flags: Callable[[argparse.ArgumentParser], None],
    call: Callable[[str, Given], int] = _call,
) -> Verb:
    return Verb(text=text, home=home, flags=flags, call=call)


VERBS: dict[str, Verb] = {
    "demo": _row(
        "the whole road on 1,797 handwritten digits, without a download", "jobs.api", add_run_flags, _call_timed
    ),
    "data": _row("audit a folder of images: what is broken, doubled, leaking or too small", "jobs.api", _data_flags),
    "train": _row("train a classifier and write its report", "jobs.api", _train_flags, _call_timed),
    "resume": _row("go on with an interrupted run, to the weights it would have ended with", "jobs.api", _resume_flags),
    "evaluate": _row("measure a trained model on other images", "jobs.api", _evaluate_flags, _evaluate),
    "predict": _row("name what is in images, with confidences", "jobs.api", _predict_flags, _predict),
    "explain": _row("show where an answer comes from, and whether to trust that", "jobs.api", _explain_flags, _explain),
    "doctor": _row(
        "what is wrong with a run, a folder of images, or your own training script", "jobs.api", _doctor_flags, _doctor
    ),
    "lab": _row(
        "try recipes, textbook claims and mistakes on your own images, with intervals",
        "lab.compare",
        add_lab_flags,
        _lab,
    ),
    "tune": _row("search for a better recipe, and say on test images whether it is one", "lab.tune", _tune_flags),
    "rename": _row("give classes of a run other names", "jobs.api", _rename_flags, _rename),
    "compare": _row("is one of two models better on the same images?", "jobs.api", _compare_flags, _compare),
    "report": _row("draw a run's report again, from what its folder holds", "jobs.api", _report_flags, _report),
    "inspect": _row(
        "a network layer by layer: shapes, parameters, operations, receptive field",
        "jobs.api",
        _inspect_flags,
        _inspect,
    ),
    "conv": _row(
        "the arithmetic of one convolution or pooling layer, with the steps written out",
        "geometry.layer",
        _conv_flags,
        _conv,
    ),
    "export": _row("write a trained model as one file that runs without hubel", "jobs.api", _export_flags),
    "studio": _row(
        "convolutions, your networks and your runs in the browser, on this machine", "studio.serve", _studio_flags
    ),
    "cache": _row("where decoded images are kept and how big they are", "jobs.api", _cache_flags, _cache),
}
