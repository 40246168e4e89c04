"""Masks of the output queries, a chunk of frames at a time: logits, full size, compressed.

Full-size masks exist for few frames at a time; only their run lengths stay.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from seqformer.annotations.run_lengths import RLE
from seqformer.devices import on_device
from seqformer.inference.frame_store import FrameData
from seqformer.inference.mask_encoder import EncodingJob, MaskEncoder
from seqformer.model.full_float32 import full_float32
from seqformer.model.masks import encode_frame_masks, render_masks, threshold_frame_masks

MAX_PIXELS_AT_ONCE = 2**23
"""Full-size mask pixels that exist at the same time, a byte each."""


def mask_logits(
    data: FrameData,
    queries: list[int],
    mask_params: Tensor,
    network_size: tuple[int, int],
    mask_stride: int,
) -> Tensor:
    """Logits of some queries in the frames of a chunk.

    Args:
        data: t frames.
        queries: N indices of instance queries.
        mask_params: [N, 169], theirs.
        network_size: (H, W) of the network's input.
        mask_stride: input pixels per cell of the mask features.

    Returns: [N, t, 2h, 2w] float32 on the device of `mask_params`.
    """
    device = mask_params.device
    in_pixels = data.references[:, queries] * np.array(network_size[::-1], np.float32)
    with on_device(device), full_float32():
        features = host_tensor(data.mask_features).to(device, non_blocking=True).float()
        references = torch.from_numpy(in_pixels).to(device, non_blocking=True)
        return render_masks(
            features[None],
            mask_params,
            references.transpose(0, 1),
            torch.zeros(len(queries), dtype=torch.int64, device=device),
            mask_stride,
        )


def host_tensor(array) -> Tensor:
    """An array of a `FrameData`, which has no bfloat16 of its own, as a tensor."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def compress_tracks(
    logits: Tensor, frame_size: tuple[int, int], encoder: MaskEncoder
) -> list[list[EncodingJob]]:
    """Start on the masks of logits [N, t, h, w] at the size of the original frames.

    Where there is a C compiler, run lengths are counted while the logits are interpolated, all in
    one call, and no mask exists; else masks are drawn, few at a time, and given to the encoder.

    Returns: the jobs of each of the N, which have its t masks in order.
    """
    N, t = logits.shape[:2]
    encoded = encode_frame_masks(logits.flatten(0, 1), frame_size) if N * t else None
    if encoded is None:
        return [[job for _, job in _drawn(of_one, frame_size, encoder)] for of_one in logits]
    masks = [{"size": list(frame_size), "counts": counts} for counts in encoded.counts]
    cuts = [slice(t * n, t * n + t) for n in range(N)]
    return [[_done(masks[cut], any(encoded.areas[cut]))] for cut in cuts]


def compress_masks(
    logits: Tensor, frame_size: tuple[int, int], encoder: MaskEncoder
) -> list[tuple[int, EncodingJob]]:
    """`compress_tracks` of one track, logits [n, h, w].

    Returns: (number of masks, their job), in order.
    """
    encoded = encode_frame_masks(logits, frame_size)
    if encoded is None:
        return _drawn(logits, frame_size, encoder)
    masks = [{"size": list(frame_size), "counts": counts} for counts in encoded.counts]
    return [(len(masks), _done(masks, any(encoded.areas)))]


def _done(masks: list[RLE], has_pixels: bool) -> EncodingJob:
    return EncodingJob(has_pixels, lambda: masks)


def _drawn(
    logits: Tensor, frame_size: tuple[int, int], encoder: MaskEncoder
) -> list[tuple[int, EncodingJob]]:
    """Where there is no C compiler."""
    chunk = max(1, MAX_PIXELS_AT_ONCE // (frame_size[0] * frame_size[1]))
    return [
        (len(few), encoder.submit(threshold_frame_masks(few, frame_size).cpu().numpy()))
        for few in logits.split(chunk)
    ]
