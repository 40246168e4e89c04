"""Models and inputs of the whole-model cases, from fixed seeds: every side sees the same.

Random weights stand for trained ones: matrices that the model starts at zero get small numbers, so
that sampling points scatter, boxes move and every gradient flows.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from seqformer.config import ModelConfig
from seqformer.model import SeqFormer, build_model
from seqformer.structures import ClipTargets


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """A model and what it sees.

    Attributes:
        clips, frames, height, width, instances: B, T, H, W and N in every clip.
        overrides: fields of `ModelConfig` that differ from the published model.
    """

    backbone: str = "resnet50"
    clips: int = 1
    frames: int = 5
    height: int = 192
    width: int = 320
    instances: int = 6
    overrides: tuple[tuple[str, int], ...] = ()

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(backbone=self.backbone, **dict(self.overrides))

    def shapes(self) -> dict[str, int]:
        """In the letters of a case; HW is the number of pixels of a frame."""
        return {
            "B": self.clips,
            "T": self.frames,
            "H": self.height,
            "W": self.width,
            "HW": self.height * self.width,
            "N": self.instances,
            "Q": self.config.num_queries,
        }


TINY = ModelSize(
    backbone="resnet_mini",
    frames=2,
    height=64,
    width=96,
    instances=2,
    overrides=(
        ("hidden_dim", 64),
        ("num_heads", 4),
        ("num_encoder_layers", 1),
        ("num_decoder_layers", 2),
        ("ffn_dim", 64),
        ("num_queries", 20),
    ),
)
"""For smoke runs."""


def model_of(size: ModelSize, device: torch.device) -> SeqFormer:
    """The model of a size; the last one is kept, so the sides of a case share its weights. Whoever
    changes weights or modules takes `own_model_of`."""
    return _model(size.backbone, size.overrides, device)


def own_model_of(size: ModelSize, device: torch.device) -> SeqFormer:
    """A copy of the model of a size."""
    return deepcopy(model_of(size, device))


@lru_cache(maxsize=1)
def _model(
    backbone: str, overrides: tuple[tuple[str, int], ...], device: torch.device
) -> SeqFormer:
    torch.manual_seed(0)
    return randomise(build_model(backbone, **dict(overrides))).to(device)


def randomise(model: SeqFormer) -> SeqFormer:
    """Give every weight matrix that starts at zero small random values. In place."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.5 / parameter.shape[1] ** 0.5)
    return model


def video(size: ModelSize, device: torch.device) -> Tensor:
    """[B, T, 3, H, W] normalised."""
    generator = torch.Generator().manual_seed(7)
    shape = size.clips, size.frames, 3, size.height, size.width
    return torch.randn(shape, generator=generator).to(device)


def padding_and_targets(size: ModelSize, device: torch.device) -> tuple[Tensor, list[ClipTargets]]:
    """Padding mask [B, H, W] without padding, and one target per clip."""
    generator = torch.Generator().manual_seed(8)
    frame = size.height, size.width
    classes = size.config.num_classes
    targets = [
        moving_rectangles(size.instances, size.frames, frame, classes, generator)
        for _ in range(size.clips)
    ]
    return (
        torch.zeros(size.clips, *frame, dtype=torch.bool, device=device),
        [
            {k: v.to(device) if isinstance(v, Tensor) else v for k, v in target.items()}
            for target in targets
        ],
    )


def moving_rectangles(
    count: int,
    num_frames: int,
    size: tuple[int, int],
    num_classes: int,
    generator: torch.Generator,
) -> ClipTargets:
    """Targets of a clip: axis-parallel rectangles, each with a velocity."""
    H, W = size

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 2, generator=generator)

    time_axis = torch.arange(num_frames)[None, :, None]
    centre = uniform(0.3, 0.7) + uniform(-0.02, 0.02) * time_axis
    boxes = torch.cat([centre, uniform(0.16, 0.4).expand_as(centre)], dim=-1)  # [N, T, 4]
    x, y = (torch.arange(n) + 0.5 for n in (W, H))
    x = (x / W - boxes[..., :1]).abs() < boxes[..., 2:3] / 2  # [N, T, W]
    y = (y / H - boxes[..., 1:2]).abs() < boxes[..., 3:] / 2  # [N, T, H]
    return {
        "labels": torch.randint(1, num_classes - 1, (count,), generator=generator),
        "boxes": boxes,
        "masks": y[..., None] & x[..., None, :],
        "size": (H, W),
    }
