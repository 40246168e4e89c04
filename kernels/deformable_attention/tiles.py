"""Launch table of the deformable attention kernels, one entry per compute capability and direction.

`python -m bench.tune` measures the candidates on the GPU at hand and rewrites this file; entries of
other compute capabilities stay. The entries below come from counts of the compiled code run on an
emulator (docs/kernels.md), not from times: the tile with the least load on what binds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How a program is laid out.

    Attributes:
        num_warps: per program, when there are rows enough to fill the GPU.
        channels_per_lane: channels of a row that one lane takes; at least a vector (16 bytes
            forward, four floats backward), at most four.
        max_registers: per thread, None to leave it to the compiler.
        scalar: backward, a lane adds one float per instruction, and neighbouring lanes hold
            neighbouring channels (see triton_backward).
    """

    num_warps: int
    channels_per_lane: int
    max_registers: int | None = None
    scalar: bool = False


@dataclass(frozen=True, kw_only=True)
class MergedConfig:
    """How programs of the backward that merges adds walk over the sorted samples.

    Attributes:
        num_warps: per program.
        channels_per_lane: channels of a row that one lane takes.
        vector: neighbouring ones of these, a power of two up to four.
        run: samples that a stream of lanes walks over.
        max_registers: per thread, None to leave it to the compiler.
        scalar: whether one float is added per instruction and lane.
    """

    num_warps: int
    channels_per_lane: int
    vector: int
    run: int
    max_registers: int | None = None
    scalar: bool = False


FORWARD = {
    70: LaunchConfig(num_warps=16, channels_per_lane=4),
    75: LaunchConfig(num_warps=4, channels_per_lane=4),
    80: LaunchConfig(num_warps=4, channels_per_lane=4, max_registers=64),
    90: LaunchConfig(num_warps=4, channels_per_lane=4),
    120: LaunchConfig(num_warps=4, channels_per_lane=4),
}
"""More channels per lane save instructions and cost steps of L1, which binds. On V100 L2 does:
sixteen warps, whose rows share cells in L1, ask it for a tenth less. The bound on registers keeps
ptxas from spilling a few bytes for occupancy on 8.6 and 8.9."""

BACKWARD = {
    70: LaunchConfig(num_warps=4, channels_per_lane=4, scalar=True),
    75: LaunchConfig(num_warps=4, channels_per_lane=4, scalar=True),
    80: LaunchConfig(num_warps=4, channels_per_lane=4, scalar=True),
    90: LaunchConfig(num_warps=4, channels_per_lane=4),
    120: LaunchConfig(num_warps=4, channels_per_lane=4),
}
"""Adding four floats at once begins with 9.0."""

MERGED = {
    70: None,
    80: MergedConfig(num_warps=1, channels_per_lane=8, vector=4, run=66, scalar=True),
    86: None,
    89: MergedConfig(num_warps=1, channels_per_lane=8, vector=4, run=66, scalar=True),
    90: MergedConfig(num_warps=1, channels_per_lane=8, vector=4, run=66),
    120: MergedConfig(num_warps=1, channels_per_lane=8, vector=4, run=66),
}
"""Backward of many queries, whose adds are merged before they reach memory (`triton_merged.py`).
None where they are not, since an L2 of a few megabytes does not hold what is scattered: V100, T4,
and the GPUs of 8.6. Programs have one warp: all its streams ask together whether one of them has to
add, which several warps would do through shared memory. Eight streams walk over 66 records each, so
that their records lie in different banks of L1."""

MERGED_ROWS, MERGED_SAMPLES = 8_192, 4
"""Adds are merged from so many rows of an image, and so many samples of a head per cell of all
levels. An encoder layer has L * P of them, a decoder layer less than one. Where sizes go to and fro
over the bound, both forms are compiled, once each."""

SCRATCH_BYTES = 256 << 20
"""Of sorted samples at a time, 16 bytes each; more images take turns."""

MORE_REGISTERS = 128
"""Bound of a thread where gradients of references or whole numbers are asked for, if its tile has
none: left to itself, ptxas spills a few bytes there to gain a little occupancy."""

FEW_ROWS = 2_048
"""Below this many rows of an image, programs have one warp, to spread evenly; not where queries are
tokens. A decoder layer of 300 queries has 2,400: the sixteen rows of a program share the cells of
coarse levels in L1, a fifth of what L2 would give otherwise."""

INTERPRETER_WARPS, INTERPRETER_RUN = 16, 2
"""Triton's interpreter works through programs one by one in numpy, so there they are large, and
loops short."""
