"""What a call costs as its input grows: frames, clips, resolution, instances, queries; one letter
at a time, the others as they are in the middle of the curve. HW is the pixels of a frame.

On a CPU the frames are small, so that all curves together take minutes; on a GPU they start from
the published scale. The published formulation is beside ours where one of its calls is cheap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.case import Case, Size
from bench.cases.inference import inference_case
from bench.cases.training import training_case
from bench.model_inputs import TINY, ModelSize

Resolutions = tuple[tuple[int, int], ...]
CPU_STEP = ModelSize(frames=3, height=96, width=160, instances=6)
CPU_VIDEO = ModelSize(frames=4, height=96, width=160, instances=0)
GPU_STEP = ModelSize(frames=5, height=480, width=768, instances=6)
GPU_VIDEO = ModelSize(frames=36, height=360, width=640, instances=0)


def cases(size: Size) -> Iterator[Case]:
    if size == "smoke":
        for frames in (1, 2):
            yield _along("T", training_case(replace(TINY, frames=frames)))
        yield _along("T", inference_case(replace(TINY, frames=3)))
        return
    if size == "cpu":
        yield from _steps(CPU_STEP, (1, 2, 4, 8, 12), (1, 2, 4), _scaled(CPU_STEP), (0, 10, 30))
        yield from _videos(CPU_VIDEO, (1, 4, 12), _scaled(CPU_VIDEO), (100, 300, 600))
        return
    step_scales = ((240, 384), (360, 576), (480, 768), (720, 1152))
    video_scales = ((180, 320), (360, 640), (720, 1280))
    yield from _steps(
        GPU_STEP, (1, 5, 10, 20), (1, 2, 4), step_scales, (0, 10, 30), dtype="bfloat16"
    )
    yield from _videos(GPU_VIDEO, (1, 9, 36, 72), video_scales, (100, 300, 600), dtype="bfloat16")


def _scaled(size: ModelSize) -> Resolutions:
    return tuple((size.height * n // 2, size.width * n // 2) for n in (1, 2, 3, 4))


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
    """A point of a curve: ours alone, or with the published formulation where that is cheap."""
    kept = [s for s in case.sides if s.name == "ours" or (s.name == "published" and letter == "T")]
    return replace(
        case,
        name=f"{case.op} along {letter}={case.shapes[letter]} {case.dtype}",
        group="growth",
        sides=tuple(kept),
        along=letter,
        rounds=3,
    )
