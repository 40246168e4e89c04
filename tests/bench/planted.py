"""Cases for the tests of the runner: three that it can do something about, one that interrupts."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.case import Case, Side, Size


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
