"""Does a launch give the same bits in whatever order its blocks run?"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.offline.emulator.decoded import Buffer, Launch, Options


@dataclass(frozen=True)
class Difference:
    """The first byte of a buffer that another order changed.

    Attributes:
        name: of the buffer.
        offset: of the byte.
        num_bytes: that differ.
        order, seed: that gave something else than blocks in order.
    """

    name: str
    offset: int
    num_bytes: int
    order: str
    seed: int

    def __str__(self) -> str:
        return (
            f"{self.num_bytes} bytes of {self.name} depend on the order of blocks, the first at "
            f"{self.offset} (order {self.order}, seed {self.seed})"
        )


def differences_by_order(
    run: Callable[[Options], Launch],
    buffers: Sequence[Buffer],
    options: Options | None = None,
    random_orders: int = 10,
) -> list[Difference]:
    """Run forward, in reverse, in lockstep and in random orders, each on the same bytes.

    Args:
        run: one launch, or several that use the same buffers.
        buffers: what may change; holds the forward run's results afterwards.

    Returns: at most one difference a buffer and order. Raises: what `run` does.
    """
    options = options or Options()
    views = [_bytes(b) for b in buffers]
    before = [v.copy() for v in views]
    flags = [b.initialised for b in buffers]
    flags_before = [f.copy() if isinstance(f, np.ndarray) else None for f in flags]

    def result(order: str, seed: int) -> list[np.ndarray]:
        for view, start in zip(views, before, strict=True):
            view[:] = start
        for flag, start in zip(flags, flags_before, strict=True):
            if start is not None:
                flag[:] = start
        run(replace(options, order=order, seed=seed))
        return [v.copy() for v in views]

    orders = [("reverse", 0), ("lockstep", 0), *(("random", k) for k in range(random_orders))]
    found = []
    expected = result("forward", 0)
    for order, seed in orders:
        for buffer, right, got in zip(buffers, expected, result(order, seed), strict=True):
            wrong = np.flatnonzero(right != got)
            if len(wrong):
                difference = Difference(buffer.name, int(wrong[0]), len(wrong), order, seed)
                found.append(difference)
    for view, right in zip(views, expected, strict=True):
        view[:] = right
    return found


def _bytes(buffer: Buffer) -> np.ndarray:
    """The memory itself, [num_bytes] uint8."""
    if buffer.num_bytes == 0:
        return np.zeros(0, np.uint8)
    kind = ctypes.c_uint8 * buffer.num_bytes
    return np.frombuffer(kind.from_address(buffer.address), dtype=np.uint8)
