"""One bare optimiser step of the tiny model, for the tests that compare ways to take it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from seqformer.config import OptimConfig
from seqformer.criterion import SetCriterion
from seqformer.distributed.context import DistributedContext
from seqformer.model import build_model_from_config
from seqformer.trainer.compile_and_recompute import compile_and_recompute
from seqformer.trainer.optim import build_optimizer
from seqformer.trainer.parallel_model import build_parallel_model
from seqformer.trainer.precision import Precision, keep_float32_islands
from seqformer.trainer.step import TrainingStep
from tests.trainer.tiny import make_batch, tiny_model_config

CLIPS = 6
"""Of the global batch; clips 0 and 3 have no instance."""


def build_step(
    parallel: DistributedContext,
    mode: str = "ddp",
    *,
    frame_chunk: int = 0,
    dtype: torch.dtype = torch.float64,
    execution: dict[str, Any] | None = None,
    precision: str = "fp32",
    clip_max_norm: float = 0.0,
    optim: OptimConfig | None = None,
    **model_changes: Any,
) -> TrainingStep:
    """The tiny model from fixed weights under a mode."""
    torch.manual_seed(0)
    model = build_model_from_config(replace(tiny_model_config(), **model_changes)).to(dtype)
    model.train()
    compile_and_recompute(model, **(execution or {}))
    how = Precision(precision, parallel.device, caches_weights=mode == "ddp")
    if how.low is not None:
        keep_float32_islands(model)
    parallel_model = build_parallel_model(model, mode, parallel, low_precision=how.low)
    return TrainingStep(
        parallel_model,
        SetCriterion(),
        build_optimizer(model, optim or OptimConfig()),
        how,
        clip_max_norm=clip_max_norm,
        frame_chunk=frame_chunk,
    )


def take_step(
    step: TrainingStep, micro_batches: int, *, number: int = 0, clips: int = CLIPS, frames: int = 2
) -> dict[str, float]:
    """This process's share of a global batch. Returns: losses, as means over the processes."""
    parallel = step.parallel_model.parallel
    share = clips // parallel.world_size
    own = range(parallel.rank * share, (parallel.rank + 1) * share)
    size = share // micro_batches
    batches = [
        make_batch(0, number, own[i : i + size], frames=frames) for i in range(0, share, size)
    ]
    dtype = next(step.parallel_model.model.parameters()).dtype
    for batch in batches:
        batch.images = batch.images.to(dtype)
    count = sum(len(t["labels"]) for batch in batches for t in batch.targets)
    losses = step(batches, *parallel.host_sum(count))
    return {name: parallel.mean(value.clone()).item() for name, value in losses.items()}


def gradients(step: TrainingStep) -> dict[str, torch.Tensor]:
    """Whole gradients by parameter name."""
    actual = {}
    for name, parameter in step.parallel_model.model.named_parameters():
        if parameter.grad is not None:
            grad = parameter.grad
            actual[name] = (grad.full_tensor() if isinstance(grad, DTensor) else grad).clone()
    return actual


def step_and_gradients(
    parallel: DistributedContext,
    mode: str,
    micro_batches: int,
    step_kwargs: dict,
    take_kwargs: dict,
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses and gradients of one step."""
    step = build_step(parallel, mode, **step_kwargs)
    losses = take_step(step, micro_batches, **take_kwargs)
    return losses, gradients(step)


def assert_same(
    got: tuple[dict, dict], expected: tuple[dict, dict], tolerance: float, what: str = ""
) -> None:
    """Every loss, and every gradient relative to the largest gradient of all."""
    for name, value in expected[0].items():
        if name not in ("class_error",) and not name.startswith("cardinality"):
            assert abs(got[0][name] - value) <= tolerance * max(1.0, abs(value)), f"{what} {name}"
    assert got[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        difference = (got[1][name] - value).abs().max().item()
        assert difference <= tolerance * max(1.0, value.abs().max().item()), (
            f"{what} {name}: {difference}"
        )
