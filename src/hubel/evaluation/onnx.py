"""A classifier as one ONNX file: raw pixels in, probabilities and a class name out; `USE` shows how, without hubel.

Input: ``pixels`` (N, H, W, 3) uint8, upright RGB, transparency composited, any size. Outputs: ``probabilities`` (N, K)
float32 and ``label`` (N,) of strings. The metadata holds ``classes`` (a JSON list), hubel's card (``hubel_card``, JSON)
and ``hubel_version``; an entry at the end of the file is the SHA-256 of all before it.

The file begins where `hubel.dataset.decode.upright` ends. That decodes JPEGs much larger than the network's input at a
fraction of their size; another decoder, at full size, leads to slightly different answers for such files.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from hubel import __version__
from hubel.as_json import from_json, to_json
from hubel.dataset.tensors import normalise
from hubel.errors import ModelError
from hubel.evaluation.pillow import fitted
from hubel.nn.hooks import evaluating
from hubel.records import ModelCard

OPSET = 18
SEAL = b"\x72\x4a\x0a\x06sha256\x12\x40"  # how one more entry of the metadata begins, in ONNX's protobuf
DIGEST = 64  # hexadecimal digits after it
USE = (
    "Input: upright RGB pixels of any size, 8 bits a channel, (N, H, W, 3). With onnxruntime alone:\n"
    "    import numpy, onnxruntime\n"
    "    from PIL import Image, ImageOps\n"
    '    session = onnxruntime.InferenceSession("model.onnx")\n'
    '    photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")\n'
    '    probabilities, label = session.run(None, {"pixels": numpy.asarray(photo)[None]})\n'
)


def needed(package: str) -> Any:
    """Import a package that only exported models need.

    Raises:
        ModelError: the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ModelError(
            f"Exported models need the package {package}, which is not installed: pip install 'hubel[export]'."
        ) from error


class FromPixels(nn.Module):
    """A network with everything around it: upright pixels (N, H, W, 3) uint8 of any size → probabilities (N, K)."""

    def __init__(self, model: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.model, self.preprocess, self.temperature = model, card.preprocess, card.temperature

    def forward(self, pixels: Tensor) -> Tensor:
        images = normalise(fitted(pixels, self.preprocess), self.preprocess)
        probabilities: Tensor = (self.model(images).float() / self.temperature).softmax(1)
        return probabilities


def onnx_bytes(model: nn.Module, card: ModelCard) -> bytes:
    """Write a network on the CPU, with everything around it, as the bytes of an ONNX file.

    Raises:
        ModelError: the network can't be exported, or a package is missing.
    """
    onnx = needed("onnx")
    proto = _exported(model, card)
    _forget_origins(proto)
    _add_labels(proto.graph, card.classes)
    proto.graph.name = "hubel"
    proto.producer_name, proto.producer_version, proto.doc_string = "hubel", __version__, USE
    texts = {"classes": json.dumps(card.classes), "hubel_card": json.dumps(to_json(card)), "hubel_version": __version__}
    onnx.helper.set_model_props(proto, texts)
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString()
    return content + SEAL + hashlib.sha256(content).hexdigest().encode()


def _exported(model: nn.Module, card: ModelCard) -> Any:
    """Let torch write the graph from ``pixels`` to ``probabilities``, an ``onnx.ModelProto``."""
    needed("onnxscript")
    example = torch.zeros(2, 5, 7, 3, dtype=torch.uint8)  # three different sizes, so that torch takes none for another
    sizes = dict(enumerate(map(torch.export.Dim, ("n", "height", "width"))))
    settings: Any = {"input_names": ["pixels"], "output_names": ["probabilities"], "dynamic_shapes": (sizes,)}
    whole = FromPixels(model, card)
    with evaluating(whole), torch.no_grad(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:  # what torch prints when it can't follow a network is pages of its own inner workings
            program = torch.onnx.export(whole, (example,), dynamo=True, opset_version=OPSET, verbose=False, **settings)
            assert program is not None
            proto: Any = program.model_proto
            given, answers = (end.type.tensor_type.shape.dim for end in (*proto.graph.input, *proto.graph.output))
            if not all(size.dim_param for size in (*given[:3], answers[0])):
                raise ValueError("it takes one number of images; in a view or reshape write x.shape[0] instead")
        except Exception as error:  # of many kinds, all meaning that torch can't follow the network
            raise ModelError(
                f"{type(model).__name__} can't be exported ({_first_line(error.__cause__ or error)}): its forward must "
                "do the same for all images and for any number of them."
            ) from error
    return proto


def _forget_origins(proto: Any) -> None:
    """Remove what torch notes about where each node came from: paths of this machine, lines of its programs."""
    graph = proto.graph
    del proto.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for piece in (*graph.node, *graph.initializer, *(node for function in proto.functions for node in function.node)):
        del piece.metadata_props[:]
        piece.doc_string = ""


def _add_labels(graph: Any, classes: tuple[str, ...]) -> None:
    """Add the likeliest class's name as a second output, and name the sizes of inputs and outputs."""
    helper, kind = needed("onnx").helper, needed("onnx").TensorProto
    names = helper.make_tensor("label.classes", kind.STRING, [len(classes)], [name.encode("utf-8") for name in classes])
    graph.initializer.append(names)
    graph.node.append(helper.make_node("ArgMax", ["probabilities"], ["label.index"], axis=1, keepdims=0))
    graph.node.append(helper.make_node("Gather", ["label.classes", "label.index"], ["label"]))
    del graph.input[:], graph.output[:]
    describe = helper.make_tensor_value_info
    graph.input.append(describe("pixels", kind.UINT8, ["n", "height", "width", 3]))
    graph.output.append(describe("probabilities", kind.FLOAT, ["n", len(classes)]))
    graph.output.append(describe("label", kind.STRING, ["n"]))


@dataclass(frozen=True)
class OnnxModel:
    """An exported classifier, ready to run; made by `open_onnx`."""

    session: Any
    card: ModelCard

    def answer(self, pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], list[str]]:
        """(N, H, W, 3) uint8, as `upright` gives them → probabilities (N, K) and the likeliest classes.

        Raises:
            ModelError: onnxruntime fails on them.
        """
        try:
            probabilities, labels = self.session.run(["probabilities", "label"], {"pixels": pixels})
        except Exception as error:  # onnxruntime's own kinds
            raise ModelError(f"ONNX Runtime can't answer for {pixels.shape} pixels ({_first_line(error)}).") from error
        return probabilities, labels.tolist()


def open_onnx(source: Path | bytes) -> OnnxModel:
    """Open a file that `onnx_bytes` made, or its bytes; it runs on the CPU.

    Raises:
        ModelError: it is missing, damaged, from somewhere else or from a newer hubel; or onnxruntime is missing.
    """
    name = "the exported model" if isinstance(source, bytes) else str(source)
    runtime = needed("onnxruntime")
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise ModelError(f"{name} can't be read ({error.strerror or error}): check the path.") from error
    _check_seal(content, name)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        card = from_json(ModelCard, json.loads(session.get_modelmeta().custom_metadata_map["hubel_card"]))
    except Exception as error:  # onnxruntime's own kinds, and what reading the card raises
        what = _first_line(error)
        raise ModelError(f"{name} can't be used ({what}): export it again with this version of hubel.") from error
    return OnnxModel(session, card)


def _check_seal(content: bytes, name: str) -> None:
    """Refuse bytes whose last entry isn't the SHA-256 of all before it."""
    body, end = content[: -len(SEAL) - DIGEST], content[-len(SEAL) - DIGEST :]
    if not end.startswith(SEAL):
        raise ModelError(f"{name} is no model that `hubel export` wrote, or was cut off: export it again.")
    if end != SEAL + hashlib.sha256(body).hexdigest().encode():
        raise ModelError(f"{name} was changed or damaged since it was exported: export it again.")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
