"""Once a training step or a video has run, others of any size compile nothing; and calls are short.

Takes some 7 s.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.kernels.random_steps import STEPS, VIDEOS

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")


@pytest.fixture(scope="module")
def compiled() -> dict[str, list[dict[str, int]]]:
    """Of every kind of call, what Triton has compiled after each."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.random_steps"],
        cwd=Path(__file__).parents[2],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_compiles_in_the_first_step(compiled, dtype):
    counts = compiled[f"training {dtype}"]
    assert len(counts) == STEPS and counts == STEPS * [counts[0]]
    # Forward and backward of an encoder layer, the first decoder layer and the later ones, and the
    # losses' four. The first decoder layer's forward is the encoder's kernel; the backward of the
    # encoder layer merges adds, in five launches.
    assert sum(counts[0].values()) == 13


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_inference_compiles_in_the_first_video(compiled, dtype):
    counts = compiled[f"inference {dtype}"]
    assert len(counts) == VIDEOS and counts == VIDEOS * [counts[0]]
    assert sum(counts[0].values()) == 4


MOST_CALLS = {
    "deformable attention": 140,
    "deformable attention, both ways": 315,
    "the same, adds merged": 420,
    "mask head": 115,
    "mask head, both ways": 290,
    "mask losses": 150,
    "mask losses, both ways": 425,
    "mask threshold": 68,
}
"""Functions of Python and C that a warm call may run through: a tenth more than it does."""


@pytest.mark.parametrize("name", sorted(MOST_CALLS))
def test_little_happens_on_the_host(compiled, name):
    """Time would depend on the machine; `python -m bench.launch_cost` measures it."""
    assert 0 < compiled["function calls"][name] <= MOST_CALLS[name]
