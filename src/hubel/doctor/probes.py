"""Looking inside a network on probe images and on held-out ones, and leaving it to the bit as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.doctor.settings import decay, momentum, shrink
from hubel.doctor.signs import Checkup, Inputs, Layer, Look
from hubel.learning.checkpoint import GENERATORS
from hubel.nn.hooks import watch

Loss = Callable[[Tensor, Tensor], Tensor]
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)
RUNNING = (nn.modules.batchnorm._BatchNorm,)  # these behave otherwise in training, and so does dropout:
DROPOUTS = (nn.modules.dropout._DropoutNd,)
NONLINEAR = (
    "glu",
    "silu",
    "tanh",
    "sigmoid",
    "elu",
    "hardswish",
    "softplus",
    "softsign",
    "mish",
    "clamp",
    "maximum",
    "minimum",
    "threshold",
    "softmax",
    "abs",
    "pow",
    "where",
    "shrink",
    "scaleddot",
)  # as autograd names them
SMALL = 1e-12


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Run the block, and give back buffers, train flags, grad mode and the states of all random generators."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    flags = [(module, module.training) for module in model.modules()]
    generators = [read() for read, _ in GENERATORS]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)
        for module, training in flags:
            module.training = training
        for (_, write), state in zip(GENERATORS, generators, strict=True):
            write(state)


def inputs_of(images: Tensor) -> Inputs:
    """Measure images (N, C, H, W)."""
    x = images.detach().float()
    x = x if x.ndim == 4 else x[:, None] if x.ndim == 3 else x.reshape(len(x), 1, 1, -1)
    finite = bool(x.isfinite().all())
    x = x.nan_to_num(0.0, 0.0, 0.0)
    std, mean = torch.std_mean(x, dim=(0, 2, 3), correction=0)
    return Inputs(
        mean=_numbers(mean),
        std=_numbers(std),
        low=_numbers(x.amin(dim=(0, 2, 3))),
        high=_numbers(x.amax(dim=(0, 2, 3))),
        near=_correlation(x, 1),
        third=_correlation(x, 3),
        flat=float((x[..., 1:] == x[..., :-1]).float().mean()) if x.shape[3] > 1 else 0.0,
        below=_correlation(x.transpose(2, 3), 1),
        third_below=_correlation(x.transpose(2, 3), 3),
        finite=finite,
    )


def look(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    step: int = 0,
    loss: Loss | None = None,
    optimizers: Sequence[torch.optim.Optimizer] = (),
    updates: Mapping[str, float] | None = None,
) -> Look:
    """Pass forwards and backwards over images (N, C, H, W) with labels (N,), and measure each layer with weights.

    Args:
        loss: ``loss(outputs, labels)``, cross-entropy when None.
        updates: what the last step changed, by the parameter's name, as a share.
    """
    named = dict(model.named_parameters())
    owners = {name: module for name, module in model.named_modules() if _is_layer(module)}
    seen: dict[str, list[_Seen]] = {}

    def after(name: str, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            seen.setdefault(name, []).append(_seen(inputs[0].detach(), output.detach()))

    with untouched(model):
        model.train()
        with watch(model, after, owners):
            watched = images.detach().requires_grad_(images.is_floating_point())  # so that the graph begins there
            answered = outputs_of(model(watched))
        outputs, last = logits_of(answered), answered.grad_fn.name().lower() if answered.grad_fn is not None else ""
        value = (loss or default_loss(outputs))(outputs, labels)
        wanted = {name: p for name, p in named.items() if p.requires_grad}
        gradients: dict[str, Tensor | None] = dict.fromkeys(wanted)
        if value.requires_grad and wanted:
            found = torch.autograd.grad(value, list(wanted.values()), allow_unused=True)
            gradients = dict(zip(wanted, found, strict=True))
        activations, leaves = _graph(outputs)
        model.eval()
        with torch.no_grad():
            answers = logits_of(model(images)).float()
            quiet = (loss or default_loss(answers))(answers, labels)
            again = logits_of(model(images)).float() if step == 0 else answers
    used = {name.rpartition(".")[0] for name in gradients}
    learned = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    layers = [_layer(name, owners[name], calls, gradients, updates or {}) for name, calls in seen.items() if calls]
    plain = answers.softmax(1) if answers.shape[1] > 1 else answers.sigmoid()
    sums, given = outputs.detach().float().sum(1), answers.argmax(1)
    count = max(answers.shape[1], 2)
    return Look(
        step=step,
        inputs=inputs_of(images),
        layers=tuple(layers),
        train_loss=float(value.detach()),
        eval_loss=float(quiet),
        outputs=answers.shape[1],
        accuracy=float((given == labels).float().mean()),
        favourite=float(torch.bincount(given, minlength=count).max() / len(given)),
        of_labels=float(torch.bincount(labels.clamp(min=0), minlength=count).max() / len(labels)),
        sums_to_one=bool(plain.shape[1] > 1 and (sums - 1).abs().max() < 1e-3 and outputs.min() >= 0),
        in_unit="sigmoid" in last.replace("logsigmoid", ""),
        clipped="relu" in last.replace("leakyrelu", ""),
        log_sums=bool(outputs.shape[1] > 1 and outputs.detach().float().logsumexp(1).abs().max() < 1e-3),
        spread=float(answers.std(0).median()),
        tilt=float(answers.mean(0).max() - answers.mean()),
        activations=activations,
        dropout=max((module.p for module in model.modules() if isinstance(module, DROPOUTS)), default=0.0),
        frozen=tuple(name for name, p in named.items() if not p.requires_grad),
        trained_before=any(_was_trained(module) for module in model.modules() if _is_frozen(module)),
        cut=tuple(
            n
            for n, g in gradients.items()
            if g is None and n.rpartition(".")[0] in seen and n.rpartition(".")[0] in used
        ),
        missing=tuple(n for n, p in wanted.items() if optimizers and id(p) not in learned),
        unknown=tuple(
            "×".join(map(str, p.shape))
            for i, p in leaves.items()
            if i not in learned and all(p is not q for q in named.values())
        ),
        unsteady=bool((again - answers).abs().max() > 1e-2 * answers.std()),
        shrink=shrink(optimizers),
        momentum=momentum(optimizers),
        decay=decay(optimizers, {id(p): gradients[n] for n, p in wanted.items()}),
    )


def checkup(
    model: nn.Module,
    held_out: tuple[Tensor, Tensor],
    trained: tuple[Tensor, Tensor],
    *,
    step: int,
    loss: Loss | None = None,
    at_once: int = 64,
) -> Checkup:
    """Answer for held-out images (N, C, H, W) with labels (N,), and for training images, in eval mode."""
    found = []
    with untouched(model), torch.no_grad():
        model.eval()
        for images, labels in (held_out, trained):
            outputs = torch.cat([logits_of(model(part)).float() for part in images.split(at_once)])
            found.append((outputs, labels, float((loss or default_loss(outputs))(outputs, labels))))
    (outputs, labels, _), (own, known, own_value) = found
    own_accuracy = float((own.argmax(1) == known).float().mean())
    return judged(outputs, labels, (own_value, own_accuracy), step=step, loss=loss)


def judged(
    outputs: Tensor, labels: Tensor, own: tuple[float, float], *, step: int, loss: Loss | None = None
) -> Checkup:
    """Judge answers (N, K) for held-out images; `own` are loss and accuracy on training images."""
    outputs = outputs.float()
    odds, answers = outputs.softmax(1).max(1)
    right = (answers == labels).float()
    first = odds.argsort(descending=True)[: max(len(labels) // 5, 1)]
    classes = range(max(outputs.shape[1], 2))
    return Checkup(
        step=step,
        loss=float((loss or default_loss(outputs))(outputs, labels)),
        accuracy=float(right.mean()),
        n=len(labels),
        train_loss=own[0],
        train_accuracy=own[1],
        surest=float(right[first].mean()),
        recalls=tuple(float(right[labels == k].mean()) for k in classes),
        shares=tuple(float((labels == k).float().mean()) for k in classes),
    )


def telling(images: Tensor, labels: Tensor) -> tuple[float, int]:
    """Share of images (N, C, H, W) that lie nearest to the mean of their own class's other thumbnails; and N."""
    small = F.adaptive_avg_pool2d(images.float(), (8, 8)).flatten(1)
    own = F.one_hot(labels, int(labels.max()) + 1).float()
    total, counts = own.T @ small, own.sum(0)
    means = total / counts[:, None].clamp(min=1)
    away = torch.cdist(small, means).masked_fill(counts == 0, float("inf"))
    apart = (total[labels] - small) / (counts[labels, None] - 1)  # the mean of its own class, without it
    away.scatter_(1, labels[:, None], (small - apart).norm(dim=1, keepdim=True).nan_to_num(float("inf")))
    return float((away.argmin(1) == labels).float().mean()), len(labels)


def default_loss(outputs: Tensor) -> Loss:
    """Cross-entropy, that of a single logit where there is one."""
    if outputs.ndim == 2 and outputs.shape[1] == 1:
        return lambda logits, labels: F.binary_cross_entropy_with_logits(logits[:, 0].float(), labels.float())
    return lambda logits, labels: F.cross_entropy(logits.float(), labels)


def first_broken(model: nn.Module, images: Tensor) -> str:
    """Say where numbers stop being finite: in an image, a weight, or a layer's output; "" where they don't."""
    bad = (~images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        return f"image {bad[0]} of the batch holds numbers that are not finite"
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            return f"the weights of {name} are no longer finite"
    where: list[str] = []

    def after(name: str, _module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not bool(output.isfinite().all()):
            where.append(name)

    with untouched(model), torch.no_grad(), watch(model, after):
        model.train()
        model(images)
    return f"{where[0] or 'the network'} gives out numbers that are not finite" if where else ""


def learning_share(model: nn.Module) -> float | None:
    """Of the modules that behave otherwise in training, the share that is in train mode; None: there are none."""
    flags = [
        module.training
        for module in model.modules()
        if isinstance(module, (*RUNNING, *DROPOUTS)) and (not isinstance(module, DROPOUTS) or module.p > 0)
    ]
    return sum(flags) / len(flags) if flags else None


class _Seen:
    """What one call of a layer showed; tensors stay where they are until all is over."""

    def __init__(
        self, map_: tuple[int, int], point: bool, dead: Tensor, saturated: Tensor, mean: Tensor, std: Tensor, ok: Tensor
    ):
        self.map, self.point, self.dead, self.saturated = map_, point, dead, saturated
        self.mean, self.std, self.ok = mean, std, ok


def _seen(x: Tensor, output: Tensor) -> _Seen:
    axes = (0, 2, 3) if x.ndim == 4 else tuple(range(x.ndim - 1))
    dead = (x == 0).all(axes[0])
    dead = dead.flatten(1).all(1) if x.ndim == 4 else dead.reshape(-1, dead.shape[-1]).all(0)
    value = x.float()
    low, high = value.min(), value.max()
    both = (low >= -1) & (low < -0.9) & (high > 0.9) & (high <= 1)  # as from a tanh
    one = (low >= 0) & (low < 0.1) & (high > 0.9) & (high <= 1)  # as from a sigmoid
    ends = torch.where(
        both,
        (value.abs() > 0.9999).float().mean(),
        ((value > 0.9933) | ((value > 0) & (value < 0.0067))).float().mean(),
    )
    std, mean = torch.std_mean(value, correction=0)
    map_ = (output.shape[-2], output.shape[-1]) if output.ndim == 4 else (1, 1)
    point = x.ndim == 4 and x.shape[2:].numel() == 1
    return _Seen(
        map_,
        point,
        dead.float().mean(),
        torch.where(both | one, ends, 0.0),
        mean,
        std,
        output.isfinite().all(),
    )


def _layer(
    name: str,
    module: nn.Module,
    calls: list[_Seen],
    gradients: Mapping[str, Tensor | None],
    updates: Mapping[str, float],
) -> Layer:
    own = f"{name}.weight" if name else "weight"
    weight = cast(Tensor | None, getattr(module, "weight", None))
    gradient, flat = (
        gradients.get(own),
        None if weight is None else weight.detach().flatten(1) if weight.ndim > 1 else None,
    )
    alike = flat is not None and len(flat) > 1 and bool((flat - flat[:1]).abs().max() <= 1e-6 * flat.abs().max())
    kind = (
        "norm"
        if isinstance(module, NORMS)
        else "conv"
        if isinstance(module, CONVS) and not (calls[0].point and max(module.kernel_size) == 1)
        else "linear"
    )
    means = [float(one.mean) for one in calls]
    stds = [max(float(one.std), SMALL) for one in calls]
    return Layer(
        name=name,
        kind=kind,
        calls=len(calls),
        map=calls[0].map,
        weight=1.0 if weight is None else _rms(weight),
        gain=1.0 if flat is None else _rms(flat) * math.sqrt(flat.shape[1]),
        width=64 if weight is None else len(weight),
        gradient=None if gradient is None else _rms(gradient),
        update=updates.get(own),
        alike=alike and kind != "norm",
        dead=max(float(one.dead) for one in calls),
        saturated=max(float(one.saturated) for one in calls),
        apart=max((max(means) - min(means)) / max(stds), math.log(max(stds) / min(stds))),
        momentum=getattr(module, "momentum", None) if isinstance(module, RUNNING) else None,
        finite=all(bool(one.ok) for one in calls),
    )


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, (*CONVS, nn.Linear, *NORMS)) and not any(True for _ in module.children())


def _is_frozen(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(p.requires_grad for p in own)


def _was_trained(module: nn.Module) -> bool:
    """Norms begin with scale 1; the filters of other layers begin about equally large, and their weights unordered."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.numel() < 16:
        return False
    w = weight.detach().float()
    if isinstance(module, NORMS):
        return float(w.std()) > 1e-3
    if w.ndim < 2 or len(w) < 4:
        return False
    sizes, each = w.flatten(1).square().mean(1), w[0].numel()
    uneven = float(sizes.std() / sizes.mean().clamp(min=SMALL)) / math.sqrt(2 / each)  # 1 for normal numbers
    pairs = (w[..., 1:] * w[..., :-1]).flatten() if w.ndim == 4 and w.shape[-1] > 1 else w.new_zeros(1)
    ordered = float(pairs.mean() / w.square().mean().clamp(min=SMALL)) * math.sqrt(len(pairs))
    return uneven > 1.6 or ordered > 4


def outputs_of(made: Any) -> Tensor:
    """The logits of what a network gives out: a tensor, or the first one in a tuple, a dict or a record."""
    if isinstance(made, Tensor):
        return made
    if isinstance(made, Mapping):
        made = made.get("logits", next(iter(made.values()), None))
    elif hasattr(made, "logits"):
        made = made.logits
    elif isinstance(made, (tuple, list)) and made:
        made = made[0]
    if not isinstance(made, Tensor):
        raise TypeError(f"the network gives out {type(made).__name__}, no tensor")
    return made


def logits_of(made: Any) -> Tensor:
    """The same as (N, K), where one output for each image came as (N,)."""
    outputs = outputs_of(made)
    return outputs[:, None] if outputs.ndim == 1 else outputs


def _graph(outputs: Tensor) -> tuple[int, dict[int, nn.Parameter]]:
    """Non-linear functions between weights and outputs, and all parameters, as autograd's graph has them."""
    todo, known, count, leaves = [outputs.grad_fn], set(), 0, {}
    while todo:
        node = todo.pop()
        if node is None or node in known:
            continue
        known.add(node)
        count += any(name in node.name().lower() for name in NONLINEAR)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter):
            leaves[id(leaf)] = leaf
        todo += [following for following, _ in node.next_functions]
    return count, leaves


def _correlation(x: Tensor, apart: int) -> float:
    """Of pixels that lie so far apart in a row."""
    if x.shape[3] <= apart + 1:
        return 1.0
    a, b = x[..., :-apart], x[..., apart:]
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).mean() / (a.square().mean() * b.square().mean()).sqrt().clamp(min=SMALL))


def _rms(x: Tensor) -> float:
    return float(x.detach().float().square().mean().sqrt())


def _numbers(x: Tensor) -> tuple[float, ...]:
    return tuple(np.round(x.double().cpu().numpy(), 6).tolist())
