"""Launch tables of the dynamic mask head's kernels, one entry per compute capability.

`python -m bench.tune --only mask` measures the candidates on the GPU at hand and rewrites this
file; entries of other compute capabilities stay. The entries below come from compiled resource
usage (`python -m bench.compile --only mask`), not from a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import triton


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How a program is laid out.

    Attributes:
        num_warps: per program.
        cells: that a lane evaluates at once, so many times a parameter is used per load.
        max_registers: per thread, None to leave it to the compiler.
    """

    num_warps: int
    cells: int
    max_registers: int | None = None


@dataclass(frozen=True, kw_only=True)
class BackwardConfig:
    """How programs of the launch are laid out that gives gradients, of both kinds.

    Attributes:
        num_warps: per program.
        parameter_cells: that a lane evaluates at once for gradients of parameters.
        feature_cells: and for those of features.
        max_sums: parameters of a head whose gradients one program sums; of larger heads, programs
            share the layers.
        max_registers: per thread, None to leave it to the compiler.
    """

    num_warps: int
    parameter_cells: int
    feature_cells: int
    max_sums: int = 176
    max_registers: int | None = None

    def block(self, cells: int) -> int:
        """Cells of a program that has so many per lane."""
        return cells * 32 * self.num_warps

    def halved(self) -> BackwardConfig:
        """With half as many cells per lane."""
        return replace(
            self,
            parameter_cells=max(1, self.parameter_cells // 2),
            feature_cells=max(1, self.feature_cells // 2),
        )


FORWARD = {
    70: LaunchConfig(num_warps=4, cells=4, max_registers=80),
    75: LaunchConfig(num_warps=4, cells=4),
    80: LaunchConfig(num_warps=4, cells=4, max_registers=80),
    90: LaunchConfig(num_warps=4, cells=4, max_registers=80),
    100: LaunchConfig(num_warps=4, cells=4),
    120: LaunchConfig(num_warps=4, cells=4),
}
"""Left to itself, the compiler takes 96: six programs fit instead of five. On sm_100 it would spill
to keep to it; on sm_75 and sm_120 it takes 64 and less."""
BACKWARD = {
    70: BackwardConfig(num_warps=1, parameter_cells=1, feature_cells=2),
    75: BackwardConfig(num_warps=1, parameter_cells=1, feature_cells=2),
    80: BackwardConfig(num_warps=1, parameter_cells=1, feature_cells=2),
    90: BackwardConfig(num_warps=1, parameter_cells=1, feature_cells=2),
    100: BackwardConfig(num_warps=1, parameter_cells=1, feature_cells=2, max_sums=100),
    120: BackwardConfig(num_warps=1, parameter_cells=1, feature_cells=2),
}
"""One warp: sums over lanes then need no shared memory. The 169 sums of the default head leave
registers for one cell, and on sm_100 not even for that."""
if triton.__version__.startswith("3.6."):
    # That compiler spills 76 bytes with the bound, and 28 with two cells.
    FORWARD[70] = replace(FORWARD[70], max_registers=None)
    BACKWARD = {key: replace(config, feature_cells=1) for key, config in BACKWARD.items()}
SUM = LaunchConfig(num_warps=4, cells=1)
MAX_SUMS = 100
"""Sums over cells that a lane keeps in registers: all 8 * 11 of the default head's first layer."""
MOST_ROWS = 8
"""Of the cells that a lane walks down."""
ENOUGH_LANES = 1 << 17
"""Lanes that fill a large GPU."""
MOST_BLOCKS = 16
"""Blocks of cells per program that sums parameter gradients; with all instances, what the programs
that follow each other read, to be found in L2 by those for features."""
ENOUGH_PROGRAMS = 1 << 11
"""Of one warp each: twice what a large GPU runs at once, with that many registers."""
