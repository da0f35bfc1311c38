"""The randomisation test against scipy and naive sums, and what the literature found with it on trained networks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from torch import Tensor, nn

from hubel.as_json import from_json, to_json
from hubel.errors import UsageError
from hubel.explanation.randomisation import Randomisation, entropy, randomisation, randomised, spearman, ssim
from hubel.nn.loading import load_into
from hubel.nn.weights import read_weights
from hubel.nn.zoo import build
from trained_digits import enlarged, gradient, trained


def test_entropy_is_scipys() -> None:
    maps = torch.randn(5, 9, 11)
    maps[1], maps[2] = 3.0, maps[2].exp()
    expected = [scipy.stats.entropy(np.histogram(one.numpy(), bins=100)[0]) for one in maps]
    np.testing.assert_allclose(entropy(maps), expected, atol=1e-12)


def test_rank_correlation_is_scipys() -> None:
    one, other = torch.randn(6, 5, 7), torch.randint(4, (6, 5, 7)).float()  # the second with many equal values
    expected = [scipy.stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(spearman(one, other), expected, atol=1e-12)
    np.testing.assert_allclose(spearman(one, one.exp()), np.ones(6))
    flat = torch.zeros(6, 5, 7)
    assert (spearman(flat, flat).tolist(), spearman(one, flat).tolist()) == ([1.0] * 6, [0.0] * 6)


def test_structural_similarity_is_that_of_each_window() -> None:
    one, other = torch.randn(2, 9, 10), torch.randn(2, 9, 10)
    scaled = [maps.double().numpy() / maps.abs().amax(dim=(1, 2), keepdim=True).numpy() for maps in (one, other)]
    for a, b, found in zip(*scaled, ssim(one, other), strict=True):
        values = []
        for y in range(3):
            for x in range(4):
                p, q = a[y : y + 7, x : x + 7], b[y : y + 7, x : x + 7]
                covariance = ((p - p.mean()) * (q - q.mean())).mean()
                top = (2 * p.mean() * q.mean() + 4e-4) * (2 * covariance + 3.6e-3)
                values.append(top / ((p.mean() ** 2 + q.mean() ** 2 + 4e-4) * (p.var() + q.var() + 3.6e-3)))
        assert found.item() == pytest.approx(np.mean(values), abs=1e-5)
    torch.testing.assert_close(ssim(one, 5 * one), torch.ones(2))


def test_only_the_named_layers_become_random_and_the_model_stays() -> None:
    model = trained()[0]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    twin = randomised(model, ["14", "10"], seed=0)  # the head, and a norm
    after = twin.state_dict()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    changed = {key.split(".")[0] for key, value in after.items() if not torch.equal(before[key], value)}
    assert changed == {"14", "10"}
    assert torch.equal(after["10.running_var"], torch.ones(32))
    assert after["14.bias"].sort().values.tolist() == before["14.bias"].sort().values.tolist()
    drawn = torch.cat([randomised(model, ["14"], seed=s).state_dict()["14.weight"].flatten() for s in range(30)])
    assert drawn.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.02)
    assert abs(drawn.mean().item()) < 0.01


def test_a_model_is_unchanged_to_the_bit_even_when_the_method_fails() -> None:
    model, images, _ = trained()
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.random.get_rng_state()

    def fails(twin: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        assert not twin.training
        with torch.no_grad():
            for value in twin.parameters():
                value.zero_()
        raise RuntimeError("the method failed")

    with pytest.raises(RuntimeError, match="the method failed"):
        randomisation(model, images[:2], torch.tensor([0, 1]), fails)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    model.eval()


def judged(model: nn.Module, images: Tensor, answers: Tensor) -> dict[str, Randomisation]:
    methods = {name: partial(enlarged, name) for name in ("gradcam", "saliency", "guided-backprop")}
    every = {"gradient": gradient, **methods}
    return {name: randomisation(model, images, answers, method) for name, method in every.items()}


def test_guided_backprop_fails_and_gradient_and_grad_cam_pass_on_digits() -> None:
    model, images, labels = trained()
    images, answers = images[:32], model(images[:32]).argmax(dim=1)
    assert (model(images).argmax(dim=1) == labels[:32]).float().mean() > 0.8
    found = judged(model, images, answers)
    assert {name for name, one in found.items() if not one.passes} == {"guided-backprop"}
    assert found["guided-backprop"].sentence.startswith("Don't trust this method")
    assert found["gradient"].stages[0].layer == "14"
    assert found["gradient"].stages[-1].layer == "0"
    for one in found.values():
        assert one.rise_interval[0] <= one.rise <= one.rise_interval[1]
    assert from_json(Randomisation, to_json(found["gradcam"])) == found["gradcam"]


def test_what_ignores_the_network_fails() -> None:
    model, images, labels = trained()

    def edges(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return (images - images.roll(1, 3)).sum(dim=1)

    one = randomisation(model, images[:4], labels[:4], edges)
    assert (one.similarity, one.rise, one.passes) == (pytest.approx(1), 0, False)
    assert [stage.ssim for stage in one.stages] == pytest.approx([1] * len(one.stages))
    flat = randomisation(model, images[:4], labels[:4], lambda model, images, targets: images[:, 0] * 0)
    assert (flat.similarity, flat.passes) == (1, False)


def test_guided_backprop_fails_and_gradient_and_grad_cam_pass_on_cifar10(shared: Path) -> None:
    """A published ResNet-20 that is right in 91.7 % of the test images (Adebayo et al. 2018, figures 2 to 4)."""
    weights = read_weights(str(shared / "weights" / "resnet20-cifar10.safetensors"), "resnet20")
    model = build("resnet20", classes=10, size=(32, 32)).eval()
    load_into(model, weights, shape=(3, 32, 32))
    sheets = sorted((shared / "data" / "cifar10").glob("test.*.0.*.webp"))
    if not sheets:
        pytest.skip("the shared images are not here")
    pixels = np.concatenate([np.asarray(Image.open(sheet).convert("RGB").crop((0, 0, 96, 32))) for sheet in sheets])
    mean, std = (torch.tensor(v)[:, None, None] for v in (weights.preprocess.mean, weights.preprocess.std))
    images = torch.tensor(pixels).view(10, 32, 3, 32, 3).permute(0, 2, 4, 1, 3).reshape(30, 3, 32, 32)
    images = (images / 255 - mean) / std
    answers = model(images).argmax(dim=1)
    assert (answers == torch.arange(10).repeat_interleave(3)).float().mean() > 0.8
    found = judged(model, images, answers)
    assert {name for name, one in found.items() if not one.passes} == {"guided-backprop"}
    # Guided backprop hardly sees the head (0.96 of 1); the gradient is another one as soon as that is random.
    assert found["guided-backprop"].stages[0].spearman > 0.9
    assert found["gradient"].stages[0].spearman < 0.4


@pytest.mark.parametrize(
    ("model", "maps", "message"),
    [
        (nn.Flatten(), torch.zeros(2, 16, 16), "without weights"),
        (nn.Linear(1, 1), torch.zeros(2, 1, 16, 16), "expected a map for each image"),
    ],
)
def test_bad_input_is_refused(model: nn.Module, maps: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        randomisation(model, torch.zeros(2, 1, 16, 16), torch.zeros(2), lambda *_: maps)
