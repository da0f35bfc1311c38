"""Looking leaves a model as it was, and what is seen is what the modules were given and gave out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hubel.errors import UsageError
from hubel.nn.hooks import capture, evaluating, watch
from hubel.nn.zoo import build


def net(*, inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(8, 3))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_every_module_is_seen_with_what_it_was_given_and_gives() -> None:
    model, x = net().eval(), torch.randn(2, 1, 4, 4)
    begun: list[str] = []
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    with watch(
        model,
        lambda name, module, inputs, output: seen.update({name: (inputs[0], output)}),
        before=lambda name, module, inputs: begun.append(name),
    ):
        answer = model(x)
    assert begun == ["", "0", "1", "2", "3", "4"]
    assert list(seen) == ["0", "1", "2", "3", "4", ""]
    assert torch.equal(seen["2"][0], model[1](model[0](x)))
    assert seen[""][0] is x
    assert seen[""][1] is answer
    assert hooks(model) == 0


def test_what_is_returned_takes_the_place_of_the_output_and_keywords_are_inputs_too() -> None:
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor, *, times: int) -> torch.Tensor:
            return x * times

    model, given = Twice(), []
    with watch(model, lambda name, module, inputs, output: output + 1, before=lambda *call: given.append(call[2][1])):
        assert model(torch.tensor(3), times=2) == 7
    assert given == [2]
    assert model(torch.tensor(3), times=2) == 6


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 8), ("plain20", 0), ("resnet20", 9), ("mobilenet_v2", 10), ("convnext_tiny", 18)]
)
def test_both_addends_of_a_residual_are_seen(name: str, count: int) -> None:
    torch.manual_seed(0)
    model = build(name, classes=2, size=(32, 32)).eval()
    sums: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
    adds = [key for key, module in model.named_modules() if type(module).__name__ == "Add"]
    with watch(model, lambda key, module, inputs, output: sums.update({key: (*inputs, output)}), adds):
        model(torch.randn(1, 3, 32, 32))
    assert len(sums) == count
    for shortcut, branch, total in sums.values():
        assert torch.equal(shortcut + branch, total)
        assert branch.any()
    assert not any(key.endswith(".add") for key in model.state_dict())


def test_outputs_are_those_of_the_modules() -> None:
    model, x = net(), torch.randn(2, 1, 4, 4)
    with capture(model.eval(), ["2", "0"]) as activations:
        model(x)
    torch.testing.assert_close(activations["0"], model[0](x))
    assert list(activations) == ["0", "2"]  # as they ran
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
    with capture(model, ["1"]) as activations:
        (found,) = torch.autograd.grad(model(x)[:, 1].sum(), activations["1"])
    z = model[1](model[0](x)).detach().requires_grad_()
    (expected,) = torch.autograd.grad(model[4](torch.relu(z).flatten(1))[:, 1].sum(), z)
    torch.testing.assert_close(found, expected)


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
    assert not activations


def test_evaluating_gives_each_module_its_flag_back() -> None:
    model = net().train()
    model[1].eval()
    with evaluating(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == [True, True, False, True, True, True]
    with pytest.raises(ZeroDivisionError), evaluating(model):
        raise ZeroDivisionError
    assert [m.training for m in model.modules()] == [True, True, False, True, True, True]
