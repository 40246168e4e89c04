"""What a launch asks of a GPU: instructions by class, requests, sectors, lines, conflicts, caches.

The numbers are of the PTX that ran, not of machine code, and not times. A request is one warp
instruction that reaches memory; sectors have 32 bytes, lines 128. Wavefronts are passes through the
first-level cache by the rule of its four banks, line passes by the rule of one line a pass: lanes
are served in quarters of a warp at 16 bytes a lane, in halves at 8, else all together.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np

from bench.offline.emulator.rows import CLASSES


@dataclass(frozen=True)
class Requests:
    """Accesses of global memory of one kind.

    Attributes:
        lines: distinct ones of each request, summed.
        bytes: that lanes asked for.
    """

    requests: int = 0
    sectors: int = 0
    lines: int = 0
    wavefronts: int = 0
    line_passes: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class SharedRequests:
    """Accesses of shared memory of one kind; conflicts are the wavefronts beyond the least."""

    requests: int = 0
    wavefronts: int = 0
    conflicts: int = 0


@dataclass(frozen=True)
class Caches:
    """Sectors of 32 bytes at each level, from a replay with a geometry."""

    l1_read_sectors: int = 0
    l1_hit_sectors: int = 0
    l2_read_sectors: int = 0
    l2_read_hit_sectors: int = 0
    l2_write_sectors: int = 0
    l2_atomic_sectors: int = 0
    l2_atomic_hit_sectors: int = 0
    dram_read_sectors: int = 0
    dram_write_sectors: int = 0

    @property
    def l1_hit_rate(self) -> float:
        """Of loads; 0 without loads."""
        return self.l1_hit_sectors / max(self.l1_read_sectors, 1)

    @property
    def dram_read_bytes(self) -> int:
        """Read from memory."""
        return 32 * self.dram_read_sectors

    @property
    def dram_write_bytes(self) -> int:
        """Written to memory."""
        return 32 * self.dram_write_sectors


@dataclass(frozen=True)
class Counts:
    """One launch, or several added up.

    Attributes:
        blocks, warps: that ran.
        instructions: warp instructions by class (rows.CLASSES).
        lane_instructions: the same, once for each lane that took part.
        partial_instructions: warp instructions with fewer than 32 lanes.
        divergent_branches: where lanes of a warp parted.
        loads ... shared_atomics: None unless requests were counted.
        caches: None unless a geometry was given.
    """

    blocks: int = 0
    warps: int = 0
    instructions: dict[str, int] = field(default_factory=dict)
    lane_instructions: int = 0
    partial_instructions: int = 0
    divergent_branches: int = 0
    loads: Requests | None = None
    stores: Requests | None = None
    atomics: Requests | None = None
    shared_loads: SharedRequests | None = None
    shared_stores: SharedRequests | None = None
    shared_atomics: SharedRequests | None = None
    caches: Caches | None = None

    @property
    def warp_instructions(self) -> int:
        """All classes together."""
        return sum(self.instructions.values())

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            **{f.name: _sum(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        )


def _sum(a: object, b: object) -> object:
    if a is None or b is None:
        return a if b is None else b
    if isinstance(a, dict):
        return {k: a.get(k, 0) + b.get(k, 0) for k in {**a, **b}}
    if isinstance(a, int):
        return a + b
    return type(a)(*(getattr(a, f.name) + getattr(b, f.name) for f in fields(a)))


@dataclass(frozen=True, kw_only=True)
class CacheGeometry:
    """The caches of a GPU, as the replay assumes them.

    Attributes:
        multiprocessors: that blocks are dealt to in turn.
        placement: "round robin" deals block by block, as GPUs do with the first blocks of a launch;
            "fill" deals as many neighbours as a multiprocessor holds at a time.
        l1_bytes: L1 and shared memory together, of one multiprocessor.
        shared_steps: sizes that shared memory can take of it, in KiB; the least that holds the
            blocks is taken, and 1 KiB a block from compute capability 8.0 on for the system.
        max_threads, max_blocks: at a time on a multiprocessor.
        registers: of a multiprocessor.
        l2_bytes: that one multiprocessor can fill.
        l1_ways, l2_ways: lines of a set. Not documented; 16 with hashed sets is close to a full
            association.
    """

    name: str
    multiprocessors: int
    l1_bytes: int
    shared_steps: tuple[int, ...]
    reserved_shared: int
    max_threads: int
    max_blocks: int
    registers: int = 65536
    l2_bytes: int
    l1_ways: int = 16
    l2_ways: int = 16
    placement: Literal["round robin", "fill"] = "round robin"

    def blocks_together(self, threads: int, shared_bytes: int, registers: int | None = None) -> int:
        """Blocks that a multiprocessor holds at a time.

        Args:
            threads, shared_bytes: of a block.
            registers: of a thread, as ptxas tells; None leaves them out.
        """
        warps = -(-threads // 32)
        most = min(self.max_blocks, self.max_threads // (32 * warps))
        if registers:
            per_warp = -(-registers * 32 // 256) * 256
            most = min(most, self.registers // (per_warp * warps))
        if shared_bytes:
            most = min(most, 1024 * self.shared_steps[-1] // (shared_bytes + self.reserved_shared))
        return max(most, 1)

    def l1_left(self, blocks_together: int, shared_bytes: int) -> int:
        """Bytes of L1 beside the shared memory of so many blocks."""
        taken = blocks_together * (shared_bytes + self.reserved_shared) if shared_bytes else 0
        step = next((s for s in self.shared_steps if 1024 * s >= taken), self.shared_steps[-1])
        return self.l1_bytes - 1024 * step


V100 = CacheGeometry(
    name="V100",
    multiprocessors=80,
    l1_bytes=128 << 10,
    shared_steps=(0, 8, 16, 32, 64, 96),
    reserved_shared=0,
    max_threads=2048,
    max_blocks=32,
    l2_bytes=6 << 20,
)
A100 = CacheGeometry(
    name="A100",
    multiprocessors=108,
    l1_bytes=192 << 10,
    shared_steps=(0, 8, 16, 32, 64, 100, 132, 164),
    reserved_shared=1024,
    max_threads=2048,
    max_blocks=32,
    l2_bytes=40 << 20,
)
H100 = CacheGeometry(
    name="H100",
    multiprocessors=132,
    l1_bytes=256 << 10,
    shared_steps=(0, 8, 16, 32, 64, 100, 132, 164, 196, 228),
    reserved_shared=1024,
    max_threads=2048,
    max_blocks=32,
    l2_bytes=50 << 20,
)
GEOMETRIES = {g.name: g for g in (V100, A100, H100)}
"""The whole L2 of A100 and H100 counts, though one half of it is nearer to a multiprocessor."""

_FIRST_REQUESTS = 4


def read_counts(
    instructions: np.ndarray,
    counted: np.ndarray,
    *,
    blocks: int,
    warps: int,
    has_requests: bool,
    has_caches: bool,
) -> Counts:
    """Counts from the machine's arrays, whose places are those of machine.h."""
    counts = Counts(
        blocks=blocks,
        warps=warps,
        instructions={k: int(n) for k, n in zip(CLASSES, instructions, strict=False) if n},
        lane_instructions=int(counted[0]),
        partial_instructions=int(counted[1]),
        divergent_branches=int(counted[2]),
    )
    if not has_requests:
        return counts
    at = _FIRST_REQUESTS
    parts: dict[str, object] = {}
    for names, form in (
        (("loads", "stores", "atomics"), Requests),
        (("shared_loads", "shared_stores", "shared_atomics"), SharedRequests),
    ):
        width = len(fields(form))
        for name in names:
            parts[name] = form(*map(int, counted[at : at + width]))
            at += width
    if has_caches:
        parts["caches"] = Caches(*map(int, counted[at : at + len(fields(Caches))]))
    return Counts(**{f.name: getattr(counts, f.name) for f in fields(counts)} | parts)
