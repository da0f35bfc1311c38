"""Every network that torchvision has too: the same keys, parameters, operations and logits, and gradients.

Gradients are compared for one network of each kind of blocks; those of the others too where HUBEL_ALL_TESTS is set.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import StochasticDepth as TheirStochasticDepth

from hubel.nn import zoo
from hubel.nn.layers import StochasticDepth
from repetitions import without_repetitions

NETWORKS = {
    name: network.build
    for name, network in zoo.NETWORKS.items()
    if name in torchvision.models.list_models(module=torchvision.models)
}
GRADIENTS = without_repetitions(NETWORKS)
SIZE = (33, 40)  # the last map is 2x2 in most: with two images, eight numbers for each batch norm
TOLERANCE = 1e-9
LARGE = 20_000_000  # numbers; VGG's first dense matrix has 103 million


def test_they_are_all_here() -> None:
    assert len(NETWORKS) == 5 + 8 + 3 + 8 + 1


def pair(name: str, classes: int, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Torchvision's network and ours, on the meta device."""
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None, num_classes=classes)
        return theirs, NETWORKS[name](classes=classes, **options)


def fill(model: nn.Module) -> None:
    """Draw every number in a range where it matters: no bias is 0, no scale 1, no branch as small as 1e-6."""
    for name, tensor in model.state_dict().items():
        bound = (3 * len(tensor) / tensor.numel()) ** 0.5 if tensor.ndim else 0.0
        if tensor.numel() > LARGE:  # drawing takes longer than calculating, so 64 rows are repeated
            tensor.unflatten(0, (-1, 64)).copy_(tensor[:64].uniform_(-bound, bound).clone())
        elif tensor.ndim > 1 and "layer_scale" not in name:
            tensor.uniform_(-bound, bound)
        elif name.endswith(("bias", "mean")):
            tensor.uniform_(-0.2, 0.2)
        else:
            tensor.uniform_(0.5, 1.5) if tensor.is_floating_point() else tensor.zero_()


def settings(model: nn.Module) -> tuple[list[Any], list[float]]:
    """Epsilon and momentum of each norm, and the probabilities of leaving something out."""
    norms = [(m.eps, getattr(m, "momentum", None)) for m in model.modules() if hasattr(m, "eps")]
    kinds = (nn.Dropout, TheirStochasticDepth, StochasticDepth)
    rates = [m.probability if isinstance(m, StochasticDepth) else m.p for m in model.modules() if isinstance(m, kinds)]
    return norms, [rate for rate in rates if rate > 0]


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_settings_and_operations_are_the_published_ones(name: str) -> None:
    theirs, ours = pair(name, 1000)
    said = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    assert list(said.items()) == [(key, tuple(tensor.shape)) for key, tensor in ours.state_dict().items()]
    assert settings(ours) == settings(theirs)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    assert sum(p.numel() for p in ours.parameters()) == weights.meta["num_params"]
    (side,) = weights.transforms().crop_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ours.eval()(torch.empty(1, 3, side, side, device="meta"))
    assert counter.get_total_flops() / 2e9 == pytest.approx(weights.meta["_ops"], abs=0.0011)


def difference(ours: Tensor, theirs: Tensor, floor: float = 0.0) -> float:
    """The largest difference, in units of the largest number; `floor` is what counts as rounding in such a tensor."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=max(floor, 1e-300)))


@pytest.mark.parametrize("name", NETWORKS)
def test_loaded_weights_give_equal_logits_and_gradients(name: str) -> None:
    """In float64, by one loss for both: a random weighting of the logits.

    Gradients of deep networks grow with depth (to 10^5 here) and differ between layers, so an absolute tolerance would
    say little. The loss is scaled so that the largest gradient of all is 1, and each tensor is compared in units of its
    own largest one. Where that is below 10^-6 it is rounding (a bias before a batch norm has no gradient) and 10^-6 is
    the unit. VGG's first dense matrix is left out to spare memory: its gradient is the outer product of the map, which
    the logits depend on, and the gradient of its bias.
    """
    torch.manual_seed(0)
    chance = {"dropout", "stochastic_depth"} & set(inspect.signature(NETWORKS[name]).parameters)
    theirs, ours = pair(name, 10, **dict.fromkeys(chance, 0.0))
    for module in theirs.modules():
        if isinstance(module, nn.Dropout | TheirStochasticDepth):
            module.p = 0.0
    theirs.double().to_empty(device="cpu")
    fill(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    x, weighting = torch.randn(2, 3, *SIZE, dtype=torch.float64), torch.randn(2, 10, dtype=torch.float64)
    with torch.no_grad():
        assert difference(ours.eval()(x), theirs.eval()(x)) < TOLERANCE
    if name in GRADIENTS:
        compare_gradients(theirs, ours, x.requires_grad_(), weighting)


def compare_gradients(theirs: nn.Module, ours: nn.Module, x: Tensor, weighting: Tensor) -> None:
    """Train both for a step on the same images, and compare the gradients of all numbers, the pixels' too."""
    logits, gradients = [], []
    for model in (theirs.train(), ours.train()):
        y = model(x)
        wanted = [x, *(p for p in model.parameters() if p.numel() < LARGE)]
        gradients.append(torch.autograd.grad((y * weighting).sum(), wanted))
        logits.append(y.detach())
    assert difference(logits[1], logits[0]) < TOLERANCE
    largest = max(float(g.abs().max()) for g in gradients[0])
    assert largest > 0
    for expected, found in zip(*gradients, strict=True):
        assert difference(found / largest, expected / largest, floor=1e-6) < TOLERANCE
