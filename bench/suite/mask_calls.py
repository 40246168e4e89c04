"""Calls of the dynamic mask head that benchmarks share, and the published formulation of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

import kernels
from bench.baselines.published import dynamic_masks
from seqformer.criterion.losses import sigmoid_focal

G, CHANNELS, STRIDE = 169, 8, 8
ALPHA, GAMMA = 0.25, 2.0


@dataclass(frozen=True, kw_only=True)
class MaskCall:
    """N instances in T frames of one clip.

    Attributes:
        instances: N.
        frames: T.
        height, width: of the frames, in pixels; a cell is eight.
        layers: decoder layers whose matched queries these are; they share N / layers targets.
    """

    instances: int
    frames: int
    height: int
    width: int
    layers: int = 1
    dtype: torch.dtype = torch.float32

    @property
    def cells(self) -> tuple[int, int]:
        return -(-self.height // STRIDE), -(-self.width // STRIDE)

    def model_bytes(self, with_losses: bool) -> dict[str, int]:
        """Each tensor once: forward reads features, parameters and references and writes logits at
        stride 4, or reads as many bytes of targets; backward reads all four and writes three
        gradients."""
        h, w = self.cells
        features = self.frames * CHANNELS * h * w * self.dtype.itemsize
        small = self.instances * (G + 2 * self.frames) * 4
        pixels = self.frames * 4 * h * w
        masks = self.instances * pixels * self.dtype.itemsize
        if with_losses:
            masks = self.instances // self.layers * pixels
        return {
            "forward": features + small + masks,
            "backward": 2 * (features + small) + masks,
        }

    def model_flops(self, with_losses: bool) -> dict[str, int]:
        """By the formulas registered with the operators."""
        features = (1, self.frames, CHANNELS, *self.cells)
        params = (self.instances, G)
        sizes = [CHANNELS, 3, 1, 2, STRIDE]  # as `mask_head.op.sizes_of` orders them
        needs = [True, True]
        op = torch.ops.seqformer_kernels
        if not with_losses:
            given = (features, params, None, None, sizes)
            return {
                "forward": flop_registry[op.dynamic_mask_head](*given, out_val=None),
                "backward": flop_registry[op.dynamic_mask_head_backward](
                    None, *given, needs, out_val=None
                ),
            }
        given = (features, params, None, None, None, None, sizes)
        return {
            "forward": flop_registry[op.dynamic_mask_loss](*given, out_val=None),
            "backward": flop_registry[op.dynamic_mask_loss_backward](
                None, *given, None, None, None, needs, out_val=None
            ),
        }

    def inputs(self, device: torch.device, seed: int = 0) -> MaskInputs:
        """Random features as after a ReLU, small parameters, references inside the frame;
        drawn on the device."""
        with device:
            return self._inputs(torch.Generator(device).manual_seed(seed))

    def _inputs(self, g: torch.Generator) -> MaskInputs:
        (h, w), N, T = self.cells, self.instances, self.frames
        size = torch.tensor([self.width, self.height], dtype=torch.float32)
        targets = max(1, N // self.layers)
        return MaskInputs(
            features=torch.randn(1, T, CHANNELS, h, w, generator=g).relu().to(self.dtype),
            params=torch.randn(N, G, generator=g) * 0.1,
            references=torch.rand(N, T, 2, generator=g) * size,
            clip_index=torch.zeros(N, dtype=torch.long),
            grad=torch.randn(N, T, 2 * h, 2 * w, generator=g).to(self.dtype),
            targets=torch.rand(targets, T, 2 * h, 2 * w, generator=g) < 0.2,
            target_index=torch.arange(N) % targets,
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


Run = Callable[[MaskInputs, list[Tensor]], Tensor]
"""From inputs and their leaves to logits or a sum of losses."""


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
