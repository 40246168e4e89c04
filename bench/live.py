"""Frames a second, latency and memory of `seqformer eval` on a live source.

    python -m bench.live                          # 10,000 frames of 360x640, preset mini
    python -m bench.live --rate 25 --frames 1000  # frames that come 25 times a second

Drawn frames go through the same loop as those of a camera, in this process. Without a rate each
frame comes when the one before is done. The model has random weights: it computes what a trained
one computes. Memory is the resident size of the process at each tenth of the run.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from bench.long_video import moving_picture
from bench.suite.memory import process_status_bytes
from bench.suite.model_inputs import randomise
from bench.suite.record import machine
from seqformer.config import Precision
from seqformer.config.presets import presets
from seqformer.data.live_source import LiveFrame
from seqformer.files import write_json
from seqformer.inference import Predictor
from seqformer.inference.live import follow
from seqformer.model.checkpoint import build_model_from_config

MIB = 2**20
DIFFERENT = 32
"""Frames that are drawn, and come again and again."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Follow drawn frames and say how fast, how late and in how much memory."""

    preset: str = "mini"
    """Whose model and frame size."""
    frames: int = 10_000
    height: int = 360
    width: int = 640
    rate: float = 0.0
    """Frames a second that come; 0: each when the one before is done."""
    precision: Precision = "fp32"
    threads: int = 2
    """Of PyTorch."""
    keep: int = 100
    """Frames whose masks can be asked for."""
    out: Path | None = None
    """JSON file to write."""

    def __post_init__(self) -> None:
        if self.preset not in presets():
            raise ValueError(f"preset must be one of {', '.join(presets())}, got {self.preset}")
        if self.frames < 10 or self.rate < 0:
            raise ValueError(
                f"frames must be at least 10 and rate at least 0, got {self.frames}, {self.rate}"
            )


class DrawnSource:
    """In the place of a `LiveSource`, policy `newest`: frames that come at a rate."""

    address, problem, fps = "drawn frames", "", None

    def __init__(self, options: Options) -> None:
        pictures = moving_picture(DIFFERENT, options.height, options.width)
        self._pictures = itertools.cycle(list(pictures))
        self._rate, self._left, self._every = options.rate, options.frames, options.frames // 10
        self._begin = time.monotonic()
        self._number = 0
        self.dropped = 0
        self.resident: list[int] = []

    @property
    def is_over(self) -> bool:
        """Whether all frames have come."""
        return self._left <= 0

    def take(self, timeout: float | None = None) -> LiveFrame | None:
        """The newest frame that has come, waited for."""
        if self._left <= 0:
            return None
        if self._left % self._every == 0:
            self.resident.append(process_status_bytes("VmRSS:") or 0)
        self._left -= 1
        if not self._rate:
            return LiveFrame(next(self._pictures), time.monotonic(), 0)
        newest = int((time.monotonic() - self._begin) * self._rate)
        dropped = max(0, newest - self._number)
        self.dropped += dropped
        self._left -= dropped
        due = self._begin + (self._number + dropped) / self._rate
        self._number += dropped + 1
        time.sleep(max(0.0, due - time.monotonic()))
        return LiveFrame(next(self._pictures), due, dropped)


def measure(options: Options) -> dict[str, Any]:
    """One run: the report of it, with the course of memory."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = presets()[options.preset][1]
    model = randomise(build_model_from_config(config.model))
    torch.nn.init.normal_(model.controller.last.bias)  # so that most masks have pixels
    network = replace(config.eval, precision=options.precision, chunk_frames=1)
    predictor = Predictor(model, config=network, device="cpu")
    warm = replace(options, frames=10, rate=0.0)
    follow(predictor, DrawnSource(warm), options.keep)  # type: ignore[arg-type]
    source = DrawnSource(options)
    _, report = follow(predictor, source, options.keep)  # type: ignore[arg-type]
    return {
        **report.as_json(),
        "preset": options.preset,
        "precision": options.precision,
        "threads": options.threads,
        "frame": [options.height, options.width],
        "short_side": network.short_side,
        "resident_mib": [round(size / MIB, 1) for size in source.resident],
    }


def main(options: Options) -> None:
    told = measure(options)
    resident = told["resident_mib"]
    print(
        f"{told['frames']} frames at {told['frames_per_second']:.1f} a second, "
        f"{told['dropped']} dropped; p50 {told['latency_ms_p50']:.1f} ms, p99 "
        f"{told['latency_ms_p99']:.1f} ms, {told['latency_ms_p99'] / told['latency_ms_p50']:.2f} "
        f"times it; resident {resident[1]:.0f} MiB after a tenth, {resident[-1]:.0f} at the end"
    )
    if options.out is not None:
        write_json(options.out, {"machine": machine(torch.device("cpu")), **told})
        print(options.out)


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.live", lambda: main(tyro.cli(Options)))
