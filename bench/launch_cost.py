"""What a call costs on the host: thread time from the public function to an empty launch.

    python -m bench.launch_cost               # prints; writes nothing
    python -m bench.launch_cost --only mask

Triton runs behind a stand-in for a GPU (`bench/offline/stand_in.py`), so a launch ends where the
driver's would begin. Tensors are tiny and lie on the CPU: allocating and filling them costs little.
Of the whole, the launches alone are given too, as they are and as they would be by Triton's own
way, which binds and looks up all arguments.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch

CALLS, TURNS = 50, 21
"""Calls of a turn, and turns, of which the shortest counts: a busy machine only adds."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something to call.

    Attributes:
        name: as it is printed.
        call: does it once.
        has_grad: whether autograd records.
    """

    name: str
    call: Callable[[], object]
    has_grad: bool = True


def subjects() -> Iterator[Subject]:
    """Forward, and forward with backward, of every operator."""
    import kernels
    from kernels.deformable_attention import tiles

    g = torch.Generator().manual_seed(0)
    shapes = ((6, 8), (3, 4), (2, 2), (2, 2))
    B, M, D, P, S = 2, 8, 32, 4, sum(h * w for h, w in shapes)
    value = torch.randn(B, S, M, D, generator=g).requires_grad_()
    offsets = torch.randn(B, S, M, 4, P, 2, generator=g).requires_grad_()
    logits = torch.randn(B, S, M, 4, P, generator=g).requires_grad_()
    reference = torch.rand(1, S, 4, 2, generator=g)
    valid = torch.tensor(shapes, dtype=torch.int32)[None]
    samples = (value, shapes, offsets, logits, reference, valid)
    grad = torch.randn(B, S, M * D, generator=g)

    def attend() -> torch.Tensor:
        return kernels.ms_deform_attn_fused(*samples)

    def attend_both() -> object:
        return torch.autograd.grad(attend(), (value, offsets, logits), grad)

    def attend_merged() -> object:
        rows, tiles.MERGED_ROWS = tiles.MERGED_ROWS, 0
        try:
            return attend_both()
        finally:
            tiles.MERGED_ROWS = rows

    yield Subject(name="deformable attention, no grad", call=attend, has_grad=False)
    yield Subject(name="deformable attention", call=attend)
    yield Subject(name="deformable attention, both ways", call=attend_both)
    yield Subject(name="the same, adds merged", call=attend_merged)

    features = torch.randn(1, 2, 8, 4, 6, generator=g).requires_grad_()
    parameters = torch.randn(3, kernels.MaskHeadConfig().num_params, generator=g).requires_grad_()
    points = torch.rand(3, 2, 2, generator=g).requires_grad_()
    clip = torch.zeros(3, dtype=torch.int64)
    targets = torch.zeros(3, 2, 8, 12, dtype=torch.bool)
    leaves = (features, parameters, points)
    grad_masks = torch.randn(3, 2, 8, 12, generator=g)
    grad_sums = [torch.randn(3, generator=g) for _ in range(3)]

    def draw() -> torch.Tensor:
        return kernels.dynamic_mask_head(*leaves, clip)

    def draw_both() -> object:
        return torch.autograd.grad(draw(), leaves, grad_masks)

    def lose() -> Sequence[torch.Tensor]:
        return kernels.dynamic_mask_loss(*leaves, clip, targets, target_index=clip)

    def lose_both() -> object:
        return torch.autograd.grad(lose()[:3], leaves, grad_sums)

    yield Subject(name="mask head, no grad", call=draw, has_grad=False)
    yield Subject(name="mask head", call=draw)
    yield Subject(name="mask head, both ways", call=draw_both)
    yield Subject(name="mask losses", call=lose)
    yield Subject(name="mask losses, both ways", call=lose_both)
    frame = torch.randn(2, 4, 6, generator=g)
    yield Subject(
        name="mask threshold",
        call=lambda: kernels.threshold_masks(frame, (16, 24), packed=True),
        has_grad=False,
    )


def microseconds(call: Callable[[], object]) -> float:
    """Thread time of a warm call."""
    spent = []
    call()
    for _ in range(TURNS):
        before = time.thread_time_ns()
        for _ in range(CALLS):
            call()
        spent.append((time.thread_time_ns() - before) / CALLS / 1000)
    return min(spent)


def launches_of(call: Callable[[], object]) -> list[tuple[Any, tuple[Any, ...]]]:
    """Of one call: what is launched, and with which grid, device and arguments."""
    from kernels.launch import Launch

    run, launches = Launch.run, []

    def noted(launch: Launch, *arguments: Any) -> None:
        launches.append((launch, arguments))
        run(launch, *arguments)

    with mock.patch.object(Launch, "run", noted):
        call()
    return launches


def by_triton(launch: Any, grid: Any, device: torch.device, *arguments: Any) -> None:
    """The same launch through `JITFunction.run`."""
    variant = launch.variant
    names = variant.kernel.arg_names[len(arguments) :]
    grid = (grid, 1, 1) if isinstance(grid, int) else grid
    constants = [variant.constants[name] for name in names]
    variant.kernel[grid](*arguments, *constants, **variant.options())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="calls whose name contains this")
    options = parser.parse_args(arguments)
    if os.environ.pop("TRITON_INTERPRET", None):
        print("TRITON_INTERPRET is ignored here", file=sys.stderr)
    from bench.offline.stand_in import standing_in

    torch.set_num_threads(1)
    print(f"{'microseconds of the host':34}{'in all':>10}{'launching':>11}{'by Triton':>11}")
    with standing_in():
        for subject in subjects():
            if options.only not in subject.name:
                continue
            with nullcontext() if subject.has_grad else torch.no_grad():
                whole = microseconds(subject.call)
                launches = launches_of(subject.call)
            ours = sum(microseconds(partial(launch.run, *given)) for launch, given in launches)
            tritons = sum(
                microseconds(partial(by_triton, *pair, *given)) for *pair, given in launches
            )
            print(f"{subject.name:34}{whole:>10.1f}{ours:>11.1f}{tritons:>11.1f}", flush=True)
    return 0


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.launch_cost", main)
