"""What a training would need is known before anything of it is made."""

from __future__ import annotations

import resource

import pytest
import torch

from hubel.errors import UsageError
from hubel.jobs import hardware
from hubel.jobs.hardware import check_memory
from hubel.nn.dry_run import answer
from hubel.nn.zoo import outline

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("network", "settings", "side", "batch", "least"),
    [
        ("quick", {"width": 4096}, 32, 8, "70 GiB"),
        ("quick", {"width": 32}, 2048, 16, "9 GiB"),
        ("resnet18", {}, 2048, 16, "9 GiB"),
        ("resnet18", {}, 224, 4096, "28 GiB"),
        ("resnet18", {}, 224, 1024, "15 GiB"),
    ],
)
def test_what_does_not_fit_is_refused_from_shapes_alone(
    network: str, settings: dict[str, int], side: int, batch: int, least: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "memory_of", lambda _: 8.0 * 2**30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = outline(network, classes=2, channels=3, size=(side, side), **settings)
    answer(model, (3, side, side))
    with pytest.raises(UsageError, match=r"takes at least \S+ GiB of memory, cpu has 8: lower --size") as raised:
        check_memory(model, (3, side, side), batch, CPU)
    assert least in str(raised.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19, "KiB"
    assert all(parameter.is_meta for parameter in model.parameters())


def test_what_fits_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "memory_of", lambda _: 8.0 * 2**30)
    check_memory(outline("resnet18", classes=2, channels=3, size=(224, 224)), (3, 224, 224), 64, CPU)
