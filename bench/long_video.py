"""Peak memory of whole-video inference against the length of the video.

    python -m bench.long_video                     # 50, 200, 1,000 frames; an hour on a CPU
    python -m bench.long_video --frames 50 200     # less

Each length runs in a fresh process: ResNet-50, 360x640 frames that a program draws as they are
asked for (a picture that moves, with moving shapes), through `Predictor.predict`, masks and all.
Resident memory of the whole process is sampled all the time; the report has its peak and what it
grew by per frame, and the plot the course over the frames of every run.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from bench.cpu import machine, process_status_mib, randomise
from seqformer.config import EvalConfig
from seqformer.inference import Predictor
from seqformer.model import build_model


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run videos of several lengths and report their peak memory."""

    frames: tuple[int, ...] = (50, 200, 1000)
    """Lengths of the videos."""
    height: int = 360
    width: int = 640
    backbone: str = "resnet50"
    chunk_frames: int | None = None
    """As in eval.py; by default what that resolves to."""
    threads: int = 1
    """Of PyTorch."""
    out: Path = Path("bench/results/video/long_video.json")
    """Measurements; the plot goes beside it, as PNG."""


def moving_picture(num_frames: int, height: int, width: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Frames [height, width, 3] uint8: a pan over a coloured pattern, with discs that cross it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = rng.uniform(0.01, 0.06, (6, 2)).astype(np.float32)
    colours = rng.uniform(-30, 30, (6, 3)).astype(np.float32)
    discs = rng.uniform(0, 1, (5, 7)).astype(np.float32)
    for t in range(num_frames):
        picture = np.full((height, width, 3), 120, np.float32)
        for (fx, fy), colour in zip(waves, colours, strict=True):
            picture += np.sin(fx * (x + 1.5 * t) + fy * y)[..., None] * colour
        for px, py, vx, vy, radius, tone, phase in discs:
            cx = width * (0.5 + 0.6 * np.sin(px * 6 + (vx + 0.2) * t / 25))
            cy = height * (0.5 + 0.5 * np.sin(py * 6 + (vy + 0.2) * t / 20 + phase))
            inside = (x - cx) ** 2 + (y - cy) ** 2 < (height * (0.08 + 0.12 * radius)) ** 2
            picture[inside] = 255 * np.array([tone, 1 - tone, phase], np.float32)
        yield picture.clip(0, 255).astype(np.uint8)


def measure(length: int, options: Options) -> dict[str, Any]:
    """One video in this process."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = randomise(build_model(options.backbone))
    torch.manual_seed(1)  # so that most of the output queries draw something
    torch.nn.init.normal_(model.controller.layers[-1].bias)
    config = EvalConfig(
        short_side=min(options.height, options.width), chunk_frames=options.chunk_frames
    )
    predictor = Predictor(model, config=config, device="cpu")
    course: list[tuple[int, float]] = []
    frame = 0
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.05):
            course.append((frame, process_status_mib("VmRSS:") or 0.0))

    def frames() -> Iterator[np.ndarray]:
        nonlocal frame
        for picture in moving_picture(length, options.height, options.width):
            frame += 1
            yield picture

    start = process_status_mib("VmRSS:")
    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    wall, cpu = time.perf_counter(), time.process_time()
    prediction = predictor.predict(frames())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    stop.set()
    sampler.join()
    per_frame: dict[int, float] = {}
    for number, value in course:
        per_frame[number] = max(per_frame.get(number, 0.0), value)
    masks = [s["counts"] for d in prediction.detections for s in d.segmentations if s]
    return {
        "frames": length,
        "chunk_frames": predictor.config.chunk_frames or predictor.default_chunk_frames(),
        "resident_before_mib": start,
        "peak_mib": process_status_mib("VmHWM:"),
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "detections": len(prediction.detections),
        "mask_text_mib": sum(map(len, masks)) / 2**20,
        "resident_by_frame_mib": sorted(per_frame.items()),
    }


def plot(record: dict[str, Any], path: Path) -> None:
    """Resident memory over the frames of every run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for run in record["runs"]:
        frames, values = zip(*run["resident_by_frame_mib"], strict=True)
        axes.plot(frames, values, label=f"{run['frames']} frames, peak {run['peak_mib']:.0f} MiB")
    axes.set(xlabel="frame", ylabel="resident memory of the process, MiB", ylim=(0, None))
    case = record["case"]
    axes.set_title(f"{case['backbone']}, {case['height']}x{case['width']}, CPU, float32")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def main(options: Options) -> None:
    case = {k: v for k, v in asdict(options).items() if k not in ("out", "frames")}
    record: dict[str, Any] = {"machine": machine(), "case": case, "runs": []}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for length in options.frames:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            run = pool.submit(measure, length, options).result()
        record["runs"].append(run)
        first = record["runs"][0]
        grown = run["peak_mib"] - first["peak_mib"]
        slope = grown / max(run["frames"] - first["frames"], 1)
        print(
            f"{length:6} frames: peak {run['peak_mib']:.0f} MiB (before: "
            f"{run['resident_before_mib']:.0f}), {slope:.3f} MiB a frame more than "
            f"{first['frames']}, {run['cpu_seconds'] / length:.2f} CPU s a frame, masks "
            f"{run['mask_text_mib']:.1f} MiB",
            flush=True,
        )
        if hasattr(os, "getloadavg"):
            run["load_average_at_end"] = os.getloadavg()
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        plot(record, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main(tyro.cli(Options))
