"""Calls of the dynamic mask head that benchmarks share, and the published formulation of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from bench.published import dynamic_masks
from seqformer.criterion.losses import sigmoid_focal

G, CHANNELS, STRIDE = 169, 8, 8
ALPHA, GAMMA = 0.25, 2.0


@dataclass(frozen=True, kw_only=True)
class MaskCase:
    """N instances in T frames of one clip.

    Attributes:
        height, width: of the frames, in pixels; a cell is eight.
        layers: decoder layers whose matched queries these are; they share N / layers targets.
    """

    name: str
    instances: int
    frames: int
    height: int
    width: int
    layers: int = 1
    dtype: torch.dtype = torch.float32

    @property
    def cells(self) -> tuple[int, int]:
        return -(-self.height // STRIDE), -(-self.width // STRIDE)

    def model_bytes(self) -> dict[str, int]:
        """Each tensor once, as logits at stride 4 ask for: forward reads features, parameters and
        references and writes logits; backward reads all four and writes three gradients."""
        h, w = self.cells
        features = self.frames * CHANNELS * h * w * self.dtype.itemsize
        small = self.instances * (G + 2 * self.frames) * 4
        logits = self.instances * self.frames * 4 * h * w * self.dtype.itemsize
        return {
            "forward": features + small + logits,
            "backward": 2 * (features + small) + logits,
        }

    def inputs(self, device: torch.device, seed: int = 0) -> MaskInputs:
        """Random features as after a ReLU, small parameters, references inside the frame."""
        g = torch.Generator().manual_seed(seed)
        (h, w), N, T = self.cells, self.instances, self.frames
        size = torch.tensor([self.width, self.height], dtype=torch.float32)
        targets = max(1, N // self.layers)
        return MaskInputs(
            features=torch.randn(1, T, CHANNELS, h, w, generator=g).relu().to(device, self.dtype),
            params=(torch.randn(N, G, generator=g) * 0.1).to(device),
            references=(torch.rand(N, T, 2, generator=g) * size).to(device),
            clip_index=torch.zeros(N, dtype=torch.long, device=device),
            grad=torch.randn(N, T, 2 * h, 2 * w, generator=g).to(device, self.dtype),
            targets=(torch.rand(targets, T, 2 * h, 2 * w, generator=g) < 0.2).to(device),
            target_index=(torch.arange(N) % targets).to(device),
        )


@dataclass(frozen=True)
class MaskInputs:
    """Arguments of one call, a gradient of its logits, and targets of its losses."""

    features: Tensor
    params: Tensor
    references: Tensor
    clip_index: Tensor
    grad: Tensor
    targets: Tensor
    target_index: Tensor

    def leaves(self) -> list[Tensor]:
        """What gradients are asked for."""
        return [t.detach().requires_grad_() for t in (self.features, self.params, self.references)]


def ours(inputs: MaskInputs, leaves: list[Tensor]) -> Tensor:
    """Logits [N, T, 2h, 2w], one call."""
    return kernels.dynamic_mask_head(*leaves, inputs.clip_index)


def published(inputs: MaskInputs, leaves: list[Tensor]) -> Tensor:
    """The same frame by frame, by grouped convolutions over repeated features."""
    features, params, references = leaves
    frames = [
        dynamic_masks(features[:, t], params, references[:, t], [len(params)], STRIDE)
        for t in range(features.shape[1])
    ]
    return torch.stack(frames, dim=1)


def our_losses(inputs: MaskInputs, leaves: list[Tensor]) -> Tensor:
    """Focal and dice loss summed over instances, straight from the features."""
    sums = kernels.dynamic_mask_loss(
        *leaves, inputs.clip_index, inputs.targets, target_index=inputs.target_index,
        alpha=ALPHA, gamma=GAMMA,
    )  # fmt: skip
    dice = 1 - (2 * sums.overlap + 1) / (sums.area + sums.target_area + 1)
    return sums.focal.sum() / inputs.targets[0].numel() + dice.sum()


def our_losses_in_two_steps(inputs: MaskInputs, leaves: list[Tensor]) -> Tensor:
    """The same from our logits."""
    return _losses(ours(inputs, leaves), inputs)


def published_losses(inputs: MaskInputs, leaves: list[Tensor]) -> Tensor:
    """The same from grouped convolutions."""
    return _losses(published(inputs, leaves), inputs)


def _losses(logits: Tensor, inputs: MaskInputs) -> Tensor:
    logits = logits.flatten(1).float()
    target = inputs.targets[inputs.target_index].flatten(1).float()
    focal = sigmoid_focal(logits, target, ALPHA, GAMMA).mean(1)
    prob = logits.sigmoid()
    dice = 1 - (2 * (prob * target).sum(1) + 1) / (prob.sum(1) + target.sum(1) + 1)
    return focal.sum() + dice.sum()


def blobs(count: int, h: int, w: int, seed: int = 0) -> Tensor:
    """Logits [count, h, w] of one round object each with an uneven edge."""
    g = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, 1, 1, generator=g)
    radius = 0.05 + 0.3 * torch.rand(count, 1, 1, generator=g)
    y, x = torch.arange(h)[:, None] / h, torch.arange(w) / w
    distance = ((y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2).sqrt()
    return 40 * (radius - distance) + 0.5 * torch.randn(count, h, w, generator=g)


def drawn_masks(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of the frame's size by interpolating everything: bool [count, H, W]."""
    return F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0] > 0
