"""Blocks of the model: encoder, decoder, mask branch, backbone stage, matcher and criterion.

In half precision ours runs under autocast, as in training, and the published formulation stays
float32, which is all that the original code offers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.baselines.torch_compile import compiled_parts
from bench.suite import blocks
from bench.suite.blocks import Block
from bench.suite.flops import CountedCost, FlopCounter, Work
from bench.suite.mask_calls import MaskCall
from bench.suite.model_inputs import TINY, ModelSize
from bench.suite.schema import Call, Case, Cost, Direction, Side, Size

TRAINING = ModelSize(clips=2, frames=5, height=480, width=768)
VIDEO = ModelSize(frames=36, height=360, width=640, instances=0)
GRADIENTS = 5e-3
"""Tolerance of gradients in float32: they jump where a sampling point lies on a cell's border, and
where a ReLU's input is zero, and rounding decides the side."""
Make = Callable[[ModelSize, torch.device], Block]


@dataclass(frozen=True)
class Kind:
    """A block, and how it is measured.

    Attributes:
        has_video: at inference too, forward.
        is_trained: has a backward pass.
        needs: a module that must be importable.
        is_stack: several layers, in fewer rounds.
    """

    op: str
    make: Make
    has_video: bool = True
    is_trained: bool = True
    needs: str | None = None
    is_stack: bool = False


KINDS = (
    Kind("encoder layer", partial(blocks.encoder, num_layers=1)),
    Kind("decoder layer", blocks.decoder_layer),
    Kind("mask branch", blocks.mask_branch),
    Kind("criterion", blocks.criterion, has_video=False, needs="scipy"),
    Kind("matcher", blocks.matcher, has_video=False, is_trained=False, needs="scipy"),
    Kind("backbone stage", blocks.backbone_stage),
    Kind("encoder", blocks.encoder, has_video=False, is_stack=True),
    Kind("decoder", blocks.decoder, has_video=False, is_stack=True),
)


def cases(size: Size) -> Iterator[Case]:
    """At the sizes of training; on a GPU those of a whole video too."""
    scale = {"smoke": TINY, "cpu": ModelSize(), "gpu": TRAINING}[size]
    for kind in KINDS:
        direction = "both" if kind.is_trained else "forward"
        is_half_measured = kind.is_trained and kind.op != "criterion"
        if size == "gpu" and is_half_measured:
            yield _case(kind, scale, direction, "bfloat16")
        yield _case(kind, scale, direction)
        if size == "smoke" and is_half_measured and not kind.is_stack:
            yield _case(kind, scale, direction, "bfloat16")
        if kind.is_trained and not kind.is_stack and kind.op != "criterion":
            yield _case(kind, scale, "forward")
        if size == "gpu" and kind.has_video:
            yield _case(kind, VIDEO, "forward", "bfloat16")
            yield _case(kind, VIDEO, "forward")


def _case(kind: Kind, size: ModelSize, direction: Direction, dtype: str = "float32") -> Case:
    def has_modules(device: torch.device) -> bool:
        return kind.needs is None or find_spec(kind.needs) is not None

    def side(name: str, build: Callable[[torch.device], Call]) -> Side:
        return Side(name=name, build=build, available=has_modules)

    sides = [
        side("ours", partial(_ours, kind.make, size, direction, dtype)),
        side("published", partial(_published, kind.make, size, direction, dtype)),
    ]
    if dtype == "float32" and kind.op in ("encoder layer", "decoder layer", "criterion"):
        sides.append(
            Side(
                name="compiled",
                build=partial(_compiled, kind.make, size, direction),
                available=lambda device: device.type == "cuda" and has_modules(device),
            )
        )
    shapes = size.shapes()
    has_instances = kind.needs is not None
    return Case(
        name=f"{kind.op} B={size.clips} T={size.frames} {size.height}x{size.width} {dtype} "
        f"{direction}",
        op=kind.op,
        group="blocks",
        sides=tuple(sides),
        direction=direction,
        dtype=dtype,
        shapes=shapes if has_instances else {k: v for k, v in shapes.items() if k != "N"},
        cost=_cost(kind, size, direction, dtype),
        rounds=3 if kind.is_stack else 5,
        tolerance=GRADIENTS if dtype == "float32" and direction == "both" else None,
    )


def _ours(
    make: Make, size: ModelSize, direction: Direction, dtype: str, device: torch.device
) -> Call:
    block = make(size, device)
    is_half = dtype != "float32"

    def run(leaves: list[torch.Tensor]) -> list[torch.Tensor]:
        half = torch.autocast(device.type, getattr(torch, dtype)) if is_half else nullcontext()
        with half:
            return block.ours(leaves)

    return _call(block, run, direction, is_half)


def _published(
    make: Make, size: ModelSize, direction: Direction, dtype: str, device: torch.device
) -> Call:
    block = make(size, device)
    return _call(block, block.published, direction, dtype != "float32")


def _compiled(make: Make, size: ModelSize, direction: Direction, device: torch.device) -> Call:
    published = _published(make, size, direction, "float32", device)

    def call() -> list[torch.Tensor]:
        with compiled_parts():
            return published()

    return call


def _call(block: Block, run: blocks.Run, direction: Direction, is_half: bool) -> Call:
    """Outputs, and with a backward pass the gradients of the inputs; in half precision those are
    computed but not compared, as rounded sampling points have other slopes."""
    if direction == "forward":
        return torch.no_grad()(lambda: [out.float() for out in run(block.inputs)])
    leaves = block.leaves()
    wanted = [*leaves, *block.parameters]
    seeds: list[torch.Tensor] = []

    def both() -> list[torch.Tensor]:
        outputs = run(leaves)
        if not seeds:
            seeds.extend(block.seeds(outputs))
        gradients = torch.autograd.grad(outputs, wanted, seeds, allow_unused=True)
        found = [out.detach().float() for out in outputs]
        return found if is_half else [*found, *gradients[: len(leaves)]]

    return both


def _cost(kind: Kind, size: ModelSize, direction: Direction, dtype: str) -> Cost:
    """Inputs and weights once, with a backward pass twice; the counted FLOPs of our formulation."""
    if kind.op == "criterion":
        layers = size.config.num_decoder_layers
        call = MaskCall(
            instances=layers * size.clips * size.instances, frames=size.frames,
            height=size.height, width=size.width, layers=layers,
        )  # fmt: skip
        flops = call.model_flops(with_losses=True)
        return Cost(flops=flops["forward"] + flops["backward"])
    if kind.op == "matcher":
        return Cost()
    is_half = dtype != "float32"
    count = partial(_work, kind.make, size, direction)
    return CountedCost(count, is_half, 2 if is_half else 4)


@lru_cache(maxsize=64)
def _work(make: Make, size: ModelSize, direction: Direction) -> Work:
    with FakeTensorMode(allow_non_fake_inputs=True):
        cpu = torch.device("cpu")
        block = make(size, cpu)
        numbers = sum(tensor.numel() for tensor in (*block.inputs, *block.parameters))
        call = _ours(make, size, direction, "float32", cpu)
        with FlopCounter() as counter:
            call()
    factor = 2 if direction == "both" else 1
    return Work(counter.flops, counter.product_flops, factor * numbers)
