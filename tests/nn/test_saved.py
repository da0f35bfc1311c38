"""A model folder: what is loaded is what was saved, or one clear sentence."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hubel.errors import ModelError
from hubel.nn.saved import load_model, read_card, save_model
from hubel.nn.tensor_file import TYPES, read_tensors, tensor_writer
from hubel.nn.zoo import build
from hubel.records import ModelCard, Preprocess

CARD = ModelCard(
    architecture="quick",
    arguments={"width": 16},
    classes=("cat", "dog", "<script>alert(1)</script>"),
    preprocess=Preprocess(size=(32, 32), channels=3),
    metrics={"test_accuracy": 0.5},
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(tmp_path, build("quick", classes=3, channels=3, size=(32, 32), width=16).state_dict(), CARD)
    return tmp_path


def test_a_saved_model_gives_the_same_logits(saved: Path) -> None:
    torch.manual_seed(0)
    original = build("quick", classes=3, channels=3, size=(32, 32), width=16).eval()
    loaded, card = load_model(saved)
    assert card == CARD
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(loaded(x), original(x), rtol=1e-5, atol=1e-6)
    assert not any(module.training for module in loaded.modules())


def test_config_has_the_layout_of_the_hub(saved: Path) -> None:
    said = json.loads((saved / "config.json").read_text())
    assert said["num_classes"] == 3
    assert said["label_names"][2] == "<script>alert(1)</script>"
    assert said["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert {f.name for f in saved.iterdir()} == {"model.safetensors", "config.json", "README.md"}


def test_every_flipped_bit_is_noticed(saved: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        content = bytearray((saved / name).read_bytes())
        generator = torch.Generator().manual_seed(0)
        for position in torch.randint(len(content), (60,), generator=generator).tolist():
            content[position] ^= 1 << (position % 8)
            (saved / name).write_bytes(content)
            with pytest.raises(ModelError):
                load_model(saved)
            content[position] ^= 1 << (position % 8)
        (saved / name).write_bytes(content)
    load_model(saved)


def test_any_reader_of_safetensors_finds_every_type_and_shape(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {str(dtype): (torch.randn(3, 5) * 50).to(dtype) for dtype in TYPES}
    tensors |= {"none": torch.empty(0, 4), "one": torch.tensor(7), "last": torch.randn(2, 3, 4, 5)}
    tensors["channels last"] = tensors["last"].to(memory_format=torch.channels_last)
    tensors["tied"] = tensors["every second"] = torch.randn(6)[::2]
    file = tmp_path / "model.safetensors"
    tensor_writer(file, tensors, {"said": 'a "text" of Hübel'})()
    for found in (load_file(file), read_tensors(file)[0]):
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert read_tensors(file)[1] == {"said": 'a "text" of Hübel'}
    with pytest.raises(ModelError, match="spectrum can't be stored: it is torch.complex64"):
        tensor_writer(file, {"spectrum": torch.zeros(2, dtype=torch.complex64)})


def test_what_is_written_later_is_what_was_there_when_it_was_handed_over(tmp_path: Path) -> None:
    weight = torch.ones(4)
    write = tensor_writer(tmp_path / "state.safetensors", {"weight": weight})
    weight.zero_()
    write()
    assert torch.equal(read_tensors(tmp_path / "state.safetensors")[0]["weight"], torch.ones(4))


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_every_truncation_is_noticed(saved: Path, keep: int) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match="restore it from a copy"):
        load_model(saved)


def test_a_pickle_is_never_loaded(saved: Path) -> None:
    (saved / "model.safetensors").write_bytes(pickle.dumps({"stem.weight": [1.0]}))
    with pytest.raises(ModelError, match="can.t be read .its header is damaged, or it is no safetensors file."):
        load_model(saved)


def test_weights_of_another_network_are_refused(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    save_model(other, build("lenet5", classes=3, channels=3, size=(32, 32)).state_dict(), CARD)
    with pytest.raises(ModelError, match="does not hold weights of the network 'quick'"):
        load_model(other)


def test_what_is_no_model_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no config.json"):
        read_card(tmp_path)
