"""Deformable attention on the CPU beside per-frame, per-level `grid_sample`: time and memory.

    python -m bench.msda
    python -m bench.msda --out bench/results/cpu/msda.json

One thread, process CPU seconds, both sides in turns in one process; memory is the growth of the
peak during one call, each side in a fresh process. The sizes are an encoder layer's at 192x320,
five frames. `published` is what the original calls: a frame at a time, a level at a time, with the
softmax, the locations and the masked values that our operator takes in.
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

import torch
from torch import Tensor

import kernels
from bench.gpu_msda import Inputs, MSDACase
from bench.published import sample_frame

CASE = MSDACase(name="encoder 192x320", height=192, width=320, frames=5)
SMOKE = MSDACase(name="smoke", height=64, width=64, frames=2)
SIDES = ("ours", "no compiler", "published")


def published(inputs: Inputs, leaves: list[Tensor]) -> Tensor:
    """Frame by frame, level by level."""
    value, offsets, logits = leaves
    padding = torch.zeros(value.shape[:2], dtype=torch.bool)
    value = value.masked_fill(padding[..., None, None], 0.0)
    sizes = torch.tensor([[w, h] for h, w in inputs.shapes], dtype=value.dtype)
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    locations = inputs.reference[:, :, None, :, None] + offsets / sizes[:, None]
    frames = [
        sample_frame(
            value[i : i + 1].contiguous(), inputs.shapes, locations[i : i + 1], weights[i : i + 1]
        )
        for i in range(value.shape[0])
    ]
    return torch.cat(frames)


def ours(inputs: Inputs, leaves: list[Tensor]) -> Tensor:
    """The fused operator."""
    value, offsets, logits = leaves
    return kernels.ms_deform_attn_fused(value, inputs.shapes, offsets, logits, inputs.reference)


def step(side: str, case: MSDACase, backward: bool) -> Callable[[], Any]:
    """One call, with or without its backward."""
    inputs = case.inputs(torch.device("cpu"))
    run = published if side == "published" else ours
    leaves = inputs.leaves() if backward else [leaf.detach() for leaf in inputs.leaves()]

    def call() -> Any:
        native = kernels.msda_cpu.library
        if side == "no compiler":
            kernels.msda_cpu.library = lambda *_: None
        try:
            output = run(inputs, leaves)
            if not backward:
                return output
            return output, *torch.autograd.grad(output, leaves, inputs.grad_output)
        finally:
            kernels.msda_cpu.library = native

    return call


def measure(case: MSDACase, repeat: int) -> dict[str, Any]:
    """CPU seconds by side, and ratios of medians to `published`."""
    torch.set_num_threads(1)
    steps = {(side, both): step(side, case, both) for side in SIDES for both in (False, True)}
    seconds: dict[tuple[str, bool], list[float]] = {key: [] for key in steps}
    for round_number in range(repeat + 1):
        for key, call in steps.items():
            start = time.process_time()
            call()
            if round_number:  # the first is a warm-up
                seconds[key].append(time.process_time() - start)
    medians = {key: median(values) for key, values in seconds.items()}
    record: dict[str, Any] = {"case": case.name, "repeat": repeat, "sides": {}}
    for side in SIDES:
        row: dict[str, Any] = {}
        for both, name in ((False, "forward"), (True, "forward_backward")):
            row[f"{name}_cpu_seconds"] = medians[side, both]
            row[f"{name}_speedup"] = medians["published", both] / medians[side, both]
            row[f"{name}_rounds"] = seconds[side, both]
        row["peak_growth_mib"] = peak_growth(side, case)
        record["sides"][side] = row
    return record


def peak_growth(side: str, case: MSDACase) -> float | None:
    """MiB by which one forward and backward raise the peak, in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_growth, side, case).result()


def _peak_growth(side: str, case: MSDACase) -> float | None:
    from bench.cpu import peak_growth_of

    torch.set_num_threads(1)
    step(side, SMOKE, True)()  # loads libraries
    return peak_growth_of(step(side, case, True))


def main(arguments: Sequence[str] | None = None) -> int:
    from bench.cpu import machine

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="rounds that count")
    parser.add_argument("--smoke", action="store_true", help="a tiny case")
    parser.add_argument("--out", type=Path, help="JSON record to write")
    options = parser.parse_args(arguments)
    record = {"machine": machine(), **measure(SMOKE if options.smoke else CASE, options.repeat)}
    for side, row in record["sides"].items():
        memory = "-" if row["peak_growth_mib"] is None else f"{row['peak_growth_mib']:.0f}"
        print(
            f"{side:12} forward {1e3 * row['forward_cpu_seconds']:7.1f} ms "
            f"({row['forward_speedup']:.1f}x)  forward+backward "
            f"{1e3 * row['forward_backward_cpu_seconds']:7.1f} ms "
            f"({row['forward_backward_speedup']:.1f}x)  peak +{memory} MiB"
        )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
