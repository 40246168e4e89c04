"""Cases for the tests of the runner: three that it can do something about, one that interrupts."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.suite import memory
from bench.suite.schema import Case, Side, Size


def cases(size: Size) -> Iterator[Case]:
    yield _case("planted right", 1.0, 1.0)
    yield _case("planted wrong", 1.0, 2.0)
    if size == "cpu":
        yield _case("planted interruption", 1.0, KeyboardInterrupt())
        yield _case("planted after it", 1.0, 1.0)


def _case(name: str, ours: float, published: float | KeyboardInterrupt) -> Case:
    def build(value):
        def call():
            if isinstance(value, KeyboardInterrupt):
                raise value
            return torch.full((1000,), value)

        return lambda device: call

    sides = (
        Side(name="ours", build=build(ours)),
        Side(name="published", build=build(published)),
        Side(name="absent", build=build(ours), available=lambda device: False),
        Side(name="peer", build=build(ours), is_peer=True),
    )
    return Case(name=name, op="fill", group="kernels", sides=sides, rounds=3, memory=False)


def leave_holes() -> None:
    """16 MiB in pieces, freed between small ones that stay; then 16 MiB in pieces that fit no hole.

    The block before them lets the C library know that such sizes are freed again; it then takes
    them from its heap.
    """
    torch.ones(2**22)
    large, small = [], []
    for _ in range(16):
        large.append(torch.ones(2**18))
        small.append(bytearray(2**16))
    large.clear()
    large += [torch.ones(2**18 + 2**14) for _ in range(15)]


def peak_of_holes(returned: bool) -> int | None:
    """By how many bytes `leave_holes` raises the peak of this fresh process."""
    torch.set_num_threads(1)
    if returned:
        memory.return_freed_memory()
    return memory.peak_growth_of(leave_holes)
