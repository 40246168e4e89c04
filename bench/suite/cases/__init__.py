"""All benchmark cases, a module per subject; each has `cases(size) -> Iterator[Case]`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

from bench.suite.schema import Case, Size, unique

MODULES: tuple[str, ...] = (
    "msda",
    "mask_head",
    "frame_masks",
    "blocks",
    "training",
    "inference",
    "growth",
    "loader",
    "scorer",
)
"""Submodules, in the order of reports. Those of kernels, blocks and models need torch, triton,
numpy and our own code only, so that `bench.gpu` runs on a bare machine."""


def all_cases(size: Size, modules: tuple[str, ...] = MODULES) -> list[Case]:
    """Every case of a size. Raises: ValueError: two have one name."""

    def declared() -> Iterator[Case]:
        for name in modules:
            yield from import_module(f"bench.suite.cases.{name}").cases(size)

    return unique(declared())
