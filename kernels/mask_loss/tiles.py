"""Launch table of the mask losses' kernels, one entry per GPU family.

As `mask_head/tiles.py`: `python -m bench.tune --only losses` rewrites it.
"""

from __future__ import annotations

from ..mask_head.tiles import Tile

LOSS = {
    70: Tile(num_warps=4, cells=4),
    75: Tile(num_warps=8, cells=4),
    80: Tile(num_warps=4, cells=4),
    90: Tile(num_warps=4, cells=4),
    120: Tile(num_warps=4, cells=4),
}
"""With four warps, the compiler spills 8 bytes on sm_75 to fit one program more."""
