"""Frames a second, latency and memory of `seqformer eval` on a live source.

    python -m bench.live                          # 10,000 frames of 360x640, preset mini
    python -m bench.live --rate 25 --frames 1000  # frames that come 25 times a second

Drawn frames go through the same loop as those of a camera, in this process. Without a rate each
frame comes when the one before is done. The model has random weights: it computes what a trained
one computes. Memory is the peak of the process's resident size until each tenth of the run. On a
machine that other programs use, frames a second and latency say little; processor time a frame says
more.
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
    short_side: int | None = None
    """Of the network's input; by default the preset's."""
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
        self._rate, self._frames = options.rate, options.frames
        self._begin = time.monotonic()
        self._number = 0  # frames that have come
        self.dropped = 0
        self.peaks: list[int] = []

    @property
    def is_over(self) -> bool:
        """Whether all frames have come."""
        return self._number >= self._frames

    def take(self, timeout: float | None = None) -> LiveFrame | None:
        """The newest frame that has come, waited for."""
        if self.is_over:
            return None
        if not self._rate:
            due, dropped = time.monotonic(), 0
        else:
            newest = int((time.monotonic() - self._begin) * self._rate)
            dropped = max(0, newest - self._number)
            due = self._begin + (self._number + dropped) / self._rate
            time.sleep(max(0.0, due - time.monotonic()))
        self.dropped += dropped
        self._number += dropped + 1
        self.note_peak()
        return LiveFrame(next(self._pictures), due, dropped)

    def note_peak(self) -> None:
        """Note the largest resident size so far, once in each tenth of the run."""
        if self._number * 10 // self._frames > len(self.peaks):
            self.peaks.append(process_status_bytes("VmHWM:") or 0)


def measure(options: Options) -> dict[str, Any]:
    """One run: the report of it, with the course of memory."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = presets()[options.preset][1]
    model = randomise(build_model_from_config(config.model))
    torch.nn.init.normal_(model.controller.last.bias)  # so that most masks have pixels
    short_side = options.short_side or config.eval.short_side
    network = replace(
        config.eval, precision=options.precision, chunk_frames=1, short_side=short_side
    )
    predictor = Predictor(model, config=network, device="cpu")
    warm = replace(options, frames=10, rate=0.0)
    follow(predictor, DrawnSource(warm), options.keep)  # type: ignore[arg-type]
    source, processor = DrawnSource(options), time.process_time()
    _, report = follow(predictor, source, options.keep)  # type: ignore[arg-type]
    processor = time.process_time() - processor
    return {
        **report.as_json(),
        "preset": options.preset,
        "precision": options.precision,
        "threads": options.threads,
        "frame": [options.height, options.width],
        "short_side": network.short_side,
        "processor_ms_a_frame": round(1e3 * processor / max(report.frames, 1), 2),
        "peak_mib": [round(size / MIB, 1) for size in source.peaks],
    }


def main(options: Options) -> None:
    told = measure(options)
    peaks = told["peak_mib"]
    print(
        f"{told['frames']} frames at {told['frames_per_second']:.1f} a second, "
        f"{told['dropped']} dropped; p50 {told['latency_ms_p50']:.1f} ms, p99 "
        f"{told['latency_ms_p99']:.1f} ms, {told['latency_ms_p99'] / told['latency_ms_p50']:.2f} "
        f"times it; {told['processor_ms_a_frame']:.1f} ms of processor time a frame; memory at "
        f"most {peaks[0]:.1f} MiB in the first tenth, {peaks[-1]:.1f} MiB in all"
    )
    if options.out is not None:
        write_json(options.out, {"machine": machine(torch.device("cpu")), **told})
        print(options.out)


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.live", lambda: main(tyro.cli(Options)))
