"""Peak memory of whole-video inference against the length of the video.

    python -m bench.long_video                     # 50, 200, 1,000 frames; an hour on a CPU
    python -m bench.long_video --frames 50 200     # less

Each length runs in a fresh process: ResNet-50, 360x640 frames that a program draws as they are
asked for (a picture that moves, with moving shapes), through `Predictor.predict`, masks and all.
Resident memory of the whole process is sampled all the time. The record has a case per length, part
of a growth curve along T: its processor seconds, as peak that of the whole process, and under
`more` the course of the memory over the frames, which `python -m bench.report` plots.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from bench.suite.memory import process_status_bytes
from bench.suite.model_inputs import randomise
from bench.suite.record import case_row, machine, new_record, side_row, write
from bench.suite.schema import Case, Side
from seqformer.config import EvalConfig
from seqformer.devices import keep_freed_memory
from seqformer.inference import Predictor
from seqformer.model import build_model

MIB = 2**20


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
    out: Path | None = None
    """Record to write; by default a new one of this device."""

    def __post_init__(self) -> None:
        if not self.frames or min(self.frames) < 1:
            raise ValueError(f"frames must be lengths of at least 1, got {self.frames}")


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
    """One video in this process: a side's row of the record."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as `seqformer eval` does
    torch.manual_seed(0)
    model = randomise(build_model(options.backbone))
    torch.manual_seed(1)  # so that most of the output queries draw something
    torch.nn.init.normal_(model.controller.layers[-1].bias)
    config = EvalConfig(
        short_side=min(options.height, options.width), chunk_frames=options.chunk_frames
    )
    predictor = Predictor(model, config=config, device="cpu")
    course: dict[int, int] = {}  # frame -> largest resident size, in bytes
    frame = 0
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.05):
            resident = process_status_bytes("VmRSS:") or 0
            course[frame] = max(course.get(frame, 0), resident)

    def frames() -> Iterator[np.ndarray]:
        nonlocal frame
        for picture in moving_picture(length, options.height, options.width):
            frame += 1
            yield picture

    before = process_status_bytes("VmRSS:")
    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    wall, cpu = time.perf_counter(), time.process_time()
    prediction = predictor.predict(frames())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    stop.set()
    sampler.join()
    masks = [s["counts"] for d in prediction.detections for s in d.segmentations if s]
    return side_row(
        [cpu],
        "process",
        process_status_bytes("VmHWM:"),
        wall_seconds=wall,
        threads=options.threads,
        chunk_frames=predictor.config.chunk_frames or predictor.default_chunk_frames(),
        resident_before_mib=None if before is None else before / MIB,
        detections=len(prediction.detections),
        mask_text_mib=sum(map(len, masks)) / MIB,
        resident_by_frame_mib=[[number, size / MIB] for number, size in sorted(course.items())],
        load_average_at_end=list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    )


def case_of(length: int, options: Options) -> Case:
    """The case of one length."""
    H, W = options.height, options.width
    return Case(
        name=f"long video {options.backbone} {H}x{W} T={length}",
        op="long video",
        group="growth",
        direction="forward",
        shapes={"B": 1, "T": length, "H": H, "W": W, "HW": H * W},
        units=("frames", length),
        sides=(Side(name="ours", build=lambda _: lambda: measure(length, options)),),
        along="T",
        rounds=1,
    )


def main(options: Options) -> None:
    rows: list[dict[str, Any]] = []
    for length in options.frames:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            side = pool.submit(measure, length, options).result()
        rows.append(case_row(case_of(length, options), {"ours": side}))
        print(_line(rows, length), flush=True)
    print(write(new_record("long-video", machine(torch.device("cpu")), rows), options.out))


def _line(rows: list[dict[str, Any]], length: int) -> str:
    """The newest row, and what its memory grew by from the first one."""
    first, side = rows[0]["sides"]["ours"], rows[-1]["sides"]["ours"]
    more = side["more"]
    text = f"{length:6} frames: {side['seconds']['median'] / length:.2f} CPU s a frame, masks "
    text += f"{more['mask_text_mib']:.1f} MiB"
    if side["peak_bytes"] is None or first["peak_bytes"] is None:
        return text
    text += f", peak {side['peak_bytes'] / MIB:.0f} MiB"
    if len(rows) > 1:
        frames = length - rows[0]["shapes"]["T"]
        grown = (side["peak_bytes"] - first["peak_bytes"]) / MIB / max(frames, 1)
        text += f", {grown:.3f} MiB a frame more than {rows[0]['shapes']['T']}"
    return text


if __name__ == "__main__":
    from seqformer.command import exit_with

    exit_with("bench.long_video", lambda: main(tyro.cli(Options)))
