"""A healthy loop on the embedded digits, which each test changes."""

from __future__ import annotations

import pytest
import torch

from hubel.doctor.lesson import Lesson, digits


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def lesson() -> Lesson:
    """Two blocks with batch norm."""
    return digits(steps=110, every=50)
