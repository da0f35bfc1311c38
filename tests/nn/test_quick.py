"""`quick`: its first layer whitens, its stages begin as the identity, its map is the same at any image size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hubel.errors import UsageError
from hubel.explanation.cam import choose_layer
from hubel.nn.quick import EPSILON, Stage, quick, speed


def smooth_images(n: int = 200, side: int = 32) -> torch.Tensor:
    torch.manual_seed(0)
    return F.interpolate(torch.randn(n, 3, 9, 9), (side, side), mode="bilinear") + 0.1 * torch.randn(n, 3, side, side)


def test_whitened_responses_are_uncorrelated_and_of_unit_variance() -> None:
    model, images = quick(classes=10), smooth_images()
    model.prepare(images)
    half = model.stem.out_channels // 2
    responses = model.stem(images).transpose(0, 1).flatten(1)[:half]
    second_moments = (responses @ responses.T / responses.shape[1]).detach()
    patches = F.unfold(images, 2).transpose(1, 2).flatten(0, 1)
    variances = torch.linalg.eigvalsh(patches.T @ patches / len(patches)).flip(0)[:half]
    expected = torch.diag(variances / (variances + EPSILON))
    torch.testing.assert_close(second_moments, expected, atol=0.02, rtol=0)
    torch.testing.assert_close(model.stem.weight[half:], -model.stem.weight[:half])


def test_only_speed_keeps_its_filters_once_they_whiten() -> None:
    for build, trained in ((quick, True), (speed, False)):
        model = build(classes=10)
        assert model.stem.weight.requires_grad
        model.prepare(smooth_images())
        assert model.stem.weight.requires_grad == trained


def test_a_stage_passes_its_input_on_at_first() -> None:
    torch.manual_seed(0)
    stage, x = Stage(6, 16), torch.randn(2, 6, 8, 8)
    torch.testing.assert_close(stage.conv1(x)[:, :6], x, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("side", "stride"), [(24, 1), (28, 1), (32, 1), (64, 2), (96, 3), (112, 4), (224, 7)])
def test_the_map_stays_near_32(side: int, stride: int) -> None:
    model = quick(classes=4, size=(side, side)).eval()
    assert model.stem.stride == (stride, stride)
    x = torch.randn(2, 3, side, side)
    assert 20 <= model.stem(x).shape[-1] <= 33
    assert model(x).shape == (2, 4)


def test_width_and_classes_decide_the_parameters() -> None:
    model = quick(classes=10, channels=3, size=(32, 32), width=32)
    convolutions = 24 * 32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128
    expected = (12 * 24 + 24) + 9 * convolutions + 2 * 2 * (32 + 64 + 128) + 128 * 10
    assert sum(p.numel() for p in model.parameters()) == expected


def test_too_small_an_image_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="smallest size is 8x8"):
        quick(classes=2, size=(6, 20))


def test_grad_cam_looks_at_an_activation_and_not_before_it() -> None:
    torch.manual_seed(0)
    model = quick(classes=4, channels=1, size=(28, 28), width=16).eval()
    name, reason = choose_layer(model, torch.randn(1, 1, 28, 28))
    assert name == "stages.1"
    assert "6x6" in reason


def test_a_mirror_image_gets_the_same_answer_outside_of_training() -> None:
    torch.manual_seed(0)
    model, x = speed(classes=5, width=16, mirror=True), smooth_images(4)
    model.eval()
    torch.testing.assert_close(model(x), model(x.flip(3)))
    alone = speed(classes=5, width=16)
    alone.load_state_dict(model.state_dict())
    alone.eval()
    torch.testing.assert_close(model(x), (alone(x) + alone(x.flip(3))) / 2)
    for network in (model, alone):
        network.train()
    torch.testing.assert_close(model(x), alone(x))  # one pass while training


def test_moved_images_count_for_half_outside_of_training() -> None:
    torch.manual_seed(0)
    model, x = speed(classes=5, width=16, mirror=True, moved=True).eval(), smooth_images(4)
    mirrored = speed(classes=5, width=16, mirror=True).eval()
    mirrored.load_state_dict(model.state_dict())
    wider = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect"))
    size = x.shape[-1]
    moved = [mirrored(wider[:, :, place : place + size, place : place + size]) for place in (0, 2)]
    torch.testing.assert_close(model(x), mirrored(x) / 2 + moved[0] / 4 + moved[1] / 4)
    model.train()
    mirrored.train()
    torch.testing.assert_close(model(x), mirrored(x))


def test_gelu_takes_every_place_of_relu() -> None:
    smooth = [type(layer).__name__ for layer in speed(classes=5, width=16, activation="gelu").modules()]
    assert smooth.count("GELU") == 7
    assert "ReLU" not in smooth


@pytest.mark.parametrize("moved", [False, True])
def test_maps_that_are_looked_at_are_those_of_the_image_itself(moved: bool) -> None:
    torch.manual_seed(0)
    model, x = speed(classes=5, width=16, mirror=True, moved=moved).eval(), smooth_images(2)
    seen = {}
    model.stages[0].register_forward_hook(lambda *given: seen.update(map=given[-1]))
    model(x)
    torch.testing.assert_close(seen["map"], model.stages[0](F.relu(model.stem(x))))
