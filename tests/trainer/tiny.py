"""A very small run for the trainer's tests: tiny model, clips made on the fly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from seqformer.config import (
    DataConfig,
    LoggingConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    override,
)
from seqformer.structures import ClassMap, ClipBatch, ClipTargets

CLASSES = ClassMap((3, 7), ("cat", "dog"))
T, H, W = 2, 32, 64


def tiny_model_config() -> ModelConfig:
    return ModelConfig(
        backbone="resnet_mini",
        num_classes=2,
        hidden_dim=32,
        num_heads=4,
        num_encoder_layers=1,
        num_decoder_layers=2,
        ffn_dim=32,
        num_queries=5,
        mask_dim=16,
    )


def tiny_config(output: Path, **changes: Any) -> TrainConfig:
    config = TrainConfig(
        output=output,
        device="cpu",
        max_steps=4,
        max_skipped_steps=0,
        logging=LoggingConfig(log_every=1),
        model=tiny_model_config(),
        data=DataConfig(num_frames=T, batch_size=2, num_workers=0),
        optim=OptimConfig(lr=1e-3, lr_backbone=1e-3, clip_max_norm=1.0),
    )
    return override(config, **changes)


def make_clip(seed: int, num_instances: int, frames: int = T) -> tuple[torch.Tensor, ClipTargets]:
    """Images [T, 3, H, W] and targets of one unpadded clip."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(frames, 3, H, W, generator=generator)
    centre = 0.3 + 0.4 * torch.rand(num_instances, frames, 2, generator=generator)
    size = 0.2 + 0.2 * torch.rand(num_instances, frames, 2, generator=generator)
    y = (torch.arange(H) + 0.5)[:, None] / H
    x = (torch.arange(W) + 0.5) / W
    inside = ((x - centre[..., 0, None, None]).abs() < size[..., 0, None, None] / 2) & (
        (y - centre[..., 1, None, None]).abs() < size[..., 1, None, None] / 2
    )
    labels = torch.randint(2, (num_instances,), generator=generator)
    boxes = torch.cat([centre, size], dim=-1)
    return images, {"labels": labels, "boxes": boxes, "masks": inside, "size": (H, W)}


def make_batch(epoch: int, batch: int, clips: range, frames: int = T) -> ClipBatch:
    """Clips of one step; every third clip of a run has no instance at all."""
    numbers = [10_000 * epoch + 100 * batch + clip for clip in clips]
    made = [make_clip(number, number % 3, frames) for number in numbers]
    return ClipBatch(
        images=torch.stack([images for images, _ in made]),
        padding_mask=torch.zeros(len(made), H, W, dtype=torch.bool),
        targets=[targets for _, targets in made],
        ids=[f"clip {number}" for number in numbers],
    )


class TinyLoader:
    """Stands in for the DataLoader and its sampler.

    Like a DataLoader, it draws a seed from torch's generator when an epoch starts; like an
    augmentation in the training process, it draws noise from it for every batch.
    """

    def __init__(
        self, config: DataConfig, rank: int = 0, world_size: int = 1, length: int = 3
    ) -> None:
        self.batch_sampler = self
        self.steps_per_epoch = length
        self.global_batch_size = config.global_batch_size or config.batch_size * world_size
        share = self.global_batch_size // world_size
        clips = range(rank * share, (rank + 1) * share)
        self.parts = [clips[i : i + config.batch_size] for i in range(0, share, config.batch_size)]
        self.micro_batches = len(self.parts)
        self.is_noisy = world_size == self.micro_batches == 1
        self.epoch = self.start_step = 0

    def close(self) -> None:
        """It has no processes."""

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        self.epoch, self.start_step = epoch, start_step

    def __iter__(self) -> Iterator[ClipBatch]:
        torch.randint(100, ())
        return self._batches()

    def _batches(self) -> Iterator[ClipBatch]:
        for step in range(self.start_step, self.steps_per_epoch):
            for clips in self.parts:
                batch = make_batch(self.epoch, step, clips)
                if self.is_noisy:
                    batch.images += 0.1 * torch.randn(())
                yield batch


def build_tiny_loader(
    config: DataConfig, seed: int, rank: int, world_size: int
) -> tuple[TinyLoader, ClassMap]:
    """In place of `seqformer.data.loader.build_train_loader`."""
    return TinyLoader(config, rank, world_size), CLASSES
