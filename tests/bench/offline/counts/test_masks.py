"""Counts of the compiled mask kernels, kept: executed instructions and passes of L1.

Half a minute, most of it compiling.
"""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from tests.bench.offline.emulator.processes import start

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs triton")

COUNT = """
import json, torch
from dataclasses import asdict, replace
from bench.offline.counts import masks

masks.CALL = replace(masks.CALL, instances=6, frames=1)
for operation in ("losses", "thresholds"):
    for row in masks.count(operation, torch.float32, 80):
        print(json.dumps(asdict(row) | {"binds": row.binds}))
"""


@pytest.fixture(scope="module")
def rows():
    done = start("-c", COUNT)
    assert done.returncode == 0, done.stdout
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_launches(rows):
    kernels = ["loss_kernel", "loss_gradient_kernel", "gradient_kernel", "sum_kernel"]
    assert [row["kernel"] for row in rows] == [*kernels, "threshold_kernel", "threshold_kernel"]
    assert all(row["spilled"] == 0 for row in rows)


def test_least_bytes_are_of_the_tensors(rows):
    """Of the logits' gradient: features, parameters, references, indices, targets, sums, result."""
    row = rows[1]
    N, h, w = 6, 45, 80
    expected = 4 * (8 * h * w + N * 169 + N * 2 + N * 4 + N * h * w) + 2 * 8 * N + 4 * h * w
    assert row["least"] == pytest.approx(expected / 1e6)
    assert row["dram"] >= 0.9 * row["least"]


def test_masks_are_read_along_rows(rows):
    """Neighbouring lanes share cells: about a pass a request, where it was one a lane."""
    for row in rows[-2:]:
        assert row["wavefronts"] < 1.2 * row["requests"]
        assert row["binds"] == "issue"
