"""Masks of the output queries, a portion of frames at a time: logits, full size, compressed.

Full-size masks exist for few frames at a time; only their run lengths stay.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from seqformer.inference.encoding import MaskEncoder
from seqformer.inference.frame_store import FrameData
from seqformer.inference.results import RLE
from seqformer.model.masks import render_masks

MAX_PIXELS_AT_ONCE = 2**23
"""Full-size mask pixels that exist at the same time (as float32: 32 MiB)."""


def mask_logits(
    data: FrameData,
    queries: list[int],
    mask_params: Tensor,
    network_size: tuple[int, int],
    mask_stride: int,
) -> Tensor:
    """Logits of some queries in the frames of a portion.

    Args:
        data: t frames.
        queries: N indices of instance queries.
        mask_params: [N, 169], theirs.
        network_size: (H, W) of the network's input.
        mask_stride: input pixels per cell of the mask features.

    Returns: [N, t, 2h, 2w] float32 on the device of `mask_params`.
    """
    device = mask_params.device
    features = host_tensor(data.mask_features).to(device, non_blocking=True).float()
    references = torch.from_numpy(data.references[:, queries]).to(device, non_blocking=True)
    size = references.new_tensor([network_size[1], network_size[0]])
    return render_masks(
        features[None],
        mask_params,
        (references * size).transpose(0, 1),
        torch.zeros(len(queries), dtype=torch.int64, device=device),
        mask_stride,
    )


def host_tensor(array) -> Tensor:
    """An array of a `FrameData`, which has no bfloat16 of its own, as a tensor."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def full_size_masks(logits: Tensor, frame_size: tuple[int, int]) -> Tensor:
    """Threshold logits [n, h, w] at the size of the original frames.

    The map is stretched over the whole frame. `logit > 0` says the same as `sigmoid > 0.5`.

    Returns: [n, w0, h0] bool, columns first, as run lengths go.
    """
    full = F.interpolate(logits[:, None], frame_size, mode="bilinear", align_corners=False)[:, 0]
    return (full > 0).transpose(1, 2).contiguous()


def binarise(
    logits: Tensor, frame_size: tuple[int, int], encoder: MaskEncoder | None = None
) -> list[RLE] | None:
    """Mask logits [T, h, w] -> T compressed masks of the original size; None if all are empty."""
    encoder = encoder or MaskEncoder()
    jobs = [encoder.submit(masks) for masks in full_size_portions(logits, frame_size)]
    segmentations = [rle for job in jobs for rle in job.result()]
    return segmentations if any(job.has_pixels for job in jobs) else None


def full_size_portions(logits: Tensor, frame_size: tuple[int, int]) -> Iterator:
    """`full_size_masks` of [n, h, w], few enough at a time, on the host as numpy [m, w0, h0]."""
    chunk = max(1, MAX_PIXELS_AT_ONCE // (frame_size[0] * frame_size[1]))
    for part in logits.split(chunk):
        yield full_size_masks(part, frame_size).cpu().numpy()
