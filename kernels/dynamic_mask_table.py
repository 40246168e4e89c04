"""Launch table of the dynamic mask head's kernels: by kernel, and from which compute capability on.

The entries come from compiled resource usage (`python -m bench.compile --only mask`), not from a
measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton


@dataclass(frozen=True, kw_only=True)
class Tile:
    """How a program is laid out.

    Attributes:
        num_warps: per program.
        cells: that a lane evaluates at once, so many times a parameter is used per load.
        max_registers: per thread, None to leave it to the compiler.
    """

    num_warps: int
    cells: int
    max_registers: int | None = None


FORWARD = {70: Tile(num_warps=4, cells=4)}
PARAMETERS = {70: Tile(num_warps=1, cells=1), 80: Tile(num_warps=1, cells=2)}
if triton.__version__.startswith("3.6."):
    PARAMETERS = {70: Tile(num_warps=1, cells=1)}  # with two cells, that compiler spills 930 bytes
FEATURES = {70: Tile(num_warps=1, cells=1), 80: Tile(num_warps=1, cells=2)}
"""One warp: sums over lanes then need no shared memory. Two cells do not fit the older ones."""
LOSS = {
    70: Tile(num_warps=4, cells=4),
    75: Tile(num_warps=8, cells=4),
    80: Tile(num_warps=4, cells=4),
}
"""With four warps, the compiler spills 8 bytes on sm_75 to fit one program more."""

MAX_SUMS = 100
"""Sums over cells that a lane keeps in registers: all 8 * 11 of SeqFormer's first layer."""
LONGEST_STRIP = 8
ENOUGH_LANES = 1 << 17
"""Lanes that fill a large GPU."""
LONGEST_PIECE = 16
"""Blocks of cells per program that sums parameter gradients."""
ENOUGH_PROGRAMS = 1 << 12


def tile_for(entries: dict[int, Tile], capability: int) -> Tile:
    """The entry of the newest GPUs that are not newer than this one."""
    return entries[max((c for c in entries if c <= capability), default=min(entries))]
