"""The studio's network view: a network, a run's or the user's own, layer by layer and number by number."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from hubel.as_json import json_text, to_json
from hubel.dataset.decode import decode
from hubel.dataset.tensors import normalise, to_tensor
from hubel.errors import UsageError
from hubel.evidence import Pixels, RunRecord
from hubel.explanation.arithmetic import explain
from hubel.explanation.features import measured
from hubel.explanation.numbers import Numbers, numbers_of
from hubel.geometry.effective import boxes
from hubel.geometry.summary import summarise, summary_of
from hubel.geometry.what_if import what_if
from hubel.jobs.answer import Classifier, load_either
from hubel.jobs.explain import inside
from hubel.jobs.inspect import untrained
from hubel.nn.foreign import load_code
from hubel.nn.ops import CONVOLUTIONS
from hubel.records import Summary
from hubel.studio.guard import Places

SHOWN = 40  # of a run's images, to choose from
SLICES = 64  # of a filter, that are drawn
UPLOADS = 8  # that are kept; older ones are forgotten


@dataclass(eq=False)
class Opened:
    """A run's network or the user's own, opened: its network, its images, and what was worked out about them so far."""

    folder: Path | None  # None for the user's own network, untrained
    code: str | None
    written: float  # when its weights or the code were
    uploads: dict[str, Pixels] = field(default_factory=dict)
    passes: dict[str, Numbers] = field(default_factory=dict)
    running: threading.RLock = field(default_factory=threading.RLock)  # the network: one at a time

    @cached_property
    def classifier(self) -> Classifier:
        if self.folder is None:
            return untrained(str(self.code))
        return inside(load_either(self.folder, "cpu", load_code(self.code) if self.code else None))

    @cached_property
    def record(self) -> RunRecord | None:
        return RunRecord.open(self.folder) if self.folder and (self.folder / "evidence").is_dir() else None

    @property
    def size(self) -> tuple[int, int, int]:
        said = self.classifier.card.preprocess
        return said.channels, *said.size

    def times(self) -> list[float | None]:
        """Milliseconds of each layer."""
        with self.running:
            layers = summarise(self.classifier.model, self.size, measure=True).layers
        return [each.milliseconds for each in layers]

    def changed(self, layer: str, kernel: int, stride: int, dilation: int) -> Summary:
        with self.running:
            model = self.classifier.model
            return what_if(model, self.size, layer, kernel=kernel, stride=stride, dilation=dilation)

    @cached_property
    def images(self) -> dict[str, dict[str, str]]:
        """Images to choose from: those that were explained, in full; others that the run kept small; two photos."""
        found: dict[str, dict[str, str]] = {}
        if self.record is not None:
            names, paths = self.record.card.classes, self.record.paths
            full = {one.index: f"explained-{place}" for place, one in enumerate(self.record.facts.explained)}
            kept = full | {i: f"reported-{i}" for i in self.record.thumbnails if i not in full}
            for index, image in list(kept.items())[:SHOWN]:
                found[image] = {"label": names[int(self.record.labels[index])], "name": paths[index]}
        photos = {
            f"sample-{place}": {"label": name, "name": "a sample"} for place, name in enumerate(("china", "flower"))
        }
        return found | photos

    def pixels(self, image: str) -> Pixels:
        """What the network is shown of an image: (H, W, C) uint8."""
        kind, _, number = image.partition("-")
        if image in self.uploads:
            return self.uploads[image]
        if image not in self.images:
            raise UsageError(f"there is no image {image!r}: choose one of the list, or upload it again.")
        if kind == "explained" and self.record is not None:
            pixels: Pixels = self.record.pictures["explained.images"][int(number)]
            return pixels
        if kind == "reported" and self.record is not None:
            return self.decoded(self.record.thumbnails[int(number)])
        return self.decoded(_png(load_sample_image(f"{self.images[image]['label']}.jpg")))

    def decoded(self, file: bytes) -> Pixels:
        return decode(file, self.classifier.card.preprocess)[0]

    def numbers(self, image: str) -> Numbers:
        """Every number that the image becomes; kept of the last image only, as they are many."""
        found = self.passes.get(image)
        if found is not None:
            return found
        with self.running:
            card = self.classifier.card
            shown = normalise(to_tensor(self.pixels(image)[None]), card.preprocess)
            found = numbers_of(self.classifier.model, shown, temperature=card.temperature)
            self.passes = {image: found}
            return found

    def overview(self, image: str) -> Any:
        """The network and its layers, as the image went through them."""
        model, card = self.classifier.model, self.classifier.card
        numbers = self.numbers(image if image in self.images else next(iter(self.images)))
        summary, modules = (
            summary_of(numbers.trace, model, self.size, name=card.architecture),
            dict(model.named_modules()),
        )
        layers = [{**to_json(each), "conv": _settings(modules.get(each.name))} for each in summary.layers]
        return {**to_json(summary), "layers": layers, "classes": card.classes, "images": self.images}

    def upload(self, file: bytes) -> str:
        """Keep an image and return its name."""
        name = f"upload-{hashlib.sha256(file).hexdigest()[:12]}"
        self.uploads[name] = self.decoded(file)
        if len(self.uploads) > UPLOADS:
            self.uploads.pop(next(iter(self.uploads)))
        return name


def router(places: Places) -> APIRouter:
    """The endpoints of the view, for the runs in some folders."""
    routes, kept = APIRouter(prefix="/api/network"), lru_cache(maxsize=2)(Opened)

    def opened(run: str) -> Opened:
        folder = None if run == places.code else places.run(run)
        return kept(folder, places.code, places.written(folder and folder / "model" / "model.safetensors"))

    @routes.get("/runs")
    def runs() -> Response:
        found = {name: folder for name, folder in places.runs().items() if (folder / "model").is_dir()}
        finished_first = sorted(found, key=lambda name: not (found[name] / "manifest.json").exists())
        return _json([*filter(None, [places.code]), *finished_first])

    @routes.get("")
    def overview(run: str, image: str = "") -> Response:
        return _json(opened(run).overview(image))

    @routes.get("/times")
    def times(run: str) -> Response:
        return _json(opened(run).times())

    @routes.get("/picture")
    def picture(run: str, image: str) -> Response:
        return Response(_png(opened(run).pixels(image)), media_type="image/png")

    @routes.post("/picture")
    async def upload(run: str, request: Request) -> Response:
        return _json({"image": await run_in_threadpool(opened(run).upload, await request.body())})

    @routes.get("/pass")
    def whole_pass(run: str, image: str) -> Response:
        return _json(_steps(opened(run).numbers(image)))

    @routes.get("/layer")
    def layer(run: str, image: str, step: int) -> Response:
        return _json(_layer(opened(run).numbers(image), step))

    @routes.get("/maps")
    def maps(run: str, image: str, step: int) -> Response:
        """Each number as a byte between the least and the greatest of its map: (K, h, w)."""
        seen = _maps(opened(run).numbers(image), step)[0]
        low, high = seen.amin((1, 2), keepdim=True), seen.amax((1, 2), keepdim=True)
        scaled = (seen - low) * 255 / (high - low).clamp(min=1e-30)
        return Response(np.rint(scaled.numpy()).astype(np.uint8).tobytes(), media_type="application/octet-stream")

    @routes.get("/filter")
    def filter_of(run: str, image: str, step: int, channel: int) -> Response:
        made = opened(run).numbers(image).steps[step:][:1]
        weight = made[0].call.arguments.get("weight") if made and made[0].call.name in CONVOLUTIONS else None
        if not isinstance(weight, Tensor) or not 0 <= channel < len(weight):
            raise UsageError(f"step {step} has no filter {channel}: choose a channel of a convolution.")
        return _json({"of": weight.shape[1], "slices": weight[channel, :SLICES].tolist()})

    @routes.get("/number")
    def number(run: str, image: str, step: int, place: str) -> Response:
        if not re.fullmatch(r"\d{1,7}(,\d{1,7})*", place):
            raise UsageError(f"a place is numbers such as 0,3,4, got {place!r}.")
        return _json(explain(opened(run).numbers(image), step, [int(index) for index in place.split(",")]))

    @routes.get("/what-if")
    def changed(run: str, layer: str, kernel: int, stride: int, dilation: int) -> Response:
        return _json(opened(run).changed(layer, kernel, stride, dilation))

    return routes


def _json(value: Any) -> Response:
    return Response(json_text(value), media_type="application/json")


def _png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "png")
    return file.getvalue()


def _steps(numbers: Numbers) -> Any:
    steps = [(each.name, each.call.name, each.row, tuple(each.value.shape[1:])) for each in numbers.steps]
    return {"steps": steps, "odds": numbers.value(len(steps) - 1)[0].tolist()}


def _layer(numbers: Numbers, step: int) -> Any:
    seen, rows = measured(_maps(numbers, step)), dict(enumerate(numbers.trace.rows))
    row = rows.get(-1 if numbers.steps[step].row is None else numbers.steps[step].row or 0)
    return {
        "shape": tuple(numbers.value(step).shape[1:]),
        "minimum": seen.minimum,
        "maximum": seen.maximum,
        "dead": seen.dead.tolist(),
        "ranges": list(zip(*(ends.tolist() for ends in seen.maps[0].flatten(1).aminmax(dim=1)), strict=True)),
        "boxes": boxes(row.field) if row is not None and row.is_map and row.field is not None else None,
    }


def _settings(module: nn.Module | None) -> dict[str, int] | None:
    """Of a convolution, what can be changed."""
    if not isinstance(module, nn.Conv2d):
        return None
    return {"kernel": module.kernel_size[0], "stride": module.stride[0], "dilation": module.dilation[0]}


def _maps(numbers: Numbers, step: int) -> Tensor:
    """What a step gave out as maps (1, K, h, w): of a list of numbers each is a map of its own."""
    if not 0 <= step < len(numbers.steps):
        raise UsageError(f"there is no step {step}: there are {len(numbers.steps)}, counted from 0.")
    value = numbers.value(step)[:1].float()
    return value[:, None] if value.ndim == 3 else value.reshape(1, value.shape[1], *(value.shape[2:] or (1, 1)))
