"""Least traffic of deformable attention, where it can be counted by hand. A second."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

if find_spec("triton") is None:
    pytest.skip("needs triton", allow_module_level=True)

from bench.offline.counts.least import least_bytes, main, touched_cells
from bench.suite.msda_calls import D, M, MSDACall, P

CALL = MSDACall(height=64, width=64, frames=2, queries=1)


def inputs_at(*offset: float):
    """All samples at the same place, `offset` cells from the middle of each level."""
    inputs = CALL.inputs(torch.device("cpu"))
    offsets = torch.tensor(offset).expand(inputs.offsets.shape)
    return replace(inputs, offsets=offsets, reference=torch.full_like(inputs.reference, 0.5))


def test_corners_of_one_place():
    """Levels of 8, 4, 2 and 1 cells a side: in the middle four corners, of one cell one."""
    assert touched_cells(inputs_at(0.25, 0.25)) == CALL.frames * M * (4 + 4 + 4 + 1)


def test_corners_outside_are_not_read():
    # A cell from the edge of the widest level, three columns of corners are one: the last.
    assert touched_cells(inputs_at(3.75, 0.25)) == CALL.frames * M * 2
    assert touched_cells(inputs_at(100.0, 0.0)) == 0


def test_bytes_of_a_direction():
    inputs = CALL.inputs(torch.device("cpu"))
    cells = touched_cells(inputs) * D
    samples = CALL.rows * len(CALL.shapes) * P * 3 * 4
    references, output = inputs.reference.numel() * 4, CALL.rows * D * 4
    read, written = least_bytes(CALL, "forward")
    assert (read, written) == (4 * cells + samples + references, output)
    half, _ = least_bytes(replace(CALL, dtype=torch.bfloat16), "forward")
    assert read - half == 2 * cells
    again, added = least_bytes(CALL, "backward")
    assert (again, added) == (read + output + 4 * cells, 4 * cells + samples)


def test_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.offline.counts.least.WORKLOADS", {"small": CALL})
    path = tmp_path / "least.json"
    assert main(["--output", str(path)]) == 0
    from bench.offline.counts.least import PART
    from bench.offline.counts.store import read_rows

    rows = read_rows(path, PART)
    assert len(rows) == 2 * 3 * 3 and all(row["bounds"]["dram"] > 0 for row in rows)
