"""Launch table of the mask losses' kernels, one entry per compute capability.

As `mask_head/tiles.py`: `python -m bench.tune --only losses` rewrites it.
"""

from __future__ import annotations

from dataclasses import replace

import triton

from ..mask_head.tiles import LaunchConfig

LOSS = {
    70: LaunchConfig(num_warps=4, cells=4, max_registers=128),
    75: LaunchConfig(num_warps=8, cells=4),
    80: LaunchConfig(num_warps=4, cells=4),
    90: LaunchConfig(num_warps=4, cells=4),
    120: LaunchConfig(num_warps=4, cells=4),
}
"""With four warps, the compiler spills 8 bytes on sm_75 to fit one program more, and on sm_70 as
many where the bound is not given."""
if triton.__version__.startswith("3.6."):
    # That compiler spills up to 76 bytes with the bound, 16 without one on sm_75.
    LOSS[70] = replace(LOSS[70], max_registers=None)
    LOSS[75] = replace(LOSS[75], max_registers=128)
