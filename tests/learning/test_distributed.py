"""Two processes under torchrun take the steps of one: in float64, with uneven parts, mixing and accumulation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hubel.learning.distributed import from_first, gathered, largest, rank, summed, world_size
from learning import hundred_steps


@pytest.mark.torchrun
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    output = tmp_path / "losses.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [hundred_steps.__file__, str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    processes, *found = json.loads(output.read_text())
    assert processes == 2
    for settings, by_two in zip(hundred_steps.SETTINGS, found, strict=True):
        by_one = hundred_steps.trained(settings)
        assert len(set(by_one[0])) == len(by_one[0]) == 100
        for one, two in zip(by_one, by_two, strict=True):
            np.testing.assert_allclose(two, one, rtol=0, atol=1e-9)


def test_one_process_is_the_identity() -> None:
    value = torch.ones(3)
    assert (rank(), world_size()) == (0, 1)
    assert summed(value) is value
    assert largest([1.0, 2.0]) == [1.0, 2.0]
    assert gathered(value)[0] is value
    assert from_first("text") == "text"
