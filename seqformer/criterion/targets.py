"""The targets of a batch as the losses take them: in one piece, on the device, and checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..devices import to_device
from ..structures import ClipOutput, ClipTargets


@dataclass
class BatchTargets:
    """All instances of a batch.

    Attributes:
        labels: [N].
        boxes: [N, T, 4].
        masks: [N, T, 2h, 2w] bool, at the stride of the mask logits.
        sizes: [B, 2], (width, height) of the clips before padding.
        counts: [B], instances.
    """

    labels: Tensor
    boxes: Tensor
    masks: Tensor
    sizes: Tensor
    counts: Tensor

    @classmethod
    def of(cls, output: ClipOutput, targets: list[ClipTargets]) -> BatchTargets:
        """Of checked targets; nothing waits for the device."""
        references = output.reference_points
        h, w = output.mask_features.shape[-2:]
        sizes = [[t["size"][1], t["size"][0]] for t in targets]
        return cls(
            labels=torch.cat([t["labels"] for t in targets]),
            boxes=torch.cat([t["boxes"] for t in targets]),
            masks=_subsampled_masks(targets, (2 * h, 2 * w), output.mask_stride // 2),
            sizes=to_device(sizes, references, references.dtype),
            counts=to_device([len(t["labels"]) for t in targets], references, torch.float32),
        )


def check_targets(output: ClipOutput, targets: list[ClipTargets]) -> None:
    """Raises: ValueError naming the clip and what is wrong with its targets."""
    _, B, T, _, _ = output.boxes.shape
    K = output.class_logits.shape[-1]
    if len(targets) != B:
        raise ValueError(f"{len(targets)} targets for a batch of {B} clips")
    h, w = (n * output.mask_stride for n in output.mask_features.shape[-2:])
    for clip, target in enumerate(targets):
        N = len(target["labels"])
        H, W = (int(n) for n in target["size"])
        if list(target["boxes"].shape) != [N, T, 4]:
            raise ValueError(
                f"boxes of clip {clip} must be [N, T, 4] = {[N, T, 4]}, got "
                f"{list(target['boxes'].shape)}"
            )
        if list(target["masks"].shape) != [N, T, H, W]:
            raise ValueError(
                f"masks of clip {clip} must be [N, T, H, W] = {[N, T, H, W]}, got "
                f"{list(target['masks'].shape)}"
            )
        if h < H or w < W:
            raise ValueError(
                f"clip {clip} has size {(H, W)} but the images of the batch are at most {(h, w)}"
            )
        labels = target["labels"]
        # On a GPU, looking would wait for the device.
        known = labels.numpy() if labels.device.type == "cpu" else np.empty(0)
        if known.size and not 0 <= known.min() <= known.max() < K:
            raise ValueError(
                f"labels of clip {clip} must be in 0..{K - 1} (the model has {K} classes), got "
                f"{known.tolist()[:8]}"
            )


def _subsampled_masks(targets: list[ClipTargets], size: tuple[int, int], stride: int) -> Tensor:
    """Target masks at the mask stride, [sum of N, T, *size] bool, False on padding.

    Every `stride`-th pixel from `stride // 2` on: [2::4, 2::4] for the published stride 4.
    """
    height, width = size
    sampled = [t["masks"][..., stride // 2 :: stride, stride // 2 :: stride] for t in targets]
    return torch.cat([F.pad(m, (0, width - m.shape[-1], 0, height - m.shape[-2])) for m in sampled])
