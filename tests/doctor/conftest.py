"""A healthy loop on the embedded digits, which each test changes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from sklearn.datasets import load_digits

from hubel.doctor.lesson import Lesson
from hubel.doctor.specimens import two_blocks


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def lesson() -> Lesson:
    """Two blocks with batch norm on 1,000 digits of 8×8 pixels."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    labels = torch.tensor(digits.target)[order]
    mean, std = images.mean(), images.std()
    return Lesson(
        network=partial(two_blocks, 1, 10),
        train=(images[:1000], labels[:1000]),
        held_out=(images[1000:1256], labels[1000:1256]),
        scale=lambda x: (x - mean) / std,
        steps=110,
        every=50,
    )
