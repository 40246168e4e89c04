"""The whole model as one graph of torch.compile beside itself in eager: CPU seconds and memory.

    python -m bench.one_graph --kinds inference    # two layers each, minutes of compiling
    python -m bench.one_graph --layers 6           # as published

Each side has a process of its own for inference (`torch.no_grad`) and for a step (forward,
backward, no optimiser, no dropout), and the sides' calls alternate. Printed are the seconds until
the first result (without those of the C++ compiler, which has processes of its own), the least
seconds of a call, and by how much a call raises the peak of the process's memory. Results are
compared first.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from multiprocessing import get_context
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from bench.suite.memory import peak_growth_of, return_freed_memory
from bench.suite.model_inputs import TINY, ModelSize, own_model_of, video
from seqformer.model.one_graph import frames_as_one_graph

Kind = Literal["inference", "step"]
Side = Literal["eager", "compiled"]
SIDES: tuple[Side, ...] = ("eager", "compiled")
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print time and memory of both sides."""

    backbone: str = "resnet50"
    """resnet_mini takes a tiny model."""
    layers: int = 2
    """Of encoder and decoder, each."""
    frames: int = 2
    height: int = 192
    width: int = 320
    rounds: int = 5
    kinds: tuple[Kind, ...] = ("inference", "step")

    @property
    def size(self) -> ModelSize:
        """Of the model and its input."""
        layers = (("num_encoder_layers", self.layers), ("num_decoder_layers", self.layers))
        changes = TINY.overrides if self.backbone == TINY.backbone else ()
        return ModelSize(
            backbone=self.backbone,
            frames=self.frames,
            height=self.height,
            width=self.width,
            overrides=(*(c for c in changes if "layers" not in c[0]), *layers),
        )


class Runner:
    """One side and kind, alive in its process."""

    def __init__(self, kind: Kind, side: Side, options: Options) -> None:
        torch.set_num_threads(1)
        return_freed_memory()
        cpu, size = torch.device("cpu"), options.size
        self.is_step = kind == "step"
        self.model = own_model_of(size, cpu).train(self.is_step)
        for module in self.model.modules():
            if isinstance(getattr(module, "dropout", None), float):
                vars(module)["dropout"] = 0.0
        self.images = video(size, cpu)
        self.run: Any = self.model
        if side == "compiled":
            self.run = frames_as_one_graph(self.model, self.model.forward)

    def call(self) -> list[Tensor]:
        """What comes out; of a step, the gradients too."""
        with torch.set_grad_enabled(self.is_step):
            output = self.run(self.images)
            values = [getattr(output, field.name) for field in fields(output)]
            tensors = [value for value in values if isinstance(value, Tensor)]
            if not self.is_step:
                return tensors
            losses = [t.square().mean() for t in tensors if t.requires_grad]
            torch.stack(losses).sum().backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.model.zero_grad(set_to_none=True)
        return [*(tensor.detach() for tensor in tensors), *gradients]


_runner: Runner


def start(kind: Kind, side: Side, options: Options) -> tuple[list[Tensor], float]:
    """Build, compile and call once. Returns: the results, and the CPU seconds of all that."""
    global _runner
    begun = time.process_time()
    _runner = Runner(kind, side, options)
    results = [tensor.clone() for tensor in _runner.call()]
    return results, time.process_time() - begun


def timed() -> float:
    """CPU seconds of a call."""
    begun = time.process_time()
    _runner.call()
    return time.process_time() - begun


def grown() -> int | None:
    """Bytes by which a call raises the peak."""
    return peak_growth_of(_runner.call)


def compare(kind: Kind, options: Options) -> None:
    """Prints a line per side. Raises: AssertionError where results differ."""
    context = get_context("spawn")
    pools = {side: ProcessPoolExecutor(1, mp_context=context) for side in SIDES}
    try:
        begun = {side: pools[side].submit(start, kind, side, options).result() for side in SIDES}
        for eager, compiled in zip(begun["eager"][0], begun["compiled"][0], strict=True):
            atol = 1e-3 * max(1e-3, eager.abs().max().item())
            torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=atol)
        best = dict.fromkeys(SIDES, float("inf"))
        for _ in range(options.rounds):
            for side in SIDES:
                best[side] = min(best[side], pools[side].submit(timed).result())
        peaks = {side: pools[side].submit(grown).result() for side in SIDES}
    finally:
        for pool in pools.values():
            pool.shutdown()
    for side in SIDES:
        peak = peaks[side]
        memory = "unknown" if peak is None else f"{peak / MIB:.0f} MiB"
        share = best[side] / best["eager"]
        print(
            f"{kind:10}{side:10}{begun[side][1]:9.1f} s at the start{best[side]:9.3f} s a call"
            f"{share:7.2f} of eager{memory:>12}",
            flush=True,
        )


def main(options: Options) -> None:
    """Compare inference, then a step."""
    size = options.size
    shape = f"{size.frames} x {size.height}x{size.width}"
    print(f"{size.backbone}, {options.layers} + {options.layers} layers, {shape}, 1 thread")
    for kind in options.kinds:
        compare(kind, options)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
    sys.exit(0)
