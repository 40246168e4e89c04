"""`train.py PRESET --memory-report`: what one process of a run will keep on its GPU.

The real step (forward, losses, backward, with recomputation and frame chunks as set) runs on the
meta device, where tensors have sizes but no memory, while `Ledger` counts what is alive. Operators
that a GPU fuses count as what they take and give: attention, deformable attention, the mask head.
Not counted: the CUDA context, cuDNN's and cuBLAS's own workspaces and fragmentation, together about
1 to 2 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqformer.config import TrainConfig
from seqformer.criterion import Matches, SetCriterion
from seqformer.distributed.context import DistributedContext
from seqformer.distributed.environment import launch
from seqformer.model import build_model_from_config
from seqformer.structures import ClipBatch, ClipTargets
from seqformer.trainer.compile_and_recompute import compile_and_recompute
from seqformer.trainer.frozen_parts import freeze
from seqformer.trainer.memory_ledger import Ledger, gpu_operators, num_bytes
from seqformer.trainer.muon import is_inside
from seqformer.trainer.parallel_model import build_parallel_model, units_of
from seqformer.trainer.precision import Precision, keep_float32_islands
from seqformer.trainer.step import TrainingStep

INSTANCES = 10
"""Instances per clip that the report assumes."""
META = torch.device("meta")


@dataclass(frozen=True)
class MemoryReport:
    """Bytes on one GPU.

    Attributes:
        parameters: weights, their average where one is kept, and buffers, this process's share.
        gathered: under FSDP, the two largest units that are whole at once.
        gradients: of trained parameters, this process's share; all of them where a step has several
            backward passes, before the last of which nothing is exchanged.
        optimizer: one or two moments per trained parameter, this process's share.
        activations: inputs, and what the forward pass and the losses keep for the backward pass.
        workspace: what comes on top at the worst moment.
        shape: (clips, frames, height, width) of a micro-batch.
    """

    parameters: int
    gathered: int
    gradients: int
    optimizer: int
    activations: int
    workspace: int
    shape: tuple[int, int, int, int]

    @property
    def total(self) -> int:
        """The sum, at the worst moment of a step."""
        parts = (self.parameters, self.gathered, self.gradients, self.optimizer)
        return sum(parts) + self.activations + self.workspace

    def __str__(self) -> str:
        names = ("parameters", "gathered", "gradients", "optimizer", "activations", "workspace")
        lines = [f"{name:12}{getattr(self, name) / 2**30:8.2f} GB" for name in names]
        B, T, H, W = self.shape
        return "\n".join(
            [
                f"One process, {B} clip(s) of {T} frames, {H}x{W} pixels, {INSTANCES} instances:",
                *lines,
                f"{'together':12}{self.total / 2**30:8.2f} GB, and 1 to 2 GB for CUDA itself",
            ]
        )


def memory_report(config: TrainConfig, size: tuple[int, int] | None = None) -> MemoryReport:
    """Count the memory of one step.

    Args:
        config: the run; torchrun's variables say how many processes share it.
        size: height and width of the padded frames; default the largest that augmentation makes.

    Raises: ValueError when the processes do not fit the mode.
    """
    with torch.device(META):
        model = build_model_from_config(config.model)
    freeze(model, config.tuning.freeze)
    model.train()
    precision = Precision("fp32", torch.device("cpu"))
    low = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.compute.precision]
    if low is not None:
        keep_float32_islands(model)
    compile_and_recompute(
        model, recompute=config.compute.recompute, channels_last=config.compute.channels_last
    )
    step = TrainingStep(
        build_parallel_model(model, "none", DistributedContext(device=META)),
        SetCriterion.from_config(config.loss),
        torch.optim.SGD(model.parameters()),
        precision,
        frame_chunk=config.compute.frame_chunk,
    )
    step.criterion.matcher = _PretendedMatcher()  # type: ignore[assignment] # it does what is asked
    H, W = size or _largest_frame(config)
    shape = (config.data.batch_size, config.data.num_frames, H, W)
    for parameter in model.parameters():  # of the micro-batch before
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    ledger = Ledger()
    kept: list[int] = []
    in_chunks = 0 < step.frame_chunk < shape[1]
    with gpu_operators(ledger, low, kept), ledger:
        batch = _batch(shape)
        losses = step._backward(batch, 1.0, in_chunks, is_last=True)
        del losses
    weights = [*model.parameters(), *model.buffers()]
    trained = [p for p in model.parameters() if p.requires_grad]
    shards = _shards(config)
    gradients = num_bytes(trained)
    average = gradients if config.tuning.ema_decay else 0
    keeps_gradients = in_chunks or _micro_batches(config) > 1
    return MemoryReport(
        parameters=(num_bytes(weights) + average) // shards,
        gathered=0 if shards == 1 else 2 * _largest_unit(model, low),
        gradients=gradients // (1 if keeps_gradients else shards),
        optimizer=_of_optimizer(model, config) // shards,
        activations=max(kept),
        workspace=ledger.peak - max(kept),
        shape=shape,
    )


def _of_optimizer(model: nn.Module, config: TrainConfig) -> int:
    """Bytes of the moments of all trained parameters: one of what Muon takes, else two."""
    return sum(
        num_bytes([parameter]) * (1 if config.optim.muon and is_inside(name, parameter) else 2)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    )


def _batch(shape: tuple[int, int, int, int]) -> ClipBatch:
    B, T, H, W = shape
    target = ClipTargets(
        labels=torch.empty(INSTANCES, dtype=torch.int64, device=META),
        boxes=torch.empty(INSTANCES, T, 4, device=META),
        masks=torch.empty(INSTANCES, T, H, W, dtype=torch.bool, device=META),
        size=(H, W),
    )
    return ClipBatch(
        images=torch.empty(B, T, 3, H, W, device=META),
        padding_mask=torch.empty(B, H, W, dtype=torch.bool, device=META),
        targets=[target.copy() for _ in range(B)],
    )


class _PretendedMatcher:
    """Finds some assignment; its values do not matter where nothing has values."""

    def begin(self, class_logits: Tensor, boxes: Tensor, targets: list) -> _PretendedMatcher:
        self._shape = class_logits.shape[:2]
        return self

    def finish(self) -> Matches:
        D, B = self._shape
        index = torch.empty(D * B * INSTANCES, dtype=torch.int64, device=META)
        host = [[(np.arange(INSTANCES), np.arange(INSTANCES))] * B for _ in range(D)]
        return Matches(index, index.clone(), index.clone(), index.clone(), host)


def _largest_frame(config: TrainConfig) -> tuple[int, int]:
    """Height and width of the largest padded frame that augmentation can make."""
    augment = config.data.augment
    up = lambda n: -(-n // 32) * 32  # noqa: E731
    return up(max(augment.short_sides)), up(augment.max_long_side)


def _micro_batches(config: TrainConfig) -> int:
    """Backward passes of a process in a step."""
    at_once = launch().world_size * config.data.batch_size
    return -(-(config.data.global_batch_size or at_once) // at_once)


def _shards(config: TrainConfig) -> int:
    """How many processes share a parameter."""
    world = launch().world_size
    if config.distributed.parallel == "fsdp":
        return world
    if config.distributed.parallel != "hsdp":
        return 1
    replicas = config.distributed.hsdp_replicas or world // (launch().local_world_size or world)
    if world % replicas:
        raise ValueError(f"{world} processes cannot form {replicas} equal replicas")
    return world // replicas


def _largest_unit(model: Any, low: torch.dtype | None) -> int:
    largest = max(sum(p.numel() for p in unit.parameters()) for unit in units_of(model))
    return largest * (low or torch.float32).itemsize
