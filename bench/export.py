"""Processor time and memory of the model as it is, compiled, as .pt2 and as .onnx, side by side.

    python -m bench.export                       # ResNet-50, 2 frames of 192x320
    python -m bench.export --backbone resnet_mini --sides eager pt2

Every side runs in processes of its own, one after another, for several rounds: it reads its file,
runs one chunk of frames to warm up, then more of them. Printed are processor seconds to get ready
(reading, compiling, the first chunk), the least processor seconds of a chunk over all rounds, and
the peak of the process's resident memory. Nothing is recorded.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
import tyro

from bench.suite.memory import process_status_bytes
from bench.suite.model_inputs import TINY, randomise
from seqformer.config import ModelConfig
from seqformer.inference import Predictor
from seqformer.inference.network import Network
from seqformer.model import build_model, save_safetensors
from seqformer.structures import ClassMap

Side = Literal["eager", "compiled", "pt2", "onnx"]
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Options:
    """Print time and memory of the model and of what is made of it."""

    backbone: str = "resnet50"
    """resnet_mini takes a tiny model."""
    frames: int = 2
    """Of a chunk."""
    height: int = 192
    width: int = 320
    chunks: int = 4
    """That every process runs, after the first."""
    rounds: int = 2
    """Processes per side."""
    sides: tuple[Side, ...] = ("eager", "compiled", "pt2", "onnx")
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.frames, self.chunks, self.rounds, self.threads) < 1 or not self.sides:
            raise ValueError("frames, chunks, rounds, threads and sides must be at least 1")


@dataclass(frozen=True)
class Cost:
    """Of one process: processor seconds, and bytes."""

    ready: float
    chunk: float
    peak: int


def main(options: Options) -> None:
    """Write the files, run the sides in turn, print a line for each."""
    with TemporaryDirectory() as folder:
        files = write_files(options, Path(folder))
        costs: dict[Side, list[Cost]] = {side: [] for side in options.sides}
        for _ in range(options.rounds):
            for side in options.sides:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    costs[side].append(pool.submit(measure, side, files[side], options).result())
    size = f"{options.frames} x {options.height}x{options.width}"
    print(f"{options.backbone}, {size}, {options.threads} threads")
    print(f"{'':10}{'ready, s':>10}{'chunk, s':>10}{'of eager':>10}{'peak, MiB':>11}")
    first = min(cost.chunk for cost in costs[options.sides[0]])
    for side, of_side in costs.items():
        ready, chunk, peak = (
            min(getattr(cost, name) for cost in of_side) for name in ("ready", "chunk", "peak")
        )
        print(f"{side:10}{ready:10.1f}{chunk:10.3f}{chunk / first:10.2f}{peak / MIB:11.0f}")


def write_files(options: Options, folder: Path) -> dict[Side, Path]:
    """A file per side; eager and compiled share the weights."""
    torch.manual_seed(0)
    changes = dict(TINY.overrides) if options.backbone == TINY.backbone else {}
    model = randomise(build_model(options.backbone, **changes))
    classes = ClassMap.published([], ModelConfig().num_classes)
    weights = folder / "weights.safetensors"
    save_safetensors(weights, model, classes)
    files: dict[Side, Path] = {"eager": weights, "compiled": weights}
    if "pt2" in options.sides:
        files["pt2"] = folder / "graph.pt2"
        Predictor(model, classes, device="cpu").export(files["pt2"])
    if "onnx" in options.sides:
        files["onnx"] = folder / "graph.onnx"
        Predictor(model, classes, device="cpu").export(files["onnx"], "onnx")
    return files


def measure(side: Side, path: Path, options: Options) -> Cost:
    """One side in this process."""
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    shape = options.frames, options.height, options.width, 3
    frames = list(rng.integers(0, 255, shape, dtype=np.uint8))
    start = time.process_time()
    network = network_of(side, path)
    run(network, frames)
    ready = time.process_time() - start
    seconds = []
    for _ in range(options.chunks):
        start = time.process_time()
        run(network, frames)
        seconds.append(time.process_time() - start)
    return Cost(ready, min(seconds), process_status_bytes("VmHWM"))


def network_of(side: Side, path: Path) -> Network:
    """What computes."""
    if side in ("pt2", "onnx"):
        return Predictor.from_exported(path, "cpu").network
    predictor = Predictor.from_checkpoint(path, device="cpu")
    predictor.is_compiled = side == "compiled"
    return predictor.network


def run(network: Network, frames: list[np.ndarray]) -> None:
    """A chunk, and what follows for the instances."""
    network.instances(network.frames(frames).merged_into(None, 2))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
    sys.exit(0)
