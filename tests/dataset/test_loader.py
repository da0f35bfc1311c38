"""Batches: of one shape, in an order that seed and epoch decide, every image as often as asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hubel.dataset.config import Augmentation
from hubel.dataset.loader import Loader
from hubel.records import Preprocess

VIEW = Preprocess(size=(8, 8), channels=1, mean=(0.5,), std=(0.25,))
PIXELS = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
LABELS = np.repeat(np.arange(5), 10).astype(np.int64)


def loader(indices: np.ndarray | None = None, **changes: object) -> Loader:
    rows = np.arange(50) if indices is None else indices
    options = {"classes": 5, "batch_size": 16, "preprocess": VIEW, "augmentation": Augmentation(), "seed": 1}
    return Loader(PIXELS, LABELS, rows, device=torch.device("cpu"), **{**options, **changes})


def test_an_epoch_is_whole_batches_of_different_images() -> None:
    batches = list(loader().epoch(0, 8))
    assert [len(batch.labels) for batch in batches] == [16, 16, 16]
    ids = torch.cat([batch.ids for batch in batches])
    assert len(ids.unique()) == 48


def test_pixels_are_normalised_and_labels_belong_to_them() -> None:
    for batch in loader(np.arange(20, 50)).epoch(0, 8):
        pixels = torch.from_numpy(PIXELS[batch.ids.numpy()]).permute(0, 3, 1, 2)
        torch.testing.assert_close(batch.images, (pixels / 255 - 0.5) / 0.25)
        assert torch.equal(batch.labels, torch.from_numpy(LABELS[batch.ids.numpy()]))
        assert torch.equal(batch.targets.argmax(1), batch.labels)


def test_order_depends_on_seed_and_epoch() -> None:
    assert torch.equal(loader().order(3), loader().order(3))
    assert not torch.equal(loader().order(3), loader().order(4))
    assert not torch.equal(loader().order(3), loader(seed=2).order(3))


def test_an_epoch_can_begin_in_the_middle() -> None:
    whole, rest = list(loader().epoch(2, 8)), list(loader().epoch(2, 8, start=1))
    assert len(rest) == 2
    assert torch.equal(whole[1].images, rest[0].images)


def test_a_mapped_file_gives_the_same_batches(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", PIXELS)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    for size in (8, 4):
        options = {"classes": 5, "batch_size": 16, "preprocess": VIEW, "augmentation": Augmentation(), "seed": 1}
        from_file = next(Loader(mapped, LABELS, np.arange(50), device=torch.device("cpu"), **options).epoch(0, size))
        assert torch.equal(next(loader().epoch(0, size)).images, from_file.images)
    assert [file.name for file in tmp_path.iterdir()] == ["images.npy"], "reduced images have no name"


@pytest.mark.parametrize("how", [Augmentation(flip=True, shift=0.2), Augmentation(mixup=1.0), Augmentation(cutmix=1.0)])
@pytest.mark.parametrize("processes", [2, 3])
def test_the_parts_of_processes_are_the_batches_of_one(how: Augmentation, processes: int) -> None:
    """To the bit, also where images are mixed with their neighbours and where a batch can't be divided evenly."""
    whole = list(loader(augmentation=how).epoch(1, 8))
    parts = [list(loader(augmentation=how, part=(n, processes)).epoch(1, 8)) for n in range(processes)]
    for number, batch in enumerate(whole):
        mine = [part[number] for part in parts]
        assert {part.count for part in mine} == {16}
        for field in ("images", "targets", "labels", "ids"):
            assert torch.equal(torch.cat([getattr(part, field) for part in mine]), getattr(batch, field)), field


def test_smaller_images_are_the_antialiased_ones() -> None:
    small = next(loader().epoch(0, 4))
    assert small.images.shape[2:] == (4, 4)
    full = next(loader().epoch(0, 8))
    torch.testing.assert_close(small.images.mean(), full.images.mean(), atol=0.02, rtol=0)


def test_the_balanced_sampler_evens_classes_out() -> None:
    rows = np.concatenate([np.arange(10), np.array([10, 20, 30, 40])])
    drawn = torch.cat([loader(rows, sampler="balanced", batch_size=14).order(e) for e in range(400)])
    labels = torch.from_numpy(LABELS[rows])[drawn]
    shares = torch.bincount(labels, minlength=5) / len(labels)
    torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.03, rtol=0)


def test_fewer_images_than_a_batch_make_one_batch() -> None:
    [batch] = loader(np.arange(5)).epoch(0, 8)
    assert len(batch.labels) == 5


def test_bfloat16_batches_are_the_rounded_ones() -> None:
    exact, fast = (next(loader(dtype=dtype).epoch(0, 16)) for dtype in (torch.float32, torch.bfloat16))
    assert fast.images.dtype == torch.bfloat16
    assert fast.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(fast.labels, exact.labels)
    step = 1 / 255 / min(loader().preprocess.std)
    assert (fast.images.float() - exact.images).abs().max() < 3 * step
