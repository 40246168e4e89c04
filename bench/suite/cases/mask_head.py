"""The dynamic mask head and the losses on it, beside grouped convolutions.

Sizes are the model's: matched queries of six decoder layers in training, ten output queries of a
video at inference. "Mask head flow" is what the original does for a video: all 300 queries in all
six layers, frame by frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial

import torch

import kernels
from bench.suite import mask_calls
from bench.suite.directions import PASSES, call_of, cost_of
from bench.suite.implementations import without_compiler
from bench.suite.mask_calls import MaskCall
from bench.suite.schema import Call, Case, Direction, Side, Size

QUERIES, LAYERS, OUTPUTS = 300, 6, 10
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def cases(size: Size) -> Iterator[Case]:
    """In order of importance."""
    if size == "gpu":
        training = [
            MaskCall(instances=60, frames=5, height=h, width=w, layers=LAYERS, dtype=dtype)
            for h, w in ((480, 768), (360, 640))
            for dtype in DTYPES
        ]
        for call in training:
            for direction in PASSES:
                yield _losses(call, direction)
        for count in (OUTPUTS, 1, 50, QUERIES):
            yield _head(MaskCall(instances=count, frames=36, height=360, width=640), "forward")
        yield _flow(MaskCall(instances=QUERIES, frames=36, height=360, width=640), OUTPUTS)
        for call in training:
            for direction in PASSES:
                yield _head(call, direction)
        return
    if size == "cpu":
        head = MaskCall(instances=10, frames=5, height=480, width=768)
        losses = MaskCall(instances=60, frames=5, height=480, width=768, layers=LAYERS)
        flow, outputs = MaskCall(instances=QUERIES, frames=10, height=192, width=320), OUTPUTS
    else:
        head = losses = MaskCall(instances=4, frames=2, height=16, width=24, layers=2)
        flow, outputs = MaskCall(instances=5, frames=2, height=16, width=24), 2
    for direction in PASSES:
        yield _losses(losses, direction)
        yield _head(head, direction)
    yield _flow(flow, outputs)


def _losses(call: MaskCall, direction: Direction) -> Case:
    sides = [
        _side("ours", call, mask_calls.our_losses, direction),
        _side("two steps", call, mask_calls.our_losses_in_two_steps, direction),
    ]
    if call.dtype == torch.float32:
        sides += [
            _side("published", call, mask_calls.published_losses, direction),
            _side_without_compiler(call, mask_calls.our_losses, direction),
            _compiled_side(call, mask_calls.published_losses, direction),
        ]
    return _case("mask losses", call, direction, sides, with_losses=True)


def _head(call: MaskCall, direction: Direction) -> Case:
    sides = [_side("ours", call, mask_calls.ours, direction, has_grad=True)]
    if call.dtype == torch.float32:
        # In half precision the published code multiplies coordinates of hundreds in that dtype.
        sides += [
            _side("published", call, mask_calls.published, direction, has_grad=True),
            _side_without_compiler(call, mask_calls.ours, direction, has_grad=True),
            _compiled_side(call, mask_calls.published, direction, has_grad=True),
        ]
    return _case("mask head", call, direction, sides, with_losses=False)


def _case(
    op: str, call: MaskCall, direction: Direction, sides: list[Side], with_losses: bool
) -> Case:
    dtype = str(call.dtype).removeprefix("torch.")
    moved, flops = call.model_bytes(with_losses), call.model_flops(with_losses)
    names = [side.name for side in sides]
    return Case(
        name=f"{op} N={call.instances} T={call.frames} {call.height}x{call.width} {dtype} "
        f"{direction}",
        op=op,
        group="kernels",
        sides=tuple(sides),
        direction=direction,
        dtype=dtype,
        shapes=_shapes(call),
        cost=cost_of(moved, flops, direction),
        baseline="published" if "published" in names else names[-1],
        memory=direction != "backward",
    )


def _flow(call: MaskCall, outputs: int) -> Case:
    """Masks of the output queries; `call` is of all queries, in one layer."""
    needed = MaskCall(instances=outputs, frames=call.frames, height=call.height, width=call.width)

    def ours(device: torch.device) -> Call:
        inputs = call.inputs(device)
        features, params, references = (leaf.detach() for leaf in inputs.leaves())
        leaves = [features, params[:outputs], references[:outputs]]
        clip_index = inputs.clip_index[:outputs]
        return lambda: kernels.dynamic_mask_head(*leaves, clip_index)

    def published(device: torch.device) -> Call:
        inputs = call.inputs(device)
        leaves = [leaf.detach() for leaf in inputs.leaves()]
        return lambda: [mask_calls.published(inputs, leaves) for _ in range(LAYERS)][-1][:outputs]

    return Case(
        name=f"mask head flow N={outputs} of {call.instances} T={call.frames} "
        f"{call.height}x{call.width} float32 forward",
        op="mask head flow",
        group="kernels",
        sides=(Side(name="ours", build=ours), Side(name="published", build=published)),
        direction="forward",
        shapes=_shapes(needed) | {"Q": call.instances},
        cost=cost_of(needed.model_bytes(False), needed.model_flops(False), "forward"),
    )


def _shapes(call: MaskCall) -> dict[str, int]:
    return {"N": call.instances, "T": call.frames, "H": call.height, "W": call.width}


def _side(
    name: str, call: MaskCall, run: mask_calls.Run, direction: Direction, has_grad: bool = False
) -> Side:
    return Side(name=name, build=partial(_build, call, run, direction, has_grad))


def _side_without_compiler(
    call: MaskCall, run: mask_calls.Run, direction: Direction, has_grad: bool = False
) -> Side:
    def build(device: torch.device) -> Call:
        return without_compiler(partial(_build, call, run, direction, has_grad, device))

    return Side(name="no compiler", build=build, available=lambda device: device.type == "cpu")


def _compiled_side(
    call: MaskCall, run: mask_calls.Run, direction: Direction, has_grad: bool = False
) -> Side:
    return Side(
        name="compiled",
        build=lambda device: _build(call, _compiled(run), direction, has_grad, device),
        available=lambda device: device.type == "cuda",
    )


def _build(
    call: MaskCall,
    run: mask_calls.Run,
    direction: Direction,
    has_grad: bool,
    device: torch.device,
) -> Call:
    inputs = call.inputs(device)
    return call_of(run, inputs, direction, inputs.grad if has_grad else None)


@lru_cache(maxsize=2)
def _compiled(run: mask_calls.Run) -> mask_calls.Run:
    return torch.compile(run, dynamic=False)
