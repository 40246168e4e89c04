"""Training steps and videos of random sizes, as far as they launch kernels, and what each compiles.

In a process that does not interpret: `python -m tests.kernels.random_steps` prints it.
"""

from __future__ import annotations

import json
import random
import sys

import torch
from torch import Tensor

import kernels

M, D, P, QUERIES, STRIDES = 8, 32, 4, 300, (8, 16, 32, 64)
B, T = 2, 2
STEPS, VIDEOS = 24, 8


def levels_of(height: int, width: int) -> list[tuple[int, int]]:
    return [(-(-height // s), -(-width // s)) for s in STRIDES]


def sample(value: Tensor, shapes, images: int, queries: int, reference, valid) -> Tensor:
    """A layer's call, with offsets and logits of so many images."""
    needs = value.requires_grad
    offsets = torch.zeros(images, queries, M, len(shapes), P, 2, requires_grad=needs)
    logits = torch.zeros(images, queries, M, len(shapes), P, requires_grad=needs)
    return kernels.ms_deform_attn_fused(value, shapes, offsets, logits, reference, valid)


def training_step(height: int, width: int, instances: int, start: int, dtype: torch.dtype) -> None:
    """An encoder layer, the first decoder layer, a later one, and the mask losses, both ways.

    Args:
        start: where indices of instances begin in a longer tensor.
    """
    shapes = levels_of(height, width)
    S, L = sum(h * w for h, w in shapes), len(shapes)
    value = torch.zeros(B * T, S, M, D, dtype=dtype, requires_grad=True)
    valid = torch.tensor(shapes, dtype=torch.int32).expand(B, L, 2)
    outputs = [
        sample(value, shapes, B * T, S, torch.zeros(B, S, L, 2), valid),
        sample(value, shapes, B, QUERIES, torch.zeros(B, QUERIES, L, 2).requires_grad_(), valid),
        sample(value, shapes, B * T, QUERIES, torch.zeros(B * T, QUERIES, L, 4), valid),
    ]
    torch.autograd.backward(outputs, [torch.zeros_like(output) for output in outputs])
    h, w = shapes[0]
    N = instances
    features = torch.zeros(B, T, 8, h, w, requires_grad=True)
    parameters = torch.zeros(start + N, 169, requires_grad=True)[start:]
    references = torch.zeros(start + N, T, 2, requires_grad=True)[start:]
    clip, index = torch.zeros(2, start + N, dtype=torch.int64)[:, start:]
    targets = torch.zeros(3, T, 2 * h - start, 2 * w, dtype=torch.bool)
    sums = kernels.dynamic_mask_loss(
        features, parameters, references, clip, targets, target_index=index
    )
    sum(s.sum() for s in sums[:3]).backward()


@torch.inference_mode()
def video(height: int, width: int, frames: int, instances: int, dtype: torch.dtype) -> None:
    """Frames in chunks of four and what is left, then masks of all frames."""
    shapes = levels_of(height, width)
    S, L = sum(h * w for h, w in shapes), len(shapes)
    for first in range(0, frames, 4):
        n = min(4, frames - first)
        value = torch.zeros(n, S, M, D, dtype=dtype)
        sample(value, shapes, n, S, torch.zeros(1, S, L, 2), None)
        sample(value, shapes, 1, QUERIES, torch.zeros(1, QUERIES, L, 2), None)
        sample(value, shapes, n, QUERIES, torch.zeros(n, QUERIES, L, 4), None)
    features = torch.zeros(1, frames, 8, *shapes[0])
    clip = torch.zeros(instances, dtype=torch.int64)
    masks = kernels.dynamic_mask_head(
        features, torch.zeros(instances, 169), torch.zeros(instances, frames, 2), clip
    )
    for logits in masks:
        kernels.threshold_masks(logits, (height + 3, width - 5), packed=True)


def compiled_by(gpu, calls) -> list[dict[str, int]]:
    """Per call, kernels that Triton has compiled so far."""
    counts = []
    for call in calls:
        call()
        counts.append(gpu.compilations())
    return counts


def function_calls(call) -> int:
    """Functions, of Python and of C, that a warm call runs through on the host."""
    call()
    count = 0

    def seen(frame, event, argument) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def main() -> None:
    from bench.launch_cost import subjects
    from bench.offline.stand_in import standing_in

    random.seed(0)

    def size() -> tuple[int, int]:
        """Of the recipe's frames: any ratio of sides, no multiple of a stride."""
        return random.randint(288, 512), random.randint(288, 768)

    result = {}
    for dtype in (torch.float32, torch.bfloat16):
        steps = [(*size(), 4 if i == 0 else random.randint(0, 9), i % 4) for i in range(STEPS)]
        videos = [(*size(), random.randint(1, 9), 1 + i % 3) for i in range(VIDEOS)]
        name = str(dtype).removeprefix("torch.")
        with standing_in(compiles=False) as gpu:
            calls = [lambda a=a, d=dtype: training_step(*a, d) for a in steps]
            result[f"training {name}"] = compiled_by(gpu, calls)
        with standing_in(compiles=False) as gpu:
            calls = [lambda a=a, d=dtype: video(*a, d) for a in videos]
            result[f"inference {name}"] = compiled_by(gpu, calls)
    with standing_in(compiles=False):
        result["function calls"] = {s.name: function_calls(s.call) for s in subjects()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
