"""Capturing leaves a model as it was, and what it keeps is what the module gave out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hubel.errors import UsageError
from hubel.nn.hooks import capture, evaluating


def net(*, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(8, 3))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) for m in model.modules())


def test_outputs_are_those_of_the_modules() -> None:
    model, x = net(), torch.randn(2, 1, 4, 4)
    with capture(model.eval(), ["2", "0"]) as activations:
        model(x)
    torch.testing.assert_close(activations["0"], model[0](x))
    assert list(activations.outputs) == ["0", "2"]  # as they ran
    assert hooks(model) == 0


def test_an_inplace_activation_does_not_change_what_was_kept() -> None:
    model, x = net(inplace=True).eval(), torch.randn(2, 1, 4, 4)
    with capture(model, ["1"]) as activations:
        answer = model(x)
    torch.testing.assert_close(activations["1"], model[1](model[0](x)))
    assert (activations["1"] < 0).any()
    torch.testing.assert_close(answer, net().eval()(x))


@pytest.mark.parametrize("inplace", [True, False])
def test_gradients_equal_autograd(inplace: bool) -> None:
    model, x = net(inplace=inplace).eval(), torch.randn(2, 1, 4, 4)
    with capture(model, ["1"], gradients=True) as activations:
        model(x)[:, 1].sum().backward()
    z = model[1](model[0](x)).detach().requires_grad_()
    (expected,) = torch.autograd.grad(model[4](torch.relu(z).flatten(1))[:, 1].sum(), z)
    torch.testing.assert_close(activations.gradients["1"], expected)


def test_hooks_go_after_an_exception_and_flags_stay() -> None:
    model = net().train()
    model[1].eval()
    with pytest.raises(RuntimeError, match="boom"), capture(model, ["0", "4"]):
        raise RuntimeError("boom")
    assert hooks(model) == 0
    assert model.training
    assert not model[1].training


def test_an_unknown_name_leaves_no_hook() -> None:
    model = net()
    with pytest.raises(UsageError, match="no layer called 'conv9'"), capture(model, ["0", "conv9"]):
        pass
    assert hooks(model) == 0


def test_outputs_that_are_no_tensors_are_left_out() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
            return x, 1

    model = nn.Sequential(Pair())
    with capture(model, ["0"]) as activations:
        assert model(torch.ones(1))[1] == 1
    assert not activations.outputs


def test_evaluating_gives_each_module_its_flag_back() -> None:
    model = net().train()
    model[1].eval()
    with evaluating(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == [True, True, False, True, True, True]
    with pytest.raises(ZeroDivisionError), evaluating(model):
        raise ZeroDivisionError
    assert [m.training for m in model.modules()] == [True, True, False, True, True, True]
