"""Whole-video inference on the CPU: a video of 36 frames, ours beside the published formulation.

    python -m bench.video                       # ResNet-50, 36 frames of 360x640; about 15 minutes

The measurement is that of `bench.cpu` (one thread, in turns in one process, processor time; peak
memory growth in fresh processes) on the size of a YouTube-VIS validation video: from normalised
frames to class logits, boxes and the masks of the output queries.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from bench.cpu import Case, machine, measure, report
from bench.cpu import Options as CpuOptions
from bench.ours import CHUNK_FRAMES


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time whole-video inference against the published formulation on the CPU."""

    frames: int = 36
    height: int = 360
    width: int = 640
    backbone: str = "resnet50"
    repeat: int = 3
    """Measured rounds; the median counts."""
    wall_repeat: int = 0
    """Rounds on two threads; 0 leaves them out."""
    memory: bool = True
    """Measure peak memory as well, in fresh processes."""
    out: Path | None = None
    """Write the measurements as JSON here."""


def main(options: Options) -> None:
    case = Case(
        height=options.height,
        width=options.width,
        infer_frames=options.frames,
        backbone=options.backbone,
    )
    shared = CpuOptions(
        repeat=options.repeat, wall_repeat=options.wall_repeat, memory=options.memory
    )
    record: dict[str, Any] = {"machine": machine(), "case": asdict(case)}
    record["chunk_frames"] = CHUNK_FRAMES
    record["tasks"] = {"inference": measure("inference", ["ours", "published"], case, shared)}
    print(report(record))
    ratio = record["tasks"]["inference"]["ratios"]["ours / published"]
    print(f"{1 / ratio['cpu_by_round']:.2f} times the speed (median of the rounds' ratios)")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options))
