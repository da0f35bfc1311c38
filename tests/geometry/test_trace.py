"""Any network is followed as it runs: control flow, functional calls, in-place operations, shared modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hubel.errors import UsageError
from hubel.geometry.rows import IMAGE, ForwardError, Trace
from hubel.geometry.summary import summarise
from hubel.geometry.trace import follow
from hubel.nn import meta, ops

IMAGE_SIZE = (3, 24, 20)


def on_meta(name: str) -> nn.Module:
    arguments = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        model: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
    return model


def traced(model: nn.Module, size: tuple[int, int, int] = IMAGE_SIZE) -> Trace:
    return follow(model, size)


class Net(nn.Module):
    """A network whose forward is any function of itself and the image."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.how = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Any:
        return self.how(self, x)


def conv(inputs: int = 3, outputs: int = 3, kernel: int = 3, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **settings)


def edges(trace: Trace) -> dict[str, tuple[str, ...]]:
    names = [row.name for row in trace.rows]
    return {row.name: tuple("image" if i == IMAGE else names[i] for i in row.inputs) for row in trace.rows}


def test_rows_names_and_edges_of_a_residual_network() -> None:
    found = edges(traced(on_meta("resnet18"), (3, 64, 64)))
    assert found["conv1"] == ("image",)
    assert found["layer2.0.add"] == ("layer2.0.bn2", "layer2.0.downsample.1")
    assert found["layer1.1.conv1"] == ("layer1.0.relu",)
    assert found["layer1.1.add"] == ("layer1.1.bn2", "layer1.0.relu")  # although ReLU overwrote its input
    assert found["flatten"] == ("avgpool",)
    assert found["fc"] == ("flatten",)


def test_views_have_no_row_but_keep_the_graph_connected() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        a, b = net.first(x).permute(0, 2, 3, 1).contiguous().chunk(2, dim=-1)
        y = torch.cat((b, a), dim=-1).permute(0, 3, 1, 2)
        return net.last(y).unsqueeze(0).squeeze(0)  # type: ignore[no-any-return]

    trace = traced(Net(forward, first=conv(3, 4), last=conv(4, 2)))
    assert edges(trace) == {"first": ("image",), "cat": ("first",), "last": ("cat",)}
    assert trace.output == (2,)


def test_functional_operations_are_named_by_their_place() -> None:
    def inner(net: Any, x: Tensor) -> Tensor:
        return F.relu(F.max_pool2d(F.relu(net.conv(x)), 2))

    def outer(net: Any, x: Tensor) -> Tensor:
        return F.linear(torch.flatten(net.block(x), 1), net.weight)

    net = Net(outer, block=Net(inner, conv=conv(3, 4)))
    net.weight = nn.Parameter(torch.zeros(5, 4 * 12 * 10))
    trace = traced(net)
    assert [row.name for row in trace.rows] == [
        "block.conv", "block.relu", "block.max_pool2d", "block.relu_2", "flatten", "linear",
    ]  # fmt: skip
    assert [row.kind for row in trace.rows][-2:] == ["flatten", "linear"]
    last = trace.rows[-1]
    assert (last.learned, last.macs, last.positions) == (("weight",), 5 * 480, 120)


def test_control_flow_on_shapes_and_modules_called_often() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        while x.shape[-1] > 6:
            x = net.down(net.same(x))
        return x if x.shape[2] % 2 else net.same(x)

    trace = traced(Net(forward, same=conv(), down=nn.Conv2d(3, 3, 2, 2)))
    assert [row.name for row in trace.rows] == ["same", "down", "same", "down", "same"]
    assert [len(row.learned) for row in trace.rows] == [2, 2, 0, 0, 0]  # a shared parameter counts once
    assert [row.inputs for row in trace.rows] == [(IMAGE,), (0,), (1,), (2,), (3,)]


def test_one_module_under_two_names_has_the_first() -> None:
    shared = conv()
    trace = traced(nn.Sequential(shared, nn.ReLU(), shared))
    assert [row.name for row in trace.rows] == ["0", "1", "0"]
    assert [len(row.learned) for row in trace.rows] == [2, 0, 0]


def test_tied_weights_count_once() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return F.conv_transpose2d(net.conv(x), net.conv.weight)

    trace = traced(Net(forward, conv=nn.Conv2d(3, 4, 3, bias=False)))
    assert [row.learned for row in trace.rows] == [("conv.weight",), ()]
    assert trace.rows[1].macs == 4 * 22 * 18 * 3 * 9


def test_in_place_writes_are_seen_through_views() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.first(x)
        y[:, :2].mul_(2)  # a part of y
        canvas = y.new_zeros(1, 6, *y.shape[2:])
        canvas[:, 1:4] = y  # the shortcut without parameters
        return net.last(canvas)  # type: ignore[no-any-return]

    trace = traced(Net(forward, first=conv(), last=conv(6, 2)))
    found = edges(trace)
    assert set(found["last"]) == {"first", "mul"}
    field = trace.rows[-1].field
    assert field is not None
    assert field.size == (5, 5)


def test_dropout_and_identity() -> None:
    trace = traced(nn.Sequential(nn.Identity(), conv(), nn.Dropout(0.3), nn.ReLU()))
    assert [(row.name, row.kind, row.detail, row.inputs) for row in trace.rows[1:]] == [
        ("2", "Dropout", "p 0.3", (0,)),
        ("3", "ReLU", "", (1,)),
    ]


def test_torchs_own_composites_are_one_row() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        tokens = net.patches(x).flatten(2).transpose(1, 2)
        return net.attention(tokens, tokens, tokens, need_weights=False)[0]  # type: ignore[no-any-return]

    net = Net(forward, patches=nn.Conv2d(3, 8, 4, 4), attention=nn.MultiheadAttention(8, 2, batch_first=True))
    row = traced(net).rows[-1]
    assert (row.name, row.kind, row.detail) == ("attention", "MultiheadAttention", "2 heads")
    assert len(row.learned) == 4
    tokens = 6 * 5
    assert row.macs == 4 * tokens * 8 * 8 + 2 * tokens * tokens * 8
    assert row.field is not None
    assert row.field.kind == "whole"


def test_constants_outside_of_buffers_and_made_on_the_way() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        ramp = torch.arange(x.shape[-1], dtype=x.dtype) / x.shape[-1]
        return net.conv((x - net.mean) * ramp)  # type: ignore[no-any-return]

    net = Net(forward, conv=conv())
    net.mean = torch.ones(3, 1, 1)  # no buffer
    assert edges(traced(net)) == {"sub": ("image",), "mul": ("sub",), "conv": ("mul",)}


def test_code_that_looks_at_numbers_is_followed_with_numbers() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.conv(x) if x.abs().max().item() > 0 else x

    names = [row.name for row in traced(Net(forward, conv=conv())).rows]
    assert names == ["abs", "max", "conv"]


@pytest.mark.parametrize("answer", [lambda y: (y, None), lambda y: {"logits": y}, lambda y: [y.mean((2, 3)), y]])
def test_answers_of_several_tensors(answer: Callable[[Tensor], Any]) -> None:
    assert traced(Net(lambda net, x: answer(net.conv(x)), conv=conv())).output


def test_an_answer_without_tensor_is_refused() -> None:
    with pytest.raises(UsageError, match="holds no tensor"):
        traced(Net(lambda net, x: net.conv(x).shape, conv=conv()))


def test_a_lazy_layer_is_refused() -> None:
    with pytest.raises(UsageError, match="pass one batch"):
        traced(nn.Sequential(nn.LazyConv2d(4, 3)))


def test_a_failure_names_the_module_and_what_it_got() -> None:
    with pytest.raises(ForwardError) as failure:
        traced(nn.Sequential(conv(3, 4), nn.Flatten(), nn.Linear(7, 2)))
    assert (failure.value.place, failure.value.kind, failure.value.shape) == ("2", "Linear", (1, 4 * 24 * 20))


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(20, 2))
    model.train()
    model[1].eval()
    seen: list[str] = []
    model[0].register_forward_hook(lambda *_: seen.append("mine"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    traced(model)
    with pytest.raises(ForwardError):
        traced(model, (4, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model] == [True, False, True, True, True]
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == 1
    for name, value in model.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value, before[name])


def test_half_precision_and_meta_models() -> None:
    for model in (nn.Sequential(conv()).double(), nn.Sequential(conv()).bfloat16(), nn.Sequential(conv()).to("meta")):
        assert traced(model).rows[0].macs == 24 * 20 * 3 * 27


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "convnext_tiny", "vit_b_32", "swin_t"],
)
def test_multiply_accumulates_equal_torchs_flop_counter(name: str) -> None:
    model = on_meta(name).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert 2 * sum(row.macs for row in traced(model, (3, 224, 224)).rows) == counter.get_total_flops()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 8, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2), groups=2),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.Sequential(nn.Flatten(0, 1), nn.Conv1d(24, 6, 5)),
        nn.Linear(20, 7),
        nn.Linear(20, 7, bias=False),
    ],
)
def test_multiply_accumulates_of_single_layers(layer: nn.Module) -> None:
    model = nn.Sequential(layer)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 4, 24, 20))
    assert 2 * sum(row.macs for row in traced(model, (4, 24, 20)).rows) == counter.get_total_flops()


class _Compare(TorchDispatchMode):
    """Compares the quick shapes with those of torch's own meta kernels."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.compared = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        quick = meta.output_of(func, ops.named(func, args, kwargs or {}))
        own = func(*args, **kwargs or {})
        if quick is not None:
            self.compared += 1
            for a, b in zip(*((x if isinstance(x, tuple) else (x,))[:1] for x in (quick, own)), strict=True):
                assert (a.shape, a.dtype) == (b.shape, b.dtype), func
        return own


@pytest.mark.parametrize("name", ["googlenet", "efficientnet_b0", "swin_t", "squeezenet1_0", "mnasnet0_5"])
def test_quick_shapes_equal_torchs_own(name: str) -> None:
    model = on_meta(name).eval()
    with torch.no_grad(), _Compare() as compare:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert compare.compared > 50


def test_quick_shapes_of_pooling_with_ceil_mode() -> None:
    with torch.no_grad(), _Compare() as compare:
        for n in range(4, 12):
            for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), (3, 3, 0), (2, 3, 1), (3, 1, 1)):
                x = torch.empty(1, 2, n, n + 1, device="meta")
                for ceil in (False, True):
                    F.max_pool2d(x, kernel, stride, padding, ceil_mode=ceil)
                    F.avg_pool2d(x, kernel, stride, padding, ceil_mode=ceil)
                F.conv_transpose2d(x, torch.empty(2, 3, kernel, kernel, device="meta"), stride=stride, padding=padding)
    assert compare.compared == 8 * 5 * 5


class Tied(nn.Module):
    """One module under two names, and one tensor in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.again = self.conv
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm2d(8)
        self.same = self.norm

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.same(self.norm(self.again(x)))
        answer: Tensor = self.second(self.first(maps.mean((2, 3))))
        return answer


def test_a_module_with_two_names_is_counted_once_and_not_moved() -> None:
    model = Tied()
    assert summarise(model, (3, 8, 8)).parameters == sum(p.numel() for p in model.parameters()) == 320
    assert {t.device.type for t in model.state_dict().values()} == {"cpu"}
    assert model.second.weight is model.first.weight
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 8)
