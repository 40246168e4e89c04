"""Frames a second, latency and memory of `seqformer eval` on a live source.

    python -m bench.live                          # 10,000 frames of 360x640, preset mini
    python -m bench.live --rate 25 --frames 1000  # frames that come 25 times a second
    python -m bench.live --rate 25 --frames 1000 --film live.mp4  # drawn and written as well

Drawn frames go through the same loop as those of a camera, in this process, with as many threads as
the command takes. Without a rate each frame comes when the one before is done. The model has random
weights: it computes what a trained one computes, and every frame has ten results. Memory is the
resident size after the first frame and after the last, and its peak until each tenth of the run. On
a machine that other programs use, frames a second and latency say little; processor time a frame
says more.
"""

from __future__ import annotations

import itertools
import resource
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
from seqformer.devices import keep_freed_memory
from seqformer.files import WriteError, write_json
from seqformer.inference import Predictor
from seqformer.inference.live import follow, warm_up
from seqformer.inference.live_command import default_threads
from seqformer.inference.live_film import FilmProcess
from seqformer.model.checkpoint import build_model_from_config
from seqformer.visualization.video_writer import DEFAULT_FPS

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
    threads: int | None = None
    """Of PyTorch; by default as many as `seqformer eval` takes, which leaves the film a core."""
    keep: int = 100
    """Frames whose masks can be asked for."""
    film: Path | None = None
    """Draw the results, and write this video."""
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
        self.dropped = self.reconnected = 0
        self.sizes: list[int] = []
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
            newest = min(int((time.monotonic() - self._begin) * self._rate), self._frames - 1)
            dropped = max(0, newest - self._number)
            due = self._begin + (self._number + dropped) / self._rate
            time.sleep(max(0.0, due - time.monotonic()))
        self.dropped += dropped
        self._number += dropped + 1
        self.note_memory()
        return LiveFrame(next(self._pictures), due, dropped)

    def note_memory(self) -> None:
        """Note the resident size now and at its largest so far, once in each tenth of the run."""
        if self._number * 10 // self._frames > len(self.peaks) or not self.sizes:
            self.sizes.append(process_status_bytes("VmRSS:") or 0)
        if self._number * 10 // self._frames > len(self.peaks):
            self.peaks.append(process_status_bytes("VmHWM:") or 0)


def measure(options: Options) -> dict[str, Any]:
    """One run: the report of it, with the course of memory."""
    threads = options.threads or default_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = presets()[options.preset][1]
    model = randomise(build_model_from_config(config.model))
    torch.nn.init.normal_(model.controller.last.bias)  # so that most masks have pixels
    short_side = options.short_side or config.eval.short_side
    network = replace(
        config.eval, precision=options.precision, chunk_frames=1, short_side=short_side
    )
    predictor = Predictor(model, config=network, device="cpu")
    keep_freed_memory()
    film = None
    if options.film is not None:
        film = FilmProcess(options.film, options.rate or DEFAULT_FPS, min_score=0.0)
    warm_up(predictor, (options.height, options.width))
    source, processor = DrawnSource(options), time.process_time()
    _, report = follow(predictor, source, options.keep, film=film)  # type: ignore[arg-type]
    processor = time.process_time() - processor
    of_film = None
    if film is not None:
        film.close()
        if film.problem:
            raise WriteError(film.problem)
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        of_film = round(1e3 * (usage.ru_utime + usage.ru_stime) / max(report.frames, 1), 2)
    told = report.as_json()
    p50, p99 = told["latency_ms_p50"], told["latency_ms_p99"]
    return {
        **told,
        "p99_over_p50": round(p99 / p50, 3) if p50 else None,
        "preset": options.preset,
        "precision": options.precision,
        "threads": threads,
        "rate": options.rate,
        "frame": [options.height, options.width],
        "short_side": network.short_side,
        "processor_ms_a_frame": round(1e3 * processor / max(report.frames, 1), 2),
        "processor_ms_a_frame_of_film": of_film,
        "memory_mib_start": round(source.sizes[0] / MIB, 1),
        "memory_mib_after_a_tenth": round(source.sizes[:2][-1] / MIB, 1),
        "memory_mib_end": round(source.sizes[-1] / MIB, 1),
        "peak_mib": [round(size / MIB, 1) for size in source.peaks],
    }


def main(options: Options) -> None:
    told = measure(options)
    film = told["processor_ms_a_frame_of_film"]
    of_film = "" if film is None else f", {film:.1f} ms more for the film"
    print(
        f"{told['frames']} frames at {told['frames_per_second']:.1f} a second, "
        f"{told['dropped']} dropped; latency p50 {told['latency_ms_p50']:.1f} ms, p99 "
        f"{told['latency_ms_p99']:.1f} ms, {told['p99_over_p50']:.2f} times it; "
        f"{told['processor_ms_a_frame']:.1f} ms of processor time a frame{of_film}, "
        f"{told['threads']} threads; memory {told['memory_mib_start']:.1f} MiB at the start, "
        f"{told['memory_mib_after_a_tenth']:.1f} after a tenth of the run, "
        f"{told['memory_mib_end']:.1f} MiB at the end, at most {told['peak_mib'][-1]:.1f} MiB"
    )
    if options.out is not None:
        write_json(options.out, {"machine": machine(torch.device("cpu")), **told})
        print(options.out)


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.live", lambda: main(tyro.cli(Options)))
