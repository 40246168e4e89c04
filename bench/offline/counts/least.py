"""The least traffic of a layer of deformable attention: what any implementation moves.

    python -m bench.counts least

A cache that is empty at first and then loses nothing: every 32-byte sector of the inputs that the
samples of a workload need is read once, every sector of the results is written once. Backward adds
to zeros in memory, in float32: the touched sectors of the gradient of value are read and written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from bench.offline.counts.attention import DTYPES, KEY, WORKLOADS
from bench.offline.counts.gpus import GPUS
from bench.offline.counts.store import FOLDER, Store
from bench.suite import msda_calls
from bench.suite.msda_calls import Inputs, MSDACall

RECORD, PART = FOLDER / "least.json", "least-traffic"


def touched_cells(inputs: Inputs) -> int:
    """Pairs of a cell and a head that a sample has among its four corners, over all frames."""
    sizes = msda_calls.level_sizes(inputs).long()  # [L, 2] width, height
    start = sizes.prod(1).cumsum(0) - sizes.prod(1)
    frames, heads = inputs.value.shape[0], inputs.value.shape[2]
    scaled = inputs.reference[:, :, None, :, None] * sizes[:, None] - 0.5
    low = (scaled + inputs.offsets).floor().long()  # [n, Q, M, L, P, 2]
    total = 0
    for frame in low:
        is_touched = torch.zeros(inputs.value.shape[1] * heads, dtype=torch.bool)
        for dx in (0, 1):
            for dy in (0, 1):
                is_touched[_cells(frame + torch.tensor([dx, dy]), sizes, start)] = True
        total += int(is_touched.sum())
    assert total <= frames * inputs.value.shape[1] * heads
    return total


def _cells(corner: Tensor, sizes: Tensor, start: Tensor) -> Tensor:
    """Numbers of cell and head of those corners [Q, M, L, P, 2] that lie in their level."""
    heads = corner.shape[1]
    inside = ((corner >= 0) & (corner < sizes[:, None])).all(-1)
    token = start[:, None] + corner[..., 1] * sizes[:, :1] + corner[..., 0]
    head = torch.arange(heads)[:, None, None].expand(token.shape)
    return (token * heads + head)[inside]


def least_bytes(call: MSDACall, direction: str) -> tuple[int, int]:
    """Read and written, of all frames."""
    inputs = call.inputs(torch.device("cpu"))
    cells = touched_cells(inputs) * inputs.value.shape[3]
    samples = (inputs.offsets.numel() + inputs.logits.numel()) * 4
    output = inputs.grad_output.numel() * call.dtype.itemsize
    read = cells * call.dtype.itemsize + samples + inputs.reference.numel() * 4
    if direction == "forward":
        return read, output
    return read + output + 4 * cells, 4 * cells + samples


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.counts least", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=RECORD, help="record to write")
    parser.add_argument("--changed", action="store_true", help="no less: it takes seconds")
    options = parser.parse_args(arguments)
    store = Store(options.output, PART, KEY)
    for workload, call in WORKLOADS.items():
        for direction in ("forward", "backward"):
            for dtype, kind in DTYPES.items():
                read, written = least_bytes(replace(call, dtype=kind), direction)
                values = (read / call.frames / 1e6, written / call.frames / 1e6)
                for capability, gpu in GPUS.items():
                    key = dict(zip(KEY, (workload, direction, dtype, capability), strict=True))
                    seconds = 1e6 * sum(values) / gpu.dram
                    store.rows[tuple(key.values())] = key | {
                        "gpu": gpu.caches.name,
                        "dram_read": values[0],
                        "dram_write": values[1],
                        "bounds": {"dram": 1e6 * seconds},
                        "binds": "dram",
                    }
                print(
                    f"{workload}, {direction} {dtype}: {values[0]:.2f}+{values[1]:.2f} MB a frame"
                )
    store.write()
    print(store.path)
    return 0
