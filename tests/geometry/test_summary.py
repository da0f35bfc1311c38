"""Totals against torchvision's and torchinfo's own, impossible sizes, and what a designer is warned of."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import pytest
import torch
import torchinfo
import torchvision
from torch import nn

from hubel.as_json import from_json, to_json
from hubel.errors import UsageError
from hubel.geometry.summary import summarise
from hubel.nn.dry_run import smallest_square
from hubel.nn.zoo import build
from hubel.records import Summary

# One or more of each of torchvision's families; RegNet computes with numbers when it is built, so it isn't on meta.
NETWORKS = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_b1"),
    *("efficientnet_b7", "googlenet", "inception_v3", "mnasnet1_3", "mobilenet_v2"),
    *("mobilenet_v3_large", "mobilenet_v3_small", "resnet18", "resnet50", "resnet152"),
    *("resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_0", "squeezenet1_1", "vgg11_bn"),
    *("vgg16", "vit_b_16", "swin_t"),
)


def on_meta(name: str, **arguments: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
    return model


def codes(summary: Summary) -> list[str]:
    return [finding.code for finding in summary.warnings]


@pytest.mark.parametrize("name", NETWORKS)
def test_totals_equal_torchvisions_own(name: str) -> None:
    arguments: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if name == "googlenet":
        arguments["aux_logits"] = False
    weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    (side,) = weights.transforms().crop_size
    summary = summarise(on_meta(name, **arguments), (3, side, side), name=name)
    assert summary.parameters == weights.meta["num_params"]
    assert summary.macs / 1e9 == pytest.approx(weights.meta["_ops"], abs=0.0011)
    if name != "inception_v3":  # its auxiliary classifier doesn't run in evaluation
        assert sum(layer.parameters for layer in summary.layers) == summary.parameters
    assert summary.layers[-1].shape == (1000,)


@pytest.mark.parametrize(
    ("name", "size"), [("resnet50", (3, 64, 64)), ("vgg11_bn", (3, 32, 32)), ("mobilenet_v2", (3, 64, 64))]
)
def test_totals_equal_torchinfos(name: str, size: tuple[int, int, int]) -> None:
    """It counts the additions of biases and a batch norm's parameters as multiply-accumulates; we don't."""
    model = on_meta(name)
    summary = summarise(model, size)
    other = torchinfo.summary(model, (1, *size), device="meta", verbose=0)
    assert (summary.parameters, summary.trainable) == (other.total_params, other.trainable_params)
    modules = dict(model.named_modules())
    more = 0
    for layer in summary.layers:
        module = modules.get(layer.name)
        if isinstance(module, nn.BatchNorm2d):
            more += layer.parameters
        elif isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            more += math.prod(layer.shape)
    assert summary.macs + more == other.total_mult_adds


@pytest.mark.parametrize(("bias", "parameters"), [(True, 448), (False, 432)])
def test_one_convolution(bias: bool, parameters: int) -> None:
    (layer,) = summarise(nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=bias)), (3, 64, 64)).layers
    assert (layer.name, layer.kind, layer.shape) == ("0", "Conv2d", (16, 64, 64))
    assert layer.detail == "3×3, padding 1" + ", bias" * bias
    assert layer.parameters == parameters
    assert layer.macs == 16 * 64 * 64 * 27
    assert layer.activation_bytes == 4 * 16 * 64 * 64
    assert layer.dense_weights == (3 * 64 * 64) * (16 * 64 * 64)
    assert (layer.field, layer.stride, layer.padding) == ((3, 3), (1.0, 1.0), (1.0, 1.0))


def test_one_filter_against_a_thousand_dense_units() -> None:
    dense = nn.Sequential(nn.Flatten(), nn.Linear(224 * 224 * 3, 1000, bias=False, device="meta"))
    assert summarise(dense, (3, 224, 224)).parameters == 150_528_000
    assert summarise(nn.Sequential(nn.Conv2d(3, 1, 3)), (3, 224, 224)).parameters == 27 + 1


@pytest.mark.parametrize(
    ("name", "channels", "side", "parameters"),
    [("simple-cnn", 3, 32, 620_810), ("simple-cnn-gap", 3, 224, 129_290), ("two-block", 1, 28, 421_706)],
)
def test_course_networks(name: str, channels: int, side: int, parameters: int) -> None:
    summary = summarise(build(name, classes=10, channels=channels, size=(side, side)), (channels, side, side))
    assert summary.parameters == parameters == sum(layer.parameters for layer in summary.layers)


def test_last_map_totals_and_json() -> None:
    model = on_meta("resnet50")
    for parameter in model.get_submodule("layer1").parameters():
        parameter.requires_grad_(False)
    summary = summarise(model, (3, 224, 224), name="mine")
    assert summary.network == "mine"
    assert (summary.field, summary.stride, summary.padding) == ((427, 427), (32.0, 32.0), (213.0, 213.0))
    assert summary.trainable == 25_557_032 - 215_808
    assert summary.buffers == sum(buffer.numel() for buffer in model.buffers())
    assert summary.activation_bytes == sum(layer.activation_bytes for layer in summary.layers)
    assert summary.milliseconds is None
    assert from_json(Summary, json.loads(json.dumps(to_json(summary)))) == summary
    for index, layer in enumerate(summary.layers):
        assert all(-1 <= before < index for before in layer.inputs)
        assert layer.inputs


def test_attention_has_no_last_map() -> None:
    summary = summarise(on_meta("vit_b_32"), (3, 224, 224))
    assert summary.field is None
    assert summary.layers[0].field == (32, 32)
    assert summary.layers[-1].field is None


def test_torchs_wrappers_are_taken_off() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert [layer.name for layer in summarise(nn.DataParallel(model), (3, 8, 8)).layers] == ["0"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer torch calls it deprecated
        scripted: nn.Module = torch.jit.script(model)
    with pytest.raises(UsageError, match="TorchScript"):
        summarise(scripted, (3, 8, 8))


def test_milliseconds_are_there_when_asked_for() -> None:
    model = build("lenet5", classes=10, channels=1, size=(28, 28)).train()
    state = torch.get_rng_state()
    summary = summarise(model, (1, 28, 28), measure=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert summary.milliseconds is not None
    assert all((layer.milliseconds or 0) > 0 for layer in summary.layers)


def test_each_call_of_a_shared_module_has_its_own_time() -> None:
    shared = nn.Conv2d(2, 2, 3)
    model = nn.Sequential(shared, nn.Identity(), shared, nn.Dropout())
    times = [layer.milliseconds for layer in summarise(model, (2, 64, 64), measure=True).layers]
    assert len(times) == 3
    assert None not in times
    assert times[0] != times[1]


def test_an_impossible_size_names_layer_shape_and_the_smallest_size() -> None:
    with pytest.raises(UsageError) as refusal:
        summarise(on_meta("squeezenet1_0"), (3, 20, 64), name="squeezenet1_0")
    said = str(refusal.value)
    assert "squeezenet1_0 can't take an image of 3×20×64" in said
    assert "its layer features.11 (MaxPool2d), given a tensor of 512×1×7, failed: " in said
    assert "The smallest square size that works is 21×21." in said


def test_a_flatten_head_takes_few_sizes() -> None:
    with torch.device("meta"):
        model = build("simple-cnn", classes=10, size=(96, 96))
    with pytest.raises(UsageError, match=r"head.hidden \(Linear\), given a tensor of 2048, failed: .* is 96×96\."):
        summarise(model, (3, 32, 32))
    with pytest.raises(UsageError, match=r"A size that works is 96×96\."):
        summarise(model, (3, 128, 128))
    with pytest.raises(UsageError, match=r"its own forward \(VisionTransformer\).* is 224×224\."):
        summarise(on_meta("vit_b_32"), (3, 64, 64))


def test_the_wrong_number_of_channels() -> None:
    with pytest.raises(UsageError, match=r"layer conv1 \(Conv2d\).*check the number of channels \(1\)"):
        summarise(on_meta("resnet18"), (1, 64, 64))
    with pytest.raises(UsageError, match="each at least 1"):
        summarise(on_meta("resnet18"), (3, 0, 64))


@pytest.mark.parametrize("name", ["squeezenet1_1", "alexnet", "resnet18"])
def test_the_smallest_square_works_and_the_next_smaller_one_does_not(name: str) -> None:
    model = on_meta(name)
    side = smallest_square(model, 3)
    assert side is not None
    assert summarise(model, (3, side, side)).layers
    if side > 1:
        with pytest.raises(UsageError, match=f"is {side}×{side}"):
            summarise(model, (3, side - 1, side - 1))


# ---- warnings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "vit_b_32"],
)
def test_healthy_networks_have_no_warnings(name: str) -> None:
    assert codes(summarise(on_meta(name), (3, 224, 224))) == []


def test_a_map_that_shrinks_away() -> None:
    (finding,) = summarise(on_meta("resnet50"), (3, 32, 32)).warnings
    assert finding.code == "tiny-map"
    assert finding.evidence == {"layer": "layer4.0.conv2", "map": [1, 1], "reader": "layer4.1.conv2"}
    assert "tiny-map" in codes(summarise(on_meta("vgg11"), (3, 32, 32)))  # its head gets 7×7 copies of one position
    whole = nn.Sequential(nn.Conv2d(3, 4, 8), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    assert codes(summarise(whole, (3, 8, 8))) == []  # as the last convolution of LeNet-5


def test_a_field_smaller_than_the_image_or_the_object() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    (finding,) = summarise(model, (3, 16, 16)).warnings
    assert (finding.code, finding.severity) == ("short-sighted", "warning")
    assert finding.evidence == {"field": [5, 5], "needed": 16, "layer": "2"}
    assert codes(summarise(model, (3, 16, 16), object_size=5)) == []
    assert codes(summarise(model, (3, 16, 16), object_size=6)) == ["short-sighted"]
    (finding,) = [f for f in summarise(on_meta("vgg16"), (3, 224, 224)).warnings if f.code == "short-sighted"]
    assert (finding.severity, finding.evidence["field"]) == ("note", [212, 212])


@pytest.mark.parametrize(("kernel", "stride", "found"), [(3, 2, True), (4, 2, False), (2, 2, False), (3, 1, False)])
def test_checkerboards(kernel: int, stride: int, found: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 4, kernel, stride))
    assert ("checkerboard" in codes(summarise(model, (3, 3, 3)))) is found


def test_a_bias_before_batch_norm() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3, bias=False), nn.BatchNorm2d(6),
        nn.Conv2d(6, 5, 3), nn.ReLU(), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4),
    )  # fmt: skip
    (finding,) = summarise(model, (3, 7, 7)).warnings
    assert finding.evidence == {"layers": ["0", "7"], "parameters": 8 + 4}
    (finding,) = [f for f in summarise(on_meta("vgg11_bn"), (3, 224, 224)).warnings if f.code == "wasted-bias"]
    assert finding.evidence["parameters"] == 64 + 128 + 2 * 256 + 4 * 512


def test_a_softmax_at_the_end() -> None:
    head = (nn.Conv2d(3, 8, 8), nn.Flatten(), nn.Linear(8, 4))
    assert codes(summarise(nn.Sequential(*head, nn.Softmax(1)), (3, 8, 8))) == ["softmax-at-end"]
    assert codes(summarise(nn.Sequential(*head, nn.LogSoftmax(1)), (3, 8, 8))) == []  # twice is the same as once


def test_a_heavy_dense_layer() -> None:
    (finding,) = [f for f in summarise(on_meta("vgg16"), (3, 224, 224)).warnings if f.code == "heavy-head"]
    assert finding.evidence == {
        "layer": "classifier.0",
        "parameters": 25088 * 4096 + 4096,
        "positions": 49,
        "instead": 512 * 4096 + 4096,
    }
    pooled = nn.Sequential(nn.Conv2d(3, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1000))
    assert "heavy-head" not in codes(summarise(pooled, (3, 3, 3)))  # nothing to save


@pytest.mark.parametrize("name", ["simple-cnn", "lenet5", "two-block"])
def test_flatten_heads_of_the_course_networks_are_heavy(name: str) -> None:
    assert "heavy-head" in codes(summarise(build(name, classes=10, size=(32, 32)), (3, 32, 32)))


@pytest.mark.parametrize("name", ["quick", "speed", "resnet20", "plain20", "resnet56"])
def test_the_zoos_small_networks_have_no_warnings(name: str) -> None:
    assert codes(summarise(build(name, classes=10, size=(32, 32)), (3, 32, 32))) == []
