"""What a call costs as its input grows: frames, clips, resolution, instances, queries; one letter
at a time, the others as they are in the middle of the curve. HW is the pixels of a frame.

On a CPU the frames are small, so that all curves together take minutes, and ours runs alone; on a
GPU they pass through the published scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.suite.cases.inference import inference_case
from bench.suite.cases.training import training_case
from bench.suite.model_inputs import TINY, ModelSize
from bench.suite.schema import Case, Size

Resolutions = tuple[tuple[int, int], ...]
CPU_STEP = ModelSize(frames=2, height=64, width=112, instances=6)
CPU_VIDEO = ModelSize(frames=4, height=64, width=112, instances=0)
CPU_SCALES = ((64, 112), (128, 224), (192, 336))
GPU_STEP = ModelSize(frames=5, height=480, width=768, instances=6)
GPU_VIDEO = ModelSize(frames=36, height=360, width=640, instances=0)


def cases(size: Size) -> Iterator[Case]:
    if size == "smoke":
        for frames in (1, 2):
            yield _along("T", training_case(replace(TINY, frames=frames)))
        yield _along("T", inference_case(replace(TINY, frames=3)))
        return
    if size == "cpu":
        points = (
            *_steps(CPU_STEP, (1, 2, 4, 8, 12), (1, 2, 4), CPU_SCALES, (0, 10, 30)),
            *_videos(CPU_VIDEO, (1, 4, 12), CPU_SCALES, (100, 300, 600)),
        )
        yield from map(_on_cpu, points)
        return
    step_scales = ((240, 384), (360, 576), (480, 768), (720, 1152))
    video_scales = ((180, 320), (360, 640), (720, 1280))
    yield from _steps(
        GPU_STEP, (1, 5, 10, 20), (1, 2, 4), step_scales, (0, 10, 30), dtype="bfloat16"
    )
    yield from _videos(GPU_VIDEO, (1, 9, 36, 72), video_scales, (100, 300, 600), dtype="bfloat16")


def _steps(
    base: ModelSize,
    frames: tuple[int, ...],
    clips: tuple[int, ...],
    resolutions: Resolutions,
    instances: tuple[int, ...],
    dtype: str = "float32",
) -> Iterator[Case]:
    """The curves of a training step."""
    curves = {
        "T": [replace(base, frames=T) for T in frames],
        "B": [replace(base, clips=B) for B in clips],
        "HW": [replace(base, height=H, width=W) for H, W in resolutions],
        "N": [replace(base, instances=N) for N in instances],
    }
    for along, sizes in curves.items():
        for size in sizes:
            yield _along(along, training_case(size, dtype))


def _videos(
    base: ModelSize,
    frames: tuple[int, ...],
    resolutions: Resolutions,
    queries: tuple[int, ...],
    dtype: str = "float32",
) -> Iterator[Case]:
    """The curves of inference."""
    curves = {
        "T": [replace(base, frames=T) for T in frames],
        "HW": [replace(base, height=H, width=W) for H, W in resolutions],
        "Q": [replace(base, overrides=(("num_queries", Q),)) for Q in queries],
    }
    for along, sizes in curves.items():
        for size in sizes:
            yield _along(along, inference_case(size, dtype))


def _along(letter: str, case: Case) -> Case:
    """A point of a curve: ours, along frames with the published formulation beside it."""
    names = ("ours", "published") if letter == "T" else ("ours",)
    kept = [side for side in case.sides if side.name in names]
    return replace(
        case,
        name=f"{case.op} along {letter}={case.shapes[letter]} {case.dtype}",
        group="growth",
        sides=tuple(kept),
        along=letter,
        rounds=3,
    )


def _on_cpu(case: Case) -> Case:
    """Ours alone, and memory, for which a process must start, only where it grows most."""
    return replace(case, sides=case.sides[:1], memory=case.along in ("T", "HW"))
