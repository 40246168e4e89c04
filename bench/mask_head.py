"""The dynamic mask head on the CPU beside grouped convolutions: time and memory.

    python -m bench.mask_head
    python -m bench.mask_head --out bench/results/cpu/mask_head.json

One thread, process CPU seconds, all sides in turns in one process, medians; memory is the growth of
the peak during one call, each side in a fresh process. Three tasks: logits with their gradients
(10 instances, 5 frames, 480x768); the mask losses with theirs, of the matched queries of six
decoder layers; and run lengths of the masks of a video at 720x1280, against interpolation and
pycocotools.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import kernels
from bench import mask_cases
from bench.mask_cases import MaskCase

HEAD = MaskCase(name="N=10 T=5 480x768", instances=10, frames=5, height=480, width=768)
LOSS = MaskCase(name="N=60 T=5 480x768", instances=60, frames=5, height=480, width=768, layers=6)
SMOKE = MaskCase(name="smoke", instances=6, frames=2, height=32, width=48, layers=2)
TASKS: dict[str, tuple[str, ...]] = {
    "head": ("ours", "published"),
    "losses": ("ours", "two steps", "published"),
    "run lengths": ("ours", "draw and encode", "published"),
}
"""Sides per task; the last is what ratios are against."""
VIDEO = (36, 90, 160, 720, 1280)
"""Frames, cells of the logits and pixels of the frame."""
SMOKE_VIDEO = (3, 8, 12, 30, 45)


def step(task: str, side: str, is_smoke: bool) -> Callable[[], Any]:
    """One call, with its backward."""
    if task == "run lengths":
        return _run_lengths(side, SMOKE_VIDEO if is_smoke else VIDEO)
    case = SMOKE if is_smoke else (HEAD if task == "head" else LOSS)
    inputs = case.inputs(torch.device("cpu"))
    run = {
        ("head", "ours"): mask_cases.ours,
        ("head", "published"): mask_cases.published,
        ("losses", "ours"): mask_cases.our_losses,
        ("losses", "two steps"): mask_cases.our_losses_in_two_steps,
        ("losses", "published"): mask_cases.published_losses,
    }[task, side]

    def call() -> Any:
        leaves = inputs.leaves()
        output = run(inputs, leaves)
        grad = inputs.grad if task == "head" else None
        return output.detach(), *torch.autograd.grad(output, leaves, grad)

    return call


def _run_lengths(side: str, video: tuple[int, int, int, int, int]) -> Callable[[], list[str]]:
    from pycocotools import mask as coco_mask

    count, h, w, *size = video
    logits = mask_cases.blobs(count, h, w)

    def encode(masks: np.ndarray) -> list[str]:
        return [code["counts"].decode() for code in coco_mask.encode(masks)]

    def ours() -> list[str]:
        encoded = kernels.encode_masks(logits, tuple(size))
        if encoded is None:
            raise RuntimeError("the encoder needs a C compiler")
        return encoded.counts

    def draw_and_encode() -> list[str]:
        return encode(kernels.threshold_masks(logits, tuple(size)).numpy().T)

    def published() -> list[str]:
        codes = []
        for frame in logits.split(1):
            mask = mask_cases.drawn_masks(frame, tuple(size))[0].numpy()
            codes += encode(np.asfortranarray(mask[..., None].view(np.uint8)))
        return codes

    return {"ours": ours, "draw and encode": draw_and_encode, "published": published}[side]


def measure(task: str, is_smoke: bool, repeat: int) -> dict[str, Any]:
    """CPU seconds by side, ratios to the published one, and how far results are apart."""
    sides = TASKS[task]
    torch.set_num_threads(1)
    steps = {side: step(task, side, is_smoke) for side in sides}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    results = {}
    for round_number in range(repeat + 1):
        for side, call in steps.items():
            start = time.process_time()
            results[side] = call()
            if round_number:  # the first is a warm-up
                seconds[side].append(time.process_time() - start)
    rows: dict[str, Any] = {}
    for side in sides:
        by_round = [p / o for p, o in zip(seconds[sides[-1]], seconds[side], strict=True)]
        rows[side] = {
            "cpu_seconds": median(seconds[side]),
            "speedup": median(seconds[sides[-1]]) / median(seconds[side]),
            "speedup_by_round": median(by_round),
            "rounds": seconds[side],
            "peak_growth_mib": peak_growth(task, side, is_smoke),
            "difference": _difference(results[side], results[sides[-1]]),
        }
    return rows


def _difference(found: Any, wanted: Any) -> float:
    """Largest relative error of results and gradients; of texts, the share that differs."""
    if isinstance(found, list):
        return sum(a != b for a, b in zip(found, wanted, strict=True)) / len(found)
    pairs = zip(found, wanted, strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def peak_growth(task: str, side: str, is_smoke: bool) -> float | None:
    """MiB by which one call raises the peak, in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_growth, task, side, is_smoke).result()


def _peak_growth(task: str, side: str, is_smoke: bool) -> float | None:
    from bench.cpu import peak_growth_of

    torch.set_num_threads(1)
    step(task, side, True)()  # loads libraries
    return peak_growth_of(step(task, side, is_smoke))


def main(arguments: Sequence[str] | None = None) -> int:
    from bench.cpu import machine

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=7, help="rounds that count")
    parser.add_argument("--task", choices=[*TASKS, "all"], default="all")
    parser.add_argument("--smoke", action="store_true", help="tiny cases")
    parser.add_argument("--out", type=Path, help="JSON record to write")
    options = parser.parse_args(arguments)
    if options.repeat < 1:
        parser.error(f"--repeat must be at least 1, got {options.repeat}")
    tasks = TASKS if options.task == "all" else (options.task,)
    record: dict[str, Any] = {"machine": machine(), "repeat": options.repeat, "tasks": {}}
    for task in tasks:
        rows = record["tasks"][task] = measure(task, options.smoke, options.repeat)
        for side, row in rows.items():
            memory = "-" if row["peak_growth_mib"] is None else f"{row['peak_growth_mib']:.1f}"
            print(
                f"{task:12}{side:17}{1e3 * row['cpu_seconds']:9.1f} ms CPU ({row['speedup']:.2f}x, "
                f"by round {row['speedup_by_round']:.2f}x)  peak +{memory} MiB  "
                f"differs by {row['difference']:.1e}",
                flush=True,
            )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
