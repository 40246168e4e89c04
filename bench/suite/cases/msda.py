"""Deformable attention: the encoder's and the decoder's launches, and everything they replace."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial

import torch

from bench.baselines import peers
from bench.suite import msda_calls
from bench.suite.directions import PASSES, call_of, cost_of
from bench.suite.implementations import without_compiler
from bench.suite.msda_calls import MSDACall
from bench.suite.schema import Call, Case, Direction, Side, Size

KINKS = 5e-3
"""Tolerance of gradients in float32: where a sample lies on a cell's border, the slope along it
jumps, and rounding decides the side; a few samples in a million do."""


def cases(size: Size) -> Iterator[Case]:
    """Encoder and decoder; on a GPU at the published sizes, in order of importance."""
    for call in _calls(size):
        for direction in PASSES:
            yield _case(call, direction, with_compiled=call in COMPILED)


def _calls(size: Size) -> Iterator[MSDACall]:
    if size == "smoke":
        for queries in (None, 4):
            yield MSDACall(height=32, width=32, frames=2, queries=queries)
    elif size == "cpu":
        for queries in (None, 300):
            yield MSDACall(height=192, width=320, frames=5, queries=queries)
    else:
        yield from COMPILED
        for frame in ((360, 640, 36), (288, 512, 10), (360, 640, 10)):
            for dtype in (torch.float32, torch.bfloat16):
                yield _encoder(*frame, dtype=dtype)
        yield _encoder(480, 768, 10, dtype=torch.float16)
        for pattern in ("initial", "uniform"):
            yield MSDACall(height=480, width=768, frames=10, pattern=pattern)
        for dtype in (torch.float32, torch.bfloat16):
            yield MSDACall(height=360, width=640, frames=36, queries=300, dtype=dtype)


def _encoder(height: int, width: int, frames: int, dtype: torch.dtype) -> MSDACall:
    return MSDACall(height=height, width=width, frames=frames, dtype=dtype)


COMPILED = tuple(
    MSDACall(height=480, width=768, frames=10, queries=queries, dtype=dtype)
    for queries in (None, 300)
    for dtype in (torch.float32, torch.bfloat16)
)
"""The calls that `torch.compile` is measured on; it takes seconds for each."""


def _case(call: MSDACall, direction: Direction, with_compiled: bool) -> Case:
    part = "encoder" if call.queries is None else "decoder"
    dtype = str(call.dtype).removeprefix("torch.")
    pattern = "" if call.pattern == "normal" else f" {call.pattern}"
    size = f"{call.height}x{call.width} T={call.frames}"

    def side(name: str, run: msda_calls.Run) -> Side:
        return Side(name=name, build=partial(_build, call, run, direction))

    sides = [
        side("ours", msda_calls.ours),
        side("published", msda_calls.published),
        side("all frames", msda_calls.reference),
        Side(
            name="no compiler",
            build=partial(_build_without_compiler, call, direction),
            available=lambda device: device.type == "cpu",
        ),
    ]
    if with_compiled:
        sides.append(
            Side(
                name="compiled",
                build=lambda device: _build(call, _compiled(), direction, device),
                available=lambda device: device.type == "cuda",
            )
        )
    for peer in peers.PEERS:
        if call.dtype in peer.dtypes:
            build = partial(_build, call, peer.run, direction)
            sides.append(Side(name=peer.name, build=build, available=peer.runs_on, is_peer=True))
    return Case(
        name=f"msda {part} {size}{pattern} {dtype} {direction}",
        op=f"msda {part}",
        group="kernels",
        sides=tuple(sides),
        direction=direction,
        dtype=dtype,
        shapes={
            "T": call.frames,
            "H": call.height,
            "W": call.width,
            "Q": call.queries or call.tokens,
            "S": call.tokens,
            "C": msda_calls.M * msda_calls.D,
            "M": msda_calls.M,
            "L": len(msda_calls.STRIDES),
            "P": msda_calls.P,
        },
        cost=cost_of(call.model_bytes(), call.model_flops(), direction),
        memory=direction != "backward",
        tolerance=KINKS if dtype == "float32" and direction != "forward" else None,
    )


def _build(call: MSDACall, run: msda_calls.Run, direction: Direction, device: torch.device) -> Call:
    inputs = call.inputs(device)
    return call_of(run, inputs, direction, inputs.grad_output)


def _build_without_compiler(call: MSDACall, direction: Direction, device: torch.device) -> Call:
    return without_compiler(partial(_build, call, msda_calls.ours, direction, device))


@lru_cache(maxsize=1)
def _compiled() -> msda_calls.Run:
    return torch.compile(msda_calls.reference, dynamic=False)


def fractions(case: Case, seconds: float, ceilings: dict[str, float]) -> dict[str, float]:
    """Share of the measured ceiling that a call of ours reaches: gathers from L1 forward, float
    additions backward; nothing for both together, nor where the ceiling was not measured."""
    rows = case.shapes["T"] * case.shapes["Q"] * case.shapes["M"]
    corners = rows * case.shapes["L"] * case.shapes["P"] * 4 * msda_calls.D
    if case.direction == "forward" and "l1_gather_gb_s" in ceilings:
        itemsize = getattr(torch, case.dtype).itemsize
        at_best = corners * itemsize / ceilings["l1_gather_gb_s"] / 1e9
        return {"fraction_of_l1_gather": at_best / seconds}
    if case.direction == "backward" and "float_adds_g_s" in ceilings:
        return {"fraction_of_float_adds": corners / ceilings["float_adds_g_s"] / 1e9 / seconds}
    return {}
