"""Loading published weights into a network: what of them fits, whose classes keep their rows, and what is left over."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hubel.errors import ModelError
from hubel.nn.stages import find_stages
from hubel.nn.tensor_file import check_tensors
from hubel.nn.weights import Weights, matched
from hubel.nn.zoo import Builder, build_for

LEAST_SHARE = 0.5  # of the network's numbers, the head left out, that have to fit


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of the weights: keys that were loaded, that start anew in the head, or that didn't fit.

    Attributes:
        missing: keys of the network that the weights don't have; unused: keys of the weights that it doesn't have;
            reshaped: keys whose shapes differ. head: keys of the layer for the classes, which was replaced.
        kept: classes whose rows in it were taken over, because the weights know them by name.
    """

    loaded: int
    head: tuple[str, ...]
    kept: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    reshaped: tuple[str, ...]

    def lines(self) -> list[str]:
        """Say it in sentences."""
        lines = [f"{self.loaded} tensors were loaded."]
        if self.head:
            lines.append(f"The layer for the classes was replaced by a new one: {', '.join(self.head)}.")
        if self.kept:
            lines.append(
                f"{len(self.kept)} of its classes are known to the weights and keep their rows: {_few(self.kept)}."
            )
        fates = {
            "not in the file, so they start anew": self.missing,
            "of another shape, so they start anew": self.reshaped,
            "in the file, but not in this network": self.unused,
        }
        return lines + [f"{len(keys)} keys are {what}: {_few(keys)}." for what, keys in fates.items() if keys]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def load_into(
    model: nn.Module, weights: Weights, *, shape: tuple[int, int, int], classes: Sequence[str] = ()
) -> LoadReport:
    """Copy into a network, in place, whatever fits by name and shape.

    The layer for the classes starts anew, but for the rows of classes that the weights know by name.

    Args:
        shape: (C, H, W) of the images it is for. classes: what its logits stand for.

    Raises:
        ModelError: less than half of the network's numbers, the head left out, would come from the weights.
    """
    own = model.state_dict()
    state = matched(weights.state, own)
    final = find_stages(model, shape).final + "."
    other_classes = bool(classes) and tuple(classes) != weights.classes
    fits = {
        key: value
        for key, value in state.items()
        if key in own and own[key].shape == value.shape and not (other_classes and key.startswith(final))
    }
    body = {key: value.numel() for key, value in own.items() if not key.startswith(final)}
    share = sum(count for key, count in body.items() if key in fits) / max(sum(body.values()), 1)
    if share < LEAST_SHARE:
        raise ModelError(
            f"{weights.name} does not hold weights of {weights.architecture}: only {share:.0%} of its numbers fit "
            f"(it expects keys such as {next(iter(own))!r}, there are {next(iter(weights.state), None)!r}, …): "
            "name the network that they were trained with, --model NAME."
        )
    try:
        check_tensors(fits, own, whole=False)
    except ModelError as error:
        raise ModelError(f"{weights.name} can't be used: {error}") from error
    known = shared_classes(classes, weights.classes or ())
    head = [key for key in own if key.startswith(final) and key not in fits]
    rows = {key: _with_rows(own[key], state[key], known) for key in head if key in state}
    model.load_state_dict({**own, **fits, **rows})
    others = [key for key in body if key not in fits]
    return LoadReport(
        loaded=len(fits),
        head=tuple(head),
        kept=tuple(classes[row] for row in known),
        missing=tuple(key for key in others if key not in state and not key.endswith("num_batches_tracked")),
        unused=tuple(key for key in state if key not in own),
        reshaped=tuple(key for key in others if key in state),
    )


def pretrained(weights: Weights, *, code: Builder | None = None) -> tuple[nn.Module, LoadReport]:
    """Build the network that the weights belong to, with all of its own classes, in eval mode.

    Raises:
        ModelError: keys are missing or of other shapes: its answers would be worthless.
    """
    images = weights.preprocess
    model = build_for(weights.architecture, weights.count, images, weights.arguments, code)
    report = load_into(model, weights, shape=(images.channels, *images.size))
    if lost := [*report.head, *report.missing, *report.reshaped]:
        raise ModelError(
            f"{weights.name} lacks {len(lost)} of the tensors of {weights.architecture} ({', '.join(lost[:3])}, …), so "
            "its answers would be worthless: train it first, or name the right network."
        )
    return model.eval(), report


def shared_classes(classes: Sequence[str], known: Sequence[str]) -> dict[int, int]:
    """Return index in `classes` → index in `known` for names that are the same but for case and punctuation.

    Names that occur twice on a side are left out.

    >>> shared_classes(["rose", "english-springer"], ["tench", "English springer"])
    {1: 1}
    """
    ours, theirs = _by_plain_name(classes), _by_plain_name(known)
    return {ours[name]: theirs[name] for name in ours if name in theirs}


def _by_plain_name(names: Sequence[str]) -> dict[str, int]:
    plain = [re.sub(r"[\W_]+", " ", name).casefold().strip() for name in names]
    often = Counter(plain)
    return {name: index for index, name in enumerate(plain) if often[name] == 1}


@torch.no_grad()
def _with_rows(new: Tensor, old: Tensor, rows: dict[int, int]) -> Tensor:
    """Return `new` (K, …) with the rows of `old` (K', …) that stand for the same classes."""
    result = new.clone()
    if new.shape[1:] == old.shape[1:]:
        result[list(rows)] = old[list(rows.values())].to(new)
    return result
