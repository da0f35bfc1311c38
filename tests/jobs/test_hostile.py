"""A run folder is data from a stranger: whatever was done to its files, a verb works or refuses in one sentence."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import hubel
from hubel.errors import HubelError
from hubel.evaluation.onnx import DIGEST, SEAL, onnx_bytes
from hubel.events import Step
from hubel.jobs import state_file
from hubel.jobs.recipe import Recipe, with_settings
from hubel.jobs.train import training
from hubel.nn.saved import _digest_json
from hubel.nn.tensor_file import read_tensors, tensor_writer
from hubel.nn.zoo import build
from hubel.records import ModelCard, Preprocess
from hubel.runs import STATE

MANY = bool(os.environ.get("HUBEL_ALL_TESTS"))
EDITS = 2_000 if MANY else 60
JSON = ("plan.json", "split.json", "env.json", "scores.json", "findings.json", "manifest.json", "model/config.json")
FILES = (*JSON, "evidence/facts.json", "recipe.yaml", "results.csv", "model/model.safetensors", STATE)
EVIDENCE = ("logits.safetensors", "pictures.safetensors", "images.safetensors", "thumbnails.zip")
BYTES = (*FILES, *(f"evidence/{name}" for name in EVIDENCE))
READERS = {  # which verbs read a file of a finished run; resume is the one for those of an interrupted run
    "recipe.yaml": ("report", "resume", "recipe"),
    "split.json": ("evaluate", "report", "resume"),
    "manifest.json": ("predict", "report"),
    "model": ("predict", "evaluate", "inspect", "weights"),
    "plan.json": ("report", "resume"),
    STATE: ("resume",),
}
NUMBERS = (-1, 0, 10**9, 10**30, -5.5, 1e300, float("nan"), float("inf"), 2**63, 2)
SETTINGS: dict[str, Any] = {"epochs": 1, "width": 16, "batch_size": 32, "precision": "float32"}


@pytest.fixture(scope="module")
def finished(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hubel.train(few_digits, output=tmp_path_factory.mktemp("runs") / "run", show_as="none", **SETTINGS).path


@pytest.fixture(scope="module")
def interrupted(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its second epoch."""
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state_file, "LEAST", 0.0)
        patch.setattr(state_file, "SHARE", 0)
        for event in training(few_digits, with_settings(Recipe(), {**SETTINGS, "epochs": 2}), output=run):
            if isinstance(event, Step) and event.step == 5:
                break
    return run


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in JSON, lists beyond their first two entries left out."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, below in inner:
        yield (*above, key)
        yield from places(below, (*above, key))


def edited(value: Any, rng: random.Random, evil: str) -> tuple[Any, str]:
    """One random change to JSON, and what it was."""
    value = copy.deepcopy(value)
    place = rng.choice([*places(value)] or [()])
    if not place:
        return rng.choice([[], {}, None, 3, "text"]), "all of it"
    holder = value
    for key in place[:-1]:
        holder = holder[key]
    how, last = rng.choice(["delete", "number", "kind", "nest", "rename", "text", "long", "null"]), place[-1]
    if how == "delete" or (how == "rename" and isinstance(holder, list)):
        del holder[last]
    elif how == "rename":
        holder[rng.choice(["../victim", "x", f"{last}x"])] = holder.pop(last)
    else:
        deep: Any = holder[last]
        for _ in range(400 if how == "nest" else 0):
            deep = [deep]
        holder[last] = {
            "number": rng.choice(NUMBERS),
            "kind": rng.choice([[], {}, "text", True, 1, [1, 2], {"a": 1}]),
            "nest": deep,
            "text": rng.choice(
                [evil, "../victim", str(Path(evil.rpartition(":")[0]).with_name("victim")), "\ud800", "a\0b"]
            ),
            "long": rng.choice([[holder[last]] * 50, "x" * 5000]),
            "null": None,
        }[how]
    return value, f"{how} {place}"


def damage(run: Path, name: str, rng: random.Random, evil: str) -> str:
    """Change one file of a run as its stranger might, whose checksums fit; returns what was done."""
    file = run / name
    if name != "manifest.json":
        (run / "manifest.json").unlink(missing_ok=True)
    if name not in FILES or rng.random() < 0.15:
        content = bytearray(file.read_bytes())
        if rng.random() < 0.5:
            file.write_bytes(content[: rng.randrange(len(content) + 1)])
            return f"{name}: cut off"
        for _ in range(rng.choice([1, 20])):
            content[rng.randrange(min(len(content), rng.choice([200, len(content)])))] = rng.randrange(256)
        file.write_bytes(content)
        return f"{name}: bytes"
    if name.endswith(".safetensors"):
        return f"{name}: {damage_tensors(file, rng, evil)}"
    if name == "results.csv":
        cells = [line.split(",") for line in file.read_text().splitlines()]
        row = rng.choice(cells)
        row[rng.randrange(len(row))] = rng.choice([*map(str, NUMBERS), "", '"', "x"])
        file.write_text("\n".join(map(",".join, cells)))
        return f"{name}: a cell"
    said = yaml.safe_load(file.read_text()) if name == "recipe.yaml" else json.loads(file.read_text())
    if name == "model/config.json":
        said.pop("sha256")
    said, what = edited(said, rng, evil)
    if name == "model/config.json" and isinstance(said, dict):
        said["sha256"] = _digest_json(said)
    text = json.dumps(said, indent=2, ensure_ascii=False) + "\n"  # which YAML is, too
    file.write_bytes(text.encode(errors="surrogatepass"))
    return f"{name}: {what}"


def damage_tensors(file: Path, rng: random.Random, evil: str) -> str:
    """Change a tensor, or what is said beside them, and make the checksum fit."""
    tensors, texts = read_tensors(file)
    name, what = rng.choice(sorted(tensors)), rng.choice(["values", "delete", "rename", "nan", "int8", "shape", "huge"])
    value = tensors[name]
    if what == "values" and "values" in texts:
        said, what = edited(json.loads(texts["values"]), rng, evil)
        texts = {"values": json.dumps(said)}
    elif what == "rename":
        tensors[rng.choice(["../victim", f"{name}x"])] = tensors.pop(name)
    elif what == "delete":
        del tensors[name]
    else:
        changed = {"nan": torch.full(value.shape, float("nan")), "int8": value.to(torch.int8), "shape": value[None]}
        tensors[name] = changed.get(what, torch.zeros(*value.shape, 3))
    tensor_writer(file, tensors, texts)()
    return f"{what} {name}"


def call(verb: str, run: Path, images: Path) -> None:
    picture = next((images / "0").iterdir())
    match verb:
        case "predict":
            hubel.predict(run, [picture])
        case "evaluate":
            hubel.evaluate(run, images, show_as="none")
        case "inspect":
            hubel.inspect(run)
        case "report":
            hubel.write_report(run)
        case "export":
            hubel.export(run, output=run / "x.onnx", show_as="none")
        case "resume":
            extend = 1 if (run / "scores.json").exists() else None
            hubel.resume(run, extend=extend, inexact=True, show_as="none")
        case "weights" | "recipe":
            given = {"weights": run} if verb == "weights" else {"recipe": run}
            hubel.train(
                images, output=run / "new", show_as="none", report=False, **{**SETTINGS, "width": None}, **given
            )


def seen(folder: Path, but: Path) -> dict[str, str]:
    """Every file below a folder, with its digest, but for one folder's."""
    files = (file for file in folder.rglob("*") if file.is_file() and but not in file.parents)
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("number", range(EDITS))
def test_a_damaged_run_is_refused_in_a_sentence_or_used(
    number: int,
    finished: Path,
    interrupted: Path,
    few_digits: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    rng = random.Random(number)
    begun, place = rng.random() < 0.3, tmp_path / "place"
    run = place / "run"
    shutil.copytree(interrupted if begun else finished, run)
    (place / "victim").write_text("mine")
    (place / "evil.py").write_text(f"open({str(place / 'ran')!r}, 'w')\nclass Net: pass\n")
    names = [name for name in BYTES if (run / name).exists()]
    what = damage(run, rng.choice(names), rng, f"{place / 'evil.py'}:Net")
    name = what.split(":")[0]
    verbs = READERS.get(name, READERS.get(name.split("/")[0], ("report",)))
    verb = "resume" if begun else rng.choice(verbs)
    before = seen(place, but=run)
    said, began = "", time.monotonic()
    try:
        call(verb, run, few_digits)
    except HubelError as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(f"{number}: {what}, {verb}") from error
    record_property("what", f"{what}, {verb}: {said[:200] or 'used'}")
    record_property("refused after", round(time.monotonic() - began, 2) if said else "-")
    assert "\n" not in said, f"{what}, {verb}"
    assert seen(place, but=run) == before


@pytest.fixture(scope="module")
def exported() -> bytes:
    """An exported model, without its seal."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    images = Preprocess(size=(8, 8), channels=1, mean=(0.5,), std=(0.25,))
    card = ModelCard(architecture="quick", arguments={"width": 16}, classes=("0", "1", "7"), preprocess=images)
    content = onnx_bytes(build("quick", classes=3, channels=1, size=(8, 8), width=16), card)
    return content[: -len(SEAL) - DIGEST]


def damage_onnx(content: bytes, rng: random.Random, evil: str) -> tuple[bytes, str]:
    """Change an exported model as its stranger might, whose checksum fits."""
    import onnx

    proto = onnx.load_from_string(content)
    what = rng.choice(["card", "card", "card", "card removed", "nan", "dims", "type", "external", "name", "classes"])
    value = rng.choice(list(proto.graph.initializer))
    match what:
        case "card":
            (entry,) = [entry for entry in proto.metadata_props if entry.key == "hubel_card"]
            said, how = edited(json.loads(entry.value), rng, evil)
            entry.value, what = json.dumps(said), f"card, {how}"
        case "card removed":
            del proto.metadata_props[:]
        case "nan":
            value.raw_data = b"\xff" * len(value.raw_data)
        case "dims":
            value.dims.append(rng.choice([0, 3, 2**40]))
        case "type":
            value.data_type = rng.choice([onnx.TensorProto.INT8, onnx.TensorProto.DOUBLE])
        case "external":
            value.data_location = onnx.TensorProto.EXTERNAL
            value.external_data.add(key="location", value=rng.choice(["../victim", str(Path(evil).parent / "victim")]))
            value.raw_data = b""
        case "name":
            value.name += "x"
        case "classes":
            proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    return proto.SerializeToString(), f"{what} {value.name}"


@pytest.mark.parametrize("number", range(EDITS // 5))
def test_a_damaged_export_is_refused_in_a_sentence_or_used(
    number: int, exported: bytes, few_digits: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    rng, place = random.Random(number), tmp_path / "place"
    (place / "run").mkdir(parents=True)
    (place / "victim").write_text("mine")
    file = place / "run" / "model.onnx"
    content, what = damage_onnx(exported, rng, f"{place / 'evil.py'}:Net")
    content += SEAL + hashlib.sha256(content).hexdigest().encode()
    if rng.random() < 0.1:
        content, what = content[: rng.randrange(len(content))], "cut off"
    file.write_bytes(content)
    before, began, said = seen(place, but=place / "none"), time.monotonic(), ""
    try:
        (answer,) = hubel.predict(file, next((few_digits / "0").iterdir()))
        assert answer.error or sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-4), what
    except HubelError as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(f"{number}: {what}") from error
    record_property("what", f"{what}: {said[:200] or 'used'}")
    record_property("refused after", round(time.monotonic() - began, 2) if said else "-")
    assert "\n" not in said, what
    assert seen(place, but=place / "none") == before
